//! A guest's side of the device, that speaks FUSE by hand.

use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use vm_memory::GuestMemoryMmap;

use super::super::{Fs, FsError};
use crate::vmm::config::{Export, FsConfig, Share};
use crate::vmm::devices::virtio::testing::{
    Buffer, DATA, Driver, interrupt, memory, readable, writable,
};
use crate::vmm::devices::virtio::{Activation, Interrupt, VirtioDevice};
use crate::vmm::host::{Host, Opened};

pub const LOOKUP: u32 = 1;
pub const FORGET: u32 = 2;
pub const GETATTR: u32 = 3;
pub const SETATTR: u32 = 4;
pub const SYMLINK: u32 = 6;
pub const MKNOD: u32 = 8;
pub const MKDIR: u32 = 9;
pub const UNLINK: u32 = 10;
pub const RMDIR: u32 = 11;
pub const RENAME: u32 = 12;
pub const LINK: u32 = 13;
pub const OPEN: u32 = 14;
pub const READ: u32 = 15;
pub const WRITE: u32 = 16;
pub const SETXATTR: u32 = 21;
pub const GETXATTR: u32 = 22;
pub const REMOVEXATTR: u32 = 24;
pub const INIT: u32 = 26;
pub const OPENDIR: u32 = 27;
pub const READDIR: u32 = 28;
pub const CREATE: u32 = 35;
pub const DESTROY: u32 = 38;
pub const FALLOCATE: u32 = 43;
pub const RENAME2: u32 = 45;

pub const ROOT: u64 = 1;

/// Where a request and its answer are put.
const REQUEST: u64 = DATA;
const ANSWER: u64 = DATA + 0x18_0000;

/// Room for most answers.
pub const ROOM: u32 = 4096;

/// A mounted, or at least activated, device.
pub struct Client {
    pub fs: Fs,
    pub driver: Driver,
    pub interrupt: Arc<Interrupt>,
    pub memory: GuestMemoryMmap,
    pub user: u32,
    unique: u64,
}

/// What an answer holds: an error (positive), or bytes.
pub type Answer = Result<Vec<u8>, i32>;

/// A share of this directory alone.
pub fn directory(path: &Path, read_only: bool) -> Export {
    Export::Directory(Share { path: path.into(), read_only })
}

/// The device that exports this; none, with the reason printed, where mounts are not permitted.
pub fn device(export: Option<Export>) -> Option<Fs> {
    match Fs::new(
        &FsConfig { tag: "t".into(), export, opened: Opened::default() },
        &Host::default(),
    ) {
        Err(
            FsError::Path { source, .. }
            | FsError::Mount { source, .. }
            | FsError::Namespace(source),
        ) if source.kind() == std::io::ErrorKind::PermissionDenied => {
            println!("skipped: sharing needs the right to mount: {source}");
            None
        }
        fs => Some(fs.unwrap()),
    }
}

impl Client {
    /// A driver that has mounted the file system.
    pub fn mounted(export: Export) -> Option<Self> {
        let mut client = Self::active(device(Some(export))?);
        client.init().unwrap();
        Some(client)
    }

    /// A driver that is ready.
    pub fn active(mut fs: Fs) -> Self {
        let memory = memory();
        let (driver, interrupt) = activate(&mut fs, &memory);
        Self { fs, driver, interrupt, memory, user: 0, unique: 0 }
    }

    /// Begins anew after a reset.
    pub fn activate(&mut self) {
        self.driver.write(0x1000, &[0; 0x5000]);
        let (driver, interrupt) = activate(&mut self.fs, &self.memory);
        (self.driver, self.interrupt) = (driver, interrupt);
    }

    pub fn init(&mut self) -> Answer {
        // Version 7.38, 128 KiB of read-ahead, every flag of the first 32 but INIT_EXT.
        self.send(INIT, 0, &words(&[7, 38, 0x2_0000, !(1 << 30)]))
    }

    /// Sends a message and waits for its answer.
    pub fn send(&mut self, opcode: u32, node: u64, body: &[u8]) -> Answer {
        self.send_with_room(opcode, node, body, ROOM)
    }

