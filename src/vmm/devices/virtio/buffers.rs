//! Where guest addresses become host memory: the one place that does it for queue requests.
//!
//! A descriptor chain is checked as a whole (virtio 1.2, 2.7.4 and 2.7.5) before a device sees any
//! of it, and is then a list of host ranges that the kernel reads and writes directly: the payload
//! is never copied, and the lists are reused, so that a request allocates nothing once they have
//! grown to the size that the guest uses.
//!
//! Two kinds of failure are kept apart by type: [`ChainError`] is always the guest's doing,
//! [`std::io::Error`] always the host's.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use libc::{c_int, iovec};
use virtio_queue::desc::split::Descriptor;
use vm_memory::{GuestAddress, GuestMemory, GuestMemoryMmap, VolatileSlice};

/// Most host ranges of one chain. The largest queue of any device has as many entries, and a chain
/// must not be longer than its queue (virtio 1.2, 2.7.5.3.1).
pub const MAX_CHAIN_SEGMENTS: usize = 512;

/// Most host ranges in one list: what a vectored system call takes, less one for a range of the
/// device's own.
pub const MAX_SEGMENTS: usize = libc::UIO_MAXIOV as usize - 1;

/// Bytes of a page of the host, on the one architecture there is.
const HOST_PAGE: usize = 4096;

/// A descriptor chain that a driver must not send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// The chain is empty, leads out of its table, does not end, is longer than 4 GiB, or its
    /// indirect table is malformed.
    #[error("the descriptor chain has no proper end")]
    Broken,
    /// A buffer without bytes says nothing, and hides loops from length checks.
    #[error("a descriptor of the chain has the length 0")]
    ZeroLength,
    /// The range is not, or not wholly, guest memory.
    #[error("the buffer of {len} bytes at {address:#x} is not guest memory")]
    NotMemory {
        /// guest physical address
        address: u64,
        /// length in bytes
        len: u32,
    },
    /// Writable buffers come after all readable ones (virtio 1.2, 2.7.4.2).
    #[error("a readable descriptor follows a writable one")]
    ReadableAfterWritable,
    /// A buffer of the other direction, in a queue that has only one.
    #[error("a descriptor of the chain has the wrong direction for its queue")]
    WrongDirection,
    /// More pieces than [`MAX_CHAIN_SEGMENTS`] or than the list has room for.
    #[error("the descriptor chain has too many segments")]
    TooManySegments,
}

/// What a queue's chains may consist of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Readable buffers only: what the driver sends.
    Readable,
    /// Writable buffers only: what the driver wants filled.
    Writable,
    /// Readable, then writable ones.
    Both,
}

impl Direction {
    fn allows(self, writable: bool) -> bool {
        match self {
            Self::Readable => !writable,
            Self::Writable => writable,
            Self::Both => true,
        }
    }
}

/// The buffers of one chain, or of several that are used as one.
#[derive(Debug)]
pub struct Buffers {
    /// What the device may read.
    pub readable: Segments,
    /// What the device may write.
    pub writable: Segments,
}

impl Buffers {
    /// Empty lists of ranges of `memory`.
    pub fn new(memory: &GuestMemoryMmap) -> Self {
        Self { readable: Segments::new(memory), writable: Segments::new(memory) }
    }

    /// Holds the buffers of `chain` and nothing else. On an error it holds nothing.
    pub fn load(
        &mut self,
        chain: impl Iterator<Item = Descriptor>,
        direction: Direction,
    ) -> Result<(), ChainError> {
        self.readable.clear();
        self.writable.clear();
        self.append(chain, direction)
    }

    /// Adds the buffers of `chain` behind those that are there. On an error nothing is added.
    pub fn append(
        &mut self,
        chain: impl Iterator<Item = Descriptor>,
        direction: Direction,
    ) -> Result<(), ChainError> {
        let readable = self.readable.mark();
        let writable = self.writable.mark();
        let appended = self.append_checked(chain, direction);
        if appended.is_err() {
            self.readable.rewind(readable);
            self.writable.rewind(writable);
        }
        appended
    }

