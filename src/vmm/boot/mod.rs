//! From a kernel file to guest memory from which the boot CPU can start.
//!
//! An ELF kernel is entered by the PVH protocol where it has the note for that, else by the 64-bit
//! Linux protocol at its entry point; a bzImage by the 64-bit Linux protocol.

pub mod cmdline;
mod initrd;
mod kernel;
mod linux;
mod pvh;

pub use cmdline::{Announced, CmdlineError, command_line};
pub use initrd::InitrdError;
pub use kernel::KernelError;

use std::path::Path;

use linux_loader::cmdline::Cmdline;
use linux_loader::loader::load_cmdline;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use crate::vmm::arch::x86_64::layout::{CMDLINE, MP_TABLE, Range};
use crate::vmm::arch::x86_64::mptable;
use crate::vmm::arch::x86_64::regs::Entry;
use crate::vmm::host::Host;

/// A guest cannot be made ready to boot.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// the kernel file
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// the initial RAM disk
    #[error(transparent)]
    Initrd(#[from] InitrdError),
    /// the command line does not fit guest memory
    #[error("cannot write the kernel command line")]
    Cmdline(#[source] linux_loader::loader::Error),
    /// a boot structure does not fit guest memory
    #[error("cannot write {what} to guest memory")]
    Write {
        /// the structure
        what: &'static str,
        /// why
        #[source]
        source: GuestMemoryError,
    },
}

/// What boots.
#[derive(Debug)]
pub struct Boot<'a> {
    /// Kernel file.
    pub kernel: &'a Path,
    /// Initial RAM disk file.
    pub initrd: Option<&'a Path>,
    /// Whole command line.
    pub cmdline: &'a Cmdline,
    /// vCPUs.
    pub vcpus: u8,
    /// Guest memory in MiB.
    pub memory_mib: u32,
    /// Where these files are open already.
    pub host: &'a Host,
}

impl Boot<'_> {
    /// Loads everything into `memory` and says how the boot CPU enters the kernel.
    pub fn load(&self, memory: &GuestMemoryMmap) -> Result<Entry, BootError> {
        let kernel = kernel::load(self.host, self.kernel, memory, self.memory_mib)?;
        let initrd = match self.initrd {
            Some(path) => Some(initrd::load(self.host, path, memory, &kernel, self.memory_mib)?),
            None => None,
        };
        load_cmdline(memory, GuestAddress(CMDLINE), self.cmdline).map_err(BootError::Cmdline)?;
        write(
            "the MP table",
            memory.write_slice(&mptable::build(self.vcpus), GuestAddress(MP_TABLE)),
        )?;
        match kernel.entry {
            Entry::Pvh(_) => pvh::write(memory, self.memory_mib, initrd)?,
            Entry::Linux64(_) => linux::write(memory, self.memory_mib, initrd, kernel.header)?,
        }
        write("the boot CPU's tables", kernel.entry.write_tables(memory))?;
        Ok(kernel.entry)
    }
}

fn write(what: &'static str, done: Result<(), GuestMemoryError>) -> Result<(), BootError> {
    done.map_err(|source| BootError::Write { what, source })
}

/// Where the initial RAM disk lies.
type Initrd = Option<Range>;
