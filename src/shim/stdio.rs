//! The named pipes that containerd hands over for a process, and what else its callers name as a
//! process's output: `file://PATH`, `binary://PROGRAM`.
//!
//! containerd may be restarted while a process runs: an output's pipe is held open at both ends, so that
//! a writer then waits for the next reader in place of ending by SIGPIPE. An input's pipe is held open at
//! its writing end until containerd says that it is closed.

use std::fs::{self, File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::{ShimError, file, host};
use crate::sandbox::streams::{Ends, Files, Input};

/// Where a process's input comes from and its output goes, as containerd says it; empty is nowhere.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Paths {
    /// Its input.
    pub stdin: String,
    /// Its output, and that of its terminal.
    pub stdout: String,
    /// Its errors.
    pub stderr: String,
    /// Whether it has a terminal.
    pub terminal: bool,
}

/// The input of a process. Nothing is read before the process is started: clients that have not been told
/// yet that it is there cannot say either that they have closed it, and some forget to.
#[derive(Debug, Default)]
pub struct Pipes {
    path: Option<PathBuf>,
    input: Option<Input>,
    writer: Option<File>,
    closed: bool,
}

impl Pipes {
    /// Where the input goes to.
    pub fn lead_to(&mut self, input: Option<Input>) {
        self.input = input;
    }

    /// Begins to carry the input.
    pub fn begin(&mut self) -> Result<(), ShimError> {
        let (Some(path), Some(input)) = (self.path.take(), self.input.take()) else {
            return Ok(());
        };
        // A reader that finds no writer there yet would read the end.
        let open = |read: bool| {
            let mut options = OpenOptions::new();
            options.read(read).write(!read).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC);
            options.open(&path).map_err(file("open", &path))
        };
        let reader = open(true)?;
        if !self.closed {
            self.writer = Some(open(false)?);
        }
        input.feed(reader.into()).map_err(host("carry a process's input"))
    }

    /// Whether nobody will write to the input any more.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Lets the process see the end of its input, once whoever else writes has closed it too.
    pub fn close_stdin(&mut self) {
        self.closed = true;
        self.writer = None;
    }
}

impl Paths {
    /// Opens everything that output goes to; input is for [`Pipes::begin`].
    pub fn open(&self) -> Result<(Ends, Pipes), ShimError> {
        let path = (!self.stdin.is_empty()).then(|| PathBuf::from(&self.stdin));
        let mut files = Files { stdin: path.is_some(), ..Files::default() };
        files.stdout = output(&self.stdout)?;
        if !self.terminal {
            files.stderr = if self.stderr == self.stdout && !self.stdout.starts_with('/') {
                files.stdout.clone()
            } else {
                output(&self.stderr)?
            };
        }
        Ok((Ends::Files(files), Pipes { path, ..Pipes::default() }))
    }
}

/// What a process's output goes to.
fn output(name: &str) -> Result<Option<Arc<OwnedFd>>, ShimError> {
    if name.is_empty() {
        return Ok(None);
    }
    let opened = match name.split_once("://") {
        None => pipe(Path::new(name))?,
        Some(("fifo", path)) => pipe(Path::new(path))?,
        Some(("file", rest)) => {
            let path = PathBuf::from(rest.split('?').next().unwrap_or_default());
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder).map_err(file("create", folder))?;
            }
            let opened = OpenOptions::new().create(true).append(true).mode(0o640).open(&path);
            opened.map_err(file("open", &path))?
        }
        Some((scheme, _)) => {
            return Err(ShimError::Unsupported(format!(
                "output to {scheme}:// is not supported: name a pipe, or file://PATH"
            )));
        }
    };
    Ok(Some(Arc::new(opened.into())))
}

/// A pipe, with a reader of its own that never reads.
fn pipe(path: &Path) -> Result<File, ShimError> {
    let found = fs::metadata(path).map_err(file("look at", path))?;
    if !found.file_type().is_fifo() {
        // A file would be read back by nobody, and written by its own reader.
        let opened = OpenOptions::new().append(true).open(path);
        return opened.map_err(file("open", path));
    }
    let opened = OpenOptions::new().read(true).write(true).open(path);
    opened.map_err(file("open", path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;
    use std::io::{Read, Write};

    #[test]
    fn an_output_waits_for_its_next_reader() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        mkfifo(&path, Mode::S_IRWXU).unwrap();
        let mut writer = pipe(&path).unwrap();
        let reader = File::open(&path).unwrap();
        drop(reader);
        writer.write_all(b"kept").unwrap();
        let mut reader = File::open(&path).unwrap();
        drop(writer);
        let mut got = String::new();
        reader.read_to_string(&mut got).unwrap();
        assert_eq!(got, "kept");
    }

    #[test]
    fn outputs_are_files_too_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("logs/out.log");
        let file = output(&format!("file://{}", path.display())).unwrap().unwrap();
        File::from(file.try_clone().unwrap()).write_all(b"x").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"x");
        assert!(matches!(output("npipe:///x"), Err(ShimError::Unsupported(_))));
        assert!(output("").unwrap().is_none());
    }
}
