//! The session keyring: each process of a container gets an empty one, so that none sees the keys
//! of the agent or of another container.

use nix::errno::Errno;

use crate::error::{Doing, Result};

/// Leaves the agent's keyring. There is nothing to leave where the kernel has none.
pub fn renew() -> Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
    let anonymous = std::ptr::null::<libc::c_char>();
    // SAFETY: keyctl with this command takes a name, or null for a keyring without one.
    let result = unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, anonymous) };
    match Errno::result(result) {
        Err(Errno::ENOSYS) => Ok(()),
        result => result.doing(|| "make a session keyring").map(drop),
    }
}
