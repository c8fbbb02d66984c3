//! The runtime in containerd's configuration: what is written where, and how it is undone.

pub mod config;
mod restart;

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::error::{SystemError, file};
use super::record::{Added, Configured};
use super::step::{Contents, Step};
use super::{Place, digest};
use crate::shim::RUNTIME;
use config::Version;
pub use restart::restart;

/// Where containerd looks for its configuration.
pub const CONFIG: &str = "/etc/containerd/config.toml";

/// Folder of files that it imports, beside it.
const DROP_INS: &str = "conf.d";

/// Name of ours among them.
const DROP_IN: &str = "ampoule.toml";

/// Behind the name of the configuration as it was before.
const BACKUP: &str = ".before-ampoule";

/// Mode of files that are made.
const MODE: u32 = 0o644;

/// Largest configuration that is read, in bytes.
const LIMIT: u64 = 4 << 20;

/// Why a configuration is left alone.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// no TOML
    #[error("it is not understood")]
    Malformed(#[from] toml_edit::TomlError),
    /// of a version that is too old or too new
    #[error(
        "it has version {0}, and this ampoule knows 2 and 3: make one of those of it \
         (containerd config migrate), or add the runtime by hand (docs/kubernetes.md)"
    )]
    Version(i64),
    /// a value where a table should be
    #[error("{0} is not a table of its own: add the runtime by hand (docs/kubernetes.md)")]
    Shape(String),
    /// a runtime of that name which is another's
    #[error("it has a runtime ampoule already, of the type {0:?}")]
    Other(String),
    /// not a configuration
    #[error("it is too large")]
    TooLarge,
}

/// What is to be done, and written down.
#[derive(Debug)]
pub struct Change {
    /// The steps, but for those that are done already.
    pub steps: Vec<Step>,
    /// What they do; none where somebody else has configured the runtime.
    pub configured: Option<Configured>,
}

/// The configuration, and its text; none where there is no such file.
fn read(path: &Path) -> Result<Option<String>, SystemError> {
    match fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        other => {
            if other.map_err(file("look at", path))?.len() > LIMIT {
                return Err(failed(path)(ConfigError::TooLarge));
            }
        }
    }
    fs::read_to_string(path).map(Some).map_err(file("read", path))
}

fn failed(path: &Path) -> impl Fn(ConfigError) -> SystemError {
    let path = path.to_owned();
    move |source| SystemError::Config { path: path.clone(), source }
}

/// The configuration's file itself, as a path of its system.
fn resolve(place: &Place, path: &Path) -> Result<PathBuf, SystemError> {
    let there = place.host(path);
    let is_link = fs::symlink_metadata(&there).is_ok_and(|there| there.is_symlink());
    match is_link {
        false => Ok(path.to_owned()),
        true if place.is_running() => there.canonicalize().map_err(file("follow", &there)),
        true => Err(SystemError::Link(there)),
    }
}

/// What it takes to have the runtime in a configuration; `before` is what was done to it earlier.
pub fn configure(
    place: &Place,
    path: &Path,
    before: Option<&Configured>,
) -> Result<Change, SystemError> {
    let path = resolve(place, path)?;
    let host = place.host(&path);
    let before = before.filter(|before| before.config == path);
    let now = read(&host)?;
    // As if nothing had been done yet.
    let plain = match before {
        Some(before) => undone(place, before, now.as_deref())?,
        None => now.clone(),
    };
    let text = plain.clone().unwrap_or_else(|| "version = 2\n".into());
    let (mut document, version) = config::parse(&text).map_err(failed(&host))?;
    if let Some(kind) = config::runtime_type(&document, version) {
        return match kind == RUNTIME {
            true => Ok(Change { steps: Vec::new(), configured: None }),
            false => Err(failed(&host)(ConfigError::Other(kind))),
        };
    }
    let mut steps = Vec::new();
    let mut drop_in = None;
    let added = match version {
        Version::Two => config::add_runtime(&mut document, version).map_err(failed(&host))?,
        Version::Three => {
            let folder = path.parent().unwrap_or(Path::new("/"));
            let ours = folder.join(DROP_INS).join(DROP_IN);
            let import = !config::imports(&document, folder, &ours);
            if import {
                let name = ours.to_string_lossy();
                config::add_import(&mut document, &name).map_err(failed(&host))?;
            }
            let bytes = config::drop_in().map_err(failed(&host))?.into_bytes();
            steps.push(write(&place.host(&ours), bytes, MODE, false));
            drop_in = Some(ours);
            Added { import, ..Added::default() }
        }
    };
    let wanted = document.to_string();
    let changed = plain.as_deref() != Some(&wanted);
    let backup = plain.as_ref().filter(|_| changed).map(|_| with_suffix(&path, BACKUP));
    if let (Some(plain), Some(backup)) = (plain, &backup) {
        // It may hold what not everybody is to read.
        let mode = fs::metadata(&host).map_or(MODE, |there| there.mode() & 0o7777);
        steps.push(write(&place.host(backup), plain.into_bytes(), mode, false));
    }
    let written = changed.then(|| digest(wanted.as_bytes()));
    if changed {
        steps.push(write(&host, wanted.into_bytes(), MODE, true));
    }
    let configured = Configured { config: path, backup, written, added, drop_in };
    Ok(Change { steps, configured: Some(configured) })
}

/// What it takes to undo that.
pub fn undo(place: &Place, configured: &Configured) -> Result<Vec<Step>, SystemError> {
    let host = place.host(&configured.config);
    let now = read(&host)?;
    let plain = undone(place, configured, now.as_deref())?;
    let mut steps = Vec::new();
    if plain != now {
        steps.push(match plain {
            Some(plain) => write(&host, plain.into_bytes(), MODE, true),
            None => Step::Remove { path: host },
        });
    }
    let ours = configured.drop_in.iter().chain(&configured.backup);
    steps.extend(ours.map(|path| Step::Remove { path: place.host(path) }));
    Ok(steps)
}

/// The text of a configuration as it would be without us; none where the file was ours. If nobody has
/// changed it since, it is what it was, byte for byte.
fn undone(
    place: &Place,
    configured: &Configured,
    now: Option<&str>,
) -> Result<Option<String>, SystemError> {
    let Some(now) = now else { return Ok(None) };
    let Some(written) = &configured.written else { return Ok(Some(now.to_owned())) };
    if *written == digest(now.as_bytes()) {
        let Some(backup) = &configured.backup else { return Ok(None) };
        if let Some(before) = read(&place.host(backup))? {
            return Ok(Some(before));
        }
    }
    let host = place.host(&configured.config);
    let (mut document, version) = config::parse(now).map_err(failed(&host))?;
    config::remove_runtime(&mut document, version, configured.added);
    if let Some(drop_in) = configured.drop_in.as_ref().filter(|_| configured.added.import) {
        config::remove_import(&mut document, &drop_in.to_string_lossy());
    }
    Ok(Some(document.to_string()))
}

fn write(path: &Path, bytes: Vec<u8>, mode: u32, keeps: bool) -> Step {
    Step::Write { path: path.to_owned(), contents: Contents::Bytes(bytes), mode, keeps }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

#[cfg(test)]
mod tests;