    fn append_checked(
        &mut self,
        chain: impl Iterator<Item = Descriptor>,
        direction: Direction,
    ) -> Result<(), ChainError> {
        let mut room = MAX_CHAIN_SEGMENTS;
        let mut seen_writable = false;
        // The iterator ends without a word at whatever it does not like. A chain is whole only if
        // its last descriptor says that it is the last.
        let mut ended = false;
        for descriptor in chain {
            let writable = descriptor.is_write_only();
            if !direction.allows(writable) {
                return Err(ChainError::WrongDirection);
            }
            if seen_writable && !writable {
                return Err(ChainError::ReadableAfterWritable);
            }
            seen_writable = writable;
            let segments = if writable { &mut self.writable } else { &mut self.readable };
            segments.map(descriptor.addr(), descriptor.len(), &mut room)?;
            ended = !descriptor.has_next();
        }
        if ended { Ok(()) } else { Err(ChainError::Broken) }
    }
}

/// A list of ranges of guest memory, consumed from its front.
///
/// The guest may change the bytes at any time, from another thread; nothing here hands out a
/// reference to them.
#[derive(Debug)]
pub struct Segments {
    /// Keeps what `ranges` points to mapped.
    memory: GuestMemoryMmap,
    /// Every range lies within a region of `memory`.
    ranges: Vec<iovec>,
    /// Index of the first range that is not consumed.
    first: usize,
    /// Bytes in all ranges from `first` on.
    len: usize,
    /// The byte that [`Segments::reserve_last`] set apart, within a region of `memory`.
    reserved: Option<iovec>,
}

// SAFETY: the pointers are to mappings of the process that `memory` keeps alive, itself shared by
// counted references; no thread has a special claim on them.
unsafe impl Send for Segments {}

/// A state of a list that [`Segments::rewind`] goes back to.
#[derive(Debug, Clone, Copy)]
struct Mark {
    ranges: usize,
    len: usize,
}

impl Segments {
    /// No range yet, of `memory`.
    pub fn new(memory: &GuestMemoryMmap) -> Self {
        Self { memory: memory.clone(), ranges: Vec::new(), first: 0, len: 0, reserved: None }
    }

    /// Bytes that are left.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no byte is left.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Ranges that are left.
    pub fn count(&self) -> usize {
        self.ranges.len() - self.first
    }

    /// Forgets all ranges, and keeps the room for them.
    pub fn clear(&mut self) {
        self.ranges.clear();
        self.first = 0;
        self.len = 0;
        self.reserved = None;
    }

    /// Copies bytes from the front to `into` and consumes them; if there are fewer, copies nothing
    /// and returns `false`.
    #[must_use]
    pub fn read(&mut self, into: &mut [u8]) -> bool {
        let whole = self.peek(into);
        if whole {
            self.consume(into.len());
        }
        whole
    }

    /// Like [`Segments::read`], and the bytes stay where they are.
    #[must_use]
    pub fn peek(&self, into: &mut [u8]) -> bool {
        if into.len() > self.len {
            return false;
        }
        let mut copied = 0;
        for slice in self.slices() {
            let (_, rest) = into.split_at_mut(copied);
            copied += slice.copy_to(rest);
        }
        true
    }

    /// Copies `from` to the front and consumes the room; if there is less, copies nothing and
    /// returns `false`.
    #[must_use]
    pub fn write(&mut self, from: &[u8]) -> bool {
        let whole = self.write_at(0, from);
        if whole {
            self.consume(from.len());
        }
        whole
    }

    /// Copies `from` to `offset` bytes behind the front; if the room ends before, copies nothing
    /// and returns `false`.
    #[must_use]
    pub fn write_at(&self, offset: usize, from: &[u8]) -> bool {
        if self.len.checked_sub(offset).is_none_or(|room| room < from.len()) {
            return false;
        }
        let mut skip = offset;
        let mut copied = 0;
        for slice in self.slices() {
            // An offset beyond the slice belongs to a later one.
            let Ok(slice) = slice.offset(skip) else {
                skip -= slice.len();
                continue;
            };
            skip = 0;
            let (_, rest) = from.split_at(copied);
            slice.copy_from(rest);
            copied += slice.len().min(rest.len());
        }
        true
    }

    /// Drops up to `n` bytes from the front.
    pub fn consume(&mut self, n: usize) {
        let mut rest = n.min(self.len);
        self.len -= rest;
        while let Some(range) = self.ranges.get_mut(self.first) {
            if rest < range.iov_len {
                range.iov_base = range.iov_base.cast::<u8>().wrapping_add(rest).cast();
                range.iov_len -= rest;
                return;
            }
            rest -= range.iov_len;
            self.first += 1;
        }
        self.ranges.clear();
        self.first = 0;
    }

