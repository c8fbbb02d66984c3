//! The network of a container's own namespace, as far as it needs no configuration.

use std::os::fd::AsRawFd;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use crate::error::{Doing, Result};

nix::ioctl_readwrite_bad!(get_flags, libc::SIOCGIFFLAGS, libc::ifreq);
nix::ioctl_write_ptr_bad!(set_flags, libc::SIOCSIFFLAGS, libc::ifreq);

/// Brings `lo` up.
pub fn loopback_up() -> Result<()> {
    let action = || "bring lo up";
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
        .doing(action)?;
    // SAFETY: all bytes zero is a valid ifreq: integers, and pointers that nobody follows.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(*b"lo") {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    // SAFETY: both calls read and write one ifreq behind the pointer, which is to a live one; the
    // first fills the union's `ifru_flags`.
    unsafe {
        get_flags(socket.as_raw_fd(), &raw mut request).doing(action)?;
        #[expect(clippy::cast_possible_truncation, reason = "IFF_UP is bit 0")]
        let up = libc::IFF_UP as libc::c_short;
        request.ifr_ifru.ifru_flags |= up;
        set_flags(socket.as_raw_fd(), &raw const request).doing(action)?;
    }
    Ok(())
}
