//! How a process is born into namespaces and a control group of its own: none of the standard
//! library's ways of starting one can do that.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::unistd::Pid;

/// From the kernel's include/uapi/linux/sched.h: libc's constant is cut to 32 bits.
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// What a child has of its own from its first moment on.
#[derive(Debug, Clone, Copy)]
pub struct Birth<'a> {
    /// `CLONE_NEW*` of clone(2).
    pub flags: libc::c_int,
    /// Its control group; the parent's without one. Moving there later would wait for the whole
    /// host's processors.
    pub cgroup: Option<BorrowedFd<'a>>,
}

/// Forks: the child's pid in the parent, `None` in the child.
///
/// As after fork(2) in a program with several threads, the child may make system calls, and touch what
/// it was prepared before; it can neither allocate nor return from where it is.
pub fn born(birth: &Birth<'_>) -> io::Result<Option<Pid>> {
    // SAFETY: all fields are integers, and zero means none of it.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = u64::from(birth.flags.cast_unsigned());
    arguments.exit_signal = u64::from(libc::SIGCHLD.cast_unsigned());
    if let Some(cgroup) = birth.cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = u64::from(cgroup.as_raw_fd().cast_unsigned());
    }
    // SAFETY: without CLONE_VM this is a fork: the child has a copy of everything, and goes on here.
    let pid = Errno::result(unsafe {
        libc::syscall(libc::SYS_clone3, &raw mut arguments, size_of_val(&arguments))
    })?;
    let pid = i32::try_from(pid).map_err(io::Error::other)?;
    Ok((pid != 0).then(|| Pid::from_raw(pid)))
}
