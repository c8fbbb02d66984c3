//! `ampoule system uninstall`: undoes what the record of an installation says.

use super::error::SystemError;
use super::lock::Lock;
use super::record::Record;
use super::step::{self, Step};
use super::{Place, containerd};
use crate::sandbox::{Places, Registry};

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// Steps that were taken, or would be.
    pub steps: Vec<Step>,
    /// containerd's configuration was changed, too.
    pub of_containerd: bool,
}

/// Undoes an installation. With `dry`, nothing is done.
///
/// # Errors
/// There is none; or sandboxes run, and it is not forced.
pub fn uninstall(place: &Place, force: bool, dry: bool) -> Result<Outcome, SystemError> {
    let path = place.host(&place.record());
    let missing = || SystemError::NotInstalled(path.clone());
    // The lock's folder is not made for that.
    Record::read(&path)?.ok_or_else(missing)?;
    let lock = match dry {
        true => None,
        false => Some(Lock::take(&place.host(&place.guest()))?),
    };
    let Some(record) = Record::read(&path)? else {
        // Somebody else has undone it meanwhile.
        if let Some(lock) = lock {
            lock.remove();
        }
        return Err(missing());
    };
    let places = Places::of_system(place.root());
    let running = Registry::new(&places).kept()?.len();
    if running > 0 && !force {
        return Err(SystemError::Running(running));
    }
    let configured = record.containerd.as_ref();
    let undone = configured.map(|configured| containerd::undo(place, configured)).transpose()?;
    let of_containerd = undone.is_some();
    // containerd first: it is not to know a runtime that is not there. The record last.
    let files = record.files.iter().map(|path| Step::Remove { path: place.host(path) });
    let steps: Vec<Step> = undone
        .into_iter()
        .flatten()
        .chain(files)
        .chain([Step::Remove { path }])
        .filter(|step| !step.is_done())
        .collect();
    if !dry {
        step::take(&steps)?;
    }
    if let Some(lock) = lock {
        lock.remove();
    }
    Ok(Outcome { steps, of_containerd })
}