    pub fn send_with_room(&mut self, opcode: u32, node: u64, body: &[u8], room: u32) -> Answer {
        self.unique += 1;
        let len = u32::try_from(40 + body.len()).unwrap();
        let header = [
            words(&[len, opcode]),
            longs(&[self.unique, node]),
            words(&[self.user, self.user, 1, 0]),
        ];
        let answer = self.exchange(&[header.concat(), body.to_vec()].concat(), room);
        if answer.is_empty() {
            return Err(0);
        }
        let (len, error) = (word(&answer, 0), word(&answer, 4).cast_signed());
        assert_eq!((len as usize, long(&answer, 8)), (answer.len(), self.unique));
        if error == 0 { Ok(answer[16..].to_vec()) } else { Err(-error) }
    }

    /// Sends any bytes; tells what was written behind them.
    pub fn exchange(&mut self, request: &[u8], room: u32) -> Vec<u8> {
        self.driver.write(REQUEST, request);
        let mut buffers = Vec::new();
        if !request.is_empty() {
            buffers.push(readable(REQUEST, u32::try_from(request.len()).unwrap()));
        }
        if room > 0 {
            buffers.push(writable(ANSWER, room));
        }
        let len = self.offer(&buffers);
        self.driver.read(ANSWER, len as usize)
    }

    /// Offers a chain and waits until it comes back; tells how many bytes were written.
    pub fn offer(&mut self, buffers: &[Buffer]) -> u32 {
        self.driver.offer(buffers);
        self.kick();
        self.wait()
    }

    pub fn kick(&self) {
        self.fs.queue_events()[1].write(1).unwrap();
    }

    pub fn wait(&mut self) -> u32 {
        for _ in 0..100 {
            self.wait_for_interrupt(1000);
            if let Some((_, len)) = self.driver.used().first() {
                return *len;
            }
        }
        panic!("no answer");
    }

    /// Waits for an interrupt; tells whether there was one.
    pub fn wait_for_interrupt(&self, milliseconds: u16) -> bool {
        let line = self.interrupt.line();
        // SAFETY: the event lives as long as the borrow.
        let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(line.as_raw_fd()) };
        let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
        let raised = poll(&mut fds, PollTimeout::from(milliseconds)).unwrap() == 1;
        let _ = line.read();
        raised
    }

    /// The node of a name, which must be there.
    #[track_caller]
    pub fn lookup(&mut self, directory: u64, name: &str) -> u64 {
        long(&self.send(LOOKUP, directory, &cstr(name)).unwrap(), 0)
    }

    /// A handle of a file.
    #[track_caller]
    pub fn open(&mut self, node: u64, flags: i32) -> u64 {
        long(&self.send(OPEN, node, &words(&[flags.cast_unsigned(), 0])).unwrap(), 0)
    }

    pub fn read(&mut self, node: u64, handle: u64, size: u32) -> Answer {
        let body = [longs(&[handle, 0]), words(&[size, 0]), longs(&[0]), words(&[0, 0])];
        self.send(READ, node, &body.concat())
    }

    pub fn write(&mut self, node: u64, handle: u64, bytes: &[u8]) -> Answer {
        let len = u32::try_from(bytes.len()).unwrap();
        let rest = [words(&[len, 0]), longs(&[0]), words(&[1, 0])].concat();
        self.send(WRITE, node, &[&longs(&[handle, 0]), &rest, bytes].concat())
    }

    /// Whether the device still answers.
    pub fn answers(&mut self) -> bool {
        self.send(GETATTR, ROOT, &longs(&[0, 0])).is_ok()
    }
}

fn activate(fs: &mut Fs, memory: &GuestMemoryMmap) -> (Driver, Arc<Interrupt>) {
    let interrupt = interrupt();
    let (urgent, requests) = (Driver::new(memory, 0x1000, 16), Driver::new(memory, 0x4000, 64));
    fs.activate(Activation {
        memory: memory.clone(),
        queues: vec![urgent.queue(false), requests.queue(false)],
        features: 0,
        interrupt: Arc::clone(&interrupt),
    })
    .unwrap();
    (requests, interrupt)
}

pub fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

pub fn longs(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

pub fn cstr(text: &str) -> Vec<u8> {
    [text.as_bytes(), b"\0"].concat()
}

pub fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

pub fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}
