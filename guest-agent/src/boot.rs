//! Makes an empty guest one that containers can run in: PID 1's own work, one ordered list.
//!
//! The initramfs holds this binary and nothing to speak of beside it. What is not needed by every
//! container is not done here.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::{AsFd, IntoRawFd};

use nix::mount::{MsFlags, mount};
use nix::sys::resource::{Resource, setrlimit};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{chdir, chroot, dup2_stderr, dup2_stdin, dup2_stdout};

use crate::error::{Doing, Result};
use crate::setup;

const NONE: Option<&str> = None;

/// Soft and hard limit of open files, as services of a Linux host have it.
const OPEN_FILES: (u64, u64) = (1024, 524_288);

/// Microseconds since the guest's start.
pub fn monotonic_us() -> u64 {
    // Fails only for clocks that the kernel does not have.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |now| {
        let seconds = u64::try_from(now.tv_sec()).unwrap_or(0);
        let microseconds = u64::try_from(now.tv_nsec() / 1000).unwrap_or(0);
        seconds * 1_000_000 + microseconds
    })
}

/// Boots.
pub fn boot() -> Result<()> {
    make_directories()?;
    leave_rootfs()?;
    let noexec = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    let nodev = noexec | MsFlags::MS_NODEV;
    mount_on("/dev", "devtmpfs", noexec, "mode=0755")?;
    open_stdio()?;
    mount_on("/proc", "proc", nodev, "")?;
    mount_on("/sys", "sysfs", nodev, "")?;
    mount_on("/sys/fs/cgroup", "cgroup2", nodev, "")?;
    mount_on("/run", "tmpfs", nodev, "mode=0755")?;
    fs::create_dir_all(setup::STAGE).doing(|| format!("make {}", setup::STAGE))?;
    setup::loopback_up()?;
    set_limits()
}

fn make_directories() -> Result<()> {
    for path in ["/dev", "/proc", "/sys", "/run"] {
        match fs::create_dir(path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            result => result.doing(|| format!("make {path}"))?,
        }
    }
    Ok(())
}

/// The initramfs cannot be left by `pivot_root`, which containers need: move to another mount of
/// it, on top of the first, where `..` leads nowhere. It is read-only, so that no container ever
/// writes to the binary that setup stages are started from.
fn leave_rootfs() -> Result<()> {
    let action = || "move off the initial root";
    mount(Some("/"), "/run", NONE, MsFlags::MS_BIND, NONE).doing(action)?;
    let read_only = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(NONE, "/run", NONE, read_only, NONE).doing(action)?;
    chdir("/run").doing(action)?;
    mount(Some("."), "/", NONE, MsFlags::MS_MOVE, NONE).doing(action)?;
    chroot(".").doing(action)?;
    chdir("/").doing(action)
}

fn mount_on(target: &str, kind: &str, flags: MsFlags, data: &str) -> Result<()> {
    let data = Some(data).filter(|data| !data.is_empty());
    mount(Some(kind), target, Some(kind), flags, data).doing(|| format!("mount {kind} on {target}"))
}

/// Standard error is the kernel's log.
fn open_stdio() -> Result<()> {
    let null = OpenOptions::new().read(true).write(true).open("/dev/null");
    let null = null.doing(|| "open /dev/null")?;
    let log = OpenOptions::new().write(true).open("/dev/kmsg").doing(|| "open /dev/kmsg")?;
    let action = || "set stdin, stdout and stderr";
    dup2_stdin(&null).doing(action)?;
    dup2_stdout(&null).doing(action)?;
    dup2_stderr(&log).doing(action)?;
    for file in [null, log] {
        // Where the kernel gave no console these were opened as 0 to 2 themselves.
        use std::os::fd::AsRawFd;
        if file.as_fd().as_raw_fd() <= libc::STDERR_FILENO {
            let _ = file.into_raw_fd();
        }
    }
    Ok(())
}

fn set_limits() -> Result<()> {
    // Containers are killed for memory before the agent: setup stages undo this for themselves.
    fs::write("/proc/self/oom_score_adj", "-1000").doing(|| "set the OOM score adjustment")?;
    let (soft, hard) = OPEN_FILES;
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).doing(|| "set the limit of open files")?;
    // The number of processes is for cgroups to limit.
    let no_limit = libc::RLIM_INFINITY;
    setrlimit(Resource::RLIMIT_NPROC, no_limit, no_limit).doing(|| "lift the limit of processes")
}
