//! Metrics of sandboxes in Prometheus' text format. There is no daemon that counts: whoever asks has every
//! sandbox looked at, at its monitor's and agent's sockets and in `/proc`.
//!
//! * [`look`]: what one sandbox tells, of which its guest's part may be a lie
//! * [`text`]: that as text; pure
//! * [`serve`]: the text for who asks by HTTP

pub mod look;
pub mod serve;
pub mod text;

use std::sync::Mutex;
use std::sync::PoisonError;
use std::thread;

use crate::sandbox::{Registry, RegistryError};
use look::Look;

/// Sandboxes that are looked at at a time: one that does not answer holds up no more than that many.
const AT_ONCE: usize = 8;

/// Looks at all sandboxes; or at one, whose id begins so, or which has this name.
pub fn look_at_all(registry: &Registry, wanted: Option<&str>) -> Result<Vec<Look>, RegistryError> {
    let folders = registry.kept()?;
    let left = Mutex::new(folders.iter());
    let next = || left.lock().unwrap_or_else(PoisonError::into_inner).next();
    let found = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..AT_ONCE.min(folders.len()) {
            scope.spawn(|| {
                while let Some(folder) = next() {
                    let subject = look::subject(registry, folder);
                    if let Some(subject) = subject.filter(|subject| subject.is_wanted(wanted)) {
                        let look = look::look(subject, folder);
                        found.lock().unwrap_or_else(PoisonError::into_inner).push(look);
                    }
                }
            });
        }
    });
    let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    // Those that a forbidden system call has ended are records.
    let records = registry.list()?.into_iter().filter_map(look::record);
    found.extend(records.filter(|look| look.subject.is_wanted(wanted)));
    found.sort_by(|a, b| a.subject.id.cmp(&b.subject.id));
    Ok(found)
}
