//! A tap interface of the host.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use libc::{c_int, c_short, c_uint, c_ulong, ifreq};
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;

use super::super::error::NetError;
use super::super::header;
use super::SendError;
use crate::vmm::devices::virtio::buffers::Segments;

/// One queue of an interface.
#[derive(Debug)]
pub struct Tap {
    file: File,
}

impl Tap {
    /// One that [`open`] has opened.
    pub fn new(file: File) -> Self {
        Self { file }
    }

    /// See [`super::Backend::receive`]: one system call.
    pub fn receive(&self, into: &mut Segments) -> io::Result<usize> {
        // Room for one byte more than the guest has shows whether a frame was cut.
        let mut overflow = [0];
        into.receive(self.file.as_fd(), &mut overflow)
    }

    /// See [`super::Backend::send`]: one system call.
    pub fn send(&self, frame: &Segments) -> Result<(), SendError> {
        frame.send(self.file.as_fd()).map(drop).map_err(|error| SendError::of(&error))
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

/// Opens the interface `name`, with offload headers of [`header::LEN`] bytes, and one queue.
pub fn open(name: &str) -> Result<File, NetError> {
    attach(name, false).or_else(|error| match error {
        // One that was made for several has to be opened as such.
        NetError::NotATap { .. } => attach(name, true).map_err(|_| error),
        _ => Err(error),
    })
}

/// Opens up to so many queues of the interface `name`, each as [`open`] does: one where it was made for
/// one.
pub fn open_queues(name: &str, most: u8) -> Result<Vec<File>, NetError> {
    if most <= 1 {
        return Ok(vec![open(name)?]);
    }
    let first = match attach(name, true) {
        Err(NetError::NotATap { .. }) => return Ok(vec![attach(name, false)?]),
        first => first?,
    };
    let others = (1..most).map(|_| attach(name, true));
    std::iter::once(Ok(first)).chain(others).collect()
}

/// Opens one queue of the interface `name`.
fn attach(name: &str, one_of_several: bool) -> Result<File, NetError> {
    let mut request = interface_request(name)?;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")
        .map_err(|source| NetError::NoTun { tap: name.to_owned(), source })?;

    let several = if one_of_several { libc::IFF_MULTI_QUEUE } else { 0 };
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | several;
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
