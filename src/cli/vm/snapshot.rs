//! `ampoule vm snapshot`: writes a running machine down.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::control::{self, Answer};
use super::wait::block_signals;
use super::{MEMORY, STATE};
use crate::cli::Failure;
use crate::monitor::control::MonitorRequest;

/// Write a running machine to a folder, from which `ampoule vm restore` makes machines that go on
/// from there
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The machine stands still meanwhile, and then goes on. What is on its disks is not \
    part of the snapshot: to keep both together, pause the machine, snapshot it, copy its disks, and \
    resume it.\n\nExample:\n  ampoule vm snapshot --control vm.sock snapshot"
)]
pub struct Args {
    /// The machine's control socket, as given to `ampoule vm run`
    #[arg(long, value_name = "PATH")]
    control: PathBuf,
    /// Folder to make
    folder: PathBuf,
}

/// There is no snapshot.
#[derive(Debug, thiserror::Error)]
enum SnapshotError {
    #[error("{} exists already", .0.display())]
    Exists(PathBuf),
    #[error("cannot {what} {}", path.display())]
    File {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

fn failed(what: &'static str, path: &Path) -> impl Fn(io::Error) -> SnapshotError {
    move |source| SnapshotError::File { what, path: path.into(), source }
}

/// Runs the verb.
pub fn run(args: &Args) -> Result<ExitCode, Failure> {
    // A signal must not leave anything half written behind.
    let signals = block_signals()?;
    let staged = Staged::beside(&args.folder)?;
    let (state, memory) = (staged.create(STATE)?, staged.create(MEMORY)?);
    let request = MonitorRequest::Snapshot { checksum: true };
    let answer = control::ask(&args.control, request, &[state.as_fd(), memory.as_fd()], &signals)?;
    if answer == Answer::Done {
        staged.finish(&[(state, STATE), (memory, MEMORY)])?;
    }
    Ok(answer.into())
}

/// A folder that becomes another when it is complete, or goes.
struct Staged<'a> {
    folder: &'a Path,
    parent: &'a Path,
    staging: tempfile::TempDir,
}

impl<'a> Staged<'a> {
    /// A folder for this user alone: guest memory holds the guest's secrets.
    fn beside(folder: &'a Path) -> Result<Self, SnapshotError> {
        let exists = || SnapshotError::Exists(folder.into());
        match fs::symlink_metadata(folder) {
            Ok(_) => return Err(exists()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(failed("look at", folder)(source)),
        }
        // Without a last name it would be there.
        let name = folder.file_name().ok_or_else(exists)?;
        let parent = match folder.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let prefix = format!(".{}.", name.display());
        let staging = tempfile::Builder::new()
            .prefix(&prefix)
            .permissions(Permissions::from_mode(0o700))
            .tempdir_in(parent)
            .map_err(failed("make a folder in", parent))?;
        Ok(Self { folder, parent, staging })
    }

    fn create(&self, name: &str) -> Result<File, SnapshotError> {
        let path = self.staging.path().join(name);
        let mut options = File::options();
        options.read(true).write(true).create_new(true);
        options.open(&path).map_err(failed("create", &path))
    }

    /// Gives the folder its name, when all of it is on the disk.
    fn finish(self, files: &[(File, &str)]) -> Result<(), SnapshotError> {
        for (file, name) in files {
            file.sync_all().map_err(failed("write", &self.folder.join(name)))?;
        }
        let sync = |path: &Path| File::open(path).and_then(|folder| folder.sync_all());
        sync(self.staging.path()).map_err(failed("write", self.folder))?;
        // At most an empty folder, which came meanwhile, is replaced.
        fs::rename(self.staging.path(), self.folder).map_err(|source| match source.kind() {
            io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotADirectory => {
                SnapshotError::Exists(self.folder.into())
            }
            _ => failed("make", self.folder)(source),
        })?;
        // There is nothing under its name any more.
        let _ = self.staging.keep();
        sync(self.parent).map_err(|source| {
            // Nobody is to trust what may be gone after a crash.
            let _ = fs::remove_dir_all(self.folder);
            failed("write", self.parent)(source)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_folder_is_there_whole_or_not_at_all() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("snapshot");
        let staged = Staged::beside(&folder).unwrap();
        staged.create(STATE).unwrap();
        assert!(!folder.exists());
        drop(staged);
        assert!(names(parent.path()).is_empty());

        let staged = Staged::beside(&folder).unwrap();
        let mut file = staged.create(STATE).unwrap();
        file.write_all(b"x").unwrap();
        staged.finish(&[(file, STATE)]).unwrap();
        assert_eq!(names(parent.path()), ["snapshot"]);
        assert_eq!(fs::read(folder.join(STATE)).unwrap(), b"x");
        assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn what_exists_is_refused_also_when_it_comes_meanwhile() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("snapshot");
        let staged = Staged::beside(&folder).unwrap();
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("mine"), "").unwrap();
        assert!(matches!(Staged::beside(&folder), Err(SnapshotError::Exists(_))));
        assert!(matches!(staged.finish(&[]), Err(SnapshotError::Exists(_))));
        assert_eq!(names(parent.path()), ["snapshot"]);
        assert_eq!(names(&folder), ["mine"]);
        assert!(matches!(Staged::beside(Path::new("/")), Err(SnapshotError::Exists(_))));
    }
}