    /// Drops what is behind the first `n` bytes.
    pub fn truncate(&mut self, n: usize) {
        let mut rest = self.len.saturating_sub(n);
        self.len -= rest;
        while let Some(range) = self.ranges.last_mut().filter(|_| rest > 0) {
            let cut = rest.min(range.iov_len);
            range.iov_len -= cut;
            rest -= cut;
            if range.iov_len == 0 {
                self.ranges.pop();
            }
        }
    }

    /// Moves the first `n` bytes into `front`, in place of what that held; if there are fewer,
    /// changes nothing and returns `false`.
    #[must_use]
    pub fn split_front(&mut self, n: usize, front: &mut Self) -> bool {
        if n > self.len {
            return false;
        }
        front.clear();
        front.memory.clone_from(&self.memory);
        front.ranges.extend(self.ranges.iter().skip(self.first));
        front.len = self.len;
        front.truncate(n);
        self.consume(n);
        true
    }

    /// Sets the last byte apart: it is no longer part of the list, and waits for
    /// [`Segments::write_reserved`]. `false` if the list is empty.
    #[must_use]
    pub fn reserve_last(&mut self) -> bool {
        let first = self.first;
        let Some(range) = self.ranges.get_mut(first..).and_then(<[iovec]>::last_mut) else {
            return false;
        };
        range.iov_len -= 1;
        let last = range.iov_base.cast::<u8>().wrapping_add(range.iov_len);
        self.reserved = Some(iovec { iov_base: last.cast(), iov_len: 1 });
        self.len -= 1;
        if range.iov_len == 0 {
            self.ranges.pop();
        }
        true
    }

    /// Writes the byte that was set apart, if one was.
    pub fn write_reserved(&self, value: u8) {
        if let Some(range) = &self.reserved {
            self.slice(range).copy_from(&[value]);
        }
    }

    /// Fills the front from `file` at `offset` bytes and consumes what was filled: one `preadv`,
    /// which may be short. 0 is the end of the file.
    pub fn read_file(&mut self, file: BorrowedFd<'_>, offset: u64) -> io::Result<usize> {
        let offset = file_offset(offset)?;
        let n = self.transfer(|ranges, count| {
            // SAFETY: the ranges are mapped and writable, as `Segments` keeps `memory`.
            unsafe { libc::preadv(file.as_raw_fd(), ranges, count, offset) }
        })?;
        self.consume(n);
        Ok(n)
    }

    /// Writes the front to `file` at `offset` bytes and consumes what was written: one `pwritev`,
    /// which may be short.
    pub fn write_file(&mut self, file: BorrowedFd<'_>, offset: u64) -> io::Result<usize> {
        let offset = file_offset(offset)?;
        let n = self.transfer(|ranges, count| {
            // SAFETY: the ranges are mapped and readable, as `Segments` keeps `memory`.
            unsafe { libc::pwritev(file.as_raw_fd(), ranges, count, offset) }
        })?;
        self.consume(n);
        Ok(n)
    }

    /// Receives one packet into the front, without consuming it, and what does not fit into
    /// `overflow`: a length above [`Segments::len`] means that the packet was cut.
    pub fn receive(&mut self, from: BorrowedFd<'_>, overflow: &mut [u8]) -> io::Result<usize> {
        self.ranges.push(iovec { iov_base: overflow.as_mut_ptr().cast(), iov_len: overflow.len() });
        let received = self.transfer(|ranges, count| {
            // SAFETY: the ranges are mapped and writable, as `Segments` keeps `memory`, and
            // `overflow` is borrowed for the call.
            unsafe { libc::readv(from.as_raw_fd(), ranges, count) }
        });
        self.ranges.pop();
        received
    }

    /// Sends the whole list as one packet, without consuming it.
    pub fn send(&self, to: BorrowedFd<'_>) -> io::Result<usize> {
        self.transfer(|ranges, count| {
            // SAFETY: the ranges are mapped and readable, as `Segments` keeps `memory`.
            unsafe { libc::writev(to.as_raw_fd(), ranges, count) }
        })
    }

