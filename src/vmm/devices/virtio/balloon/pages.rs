//! Requests: lists of page frames, and ranges that are free.

use vm_memory::GuestAddress;

use super::error::RequestError;
use super::metrics::BalloonMetrics;
use crate::vmm::devices::virtio::buffers::{Buffers, Segments};
use crate::vmm::devices::virtio::ring::Handled;

/// log2 of the bytes of a page: the balloon's are of 4 KiB, whatever the guest's are (5.5.6).
const PAGE_SHIFT: u32 = 12;

/// Bytes of a page frame number.
const FRAME_BYTES: usize = 4;

/// Frames that are looked at together; drivers send as many at a time.
const FRAMES: usize = 256;

/// Most bytes of one list of frames, so that no single request holds up the other devices.
const LIST_BYTES: usize = 4 * FRAMES * FRAME_BYTES;

/// Ranges that are given back before other events of the device thread get their turn: each may be
/// a system call. A request that was begun is finished.
pub(super) const RANGES_PER_TURN: usize = 1024;

/// The work on one queue until others have their turn.
pub(super) struct Turn<'a> {
    pages: &'a mut Segments,
    metrics: &'a BalloonMetrics,
    /// Ranges that may still be given back.
    left: usize,
}

impl<'a> Turn<'a> {
    /// `pages` is the room for what lists of frames name.
    pub fn new(pages: &'a mut Segments, metrics: &'a BalloonMetrics) -> Self {
        Self { pages, metrics, left: RANGES_PER_TURN }
    }

    /// Gives the pages of a list back.
    pub fn inflate(&mut self, request: &mut Buffers) -> Handled {
        self.answer(|turn| turn.release_frames(&mut request.readable))
    }

    /// Counts the pages of a list, which the driver uses again: they come back as they are touched.
    pub fn deflate(&mut self, request: &mut Buffers) -> Handled {
        self.answer(|turn| {
            let bytes = check_list(&request.readable)?;
            turn.metrics.deflated_bytes.add_bytes((bytes / FRAME_BYTES) << PAGE_SHIFT);
            Ok(())
        })
    }

    /// Gives ranges back that are free.
    pub fn report(&mut self, request: &mut Buffers) -> Handled {
        self.answer(|turn| {
            let ranges = &mut request.writable;
            turn.metrics.reported_bytes.add_bytes(ranges.len());
            turn.release(ranges)
        })
    }

    /// Does a request unless the turn is over, and counts how it went. Nothing is ever written into
    /// a request's buffers.
    fn answer(&mut self, request: impl FnOnce(&mut Self) -> Result<(), RequestError>) -> Handled {
        if self.left == 0 {
            return Handled::Later;
        }
        if let Err(error) = request(self) {
            let counter = match error {
                RequestError::Host(_) => &self.metrics.host_errors,
                _ => &self.metrics.refused,
            };
            // A driver that does it again and again must not fill the host's log.
            if counter.add(1) == 0 {
                log::warn!("balloon: {error:?}");
            }
        }
        Handled::Used(0)
    }

    fn release_frames(&mut self, list: &mut Segments) -> Result<(), RequestError> {
        let mut left = check_list(list)?;
        let mut bytes = [0; FRAMES * FRAME_BYTES];
        let mut frames = [0; FRAMES];
        while left > 0 {
            let (bytes, _) = bytes.split_at_mut(left.min(FRAMES * FRAME_BYTES));
            if !list.read(bytes) {
                return Err(RequestError::List(left));
            }
            left -= bytes.len();
            let (words, _) = bytes.as_chunks();
            let (frames, _) = frames.split_at_mut(words.len());
            for (frame, word) in frames.iter_mut().zip(words) {
                *frame = u32::from_le_bytes(*word);
            }
            self.release_runs(frames)?;
        }
        Ok(())
    }

    /// Gives frames back, those that lie side by side together.
    fn release_runs(&mut self, frames: &mut [u32]) -> Result<(), RequestError> {
        self.pages.clear();
        for (first, count) in runs(frames) {
            let address = GuestAddress(u64::from(first) << PAGE_SHIFT);
            self.pages
                .append(address, count << PAGE_SHIFT)
                .map_err(|source| RequestError::Frames { first, count, source })?;
        }
        self.metrics.inflated_bytes.add_bytes(self.pages.len());
        let (left, released) = give_back(self.pages, self.left)?;
        self.left = left;
        self.metrics.released_bytes.add_bytes(released);
        Ok(())
    }

    fn release(&mut self, ranges: &mut Segments) -> Result<(), RequestError> {
        let (left, released) = give_back(ranges, self.left)?;
        self.left = left;
        self.metrics.released_bytes.add_bytes(released);
        Ok(())
    }
}

/// Gives the ranges back: what is left of `left` of them, and the bytes.
fn give_back(ranges: &mut Segments, left: usize) -> Result<(usize, usize), RequestError> {
    if !ranges.are_pages() {
        return Err(RequestError::NotPages);
    }
    let left = left.saturating_sub(ranges.count());
    let released = ranges.discard().map_err(RequestError::Host)?;
    Ok((left, released))
}

/// Bytes of a list of frames.
fn check_list(list: &Segments) -> Result<usize, RequestError> {
    let bytes = list.len();
    if bytes > LIST_BYTES || !bytes.is_multiple_of(FRAME_BYTES) {
        return Err(RequestError::List(bytes));
    }
    Ok(bytes)
}

/// The runs of frames that lie side by side, as first frame and count; a frame that is named twice
/// counts once. Sorts `frames`.
fn runs(frames: &mut [u32]) -> impl Iterator<Item = (u32, u32)> {
    frames.sort_unstable();
    frames.chunk_by(|a, b| b - a <= 1).filter_map(|run| {
        let (first, last) = (*run.first()?, *run.last()?);
        Some((first, last - first + 1))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn runs_hold_every_frame_once(
            frames in prop::collection::vec(
                prop_oneof![0..64u32, u32::MAX - 9..=u32::MAX, any::<u32>()], 0..=FRAMES)
        ) {
            let expected: BTreeSet<u32> = frames.iter().copied().collect();
            let found: Vec<u32> = runs(&mut frames.clone())
                .flat_map(|(first, count)| (0..count).map(move |n| first + n))
                .collect();
            prop_assert_eq!(found, expected.into_iter().collect::<Vec<_>>());
        }

        #[test]
        fn runs_do_not_touch(frames in prop::collection::vec(0..500u32, 1..=FRAMES)) {
            let runs: Vec<_> = runs(&mut frames.clone()).collect();
            prop_assert!(runs.windows(2).all(|w| w[0].0 + w[0].1 < w[1].0));
        }
    }
}
