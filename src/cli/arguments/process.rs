//! How a process is run.

use std::io::{self, IsTerminal};

use clap::Args;

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
    /// The environment asked for, after that of files; a name alone takes the caller's value, or nothing.
    pub fn env(&self, files: Vec<String>, caller: impl Fn(&str) -> Option<String>) -> Vec<String> {
        let entry = |entry: &String| {
            if entry.contains('=') {
                return Some(entry.clone());
            }
            caller(entry).map(|value| format!("{entry}={value}"))
        };
        files.iter().chain(&self.env).filter_map(entry).collect()
    }
}

/// A program with a terminal whose input is not one cannot be typed to (docker's rule and words).
pub fn terminal_for(tty: bool, interactive: bool) -> Result<(), &'static str> {
    if tty && interactive && !io::stdin().is_terminal() {
        return Err("the input device is not a TTY: leave out -t, or run it in a terminal");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_name_takes_the_callers_value() {
        let args = ProcessArgs {
            interactive: false,
            tty: false,
            env: vec!["A=1".into(), "B".into(), "C".into()],
            workdir: None,
            user: None,
        };
        let env = args.env(vec!["D=3".into()], |name| (name == "B").then(|| "2".into()));
        assert_eq!(env, ["D=3", "A=1", "B=2"]);
    }
}
