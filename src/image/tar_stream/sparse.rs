//! Maps of sparse files: GNU's old format, and its PAX formats 0.0, 0.1 and 1.0 (GNU tar manual,
//! "Storing Sparse Files").

use super::pax::{Malformed, number};

/// Most pieces of one sparse file.
const MAX_EXTENTS: usize = 1 << 18;

/// A piece of a file that the archive holds; what lies between pieces reads as zeroes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// where it starts in the file, in bytes
    pub offset: u64,
    /// its length in bytes
    pub length: u64,
}

/// The `GNU.sparse.*` records of an extended header.
#[derive(Debug, Default)]
pub struct SparseRecords {
    /// the name of the file: that in the header is made up
    pub name: Option<Vec<u8>>,
    /// its size with the holes
    pub size: Option<u64>,
    /// whether the map stands at the start of the data (format 1.0)
    pub in_data: bool,
    numbers: Vec<u64>,
    mapped: bool,
}

impl SparseRecords {
    /// Takes the record `GNU.sparse.KEY`.
    pub fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), Malformed> {
        match key {
            b"name" => self.name = Some(value.to_vec()),
            b"size" | b"realsize" => self.size = number(value)?,
            b"major" => self.in_data = number(value)? == Some(1),
            b"numblocks" => self.mapped = true,
            b"offset" | b"numbytes" => self.push(value)?,
            b"map" => {
                self.mapped = true;
                self.numbers.clear();
                if !value.is_empty() {
                    value.split(|byte| *byte == b',').try_for_each(|part| self.push(part))?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn push(&mut self, text: &[u8]) -> Result<(), Malformed> {
        if self.numbers.len() >= 2 * MAX_EXTENTS {
            return Err(Malformed);
        }
        self.numbers.push(number(text)?.ok_or(Malformed)?);
        Ok(())
    }

    /// The map, if the records hold one.
    pub fn map(&self) -> Result<Option<Vec<Extent>>, Malformed> {
        if !self.mapped {
            return Ok(None);
        }
        pairs(&self.numbers).map(Some)
    }
}

fn pairs(numbers: &[u64]) -> Result<Vec<Extent>, Malformed> {
    let pairs = numbers.chunks(2).map(|pair| match *pair {
        [offset, length] => Ok(Extent { offset, length }),
        _ => Err(Malformed),
    });
    pairs.collect()
}

/// Reads the map at the start of the data of a file in format 1.0: decimal numbers, one a line,
/// first how many pieces there are.
#[derive(Debug, Default)]
pub struct MapParser {
    line: Vec<u8>,
    numbers: Vec<u64>,
    pieces: Option<usize>,
}

impl MapParser {
    /// Takes the next block of the data; the map, once it is whole. The file's own data start
    /// with the block after that one.
    pub fn block(&mut self, block: &[u8]) -> Result<Option<Vec<Extent>>, Malformed> {
        for byte in block {
            if *byte != b'\n' {
                if self.line.len() >= 20 {
                    return Err(Malformed);
                }
                self.line.push(*byte);
                continue;
            }
            let value = number(&self.line)?.ok_or(Malformed)?;
            self.line.clear();
            match self.pieces {
                None => {
                    let pieces = usize::try_from(value).map_err(|_| Malformed)?;
                    if pieces > MAX_EXTENTS {
                        return Err(Malformed);
                    }
                    self.pieces = Some(pieces);
                }
                Some(_) => self.numbers.push(value),
            }
            if self.pieces.is_some_and(|pieces| self.numbers.len() == 2 * pieces) {
                return pairs(&self.numbers).map(Some);
            }
        }
        Ok(None)
    }
}

/// A map in the making, in GNU's old format: pairs in the header and in blocks that follow it.
#[derive(Debug, Default)]
pub struct OldMap {
    extents: Vec<Extent>,
}

impl OldMap {
    /// One more pair.
    pub fn push(&mut self, offset: u64, length: u64) -> Result<(), Malformed> {
        if self.extents.len() >= MAX_EXTENTS {
            return Err(Malformed);
        }
        self.extents.push(Extent { offset, length });
        Ok(())
    }

    /// All pairs.
    pub fn finish(self) -> Vec<Extent> {
        self.extents
    }
}

/// Checks that `extents` ascend, stay within a file of `size` bytes and use up `stored` bytes of
/// the archive; drops the empty ones.
pub fn check(mut extents: Vec<Extent>, size: u64, stored: u64) -> Option<Vec<Extent>> {
    let (mut end, mut sum) = (0u64, 0u64);
    for extent in &extents {
        if extent.offset < end {
            return None;
        }
        end = extent.offset.checked_add(extent.length)?;
        sum = sum.checked_add(extent.length)?;
    }
    extents.retain(|extent| extent.length > 0);
    (end <= size && sum == stored).then_some(extents)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn extent(offset: u64, length: u64) -> Extent {
        Extent { offset, length }
    }

    #[test]
    fn maps_of_all_three_formats_are_read() {
        let expected = vec![extent(0, 5), extent(100, 7)];
        let mut zero = SparseRecords::default();
        for (key, value) in [
            ("numblocks", "2"),
            ("offset", "0"),
            ("numbytes", "5"),
            ("offset", "100"),
            ("numbytes", "7"),
        ] {
            zero.take(key.as_bytes(), value.as_bytes()).unwrap();
        }
        assert_eq!(zero.map(), Ok(Some(expected.clone())));
        let mut one = SparseRecords::default();
        one.take(b"map", b"0,5,100,7").unwrap();
        assert_eq!(one.map(), Ok(Some(expected.clone())));
        let mut parser = MapParser::default();
        assert_eq!(parser.block(b"2\n0\n5\n10"), Ok(None));
        assert_eq!(parser.block(b"0\n7\n\0\0\0"), Ok(Some(expected)));
    }

    #[test]
    fn a_map_must_fit_the_file_and_the_archive() {
        assert!(check(vec![extent(0, 5), extent(5, 5)], 10, 10).is_some());
        assert!(check(vec![extent(0, 5), extent(4, 5)], 10, 10).is_none(), "overlap");
        assert!(check(vec![extent(6, 5)], 10, 5).is_none(), "beyond the end");
        assert!(check(vec![extent(0, 5)], 10, 6).is_none(), "data left over");
        assert!(check(vec![extent(u64::MAX, 1)], 10, 1).is_none(), "overflow");
        assert_eq!(check(vec![extent(10, 0)], 10, 0), Some(vec![]));
    }

    #[test]
    fn a_map_without_end_is_refused() {
        let mut parser = MapParser::default();
        assert_eq!(parser.block(b"99999999999\n"), Err(Malformed));
        assert_eq!(MapParser::default().block(&[b'1'; 512]), Err(Malformed));
    }
}
