//! A tap interface of the host.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use libc::{c_int, c_short, c_uint, c_ulong, ifreq};
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;

use super::error::NetError;
use super::header;

/// Opens an interface that is there, or makes one that goes with the process.
#[derive(Debug)]
pub struct Tap {
    file: File,
}

impl Tap {
    /// One that [`open`] has opened.
    pub fn new(file: File) -> Self {
        Self { file }
    }

    /// A socket in the place of an interface.
    #[cfg(fuzzing)]
    pub fn of_socket(socket: std::os::fd::OwnedFd) -> Self {
        Self { file: socket.into() }
    }

    /// Says what the kernel may leave undone in frames for the guest (`TUN_F_*`).
    pub fn set_offloads(&self, offloads: c_uint) -> io::Result<()> {
        if cfg!(fuzzing) {
            // A socket has none.
            return Ok(());
        }
        // SAFETY: TUNSETOFFLOAD takes its flags by value.
        let result = unsafe {
            libc::ioctl(self.file.as_raw_fd(), libc::TUNSETOFFLOAD, c_ulong::from(offloads))
        };
        Errno::result(result)?;
        Ok(())
    }
}

/// Opens the interface `name`, with offload headers of [`header::LEN`] bytes.
pub fn open(name: &str) -> Result<File, NetError> {
    let mut request = interface_request(name)?;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")
        .map_err(|source| NetError::NoTun { tap: name.to_owned(), source })?;

    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = c_short::try_from(flags).unwrap_or_default();
    // SAFETY: TUNSETIFF reads and writes an ifreq.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    Errno::result(result).map_err(|errno| attach_error(name, errno))?;

    let len = c_int::try_from(header::LEN).unwrap_or_default();
    // SAFETY: TUNSETVNETHDRSZ reads an int.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const len) };
    Errno::result(result).map_err(|errno| NetError::Setup {
        tap: name.to_owned(),
        what: "setting the header length",
        source: errno.into(),
    })?;
    Ok(file)
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl AsRawFd for Tap {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

/// A request for the interface `name`, all else zero.
fn interface_request(name: &str) -> Result<ifreq, NetError> {
    // The kernel takes "%d" for a place to put a number, and takes no '/', ':' or blank.
    let fit = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'/' | b':' | b'%');
    let bad = || NetError::Name(name.to_owned());
    if name.is_empty() || matches!(name, "." | "..") || !name.bytes().all(fit) {
        return Err(bad());
    }
    // SAFETY: all fields of an ifreq are integers, arrays of them, or pointers: zeroes will do.
    let mut request: ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays 0.
    let [field @ .., _] = &mut request.ifr_name;
    let field = field.get_mut(..name.len()).ok_or_else(bad)?;
    for (to, from) in field.iter_mut().zip(name.bytes()) {
        // The name is ASCII.
        *to = from.cast_signed();
    }
    Ok(request)
}

fn attach_error(name: &str, errno: Errno) -> NetError {
    let tap = name.to_owned();
    match errno {
        Errno::EBUSY => NetError::Busy { tap },
        Errno::EINVAL => NetError::NotATap { tap },
        Errno::EPERM if if_nametoindex(name).is_err() => NetError::Missing { tap },
        Errno::EPERM => NetError::NotPermitted { tap },
        errno => NetError::Setup { tap, what: "attaching", source: errno.into() },
    }
}
