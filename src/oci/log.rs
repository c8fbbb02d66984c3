//! Errors and warnings as callers read them: logrus's lines, which runc's have been from the start.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::PathBuf;

use jiff::{Timestamp, TimestampRound, Unit};

/// Form of a log's lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// `time="…" level=error msg="…"`
    Text,
    /// One object a line: level, msg, time
    Json,
}

/// Where errors and warnings go.
#[derive(Debug)]
pub struct Log {
    file: Option<PathBuf>,
    format: Format,
}

impl Log {
    /// To standard error, and to `file` in this format.
    pub fn new(file: Option<PathBuf>, format: Format) -> Self {
        Self { file, format }
    }

    /// Tells of a failure, whose end the command is.
    pub fn error(&self, message: &str) {
        self.write("error", message);
        // Nobody is left to tell where standard error is closed.
        let _ = match self.file {
            None => writeln!(io::stderr(), "{}", line(Format::Text, "error", message)),
            Some(_) => writeln!(io::stderr(), "{message}"),
        };
    }

    /// Tells of something that is not as it was asked for.
    pub fn warn(&self, message: &str) {
        self.write("warning", message);
        if self.file.is_none() {
            let _ = writeln!(io::stderr(), "{}", line(Format::Text, "warning", message));
        }
    }

    fn write(&self, level: &str, message: &str) {
        let Some(path) = &self.file else { return };
        let text = line(self.format, level, message) + "\n";
        let appended = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .and_then(|mut file| file.write_all(text.as_bytes()));
        if let Err(error) = appended {
            let _ = writeln!(io::stderr(), "cannot write to log {}: {error}", path.display());
        }
    }
}

fn line(format: Format, level: &str, message: &str) -> String {
    let time = now();
    match format {
        Format::Json => {
            serde_json::json!({ "level": level, "msg": message, "time": time }).to_string()
        }
        Format::Text => format!("time=\"{time}\" level={level} msg={message:?}"),
    }
}

/// RFC 3339, in whole seconds.
fn now() -> String {
    let now = Timestamp::now();
    let round = TimestampRound::new().smallest(Unit::Second);
    now.round(round).unwrap_or(now).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_json_line_has_what_callers_look_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.json");
        let log = Log::new(Some(path.clone()), Format::Json);
        log.warn("first \"one\"");
        log.error("second");
        let text = std::fs::read_to_string(path).unwrap();
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(
            (&lines[0]["level"], &lines[0]["msg"]),
            (&"warning".into(), &"first \"one\"".into())
        );
        assert_eq!(lines[1]["msg"], "second");
        assert!(lines[1]["time"].as_str().unwrap().ends_with('Z'));
    }
}
