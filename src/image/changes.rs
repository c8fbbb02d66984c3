//! Changes of an image's configuration in the words of a Dockerfile (`import --change`).

use std::str::FromStr;

use serde_json::{Map, Value, json};

/// One instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// `CMD`, `ENTRYPOINT`: a list of words
    Words(&'static str, Vec<String>),
    /// `USER`, `WORKDIR`, `STOPSIGNAL`: a text
    Text(&'static str, String),
    /// `ENV`: name and value
    Env(Vec<(String, String)>),
    /// `LABEL`: name and value
    Labels(Vec<(String, String)>),
    /// `EXPOSE`, `VOLUME`: names in a set
    Set(&'static str, Vec<String>),
}

/// An instruction that cannot be followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid change {text:?}: {problem}")]
pub struct ChangeError {
    text: String,
    problem: &'static str,
}

impl FromStr for Change {
    type Err = ChangeError;

    fn from_str(text: &str) -> Result<Self, ChangeError> {
        parse(text).map_err(|problem| ChangeError { text: text.to_owned(), problem })
    }
}

fn parse(text: &str) -> Result<Change, &'static str> {
    let (instruction, rest) = text.trim().split_once(char::is_whitespace).unwrap_or((text, ""));
    let rest = rest.trim();
    if rest.is_empty() {
        return Err("an instruction and what it says, such as 'CMD [\"/bin/sh\"]'");
    }
    Ok(match instruction.to_ascii_uppercase().as_str() {
        "CMD" => Change::Words("Cmd", command(rest)?),
        "ENTRYPOINT" => Change::Words("Entrypoint", command(rest)?),
        "USER" => Change::Text("User", rest.to_owned()),
        "WORKDIR" if rest.starts_with('/') => Change::Text("WorkingDir", rest.to_owned()),
        "WORKDIR" => return Err("a working directory begins with '/'"),
        "STOPSIGNAL" => Change::Text("StopSignal", rest.to_owned()),
        "ENV" => Change::Env(pairs(rest)?),
        "LABEL" => Change::Labels(pairs(rest)?),
        "EXPOSE" => Change::Set("ExposedPorts", ports(rest)?),
        "VOLUME" => Change::Set("Volumes", list(rest)?),
        _ => {
            return Err(
                "CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME and WORKDIR \
                        can be given",
            );
        }
    })
}

fn json_list(text: &str) -> Option<Vec<String>> {
    text.starts_with('[').then(|| serde_json::from_str(text).ok()).flatten()
}

/// A list in JSON, or a text for a shell.
fn command(text: &str) -> Result<Vec<String>, &'static str> {
    Ok(json_list(text).unwrap_or_else(|| vec!["/bin/sh".into(), "-c".into(), text.to_owned()]))
}

fn list(text: &str) -> Result<Vec<String>, &'static str> {
    json_list(text).or_else(|| shlex::split(text)).ok_or("a quote is not closed")
}

/// `NAME=VALUE`, any number of them with quotes as in a shell, or `NAME VALUE`.
fn pairs(text: &str) -> Result<Vec<(String, String)>, &'static str> {
    let first = text.split_whitespace().next().unwrap_or_default();
    if !first.contains('=') {
        let (name, value) = text.split_once(char::is_whitespace).ok_or("a name needs a value")?;
        return Ok(vec![(name.to_owned(), value.trim().to_owned())]);
    }
    let words = shlex::split(text).ok_or("a quote is not closed")?;
    let pair = |word: String| match word.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("every word is to be NAME=VALUE"),
    };
    words.into_iter().map(pair).collect()
}

/// `PORT[/PROTOCOL]`.
fn ports(text: &str) -> Result<Vec<String>, &'static str> {
    const PROBLEM: &str = "a port is a number, and after a '/' tcp, udp or sctp";
    let port = |word: &str| {
        let (number, protocol) = word.split_once('/').unwrap_or((word, "tcp"));
        let number: u16 = number.parse().map_err(|_| PROBLEM)?;
        let known = ["tcp", "udp", "sctp"].contains(&protocol);
        if known { Ok(format!("{number}/{protocol}")) } else { Err(PROBLEM) }
    };
    text.split_whitespace().map(port).collect()
}

impl Change {
    /// Changes the `config` of an image's configuration.
    pub fn apply(&self, config: &mut Value) {
        let Some(config) = config.as_object_mut() else { return };
        match self {
            Self::Words(key, words) => drop(config.insert((*key).to_owned(), json!(words))),
            Self::Text(key, text) => drop(config.insert((*key).to_owned(), json!(text))),
            Self::Env(pairs) => env(config, pairs),
            Self::Labels(pairs) => {
                let pairs = pairs.iter().map(|(name, value)| (name.clone(), json!(value)));
                extend(config, "Labels", pairs);
            }
            Self::Set(key, names) => {
                extend(config, key, names.iter().map(|name| (name.clone(), json!({}))));
            }
        }
    }
}

/// Adds names to a map of the configuration.
fn extend(
    config: &mut Map<String, Value>,
    key: &str,
    names: impl Iterator<Item = (String, Value)>,
) {
    if let Some(map) = config.entry(key).or_insert_with(|| json!({})).as_object_mut() {
        map.extend(names);
    }
}

fn env(config: &mut Map<String, Value>, pairs: &[(String, String)]) {
    let list = config.entry("Env").or_insert_with(|| json!([]));
    let Some(list) = list.as_array_mut() else { return };
    for (name, value) in pairs {
        let begins = format!("{name}=");
        list.retain(|known| known.as_str().is_none_or(|known| !known.starts_with(&begins)));
        list.push(json!(format!("{name}={value}")));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn applied(changes: &[&str]) -> Value {
        let mut config = json!({});
        for change in changes {
            change.parse::<Change>().unwrap().apply(&mut config);
        }
        config
    }

    #[test]
    fn instructions_change_the_configuration() {
        let config = applied(&[
            "CMD [\"a\", \"b c\"]",
            "entrypoint run it",
            "ENV A=1 B='2 3'",
            "ENV A four five",
            "EXPOSE 80 53/udp",
            "LABEL x=y",
            "USER nobody",
            "VOLUME [\"/data\"]",
            "WORKDIR /srv",
        ]);
        let expected = json!({
            "Cmd": ["a", "b c"], "Entrypoint": ["/bin/sh", "-c", "run it"],
            "Env": ["B=2 3", "A=four five"], "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
            "Labels": {"x": "y"}, "User": "nobody", "Volumes": {"/data": {}},
            "WorkingDir": "/srv",
        });
        assert_eq!(config, expected);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for text in [
            "",
            "CMD",
            "RUN ls",
            "EXPOSE x",
            "EXPOSE 1/x",
            "ENV A",
            "ENV A='",
            "WORKDIR x",
            "ENV =1",
        ] {
            assert!(text.parse::<Change>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(text in "(CMD|ENV|EXPOSE|VOLUME|LABEL|) .{0,60}") {
            if let Ok(change) = text.parse::<Change>() {
                change.apply(&mut json!({}));
            }
        }
    }
}
