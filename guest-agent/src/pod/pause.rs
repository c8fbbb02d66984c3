//! The first process of a pod's pid namespace: it is there so that no container's is, and collects
//! what containers leave behind.

use nix::sys::signal::{SigHandler, Signal, signal};

/// Runs until it is killed. From inside the namespace nothing can: it has no handler that a signal
/// could be for.
pub fn pause() -> ! {
    // SAFETY: no handler of ours is set.
    let _ = unsafe { signal(Signal::SIGCHLD, SigHandler::SigIgn) };
    loop {
        // Children whose end is ignored are collected by the kernel.
        nix::unistd::pause();
    }
}
