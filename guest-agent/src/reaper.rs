//! Collects ended children: processes of containers, setup stages, orphans.
//!
//! All children are waited for here and nowhere else. Nothing is lost to a race, since a setup
//! stage does not let go of the process it made before the agent has registered that process: see
//! [`crate::setup`].

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Runs once, with the exit code: the process's own, or 128 + signal.
type OnExit = Box<dyn FnOnce(i32) + Send>;

/// Who wants to know of which child's end.
pub struct Reaper(Mutex<BTreeMap<i32, OnExit>>);

impl Reaper {
    /// Nobody yet.
    pub const fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<i32, OnExit>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `on_exit` when `pid` has ended. The caller makes sure that it cannot be collected
    /// before this returns.
    pub fn watch(&self, pid: i32, on_exit: impl FnOnce(i32) + Send + 'static) {
        self.lock().insert(pid, Box::new(on_exit));
    }

    /// Collects all children that have ended by now.
    pub fn reap(&self) {
        while let Some((pid, code)) = wait_any() {
            let on_exit = self.lock().remove(&pid);
            if let Some(on_exit) = on_exit {
                on_exit(code);
            }
        }
    }
}

/// nix's `waitpid` fails on real-time signals, which containers may well die of.
pub fn wait_any() -> Option<(i32, i32)> {
    let mut status = 0;
    loop {
        // SAFETY: `status` is a live int; waitpid touches nothing else of ours.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
        match pid {
            0 => return None,
            -1 if nix::errno::Errno::last() == nix::errno::Errno::EINTR => {}
            -1 => return None,
            pid => return Some((pid, exit_code(status))),
        }
    }
}

/// A shell's view of a wait status.
fn exit_code(status: i32) -> i32 {
    if libc::WIFSIGNALED(status) { 128 + libc::WTERMSIG(status) } else { libc::WEXITSTATUS(status) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_a_shells() {
        assert_eq!(exit_code(7 << 8), 7);
        assert_eq!(exit_code(libc::SIGKILL), 137);
        assert_eq!(exit_code(40), 168);
        assert_eq!(exit_code(libc::SIGSEGV | 0x80), 139);
    }
}
