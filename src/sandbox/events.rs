//! What happens to containers, written down where `ampoule events` reads it: one JSON object a line, in
//! docker's words. The file is set aside when it is full, and the one before it goes.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::lines::{self, Line};
use super::places::Places;
use super::state::State;

/// Size in bytes from which on the file is set aside.
const FULL: u64 = 4 << 20;

/// Longest event that is read, in bytes.
const LINE_LIMIT: u64 = 64 << 10;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// docker's old word for the action.
    pub status: String,
    /// Id of the container.
    pub id: String,
    /// Its image.
    pub from: String,
    /// `container`.
    #[serde(rename = "Type")]
    pub kind: String,
    /// `create`, `start`, `die`, …
    #[serde(rename = "Action")]
    pub action: String,
    /// What it happened to.
    #[serde(rename = "Actor")]
    pub actor: Actor,
    /// `local`.
    pub scope: String,
    /// When, in seconds of Unix time.
    pub time: i64,
    /// The same in nanoseconds.
    #[serde(rename = "timeNano")]
    pub time_nano: i64,
}

/// What something happened to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// Its id.
    #[serde(rename = "ID")]
    pub id: String,
    /// Name, image, and what belongs to the action.
    #[serde(rename = "Attributes")]
    pub attributes: BTreeMap<String, String>,
}

impl Event {
    /// The action alone: `exec_start` of `exec_start: sh -c true`.
    pub fn word(&self) -> &str {
        self.action.split(':').next().unwrap_or_default()
    }

    /// Something that happens to a container now.
    pub fn new(action: &str, state: &State, more: &[(&str, String)]) -> Self {
        let now = Timestamp::now();
        let mut attributes = BTreeMap::from([
            ("image".to_owned(), state.image.clone()),
            ("name".to_owned(), state.name.clone()),
        ]);
        attributes.extend(more.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
        Self {
            status: action.to_owned(),
            id: state.id.clone(),
            from: state.image.clone(),
            kind: "container".to_owned(),
            action: action.to_owned(),
            actor: Actor { id: state.id.clone(), attributes },
            scope: "local".to_owned(),
            time: now.as_second(),
            time_nano: i64::try_from(now.as_nanosecond()).unwrap_or(i64::MAX),
        }
    }
}

/// Writes down that something happens to a container. What cannot be written down happens all the same.
pub fn tell(places: &Places, action: &str, state: &State, more: &[(&str, String)]) {
    // One that has no name is nobody's to hear of.
    let _ = append(&places.events(), &Event::new(action, state, more));
}

fn append(path: &Path, event: &Event) -> io::Result<()> {
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    let mut file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    if file.metadata()?.len() > FULL {
        // Two at once: the second one sets aside a file that has just begun, which loses little.
        fs::rename(path, before(path))?;
        file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    }
    // At once: lines of several processes do not mix.
    file.write_all(&line)
}

/// The file that was set aside.
fn before(path: &Path) -> PathBuf {
    path.with_extension("json.1")
}

/// Reads what was written down, oldest first, and what is written from then on.
#[derive(Debug)]
pub struct EventReader {
    path: PathBuf,
    files: Vec<BufReader<File>>,
}

impl EventReader {
    /// Begins with the oldest event that there is.
    pub fn open(places: &Places) -> io::Result<Self> {
        let path = places.events();
        // Made here, so that there is something to watch.
        let mut made = OpenOptions::new();
        let current = made.create(true).append(true).read(true).mode(0o600).open(&path)?;
        let mut files = vec![BufReader::new(current)];
        match File::open(before(&path)) {
            Ok(file) => files.push(BufReader::new(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(Self { path, files })
    }

    /// Where the events are.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next event; none where nothing has happened since. What is no event is passed over.
    pub fn read(&mut self) -> io::Result<Option<Event>> {
        loop {
            let set_aside = self.files.len() > 1 || !is_at(self.files.last(), &self.path)?;
            let Some(file) = self.files.last_mut() else { return Ok(None) };
            match lines::next(file, LINE_LIMIT)? {
                Line::Whole(line) => {
                    if let Ok(event) = serde_json::from_slice(&line) {
                        return Ok(Some(event));
                    }
                }
                Line::TooLong => {}
                Line::Unfinished if self.files.len() > 1 => {
                    self.files.pop();
                }
                Line::Unfinished if set_aside => match File::open(&self.path) {
                    Ok(next) => self.files = vec![BufReader::new(next)],
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                    Err(error) => return Err(error),
                },
                Line::Unfinished => return Ok(None),
            }
        }
    }
}

fn is_at(file: Option<&BufReader<File>>, path: &Path) -> io::Result<bool> {
    let Some(file) = file else { return Ok(false) };
    let ours = file.get_ref().metadata()?;
    match fs::metadata(path) {
        Ok(there) => Ok((there.dev(), there.ino()) == (ours.dev(), ours.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places() -> (tempfile::TempDir, Places) {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().to_owned();
        (dir, Places { data: state.clone(), state, templates: None })
    }

    fn state() -> State {
        State::new("a".repeat(64), "web".into(), "nginx".into(), Vec::new())
    }

    #[test]
    fn what_is_told_is_read_also_later() {
        let (_dir, places) = places();
        tell(&places, "create", &state(), &[]);
        let mut reader = EventReader::open(&places).unwrap();
        let first = reader.read().unwrap().unwrap();
        assert_eq!(
            (first.action.as_str(), first.actor.attributes["name"].as_str()),
            ("create", "web")
        );
        assert_eq!(reader.read().unwrap(), None);
        tell(&places, "die", &state(), &[("exitCode", "3".into())]);
        assert_eq!(reader.read().unwrap().unwrap().actor.attributes["exitCode"], "3");
    }

    #[test]
    fn an_action_is_told_by_its_word() {
        let word = |action| Event::new(action, &state(), &[]).word().to_owned();
        assert_eq!(word("exec_create: sh -c 'a: b'"), "exec_create");
        assert_eq!(word("die"), "die");
    }

    #[test]
    fn a_full_file_is_set_aside_and_nothing_is_missed() {
        let (_dir, places) = places();
        tell(&places, "create", &state(), &[]);
        let mut reader = EventReader::open(&places).unwrap();
        let file = OpenOptions::new().append(true).open(places.events()).unwrap();
        // Not an event, and longer than any.
        let mut line = vec![b'x'; usize::try_from(FULL).unwrap()];
        line.push(b'\n');
        (&file).write_all(&line).unwrap();
        tell(&places, "start", &state(), &[]);
        tell(&places, "die", &state(), &[]);
        let read = |reader: &mut EventReader| {
            std::iter::from_fn(|| reader.read().unwrap())
                .map(|event| event.action)
                .collect::<Vec<_>>()
        };
        assert_eq!(read(&mut reader), ["create", "start", "die"]);
        assert_eq!(read(&mut EventReader::open(&places).unwrap()), ["create", "start", "die"]);
    }

    #[test]
    fn nonsense_is_passed_over() {
        let (_dir, places) = places();
        fs::write(places.events(), "{}\nnonsense\n[1]\n").unwrap();
        tell(&places, "start", &state(), &[]);
        let mut reader = EventReader::open(&places).unwrap();
        assert_eq!(reader.read().unwrap().unwrap().action, "start");
    }
}
