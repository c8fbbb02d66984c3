//! What a machine has of its host's, opened beforehand: a monitor gives up every right to open
//! anything before it looks at a byte of the guest's.

use std::fs::File;
use std::io;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use kvm_ioctls::Kvm;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use vmm_sys_util::errno;

use super::boot::{BootError, InitrdError, KernelError};
use super::kvm::{DEVICE, KvmError};
use super::snapshot::own_pages::OwnPages;

/// What the threads of a machine do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Looks after the machine: pauses it, writes it down, answers requests.
    Control,
    /// Runs a vCPU, and answers its accesses to device registers.
    Vcpu,
    /// Serves the queues of all devices but file systems.
    Devices,
    /// Serves a file system.
    Shares,
}

/// Takes from a thread what its role does not need.
pub trait Confinement: std::fmt::Debug + Send + Sync {
    /// Called by each thread once, before it does anything that a guest has a say in.
    ///
    /// # Errors
    /// The thread is not confined, and must not go on.
    fn confine(&self, role: Role) -> io::Result<()>;
}

/// Makes the connections that a guest asks for.
pub trait HostPorts: std::fmt::Debug + Send + Sync {
    /// Connects to whoever listens for this port of the host, in bounded time.
    fn connect(&self, port: u32) -> io::Result<UnixStream>;
}

/// Something that belongs to a part of a configuration and was opened beforehand, or was not. It is
/// not what the configuration says: it is not written down, and makes no two of them differ.
#[derive(Debug)]
pub struct Opened<T>(Option<Arc<T>>);

impl<T> Opened<T> {
    /// It is open.
    pub fn new(opened: T) -> Self {
        Self(Some(Arc::new(opened)))
    }

    /// It is open, and others have it too.
    pub fn shared(opened: Arc<T>) -> Self {
        Self(Some(opened))
    }

    /// What was opened.
    pub fn get(&self) -> Option<&Arc<T>> {
        self.0.as_ref()
    }
}

impl<T> Default for Opened<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T> Clone for Opened<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> PartialEq for Opened<T> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl<T> Eq for Opened<T> {}

/// What belongs to a machine as a whole. The default is a machine that opens everything itself, and
/// whose threads may do as they please.
#[derive(Debug, Clone, Default)]
pub struct Host {
    kvm: Opened<OwnedFd>,
    kernel: Opened<File>,
    initrd: Opened<File>,
    own_pages: Opened<OwnPages>,
    /// What is taken from the machine's threads.
    pub confinement: Option<Arc<dyn Confinement>>,
}

impl Host {
    /// Opens what every machine needs: KVM, and what tells which pages the guest has touched.
    pub fn open_own(&mut self) -> Result<(), KvmError> {
        let flags = OFlag::O_RDWR | OFlag::O_CLOEXEC;
        let kvm = open(DEVICE, flags, Mode::empty())
            .map_err(|errno| KvmError::Open(errno::Error::new(errno as i32)))?;
        self.kvm = Opened::new(kvm);
        // Who needs it says that it is missing.
        self.own_pages = OwnPages::open().map(Opened::new).unwrap_or_default();
        Ok(())
    }

    /// Opens the files of a machine that boots.
    pub fn open_boot_files(kernel: &Path, initrd: Option<&Path>) -> Result<Self, BootError> {
        let read = |source| KernelError::Read { path: kernel.into(), source };
        let mut host =
            Self { kernel: Opened::new(File::open(kernel).map_err(read)?), ..Self::default() };
        if let Some(initrd) = initrd {
            let read = |source| InitrdError::Read { path: initrd.into(), source };
            host.initrd = Opened::new(File::open(initrd).map_err(read)?);
        }
        Ok(host)
    }

    /// Closes the files of a machine that has loaded them.
    pub fn close_boot_files(&mut self) {
        (self.kernel, self.initrd) = (Opened::default(), Opened::default());
    }

    /// KVM.
    pub fn kvm(&self) -> Result<Kvm, KvmError> {
        let Some(opened) = self.kvm.get() else {
            return Kvm::new().map_err(KvmError::Open);
        };
        let own = opened
            .try_clone()
            .map_err(|e| KvmError::Open(errno::Error::new(e.raw_os_error().unwrap_or(0))))?;
        // SAFETY: the descriptor is of /dev/kvm, and nobody else's.
        Ok(unsafe { Kvm::from_raw_fd(own.into_raw_fd()) })
    }

    /// The kernel at this path.
    pub fn kernel(&self, path: &Path) -> io::Result<File> {
        self.file(&self.kernel, path)
    }

    /// The initial RAM disk at this path.
    pub fn initrd(&self, path: &Path) -> io::Result<File> {
        self.file(&self.initrd, path)
    }

    /// What the kernel tells of the process's own memory.
    pub fn own_pages(&self) -> io::Result<Arc<OwnPages>> {
        self.own_pages.get().map_or_else(|| OwnPages::open().map(Arc::new), |own| Ok(own.clone()))
    }

    fn file(&self, opened: &Opened<File>, path: &Path) -> io::Result<File> {
        opened.get().map_or_else(|| File::open(path), |file| file.try_clone())
    }

    /// Confines the calling thread.
    pub fn confine(&self, role: Role) -> io::Result<()> {
        self.confinement.as_ref().map_or(Ok(()), |confinement| confinement.confine(role))
    }
}
