//! One program: started, timed to its end, and undone where it does not end well.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;

use super::interrupt::Interrupt;
use super::wait::first_of;
use crate::clock::now_us;
use crate::process::Process;

/// How long a program that is asked to end may take for it before it is killed.
const GRACE: Duration = Duration::from_secs(3);

/// So much of the end of what a failed program wrote is told, in bytes.
const WORDS: u64 = 4096;

/// A program to start.
#[derive(Debug)]
pub struct Attempt {
    /// The program. Its standard streams are the attempt's to choose.
    pub command: Command,
    /// What clears away whatever the program leaves behind when it is ended or fails.
    pub undo: Option<Command>,
}

/// When a program was started and when it had ended, in microseconds of the host's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Before its process was made.
    pub began_us: u64,
    /// After its end was seen.
    pub ended_us: u64,
}

impl Span {
    /// Its length.
    pub fn length_us(self) -> u64 {
        self.ended_us.saturating_sub(self.began_us)
    }
}

/// Why there is no time to tell.
#[derive(Debug, thiserror::Error)]
pub enum AttemptError {
    /// the program cannot be started
    #[error("cannot start {program}")]
    Spawn {
        /// its name
        program: String,
        /// why
        #[source]
        source: io::Error,
    },
    /// the program failed
    #[error("{command} failed ({status}){}", words_part(.words))]
    Failed {
        /// its command line
        command: String,
        /// how it ended
        status: ExitStatus,
        /// the last it wrote to standard error
        words: String,
    },
    /// the host let it down
    #[error("{doing}")]
    Host {
        /// what was being done
        doing: &'static str,
        /// why it failed
        #[source]
        source: io::Error,
    },
    /// what it told of itself cannot be read
    #[error("{command} did not tell its phases")]
    Phases {
        /// its command line
        command: String,
        /// why
        #[source]
        source: io::Error,
    },
    /// no template could be used
    #[error("{command} was not started warm: what it says on standard error tells why")]
    Cold {
        /// its command line
        command: String,
    },
    /// the user ended the benchmark
    #[error("interrupted")]
    Interrupted,
}

impl AttemptError {
    /// For `map_err`.
    pub fn host(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Host { doing, source }
    }
}

fn words_part(words: &str) -> String {
    if words.is_empty() { String::new() } else { format!(":\n{words}") }
}

impl Attempt {
    /// An attempt that leaves nothing behind, however it ends.
    pub fn of(command: Command) -> Self {
        Self { command, undo: None }
    }

    /// Starts the program and waits for its end, or until the user wants none.
    pub fn run(mut self, interrupt: &Interrupt) -> Result<Span, AttemptError> {
        if interrupt.is_raised() {
            return Err(AttemptError::Interrupted);
        }
        let mut stderr =
            tempfile::tempfile().map_err(AttemptError::host("cannot make a temporary file"))?;
        let theirs = stderr.try_clone().map_err(AttemptError::host("cannot copy a descriptor"))?;
        self.command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(theirs);
        let (mut child, began_us) = start(&mut self.command)?;
        let outcome = wait(&mut child, interrupt);
        let ended_us = now_us();
        match outcome {
            Ok(status) if status.success() => Ok(Span { began_us, ended_us }),
            Ok(status) => {
                self.undo();
                let words = last_words(&mut stderr).unwrap_or_default();
                let command = line(&self.command);
                Err(AttemptError::Failed { command, status, words })
            }
            Err(error) => {
                // A container may be deaf to the signal that its program is sent.
                ask(&child);
                self.undo();
                end(&mut child);
                self.undo();
                Err(error)
            }
        }
    }

    /// Clears away what may be left. That nothing is there to clear is the usual case, and that it
    /// cannot be cleared is told by nobody better than by what is then left.
    fn undo(&mut self) {
        if let Some(undo) = &mut self.undo {
            let _ = clear(undo);
        }
    }
}

/// Runs a program that clears away, whatever the user wants meanwhile.
pub fn clear(command: &mut Command) -> io::Result<ExitStatus> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.process_group(0).status()
}

/// Starts the program in a process group of its own, so that a terminal's Ctrl-C is for this
/// process alone to deal with.
pub fn start(command: &mut Command) -> Result<(Child, u64), AttemptError> {
    command.process_group(0);
    let began_us = now_us();
    let child = command.spawn().map_err(|source| {
        let program = command.get_program().to_string_lossy().into_owned();
        AttemptError::Spawn { program, source }
    })?;
    Ok((child, began_us))
}

/// Waits for the end of a program, or until the user wants none of it any more.
fn wait(child: &mut Child, interrupt: &Interrupt) -> Result<ExitStatus, AttemptError> {
    let process = handle(child).map_err(AttemptError::host("cannot watch a program"))?;
    match first_of(&[process.as_fd(), interrupt.as_fd()], None) {
        Ok(Some(0)) => child.wait().map_err(AttemptError::host("cannot wait for a program")),
        Ok(_) => Err(AttemptError::Interrupted),
        Err(error) => Err(AttemptError::host("cannot wait for a program")(error)),
    }
}

/// A handle on a program that has been started and not been waited for.
pub fn handle(child: &Child) -> io::Result<Process> {
    Process::of(i32::try_from(child.id()).map_err(io::Error::other)?)
}

/// Asks a program to end; whether it could be asked.
fn ask(child: &Child) -> bool {
    handle(child).is_ok_and(|process| process.signal(Signal::SIGTERM).is_ok())
}

/// Asks a program to end, kills it if it does not, and waits for it.
pub fn end(child: &mut Child) {
    let within = |child: &Child| handle(child)?.ends_within(Some(GRACE));
    if !ask(child) || !within(child).is_ok_and(|ended| ended) {
        // It has ended meanwhile, or it cannot be ended by anybody.
        let _ = child.kill();
    }
    let _ = child.wait();
}

fn last_words(stderr: &mut File) -> io::Result<String> {
    let length = stderr.seek(SeekFrom::End(0))?;
    stderr.seek(SeekFrom::Start(length.saturating_sub(WORDS)))?;
    let mut words = Vec::new();
    stderr.take(WORDS).read_to_end(&mut words)?;
    Ok(String::from_utf8_lossy(&words).trim_end().to_owned())
}

/// The command line, for people.
pub fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    /// The signals of a test program are its harness's: only the descriptor is wanted.
    fn nobody_interrupts() -> Interrupt {
        Interrupt::block().unwrap()
    }

    #[test]
    fn a_program_is_timed_to_its_end() {
        let span = Attempt::of(shell("sleep 0.05")).run(&nobody_interrupts()).unwrap();
        assert!(span.length_us() >= 50_000, "{span:?}");
    }

    #[test]
    fn a_program_that_fails_is_undone_and_its_last_words_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let undone = folder.path().join("undone");
        let mut undo = Command::new("touch");
        undo.arg(&undone);
        let attempt = Attempt { command: shell("echo no room >&2; exit 3"), undo: Some(undo) };
        let error = attempt.run(&nobody_interrupts()).unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.ends_with(":\nno room"), "{error}");
        assert!(undone.exists());
    }

    #[test]
    fn a_flood_of_words_is_cut() {
        let attempt = Attempt::of(shell("head -c 100000 /dev/zero | tr '\\0' x >&2; exit 1"));
        let error = attempt.run(&nobody_interrupts()).unwrap_err().to_string();
        assert!(error.len() < 5000, "{}", error.len());
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let attempt = Attempt::of(Command::new("/nonexistent/program"));
        let error = attempt.run(&nobody_interrupts()).unwrap_err();
        assert_eq!(error.to_string(), "cannot start /nonexistent/program");
    }
}