    /// The ranges that are not consumed.
    fn left(&self) -> &[iovec] {
        self.ranges.get(self.first..).unwrap_or_default()
    }

    /// One vectored system call over the ranges, again if a signal interrupts it.
    fn transfer(&self, call: impl Fn(*const iovec, c_int) -> isize) -> io::Result<usize> {
        let ranges = self.left();
        let count = c_int::try_from(ranges.len()).map_err(io::Error::other)?;
        loop {
            match usize::try_from(call(ranges.as_ptr(), count)) {
                Ok(n) => return Ok(n),
                Err(_) => {
                    let error = io::Error::last_os_error();
                    if error.kind() != io::ErrorKind::Interrupted {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// Adds a guest range that is no descriptor's, checked as one. On an error nothing is added.
    pub fn append(&mut self, at: GuestAddress, len: u32) -> Result<(), ChainError> {
        let before = self.mark();
        let mut room = MAX_CHAIN_SEGMENTS;
        self.map(at, len, &mut room).inspect_err(|_| self.rewind(before))
    }

    /// Whether every range begins and ends with a page of the host.
    pub fn are_pages(&self) -> bool {
        let aligned = |value: usize| value.is_multiple_of(HOST_PAGE);
        self.left().iter().all(|range| aligned(range.iov_base.addr()) && aligned(range.iov_len))
    }

    /// Gives the memory of the whole list back to the host and consumes it: its content is lost.
    /// Returns the bytes; on an error, ranges before the one that failed are gone too.
    ///
    /// # Errors
    /// The host's; it takes back nothing but whole pages (see [`Segments::are_pages`]).
    pub fn discard(&mut self) -> io::Result<usize> {
        for range in self.left() {
            // The kernel would round the length up.
            if !range.iov_len.is_multiple_of(HOST_PAGE) {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            // SAFETY: the range lies within a region of `memory`, mapped as `Segments` keeps that,
            // and holds nothing but what the guest put there: nobody has references to it.
            let done = unsafe { libc::madvise(range.iov_base, range.iov_len, libc::MADV_DONTNEED) };
            if done != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        let discarded = self.len;
        self.clear();
        Ok(discarded)
    }

    /// Adds the host ranges of a guest range; several where it crosses memory regions.
    fn map(&mut self, at: GuestAddress, len: u32, room: &mut usize) -> Result<(), ChainError> {
        if len == 0 {
            return Err(ChainError::ZeroLength);
        }
        let not_memory = ChainError::NotMemory { address: at.0, len };
        let bytes = usize::try_from(len).map_err(|_| not_memory)?;
        // vm-memory follows a range from region to region; that the sum does not wrap around is
        // for us to say.
        at.0.checked_add(u64::from(len)).ok_or(not_memory)?;
        for slice in self.memory.get_slices(at, bytes) {
            let slice = slice.map_err(|_| not_memory)?;
            if *room == 0 || self.ranges.len() - self.first >= MAX_SEGMENTS {
                return Err(ChainError::TooManySegments);
            }
            *room -= 1;
            let iov_base = slice.ptr_guard_mut().as_ptr().cast();
            self.ranges.push(iovec { iov_base, iov_len: slice.len() });
            self.len += slice.len();
        }
        Ok(())
    }

    /// The list as it is, for [`Segments::rewind`]. Makes room where ranges were consumed.
    fn mark(&mut self) -> Mark {
        self.ranges.drain(..self.first);
        self.first = 0;
        Mark { ranges: self.ranges.len(), len: self.len }
    }

    fn rewind(&mut self, mark: Mark) {
        self.ranges.truncate(mark.ranges);
        self.len = mark.len;
    }

    fn slices(&self) -> impl Iterator<Item = VolatileSlice<'_>> {
        self.ranges.iter().skip(self.first).map(|range| self.slice(range))
    }

    fn slice<'a>(&'a self, range: &iovec) -> VolatileSlice<'a> {
        // SAFETY: the range was taken from a region of `memory`, which is mapped for as long as
        // `self` is, and only ever made smaller. Nobody holds references to guest memory.
        unsafe { VolatileSlice::new(range.iov_base.cast(), range.iov_len) }
    }
}

fn file_offset(offset: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput.into())
}

#[cfg(test)]
mod tests;
