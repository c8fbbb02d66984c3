//! The control group of the host in which a container's keeper and monitor are: where callers look for
//! what the container uses. Its limits are the guest's to keep.

use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::os::fd::AsFd;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::error::{OciError, file};

/// Where control groups of version 2 are mounted.
const ROOT: &str = "/sys/fs/cgroup";

/// Controllers whose counts callers read.
const CONTROLLERS: [&str; 4] = ["cpu", "io", "memory", "pids"];

/// How long the kernel may take to see that a group's last process has gone.
const EMPTY_TIME: Duration = Duration::from_secs(5);

/// Whether the host's control groups are of version 2.
pub fn is_unified() -> bool {
    Path::new(ROOT).join("cgroup.controllers").exists()
}

/// Makes the group that `linux.cgroupsPath` names and moves this process into it; that group, if it was
/// made. `note` is told before. Nothing on a host whose control groups are of version 1.
pub fn enter(
    name: &Path,
    systemd: bool,
    note: impl FnOnce(&Path) -> Result<(), OciError>,
) -> Result<Vec<PathBuf>, OciError> {
    let root = Path::new(ROOT);
    if !is_unified() {
        return Ok(Vec::new());
    }
    let inside = parts(name, systemd)?;
    let whole = inside.iter().fold(root.to_owned(), |path, part| path.join(part));
    if !whole.exists() {
        note(&whole)?;
    }
    let mut path = root.to_owned();
    let mut made = Vec::new();
    for part in &inside {
        // Fails where a controller is not there, or the group has processes of its own: then its
        // counts are missing, no more.
        for controller in CONTROLLERS {
            let _ = fs::write(path.join("cgroup.subtree_control"), format!("+{controller}"));
        }
        path.push(part);
        match fs::create_dir(&path) {
            Ok(()) => made.push(path.clone()),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(file("create the cgroup", &path)(e)),
        }
    }
    let procs = path.join("cgroup.procs");
    fs::write(&procs, "0").map_err(file("enter the cgroup", &procs))?;
    // Those above may be others' by the time that this one ends.
    Ok(made.pop().filter(|last| *last == path).into_iter().collect())
}

/// Where the group is that `linux.cgroupsPath` names.
pub fn place(name: &Path, systemd: bool) -> Result<PathBuf, OciError> {
    Ok(parts(name, systemd)?.iter().fold(ROOT.into(), |path: PathBuf, part| path.join(part)))
}

fn parts(name: &Path, systemd: bool) -> Result<Vec<String>, OciError> {
    if systemd { scope(name) } else { plain(name) }
}

/// Removes a group with what is left in it; one that is not there, or has become others', is none
/// of ours.
pub fn remove(path: &Path) -> Result<(), OciError> {
    if !path.starts_with(ROOT) {
        return Ok(());
    }
    // What is in it still was a keeper's that was killed: a hook of its caller's, by and large.
    let _ = fs::write(path.join("cgroup.kill"), "1");
    await_empty(path);
    match fs::remove_dir(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(file("remove the cgroup", path)),
    }
}

/// Waits until the kernel has seen the last process leave: a killed one does so a moment after it can
/// be waited for. What cannot be waited for is told by the removal.
fn await_empty(path: &Path) {
    let until = Instant::now() + EMPTY_TIME;
    let Ok(mut events) = File::open(path.join("cgroup.events")) else { return };
    loop {
        let mut text = String::new();
        let read = events.rewind().and_then(|()| events.read_to_string(&mut text));
        let left = until.saturating_duration_since(Instant::now());
        if read.is_err() || !text.lines().any(|line| line == "populated 1") || left.is_zero() {
            return;
        }
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let _ = poll(&mut [PollFd::new(events.as_fd(), PollFlags::POLLPRI)], timeout);
    }
}

fn plain(name: &Path) -> Result<Vec<String>, OciError> {
    let mut parts = Vec::new();
    for component in name.components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(part) => parts.extend(part.to_str().map(str::to_owned)),
            Component::ParentDir | Component::Prefix(_) => {
                let message = format!("linux.cgroupsPath {} leads out of itself", name.display());
                return Err(OciError::Usage(message));
            }
        }
    }
    Ok(parts)
}

/// `slice:prefix:name` as systemd would lay it out: `a.slice/a-b.slice/prefix-name.scope`.
fn scope(name: &Path) -> Result<Vec<String>, OciError> {
    let wrong = || {
        let name = name.display();
        OciError::Usage(format!(
            "expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, got {name:?} instead",
            name = name.to_string()
        ))
    };
    let text = name.to_str().ok_or_else(wrong)?;
    let [slice, prefix, name] = text.split(':').collect::<Vec<_>>()[..] else {
        return Err(wrong());
    };
    if text.contains('/') || text.split(':').any(|part| part == "..") {
        return Err(wrong());
    }
    let slice = if slice.is_empty() { "system.slice" } else { slice };
    let whole = slice.strip_suffix(".slice").ok_or_else(wrong)?;
    let mut parts = Vec::new();
    if whole != "-" {
        let ends = whole.match_indices('-').map(|(at, _)| at).chain([whole.len()]);
        parts.extend(ends.map(|end| format!("{}.slice", &whole[..end])));
    }
    parts.push(match (prefix, name.ends_with(".slice")) {
        (_, true) => name.to_owned(),
        ("", false) => format!("{name}.scope"),
        (prefix, false) => format!("{prefix}-{name}.scope"),
    });
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_below_the_root() {
        assert_eq!(plain(Path::new("/a/b")).unwrap(), ["a", "b"]);
        assert_eq!(plain(Path::new("a//b")).unwrap(), ["a", "b"]);
        assert!(plain(Path::new("/a/../../b")).is_err());
    }

    #[test]
    fn slices_are_folders_in_each_other() {
        let parts = |text: &str| scope(Path::new(text));
        assert_eq!(
            parts("user-1000.slice:libpod:abc").unwrap(),
            ["user.slice", "user-1000.slice", "libpod-abc.scope"]
        );
        assert_eq!(parts(":docker:x").unwrap(), ["system.slice", "docker-x.scope"]);
        assert_eq!(parts("-.slice::x").unwrap(), ["x.scope"]);
        for wrong in ["/a/b", "a:b", "a:b:c", "a.slice:../x:y", "a.slice:..:y"] {
            assert!(parts(wrong).is_err(), "{wrong}");
        }
    }
}
