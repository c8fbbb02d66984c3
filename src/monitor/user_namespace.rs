//! A user namespace for a monitor that serves files: in it, the monitor may act for the users that the
//! files belong to, and has no right to anything that is not there.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use super::birth::{Birth, born};

/// All ids, each as itself.
const ALL: &str = "0 0 4294967295";

/// Makes one in which all users and groups are themselves. Takes the right to say so: root's.
pub fn of_all_users() -> io::Result<OwnedFd> {
    let birth = Birth { flags: libc::CLONE_NEWUSER, cgroup: None };
    // The namespace needs a process for as long as it takes to describe it.
    let Some(pid) = born(&birth)? else { wait_for_the_end() };
    let described = describe(pid);
    // Whatever came of it; it cannot fail for a child that nobody has waited for.
    let _ = kill(pid, Signal::SIGKILL);
    let _ = waitpid(pid, None);
    described
}

fn describe(pid: Pid) -> io::Result<OwnedFd> {
    fs::write(format!("/proc/{pid}/uid_map"), ALL)?;
    fs::write(format!("/proc/{pid}/gid_map"), ALL)?;
    Ok(File::open(format!("/proc/{pid}/ns/user"))?.into())
}

/// In a child that was forked with other threads about: nothing but this.
fn wait_for_the_end() -> ! {
    // Its parent's death would otherwise leave it behind.
    // SAFETY: no memory is involved.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    loop {
        // SAFETY: no memory is involved.
        unsafe { libc::pause() };
    }
}

/// Lets a process that was born into a user namespace be this user in it, who is not root.
pub fn of_this_user(pid: Pid) -> io::Result<()> {
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    fs::write(format!("/proc/{pid}/uid_map"), format!("{uid} {uid} 1"))?;
    // Else it could leave groups that are denied something.
    fs::write(format!("/proc/{pid}/setgroups"), "deny")?;
    fs::write(format!("/proc/{pid}/gid_map"), format!("{gid} {gid} 1"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn the_namespace_is_another() {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: a user namespace of all users takes root");
            return;
        }
        let namespace = of_all_users().unwrap();
        let inode = |path: &str| fs::metadata(path).unwrap().ino();
        let made = inode(&format!("/proc/self/fd/{}", namespace.as_raw_fd()));
        assert_ne!(made, inode("/proc/self/ns/user"));
    }
}
