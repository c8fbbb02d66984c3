//! The output of a detached container: JSON lines in the format of docker's `json-file` driver.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A line longer than this is written in pieces (docker's bound).
const LINE_LIMIT: usize = 16 << 10;

/// Longest entry that is read: a full line, every byte escaped, and the rest of the entry.
const ENTRY_LIMIT: u64 = 8 * LINE_LIMIT as u64;

/// Which output a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogStream {
    /// Standard output, and a terminal's.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One line of output, its newline included where it had one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The text; bytes that are not UTF-8 are replaced.
    pub log: String,
    /// Where it came from.
    pub stream: LogStream,
    /// When it was written down.
    pub time: Timestamp,
}

/// A log that is written.
#[derive(Debug)]
pub struct Log {
    file: Mutex<File>,
}

impl Log {
    /// Makes the log at `path`.
    pub fn create(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        Ok(Self { file: Mutex::new(file) })
    }

    /// A writer that splits one output into entries.
    pub fn writer(self: &Arc<Self>, stream: LogStream) -> LogWriter {
        LogWriter { log: Arc::clone(self), stream, line: Vec::new() }
    }

    fn append(&self, entry: &Entry) -> io::Result<()> {
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        self.file.lock().unwrap_or_else(PoisonError::into_inner).write_all(&line)
    }
}

/// Splits an output into entries.
#[derive(Debug)]
pub struct LogWriter {
    log: Arc<Log>,
    stream: LogStream,
    line: Vec<u8>,
}

impl LogWriter {
    fn end_line(&mut self) -> io::Result<()> {
        if self.line.is_empty() {
            return Ok(());
        }
        let log = String::from_utf8_lossy(&self.line).into_owned();
        self.line.clear();
        self.log.append(&Entry { log, stream: self.stream, time: Timestamp::now() })
    }
}

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for piece in bytes.split_inclusive(|b| *b == b'\n') {
            for part in piece.chunks(LINE_LIMIT) {
                if self.line.len() + part.len() > LINE_LIMIT {
                    self.end_line()?;
                }
                self.line.extend_from_slice(part);
            }
            if piece.ends_with(b"\n") {
                self.end_line()?;
            }
        }
        Ok(bytes.len())
    }

    /// Ends a line that has no newline yet: called at the output's end.
    fn flush(&mut self) -> io::Result<()> {
        self.end_line()
    }
}

/// Reads the next entry; `None` at the end of what is written so far. An entry that is still being
/// written is left for the next call.
pub fn read_entry(from: &mut (impl BufRead + io::Seek)) -> io::Result<Option<Entry>> {
    let start = from.stream_position()?;
    let mut line = Vec::new();
    io::Read::take(&mut *from, ENTRY_LIMIT).read_until(b'\n', &mut line)?;
    if !line.ends_with(b"\n") {
        if line.len() as u64 == ENTRY_LIMIT {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a log entry is too long"));
        }
        from.seek(io::SeekFrom::Start(start))?;
        return Ok(None);
    }
    Ok(Some(serde_json::from_slice(&line)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::BufReader;

    fn entries(path: &Path) -> Vec<Entry> {
        let mut file = BufReader::new(File::open(path).unwrap());
        std::iter::from_fn(|| read_entry(&mut file).unwrap()).collect()
    }

    proptest! {
        #[test]
        fn the_text_is_kept_however_it_is_cut(
            pieces in prop::collection::vec("[a-z\n]{0,40}", 0..20),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("logs/l.json");
            let mut writer = Arc::new(Log::create(&path).unwrap()).writer(LogStream::Stderr);
            for piece in &pieces {
                writer.write_all(piece.as_bytes()).unwrap();
            }
            writer.flush().unwrap();
            let read = entries(&path);
            prop_assert!(read.iter().all(|e| !e.log.trim_end_matches('\n').contains('\n')));
            let text: String = read.into_iter().map(|e| e.log).collect();
            prop_assert_eq!(text, pieces.concat());
        }
    }

    #[test]
    fn a_line_without_end_is_written_in_pieces() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("l.json");
        let mut writer = Arc::new(Log::create(&path).unwrap()).writer(LogStream::Stdout);
        writer.write_all(&vec![b'x'; 3 * LINE_LIMIT + 5]).unwrap();
        writer.flush().unwrap();
        let read = entries(&path);
        assert!(read.iter().all(|e| e.log.len() <= LINE_LIMIT));
        assert_eq!(read.iter().map(|e| e.log.len()).sum::<usize>(), 3 * LINE_LIMIT + 5);
    }

    #[test]
    fn an_entry_that_is_being_written_is_read_later() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("l.json");
        let entry = Entry { log: "a\n".into(), stream: LogStream::Stdout, time: Timestamp::now() };
        let line = serde_json::to_vec(&entry).unwrap();
        fs::write(&path, &line).unwrap();
        let mut file = BufReader::new(File::open(&path).unwrap());
        assert_eq!(read_entry(&mut file).unwrap(), None);
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"\n").unwrap();
        assert_eq!(read_entry(&mut file).unwrap(), Some(entry));
    }
}
