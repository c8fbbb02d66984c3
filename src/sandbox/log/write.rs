//! Writes a log.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;

use super::{Entry, LINE_LIMIT, LogLimits, LogStream, file};

/// A log that is written.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    limits: LogLimits,
    current: Mutex<Current>,
}

/// The file that is written now.
#[derive(Debug)]
struct Current {
    file: File,
    size: u64,
}

impl Current {
    fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        let size = file.metadata()?.len();
        Ok(Self { file, size })
    }
}

impl Log {
    /// Opens the log at `path`, made if need be; what is there stays.
    pub fn open(path: &Path, limits: LogLimits) -> io::Result<Self> {
        let current = Mutex::new(Current::open(path)?);
        Ok(Self { path: path.to_owned(), limits, current })
    }

    /// A writer that splits one output into entries.
    pub fn writer(self: &Arc<Self>, stream: LogStream) -> LogWriter {
        LogWriter { log: Arc::clone(self), stream, line: Vec::new() }
    }

    fn append(&self, entry: &Entry) -> io::Result<()> {
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let LogLimits { max_size, .. } = self.limits;
        if max_size != 0 && current.size != 0 && current.size + line.len() as u64 > max_size {
            self.set_aside()?;
            *current = Current::open(&self.path)?;
        }
        match current.file.write_all(&line) {
            Ok(()) => current.size += line.len() as u64,
            Err(error) => {
                // A full disk: what was written of the entry would spoil the next one.
                current.file.set_len(current.size)?;
                return Err(error);
            }
        }
        Ok(())
    }

    /// The oldest file goes, all others have a number more.
    fn set_aside(&self) -> io::Result<()> {
        let most = self.limits.max_file.max(1);
        if most == 1 {
            return fs::remove_file(&self.path);
        }
        for number in (0..most - 1).rev() {
            match fs::rename(file(&self.path, number), file(&self.path, number + 1)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => other?,
            }
        }
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::super::Reader;
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn entries(path: &Path) -> Vec<Entry> {
        let mut reader = Reader::open(path).unwrap();
        std::iter::from_fn(|| reader.read().unwrap()).collect()
    }

    fn text(path: &Path) -> String {
        entries(path).into_iter().map(|entry| entry.log).collect()
    }

    proptest! {
        #[test]
        fn the_text_is_kept_however_it_is_cut(
            pieces in prop::collection::vec("[a-z\n]{0,40}", 0..20),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("l.json");
            let log = Log::open(&path, LogLimits::default()).unwrap();
            let mut writer = Arc::new(log).writer(LogStream::Stderr);
            for piece in &pieces {
                writer.write_all(piece.as_bytes()).unwrap();
            }
            writer.flush().unwrap();
            let read = entries(&path);
            prop_assert!(read.iter().all(|e| !e.log.trim_end_matches('\n').contains('\n')));
            prop_assert_eq!(text(&path), pieces.concat());
        }
    }

    #[test]
    fn a_line_without_end_is_written_in_pieces() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("l.json");
        let log = Arc::new(Log::open(&path, LogLimits::default()).unwrap());
        let mut writer = log.writer(LogStream::Stdout);
        writer.write_all(&vec![b'x'; 3 * LINE_LIMIT + 5]).unwrap();
        writer.flush().unwrap();
        let read = entries(&path);
        assert!(read.iter().all(|e| e.log.len() <= LINE_LIMIT));
        assert_eq!(read.iter().map(|e| e.log.len()).sum::<usize>(), 3 * LINE_LIMIT + 5);
    }

    #[test]
    fn full_files_are_set_aside_and_the_oldest_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("l.json");
        let limits = LogLimits { max_size: 1000, max_file: 3 };
        let log = Arc::new(Log::open(&path, limits).unwrap());
        let mut writer = log.writer(LogStream::Stdout);
        let all: Vec<String> = (0..100).map(|n| format!("line {n}\n")).collect();
        for line in &all {
            writer.write_all(line.as_bytes()).unwrap();
        }
        let kept = text(&path);
        assert!(all.concat().ends_with(&kept) && kept.lines().count() > 20, "{kept}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
        for entry in fs::read_dir(dir.path()).unwrap() {
            assert!(entry.unwrap().metadata().unwrap().len() <= 1000);
        }
    }

    #[test]
    fn one_that_is_opened_again_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("l.json");
        for line in ["one\n", "two\n"] {
            let log = Arc::new(Log::open(&path, LogLimits::default()).unwrap());
            log.writer(LogStream::Stdout).write_all(line.as_bytes()).unwrap();
        }
        assert_eq!(text(&path), "one\ntwo\n");
    }
}
