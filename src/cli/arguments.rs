//! Arguments that several verbs share, and how they are read.

use std::io::{self, IsTerminal};

use clap::Args;
use nix::sys::signal::Signal;
use parse_size::Config;

use crate::sandbox::LEAST_MEMORY;
use crate::vmm::config::MAX_VCPUS;

/// How a process is run: `run` and `exec`.
#[derive(Debug, Args)]
pub struct ProcessArgs {
    /// Keep standard input open
    #[arg(short, long)]
    pub interactive: bool,
    /// Give the program a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Set an environment variable (K=V), or pass the caller's on (K)
    #[arg(short, long = "env", value_name = "K=V")]
    env: Vec<String>,
    /// Working directory
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// User, by name or id, with an optional group (USER[:GROUP])
    #[arg(short, long)]
    pub user: Option<String>,
}

impl ProcessArgs {
    /// The environment asked for; a name alone takes the caller's value, or nothing.
    pub fn env(&self, caller: impl Fn(&str) -> Option<String>) -> Vec<String> {
        let entry = |entry: &String| {
            if entry.contains('=') {
                return Some(entry.clone());
            }
            caller(entry).map(|value| format!("{entry}={value}"))
        };
        self.env.iter().filter_map(entry).collect()
    }
}

/// A program with a terminal whose input is not one cannot be typed to (docker's rule and words).
pub fn terminal_for(tty: bool, interactive: bool) -> Result<(), &'static str> {
    if tty && interactive && !io::stdin().is_terminal() {
        return Err("the input device is not a TTY: leave out -t, or run it in a terminal");
    }
    Ok(())
}

/// A memory size in docker's words: a number with b, k, m or g, in powers of 1024.
pub fn memory(text: &str) -> Result<u64, String> {
    let bytes = Config::new().with_binary().parse_size(text).map_err(|e| e.to_string())?;
    if bytes < LEAST_MEMORY {
        return Err(format!("the least memory limit is {}m", LEAST_MEMORY >> 20));
    }
    Ok(bytes)
}

/// A number of CPUs.
pub fn cpus(text: &str) -> Result<f64, String> {
    let cpus: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if !(0.01..=f64::from(MAX_VCPUS)).contains(&cpus) {
        return Err(format!("a container has 0.01 to {MAX_VCPUS} CPUs"));
    }
    Ok(cpus)
}

/// A signal by number or name, with or without SIG.
pub fn signal(text: &str) -> Result<Signal, String> {
    let unknown = |_| format!("unknown signal {text:?}");
    if let Ok(number) = text.parse::<i32>() {
        return Signal::try_from(number).map_err(unknown);
    }
    let name = text.to_ascii_uppercase();
    let name = if name.starts_with("SIG") { name } else { format!("SIG{name}") };
    name.parse().map_err(unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_dockers() {
        assert_eq!(memory("64m"), Ok(64 << 20));
        assert_eq!(memory("1g"), Ok(1 << 30));
        assert_eq!(memory("8388608"), Ok(8 << 20));
        for wrong in ["", "x", "-1", "5m", "1q"] {
            assert!(memory(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn cpus_are_bounded() {
        assert_eq!(cpus("1.5"), Ok(1.5));
        for wrong in ["0", "-1", "33", "nan", "inf", "x"] {
            assert!(cpus(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn signals_go_by_name_and_number() {
        for text in ["15", "TERM", "term", "SIGTERM"] {
            assert_eq!(signal(text), Ok(Signal::SIGTERM));
        }
        assert!(signal("SIGNOPE").is_err() && signal("0").is_err());
    }

    #[test]
    fn a_bare_name_takes_the_callers_value() {
        let args = ProcessArgs {
            interactive: false,
            tty: false,
            env: vec!["A=1".into(), "B".into(), "C".into()],
            workdir: None,
            user: None,
        };
        let env = args.env(|name| (name == "B").then(|| "2".into()));
        assert_eq!(env, ["A=1", "B=2"]);
    }
}
