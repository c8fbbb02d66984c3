//! An archive becomes one of other names, and nothing else in it than what is understood.

use std::io::{self, Read, Write};

use super::{ArchiveError, both};
use crate::image::digest::HashReader;
use crate::image::limits::Budget;
use crate::image::tar_stream::{Entry, Skip, TarStream};

/// Copies an archive whose top is to be called `top`; `.`: as it is.
pub fn relay(
    from: &mut dyn Read,
    to: &mut dyn Write,
    top: &str,
    budget: &mut Budget,
) -> Result<(), ArchiveError> {
    let mut stream = TarStream::new(HashReader::counting(from));
    let mut archive = tar::Builder::new(to);
    while let Some(found) = stream.next(budget)? {
        budget.entry()?;
        let entry = both(&found, top.as_bytes())?;
        // Its holes are nothing but bytes in this one.
        budget.unpacked(found.size)?;
        let mut data = Data { stream: &mut stream, entry: &found, at: 0, failed: None };
        let written = entry.write(&mut archive, &mut data);
        if let Some(error) = data.failed {
            return Err(error);
        }
        written.map_err(ArchiveError::io("write the archive"))?;
    }
    archive.into_inner().map_err(ArchiveError::io("write the archive"))?;
    Ok(())
}

/// The data of a file, its holes as zeroes.
struct Data<'a, R> {
    stream: &'a mut TarStream<R>,
    entry: &'a Entry,
    at: u64,
    failed: Option<ArchiveError>,
}

impl<R: Skip> Read for Data<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let extents = self.entry.extents.iter();
        let next = extents.clone().find(|extent| extent.offset + extent.length > self.at);
        let (is_hole, end) = match next {
            Some(extent) if extent.offset > self.at => (true, extent.offset),
            Some(extent) => (false, extent.offset + extent.length),
            None => (true, self.entry.size),
        };
        let wanted = usize::try_from(end.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let wanted = wanted.min(buffer.len());
        let buffer = buffer.get_mut(..wanted).unwrap_or_default();
        let read = if is_hole {
            buffer.fill(0);
            buffer.len()
        } else {
            match self.stream.read_data(buffer) {
                Ok(0) if !buffer.is_empty() => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => read,
                Err(error) => {
                    self.failed = Some(error.into());
                    return Err(io::ErrorKind::InvalidData.into());
                }
            }
        };
        self.at += read as u64;
        Ok(read)
    }
}
