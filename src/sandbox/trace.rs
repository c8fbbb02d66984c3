//! A trace of starts, where the environment variable `AMPOULE_TRACE` names a file, or a descriptor by its
//! number: a line of JSON for each phase, in Chrome's trace event format (an array that need not be closed),
//! which ui.perfetto.dev, chrome://tracing and speedscope.app open. Times are `CLOCK_MONOTONIC`'s: what
//! several processes write to one file fits together.
//!
//! A trace is a help: where it cannot be written, nothing else fails.

use std::env;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use nix::fcntl::{Flock, FlockArg};
use nix::unistd::gettid;
use serde_json::{Value, json};

use super::about::Moments;
use super::timings::Timings;
use crate::clock::now_us;

/// Environment variable with the file's path, or a descriptor's number.
pub const VARIABLE: &str = "AMPOULE_TRACE";

/// Where this process's phases go; none where nobody wants them.
fn wanted() -> Option<&'static Path> {
    static WANTED: OnceLock<Option<PathBuf>> = OnceLock::new();
    WANTED.get_or_init(|| env::var_os(VARIABLE).and_then(|value| path(&value))).as_deref()
}

fn path(value: &std::ffi::OsStr) -> Option<PathBuf> {
    match value.to_str().map(str::parse::<u32>) {
        _ if value.is_empty() => None,
        Some(Ok(descriptor)) => Some(format!("/proc/self/fd/{descriptor}").into()),
        _ => Some(value.into()),
    }
}

/// Whether anybody wants to know.
pub fn is_wanted() -> bool {
    wanted().is_some()
}

/// A phase that has begun; dropped, it has ended.
#[derive(Debug)]
pub struct Span {
    name: &'static str,
    of: String,
    from_us: u64,
}

/// Begins a phase of this sandbox's or container's.
pub fn begin(name: &'static str, of: &str) -> Option<Span> {
    wanted()?;
    Some(Span { name, of: of.to_owned(), from_us: now_us() })
}

impl Drop for Span {
    fn drop(&mut self) {
        tell(&[phase(self.name, &self.of, self.from_us, now_us(), gettid().as_raw())]);
    }
}

/// Tells the phases of a sandbox's start, and what this process is to be called.
pub fn moments(name: &str, id: &str, moments: &Moments) {
    let phases: Vec<_> = moments.phases();
    start(name, id, &phases);
}

/// The same from other timings.
pub fn timings(name: &str, id: &str, timings: &Timings) {
    if !is_wanted() {
        return;
    }
    let mut at = timings.command_us;
    let phases: Vec<_> = timings
        .phases()
        .into_iter()
        .map(|(name, us)| {
            let from = at;
            at = at.saturating_add(us);
            (name, from, at)
        })
        .collect();
    start(name, id, &phases);
}

fn start(name: &str, id: &str, phases: &[(&'static str, u64, u64)]) {
    if !is_wanted() {
        return;
    }
    let process = std::process::id();
    let named = json!({"name": "process_name", "ph": "M", "pid": process, "args": {"name": name}});
    let mut events = vec![named];
    if let (Some((_, from, _)), Some((_, _, to))) = (phases.first(), phases.last()) {
        events.push(phase("start", id, *from, *to, 1));
    }
    events.extend(phases.iter().map(|(name, from, to)| phase(name, id, *from, *to, 1)));
    tell(&events);
}

fn phase(name: &str, of: &str, from_us: u64, to_us: u64, thread: i32) -> Value {
    json!({
        "name": name,
        "cat": "ampoule",
        "ph": "X",
        "ts": from_us,
        "dur": to_us.saturating_sub(from_us),
        "pid": std::process::id(),
        "tid": thread,
        "args": {"id": of},
    })
}

fn tell(events: &[Value]) {
    if let Some(path) = wanted() {
        let _ = append(path, events);
    }
}

/// Adds lines to a file, whose first is the beginning of an array.
fn append(path: &Path, events: &[Value]) -> io::Result<()> {
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    let mut lines = String::new();
    // A pipe or a terminal is nobody else's, and cannot be locked where it is a socket.
    let locked = Flock::lock(file, FlockArg::LockExclusive);
    let mut file: File = match locked {
        Ok(held) => {
            if held.metadata()?.len() == 0 {
                lines.push_str("[\n");
            }
            let mut held = held;
            return held.write_all(with(lines, events).as_bytes());
        }
        Err((file, _)) => file,
    };
    file.write_all(with(lines, events).as_bytes())
}

fn with(mut lines: String, events: &[Value]) -> String {
    for event in events {
        lines.push_str(&event.to_string());
        lines.push_str(",\n");
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_an_array_that_is_not_closed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("trace.json");
        append(&file, &[phase("one", "id \"1\"", 5, 8, 3)]).unwrap();
        append(&file, &[phase("two", "2", 8, 7, 3)]).unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.starts_with("[\n{") && text.ends_with("},\n"), "{text}");
        let whole = format!("{}]", text.trim_end().trim_end_matches(','));
        let events: Vec<Value> = serde_json::from_str(&whole).unwrap();
        assert_eq!((&events[0]["ts"], &events[0]["dur"]), (&json!(5), &json!(3)));
        assert_eq!(events[0]["args"]["id"], "id \"1\"");
        assert_eq!(events[1]["dur"], 0);
    }

    #[test]
    fn a_number_is_a_descriptor() {
        assert_eq!(path("7".as_ref()), Some("/proc/self/fd/7".into()));
        assert_eq!(path("/tmp/7".as_ref()), Some("/tmp/7".into()));
        assert_eq!(path("".as_ref()), None);
    }
}
