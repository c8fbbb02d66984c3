//! `ampoule system install`: what it takes, and the taking.

use std::path::{Path, PathBuf};

use super::error::{SystemError, file};
use super::lock::Lock;
use super::record::Record;
use super::step::{self, Contents, Step};
use super::{LINKS, PROGRAM, Place, containerd};
use crate::sandbox::GuestFiles;

/// What is installed.
#[derive(Debug, Clone)]
pub struct Source {
    /// The program.
    pub program: PathBuf,
    /// The guest's kernel and initramfs.
    pub guest: GuestFiles,
}

impl Source {
    /// This program, and the guest that it would boot.
    pub fn here() -> Result<Self, SystemError> {
        let own = Path::new("/proc/self/exe");
        let program = std::fs::read_link(own).map_err(file("read", own))?;
        // One that was replaced since it was started has no path.
        let program = if program.is_file() { program } else { own.to_owned() };
        Ok(Self { program, guest: GuestFiles::find(None)? })
    }
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// Steps that were taken, or would be.
    pub steps: Vec<Step>,
    /// containerd has a configuration of its own with the runtime in it, which was left alone.
    pub configured_by_others: bool,
    /// containerd is to be restarted for it, by what is known.
    pub unread: bool,
}

/// Installs; `config` is the file of containerd's that is to have the runtime. What was installed there
/// before is replaced, and nothing is touched that is as it should be. With `dry`, nothing is done.
pub fn install(
    place: &Place,
    source: &Source,
    config: Option<&Path>,
    dry: bool,
) -> Result<Outcome, SystemError> {
    // Nothing is made for a look.
    if dry {
        return plan(place, source, config);
    }
    let lock = Lock::take(&place.host(&place.guest()))?;
    let done = plan(place, source, config).and_then(|outcome| {
        step::take(&outcome.steps)?;
        Ok(outcome)
    });
    if done.is_err() && !place.host(&place.record()).exists() {
        // Not even the folder stays.
        lock.remove();
    }
    done
}

/// What it takes.
fn plan(place: &Place, source: &Source, config: Option<&Path>) -> Result<Outcome, SystemError> {
    let before = Record::read(&place.host(&place.record()))?;
    let earlier = before.as_ref().and_then(|record| record.containerd.as_ref());
    let files = files(place, source);
    let mut paths: Vec<PathBuf> = files.iter().map(|(path, _)| path.clone()).collect();
    if let Some(before) = &before {
        // What an older one has put elsewhere is its undoing's still.
        let others: Vec<_> =
            before.files.iter().filter(|path| !paths.contains(path)).cloned().collect();
        paths.extend(others);
    }
    let change = config.map(|config| containerd::configure(place, config, earlier)).transpose()?;
    let (changes, configured, configured_by_others) = match change {
        Some(change) => {
            let others = change.configured.is_none();
            (change.steps, change.configured, others)
        }
        None => (Vec::new(), earlier.cloned(), false),
    };
    let changes: Vec<Step> = changes.into_iter().filter(|step| !step.is_done()).collect();
    let unread = !changes.is_empty() || before.as_ref().is_some_and(|before| before.unread);
    let record = write_record(place, &Record::new(paths, configured, unread));
    // The record before containerd's files: what was half done can be undone.
    let files = files.into_iter().map(|(_, step)| step);
    let steps: Vec<Step> =
        files.chain([record]).chain(changes).filter(|step| !step.is_done()).collect();
    Ok(Outcome { steps, configured_by_others, unread })
}

/// containerd was restarted: it has read what it was told.
pub fn was_read(place: &Place) -> Result<(), SystemError> {
    let _lock = Lock::take(&place.host(&place.guest()))?;
    let record = Record::read(&place.host(&place.record()))?;
    let record = record.map(|record| write_record(place, &Record { unread: false, ..record }));
    step::take(record.as_slice())
}

fn write_record(place: &Place, record: &Record) -> Step {
    Step::Write {
        path: place.host(&place.record()),
        contents: Contents::Bytes(record.bytes()),
        mode: 0o644,
        keeps: false,
    }
}

/// Files and links, by their paths in the system.
fn files(place: &Place, source: &Source) -> Vec<(PathBuf, Step)> {
    let copy = |path: PathBuf, source: &Path, mode| {
        let contents = Contents::CopyOf(source.to_owned());
        let step = Step::Write { path: place.host(&path), contents, mode, keeps: false };
        (path, step)
    };
    let GuestFiles { kernel, initramfs } = &source.guest;
    let mut files = vec![
        copy(place.guest().join(crate::sandbox::guest::KERNEL), kernel, 0o644),
        copy(place.guest().join(crate::sandbox::guest::INITRAMFS), initramfs, 0o644),
        copy(place.programs().join(PROGRAM), &source.program, 0o755),
    ];
    files.extend(LINKS.map(|name| {
        let path = place.programs().join(name);
        let step = Step::Link { path: place.host(&path), target: PROGRAM.into() };
        (path, step)
    }));
    files
}
