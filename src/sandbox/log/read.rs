//! Reads a log, from its oldest file to what is being written.

use std::fs::File;
use std::io::{self, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::super::lines::{self, Line};
use super::{ENTRY_LIMIT, Entry, MOST_FILES, file};

/// See the module.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    current: BufReader<File>,
    /// Device and inode of the file that is read: its name changes when it is set aside.
    which: (u64, u64),
}

impl Reader {
    /// Opens the log at `path`, at its oldest entry.
    ///
    /// # Errors
    ///
    /// Among others [`io::ErrorKind::NotFound`] where there is none.
    pub fn open(path: &Path) -> io::Result<Self> {
        let oldest = (1..=MOST_FILES).take_while(|number| file(path, *number).exists()).last();
        Self::at(path, oldest.unwrap_or(0))
    }

    fn at(path: &Path, number: u32) -> io::Result<Self> {
        let current = File::open(file(path, number))?;
        let metadata = current.metadata()?;
        let which = (metadata.dev(), metadata.ino());
        Ok(Self { path: path.to_owned(), current: BufReader::new(current), which })
    }

    /// The next entry; `None` at the end of what is written so far. An entry that is still being written is
    /// left for the next call.
    ///
    /// # Errors
    ///
    /// Also if an entry is not one.
    pub fn read(&mut self) -> io::Result<Option<Entry>> {
        loop {
            // Looked for first: what is set aside is not written any more, so that its end is final.
            let newer = self.newer()?;
            if let Some(entry) = self.entry()? {
                return Ok(Some(entry));
            }
            match newer {
                Some(number) => match Self::at(&self.path, number) {
                    Ok(next) => *self = next,
                    // Set aside just now.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                    Err(error) => return Err(error),
                },
                None => return Ok(None),
            }
        }
    }

    /// Number of the file after the one that is read; none where that is still written.
    fn newer(&self) -> io::Result<Option<u32>> {
        for number in 0..=MOST_FILES {
            match std::fs::metadata(file(&self.path, number)) {
                Ok(metadata) if (metadata.dev(), metadata.ino()) == self.which => {
                    return Ok(number.checked_sub(1));
                }
                Ok(_) => {}
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                // Between two files there is a moment without a first one.
                Err(_) if number == 0 => {}
                // Ours has gone, and all before it: the oldest that there is.
                Err(_) => {
                    return Ok(number.checked_sub(1).filter(|_| number > 1 || self.path.exists()));
                }
            }
        }
        Ok(None)
    }

    fn entry(&mut self) -> io::Result<Option<Entry>> {
        match lines::next(&mut self.current, ENTRY_LIMIT)? {
            Line::Whole(line) => Ok(Some(serde_json::from_slice(&line)?)),
            Line::TooLong => {
                Err(io::Error::new(io::ErrorKind::InvalidData, "a log entry is too long"))
            }
            Line::Unfinished => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Log, LogLimits, LogStream};
    use super::*;
    use jiff::Timestamp;
    use std::fs::{self, OpenOptions};
    use std::io::Write;
    use std::sync::Arc;

    #[test]
    fn an_entry_that_is_being_written_is_read_later() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("l.json");
        let entry = Entry { log: "a\n".into(), stream: LogStream::Stdout, time: Timestamp::now() };
        let line = serde_json::to_vec(&entry).unwrap();
        fs::write(&path, &line).unwrap();
        let mut reader = Reader::open(&path).unwrap();
        assert_eq!(reader.read().unwrap(), None);
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"\n").unwrap();
        assert_eq!(reader.read().unwrap(), Some(entry));
    }

    #[test]
    fn who_follows_misses_nothing_when_files_are_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("l.json");
        let log = Arc::new(Log::open(&path, LogLimits { max_size: 500, max_file: 20 }).unwrap());
        let mut writer = log.writer(LogStream::Stdout);
        let mut reader = Reader::open(&path).unwrap();
        let mut read = String::new();
        let mut all = String::new();
        for round in 0..10 {
            for n in 0..round {
                let line = format!("line {round}.{n}\n");
                writer.write_all(line.as_bytes()).unwrap();
                all.push_str(&line);
            }
            while let Some(entry) = reader.read().unwrap() {
                read.push_str(&entry.log);
            }
        }
        assert_eq!(read, all);
    }

    #[test]
    fn one_whose_file_has_gone_goes_on_with_the_oldest() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("l.json");
        let log = Arc::new(Log::open(&path, LogLimits { max_size: 200, max_file: 2 }).unwrap());
        let mut writer = log.writer(LogStream::Stdout);
        writer.write_all(b"first\n").unwrap();
        let mut reader = Reader::open(&path).unwrap();
        for n in 0..20 {
            writer.write_all(format!("line {n}\n").as_bytes()).unwrap();
        }
        let read: Vec<String> =
            std::iter::from_fn(|| reader.read().unwrap()).map(|entry| entry.log).collect();
        assert!(
            read.contains(&"first\n".to_owned()) && read.ends_with(&["line 19\n".to_owned()]),
            "{read:?}"
        );
    }
}
