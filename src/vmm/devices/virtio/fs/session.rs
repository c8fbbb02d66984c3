//! Messages of FUSE, from the queue to an answer.

use std::sync::Arc;

use fuse_backend_rs::abi::fuse_abi::Opcode;
use fuse_backend_rs::api::server::{MAX_BUFFER_SIZE, Server};
use fuse_backend_rs::transport::{Reader, VirtioFsWriter};
use virtio_queue::DescriptorChain;
use vm_memory::GuestMemoryMmap;

use super::copy::{Copy, CopyError};
use super::guard::Guard;
use super::metrics::FsMetrics;
use crate::vmm::devices::virtio::buffers::{Buffers, Direction};

/// Most bytes that a chain may have in one direction: a file's data, and what else a message has.
const SIDE_MAX: usize = MAX_BUFFER_SIZE as usize + (64 << 10);

/// Bytes of `struct fuse_in_header`.
const IN_HEADER: usize = 40;

/// Bytes of `struct fuse_out_header`.
const OUT_HEADER: u32 = 16;

/// What the driver and the device say to each other, from the driver's DRIVER_OK to its reset.
pub struct Session {
    /// None in an empty slot.
    served: Option<(Server<Arc<Guard>>, Arc<Guard>)>,
    copy: Copy,
    buffers: Buffers,
    metrics: Arc<FsMetrics>,
}

/// What a message begins with, as far as it is looked at here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Header {
    len: u32,
    opcode: u32,
    unique: u64,
}

impl Session {
    /// Serves what `guard` guards; without one, answers that there is nothing.
    pub fn new(
        guard: Option<Guard>,
        memory: &GuestMemoryMmap,
        metrics: Arc<FsMetrics>,
    ) -> Result<Self, CopyError> {
        let served = guard.map(Arc::new).map(|guard| (Server::new(Arc::clone(&guard)), guard));
        Ok(Self { served, copy: Copy::new()?, buffers: Buffers::new(memory), metrics })
    }

    /// Whether the guest has mounted the file system.
    pub fn is_mounted(&self) -> bool {
        self.served.as_ref().is_some_and(|(_, guard)| guard.is_mounted())
    }

    /// Does what a chain asks for; tells how many bytes were written into it.
    pub fn serve(
        &mut self,
        chain: DescriptorChain<&GuestMemoryMmap>,
        memory: &GuestMemoryMmap,
    ) -> u32 {
        self.copy.clear();
        let copy = &mut self.copy;
        let noted = chain.inspect(|descriptor| copy.push(descriptor));
        if self.buffers.load(noted, Direction::Both).is_err() {
            self.metrics.malformed.add(1);
            return 0;
        }
        let Some(header) = self.header() else {
            self.metrics.malformed.add(1);
            return 0;
        };
        let sides = [&self.buffers.readable, &self.buffers.writable];
        let len = usize::try_from(header.len).unwrap_or(usize::MAX);
        let fits = (IN_HEADER..=self.buffers.readable.len()).contains(&len);
        if !fits || sides.iter().any(|side| side.len() > SIDE_MAX) {
            self.metrics.malformed.add(1);
            return self.answer(header, libc::EINVAL);
        }
        self.metrics.requests.add(1);
        self.metrics.opcodes.add(header.opcode);
        let Some((server, _)) = &self.served else {
            return self.answer(header, libc::ENODEV);
        };
        match serve_copy(server, &mut self.copy, memory) {
            // Answered, but not said so.
            Ok(0) if header.opcode == Opcode::Destroy as u32 => self.answer(header, 0),
            Ok(written) => written,
            Err(Unanswered::Message) => {
                self.metrics.malformed.add(1);
                self.answer(header, libc::EINVAL)
            }
            Err(Unanswered::Copy(error)) => {
                log::debug!("file system device: {error:?}");
                self.answer(header, libc::EIO)
            }
        }
    }

    /// `struct fuse_in_header`, which is there whole.
    fn header(&self) -> Option<Header> {
        let mut bytes = [0; IN_HEADER];
        if !self.buffers.readable.peek(&mut bytes) {
            return None;
        }
        let [a, b, c, d, e, f, g, h, unique @ ..] = bytes;
        let (unique, _) = unique.split_first_chunk::<8>()?;
        Some(Header {
            len: u32::from_le_bytes([a, b, c, d]),
            opcode: u32::from_le_bytes([e, f, g, h]),
            unique: u64::from_le_bytes(*unique),
        })
    }

    /// Writes `struct fuse_out_header` with an error (0: none), where an answer is expected and has room.
    fn answer(&self, header: Header, errno: i32) -> u32 {
        let forgets = [Opcode::Forget as u32, Opcode::BatchForget as u32];
        if forgets.contains(&header.opcode) {
            return 0;
        }
        let [a, b, c, d] = OUT_HEADER.to_le_bytes();
        let [e, f, g, h] = errno.wrapping_neg().to_le_bytes();
        let [i, j, k, l, m, n, o, p] = header.unique.to_le_bytes();
        let bytes = [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p];
        if self.buffers.writable.write_at(0, &bytes) { OUT_HEADER } else { 0 }
    }
}

/// A message that fuse-backend-rs has not answered.
enum Unanswered {
    /// It is malformed, or has no room for an answer.
    Message,
    /// A failure of the host's.
    Copy(CopyError),
}

fn serve_copy(
    server: &Server<Arc<Guard>>,
    copy: &mut Copy,
    memory: &GuestMemoryMmap,
) -> Result<u32, Unanswered> {
    let chain = copy.chain().map_err(Unanswered::Copy)?;
    let refused = |_: fuse_backend_rs::transport::Error| Unanswered::Message;
    let reader = Reader::from_descriptor_chain(memory, chain.clone()).map_err(refused)?;
    let writer = VirtioFsWriter::new(memory, chain).map_err(refused)?;
    let written = server
        .handle_message(reader, writer.into(), None, None)
        .map_err(|_| Unanswered::Message)?;
    u32::try_from(written).map_err(|_| Unanswered::Copy(CopyError::TooLong))
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("mounted", &self.is_mounted()).finish_non_exhaustive()
    }
}
