//! Where the frames of a network device go: to the queues of a tap interface, or to one socket.

mod stream;
mod tap;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use libc::c_uint;
use nix::errno::Errno;

pub use stream::Stream;
pub use tap::{Tap, open, open_queues};

use super::error::NetError;
use super::header::Header;
use crate::vmm::config::NetBackend;
use crate::vmm::devices::virtio::buffers::Segments;

/// What frames go to, open, before it is a device's.
#[derive(Debug)]
pub enum Wire {
    /// The queues of a tap interface, with headers as [`open`] asks for.
    Tap(Vec<File>),
    /// A Unix stream socket.
    Stream(OwnedFd),
}

impl Wire {
    /// Opens what is configured. A tap interface that does not exist is made, if that is permitted, and
    /// goes when the device goes.
    ///
    /// # Errors
    /// They name it.
    pub fn open(backend: &NetBackend) -> Result<Self, NetError> {
        match backend {
            NetBackend::Tap { name, queues } => tap::open_queues(name, *queues).map(Self::Tap),
            NetBackend::Stream(path) => stream::connect(path).map(Self::Stream),
        }
    }

    /// The same open files once more.
    pub fn try_clone(&self) -> io::Result<Self> {
        match self {
            Self::Tap(queues) => {
                queues.iter().map(File::try_clone).collect::<Result<_, _>>().map(Self::Tap)
            }
            Self::Stream(socket) => socket.try_clone().map(Self::Stream),
        }
    }

    /// One way for frames for each queue.
    pub fn into_backends(self) -> Vec<Backend> {
        match self {
            Self::Tap(queues) => queues.into_iter().map(Tap::new).map(Backend::Tap).collect(),
            Self::Stream(socket) => vec![Backend::Stream(Box::new(Stream::new(socket)))],
        }
    }
}

/// Why a frame was not sent.
#[derive(Debug)]
pub enum SendError {
    /// There is no room for it now.
    Full,
    /// What its offload header asks for does not fit the frame.
    Header,
    /// The interface is down or gone, or there is no memory: a wire loses frames too.
    Host,
}

/// One way that frames take, both directions.
#[derive(Debug)]
pub enum Backend {
    /// A queue of a tap interface.
    Tap(Tap),
    /// A socket.
    Stream(Box<Stream>),
}

impl Backend {
    /// Receives one frame behind its offload header into the front of `into`, without consuming it.
    /// A length above that of `into` means that the frame was cut.
    pub fn receive(&mut self, into: &mut Segments) -> io::Result<usize> {
        match self {
            Self::Tap(tap) => tap.receive(into),
            Self::Stream(stream) => stream.receive(into),
        }
    }

    /// Sends one frame, which has its offload header in front; `header` is what was read of that.
    pub fn send(&mut self, frame: &Segments, header: &Header) -> Result<(), SendError> {
        match self {
            // The kernel reads the header itself.
            Self::Tap(tap) => tap.send(frame),
            Self::Stream(stream) => stream.send(frame, header),
        }
    }

    /// Sends what is gathered of frames. `false` if there is no room for all of it now.
    #[must_use]
    pub fn flush(&mut self) -> bool {
        match self {
            Self::Tap(_) => true,
            Self::Stream(stream) => stream.flush(),
        }
    }

    /// Whether it still leads anywhere.
    pub fn is_up(&self) -> bool {
        match self {
            Self::Tap(_) => true,
            Self::Stream(stream) => !stream.has_ended(),
        }
    }

    /// Says what may be left undone in frames for the guest (`TUN_F_*`).
    pub fn set_offloads(&self, offloads: c_uint) -> io::Result<()> {
        match self {
            Self::Tap(tap) => tap.set_offloads(offloads),
            // Whoever is there leaves nothing undone.
            Self::Stream(_) => Ok(()),
        }
    }
}

impl AsRawFd for Backend {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Self::Tap(tap) => tap.as_fd().as_raw_fd(),
            Self::Stream(stream) => stream.as_fd().as_raw_fd(),
        }
    }
}

impl SendError {
    fn of(error: &io::Error) -> Self {
        match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EAGAIN) => Self::Full,
            // The kernel's word for offsets and sizes that do not fit the frame.
            Some(Errno::EINVAL) => Self::Header,
            _ => Self::Host,
        }
    }
}
