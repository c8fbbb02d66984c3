//! Lines of a file that another process is still writing.

use std::io::{self, BufRead, Read, Seek, SeekFrom};

/// What comes next in the file.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// A line with its newline.
    Whole(Vec<u8>),
    /// So many bytes without a newline, which are passed over.
    TooLong,
    /// Nothing, or a line that is still being written: it is left for the next call.
    Unfinished,
}

/// Reads the next line, of at most so many bytes.
pub fn next(from: &mut (impl BufRead + Seek), limit: u64) -> io::Result<Line> {
    let start = from.stream_position()?;
    let mut line = Vec::new();
    Read::take(&mut *from, limit).read_until(b'\n', &mut line)?;
    if line.ends_with(b"\n") {
        return Ok(Line::Whole(line));
    }
    if line.len() as u64 == limit {
        return Ok(Line::TooLong);
    }
    from.seek(SeekFrom::Start(start))?;
    Ok(Line::Unfinished)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    #[test]
    fn only_whole_lines_are_taken() {
        let mut from = Cursor::new(b"one\ntoolong\nend".to_vec());
        let mut read = || next(&mut from, 4).unwrap();
        assert_eq!(read(), Line::Whole(b"one\n".to_vec()));
        assert_eq!((read(), read()), (Line::TooLong, Line::Whole(b"ong\n".to_vec())));
        assert_eq!((read(), read()), (Line::Unfinished, Line::Unfinished));
    }
}
