//! The first process of a container that asked for one (`--init`): starts the program, passes signals on to
//! it, and collects what others leave behind. It ends with the program, as the program did.
//!
//! The agent's own binary, which the container sees as [`ampoule_protocol::INIT_PATH`].

use std::io::ErrorKind;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::reaper;

/// What makes the agent's binary such a process: the program and its arguments follow.
pub const ARGUMENT: &str = "--";

/// Code of a signal that the kernel sends, not a process: those of a terminal's keys go to the program, too.
const OF_THE_KERNEL: i32 = 0x80;

/// Runs until the program ends; its exit code, or 128 + signal.
pub fn run(program: &[&str]) -> i32 {
    let Some((name, arguments)) = program.split_first() else {
        return 2;
    };
    let all = SigSet::all();
    let signals =
        all.thread_block().and_then(|()| SignalFd::with_flags(&all, SfdFlags::SFD_CLOEXEC));
    let Ok(signals) = signals else {
        return 1;
    };
    let mut command = Command::new(name);
    command.args(arguments);
    // SAFETY: between fork and exec, it makes one system call and touches nothing else.
    unsafe {
        // The program's signals are as if it had been the first: none is blocked.
        command.pre_exec(|| Ok(SigSet::empty().thread_set_mask()?));
    }
    let child = match command.spawn() {
        Ok(child) => child.id().cast_signed(),
        Err(error) => {
            eprintln!("exec {name}: {error}");
            return if error.kind() == ErrorKind::NotFound { 127 } else { 126 };
        }
    };
    loop {
        let signal = match signals.read_signal() {
            Ok(Some(signal)) => signal,
            Ok(None) | Err(nix::errno::Errno::EINTR) => continue,
            Err(_) => return 1,
        };
        let number = signal.ssi_signo.cast_signed();
        if number == Signal::SIGCHLD as i32 {
            // Signals of the same kind are merged: the children are asked one by one.
            while let Some((pid, code)) = reaper::wait_any() {
                if pid == child {
                    return code;
                }
            }
        } else if signal.ssi_code != OF_THE_KERNEL {
            // SAFETY: kill takes two integers. The child is there until it is waited for, above.
            unsafe { libc::kill(child, number) };
        }
    }
}
