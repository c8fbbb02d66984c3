//! The output of a container: JSON lines in the format of docker's `json-file` driver, in a file that is
//! set aside (`log.json.1`, `log.json.2`, …) when it is full.

mod read;
mod write;

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use read::Reader;
pub use write::{Log, LogWriter};

/// A line longer than this is written in pieces (docker's bound).
const LINE_LIMIT: usize = 16 << 10;

/// Longest entry that is read: a full line, every byte escaped, and the rest of the entry.
const ENTRY_LIMIT: u64 = 8 * LINE_LIMIT as u64;

/// Most files that a log may have.
const MOST_FILES: u32 = 1000;

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

/// Bounds of a log, in the words of docker's `--log-opt`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogLimits {
    /// Size in bytes from which on a file is set aside; 0 for no bound.
    pub max_size: u64,
    /// How many files there are at most, the one that is written among them; at least 1.
    pub max_file: u32,
}

impl Default for LogLimits {
    /// As docker's `local` driver.
    fn default() -> Self {
        Self { max_size: 20 << 20, max_file: 5 }
    }
}

impl LogLimits {
    /// Takes one of docker's options (`max-size=10m`, `max-file=3`).
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn set(&mut self, option: &str) -> Result<(), String> {
        let (name, value) =
            option.split_once('=').ok_or_else(|| format!("{option:?} is not NAME=VALUE"))?;
        match name {
            "max-size" if value == "-1" => self.max_size = 0,
            "max-size" => {
                let size = parse_size::Config::new().with_binary().parse_size(value);
                self.max_size = size.map_err(|error| format!("max-size: {error}"))?;
            }
            "max-file" => {
                let files = value.parse().ok().filter(|files| (1..=MOST_FILES).contains(files));
                self.max_file =
                    files.ok_or_else(|| format!("max-file: {value:?} is not 1 to {MOST_FILES}"))?;
            }
            _ => return Err(format!("{name:?} is no option of a log: max-size or max-file")),
        }
        Ok(())
    }
}

/// Where the file is that was set aside so many times; 0: the one that is written.
fn file(path: &Path, number: u32) -> PathBuf {
    if number == 0 {
        return path.to_owned();
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_dockers() {
        let mut limits = LogLimits::default();
        limits.set("max-size=10m").unwrap();
        limits.set("max-file=3").unwrap();
        assert_eq!(limits, LogLimits { max_size: 10 << 20, max_file: 3 });
        limits.set("max-size=-1").unwrap();
        assert_eq!(limits.max_size, 0);
        for wrong in ["max-size", "max-size=x", "max-file=0", "max-file=1001", "compress=true"] {
            assert!(limits.set(wrong).is_err(), "{wrong}");
        }
    }
}
