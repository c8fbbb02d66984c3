//! Health checks: whether a running container still does its work, as a program in it says. The states are
//! docker's; what they follow from is pure.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use serde::{Deserialize, Serialize};

use super::container;
use super::error::SandboxError;
use super::events;
use super::exec::{ExecOptions, request};
use super::monitored::wait;
use super::places::Places;
use super::registry::{Folder, InGuest};
use super::state::{State, Status, replace};
use super::streams::{Ends, Files};
use crate::image::Image;
use crate::report::chain;

/// Most bytes of a check's output that are kept (docker's).
const OUTPUT_LIMIT: usize = 4096;

/// How many checks are kept (docker's).
const KEPT: usize = 5;

/// Largest file of results that is read, in bytes.
const LIMIT: u64 = 1 << 20;

/// Exit code of a check that took too long (docker's).
const TOO_LONG: i32 = -1;

/// How a container is checked. Times are in nanoseconds, as docker's configuration of an image has them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct HealthCheck {
    /// `CMD` and a program with its arguments, `CMD-SHELL` and a script, or `NONE`.
    pub test: Vec<String>,
    /// Time between two checks; 0 for docker's default of 30 s.
    pub interval: u64,
    /// Time that a check may take; 0 for 30 s.
    pub timeout: u64,
    /// Time from the start on in which failures do not count.
    pub start_period: u64,
    /// Time between two checks in it; 0 for 5 s.
    pub start_interval: u64,
    /// Failures in a row that make a container unhealthy; 0 for 3.
    pub retries: u32,
}

impl HealthCheck {
    /// The program that is run; none where nothing is to be checked.
    pub fn command(&self) -> Option<Vec<String>> {
        let (kind, rest) = self.test.split_first()?;
        match kind.as_str() {
            "CMD" if !rest.is_empty() => Some(rest.to_vec()),
            "CMD-SHELL" => Some(vec!["/bin/sh".to_owned(), "-c".to_owned(), rest.first()?.clone()]),
            _ => None,
        }
    }

    fn interval(&self) -> Duration {
        or_seconds(self.interval, 30)
    }

    fn timeout(&self) -> Duration {
        or_seconds(self.timeout, 30)
    }

    fn retries(&self) -> u32 {
        if self.retries == 0 { 3 } else { self.retries }
    }

    /// With what is not said here as the image says it.
    #[must_use]
    pub fn over(self, image: Self) -> Self {
        let or = |own: u64, other: u64| if own == 0 { other } else { own };
        Self {
            test: if self.test.is_empty() { image.test } else { self.test },
            interval: or(self.interval, image.interval),
            timeout: or(self.timeout, image.timeout),
            start_period: or(self.start_period, image.start_period),
            start_interval: or(self.start_interval, image.start_interval),
            retries: if self.retries == 0 { image.retries } else { self.retries },
        }
    }
}

/// The check that an image's configuration declares: docker's, which the OCI's specification has not.
pub fn declared(image: &Image) -> Option<HealthCheck> {
    #[derive(Deserialize)]
    struct Whole {
        config: Option<Part>,
    }
    #[derive(Deserialize)]
    struct Part {
        #[serde(rename = "Healthcheck")]
        check: Option<HealthCheck>,
    }
    // One that makes no sense is none: the image has been taken without it being looked at.
    let whole: Option<Whole> = serde_json::from_slice(image.config_bytes()).ok();
    whole.and_then(|whole| whole.config).and_then(|part| part.check)
}

fn or_seconds(nanoseconds: u64, seconds: u64) -> Duration {
    match nanoseconds {
        0 => Duration::from_secs(seconds),
        // What would be a busy loop is none.
        other => Duration::from_nanos(other).max(Duration::from_millis(1)),
    }
}

/// What is known of a container's health, in docker's words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Health {
    /// `starting`, `healthy` or `unhealthy`.
    pub status: Verdict,
    /// Failures in a row.
    pub failing_streak: u32,
    /// The last checks, oldest first.
    pub log: Vec<Check>,
}

/// Whether it does its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It is not known yet.
    Starting,
    /// It does.
    Healthy,
    /// It does not.
    Unhealthy,
}

impl Verdict {
    /// docker's word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// A check that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Check {
    /// When it began.
    pub start: Timestamp,
    /// When it ended.
    pub end: Timestamp,
    /// The program's, or -1.
    pub exit_code: i32,
    /// The beginning of what it said.
    pub output: String,
}

impl Health {
    /// Of a container that has just been started.
    pub fn new() -> Self {
        Self { status: Verdict::Starting, failing_streak: 0, log: Vec::new() }
    }

    /// Takes a check, made so long after the container's start.
    pub fn take(&mut self, check: Check, how: &HealthCheck, running: Duration) {
        if check.exit_code == 0 {
            (self.status, self.failing_streak) = (Verdict::Healthy, 0);
        } else if self.status != Verdict::Starting
            || running >= Duration::from_nanos(how.start_period)
        {
            self.failing_streak = self.failing_streak.saturating_add(1);
            if self.failing_streak >= how.retries() {
                self.status = Verdict::Unhealthy;
            }
        }
        self.log.push(check);
        let surplus = self.log.len().saturating_sub(KEPT);
        self.log.drain(..surplus);
    }

    /// How long after the last check the next one is made.
    pub fn pause(&self, how: &HealthCheck, running: Duration) -> Duration {
        if self.status == Verdict::Starting && running < Duration::from_nanos(how.start_period) {
            return or_seconds(how.start_interval, 5).min(how.interval());
        }
        how.interval()
    }
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

fn file_in(container: &Path) -> PathBuf {
    container.join("health.json")
}

/// What was written down of a container's health, in its folder; none where nothing is checked.
pub fn read(container: &Path) -> Option<Health> {
    let mut bytes = Vec::new();
    File::open(file_in(container)).ok()?.take(LIMIT).read_to_end(&mut bytes).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// Checks a container as long as this is there.
#[derive(Debug)]
pub struct Checker {
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Checker {
    /// Begins to check a container that has just been started.
    pub fn start(
        places: &Places,
        folder: &Folder,
        state: &State,
        how: HealthCheck,
    ) -> io::Result<Option<Self>> {
        let Some(command) = how.command() else { return Ok(None) };
        let stop = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC)?);
        let checking = Checking {
            places: places.clone(),
            folder: folder.clone(),
            state: state.clone(),
            how,
            command,
            stop: Arc::clone(&stop),
        };
        let thread = thread::Builder::new().name("health".into()).spawn(move || checking.run())?;
        Ok(Some(Self { stop, thread: Some(thread) }))
    }
}

impl Drop for Checker {
    fn drop(&mut self) {
        let _ = self.stop.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Checking {
    places: Places,
    folder: Folder,
    state: State,
    how: HealthCheck,
    command: Vec<String>,
    stop: Arc<EventFd>,
}

impl Checking {
    fn run(self) {
        let mut health = Health::new();
        let began = Instant::now();
        self.write(&health);
        loop {
            let pause = health.pause(&self.how, began.elapsed());
            if !matches!(self.wait(&mut Vec::new(), pause), Ok(None)) {
                return;
            }
            // What stands still cannot be checked.
            let now = State::read(&self.folder.state());
            if now.is_ok_and(|state| state.status == Status::Paused) {
                continue;
            }
            let Some(check) = self.check() else { return };
            let before = health.status;
            health.take(check, &self.how, began.elapsed());
            self.write(&health);
            if health.status != before {
                let action = format!("health_status: {}", health.status.word());
                events::tell(&self.places, &action, &self.state, &[]);
            }
        }
    }

    /// That it cannot be written down is seen where it is read.
    fn write(&self, health: &Health) {
        if let Ok(bytes) = serde_json::to_vec(health) {
            let _ = replace(&file_in(self.folder.container()), &bytes);
        }
    }

    /// Waits for one of these, the end of all checks (number 0), or the end of this time (none).
    fn wait<'a>(
        &'a self,
        fds: &mut Vec<PollFd<'a>>,
        time: Duration,
    ) -> Result<Option<usize>, SandboxError> {
        let mut all = vec![PollFd::new(self.stop.as_fd(), PollFlags::POLLIN)];
        all.append(fds);
        let time = PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX);
        wait(&mut all, time)
    }

    /// Makes a check; none where there is to be none any more.
    fn check(&self) -> Option<Check> {
        let start = Timestamp::now();
        let (exit_code, output) = match self.ask() {
            Ok(Some(answer)) => answer,
            Ok(None) => return None,
            Err(error) => (TOO_LONG, chain(&error)),
        };
        Some(Check { start, end: Timestamp::now(), exit_code, output })
    }

    fn ask(&self) -> Result<Option<(i32, String)>, SandboxError> {
        let failed = SandboxError::host("cannot make a pipe for a health check");
        let (from, to) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)
            .map_err(|errno| failed(errno.into()))?;
        let to: Arc<OwnedFd> = Arc::new(to);
        let files = Files { stdin: false, stdout: Some(to.clone()), stderr: Some(to) };
        let ends = Ends::Files(files);
        let options = ExecOptions { command: self.command.clone(), ..ExecOptions::default() };
        let InGuest { vsock, container } = self.folder.in_guest(&self.state);
        let mut running = container::exec(&vsock, request(&container, options, &ends)?, &ends)?;
        drop(ends);
        let mut output = Output { from: Some(from.into()), text: Vec::new() };
        let until = Instant::now() + self.how.timeout();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let mut fds = vec![PollFd::new(running.as_fd(), PollFlags::POLLIN)];
            fds.extend(
                output.from.as_ref().map(|from| PollFd::new(from.as_fd(), PollFlags::POLLIN)),
            );
            match self.wait(&mut fds, left)? {
                Some(0) => {
                    running.kill();
                    return Ok(None);
                }
                Some(1) => {
                    let code = running.take_exit()?.code;
                    // Its output has been handed over whole.
                    while output.read() {}
                    return Ok(Some((code, output.text())));
                }
                Some(_) => {
                    output.read();
                }
                None => {
                    running.kill();
                    let seconds = self.how.timeout().as_secs_f64();
                    let told = format!("Health check exceeded timeout ({seconds}s)");
                    return Ok(Some((TOO_LONG, told)));
                }
            }
        }
    }
}

/// The beginning of a check's output. What comes after it is not taken.
struct Output {
    from: Option<File>,
    text: Vec<u8>,
}

impl Output {
    /// Whether there may be more.
    fn read(&mut self) -> bool {
        let Some(from) = &mut self.from else { return false };
        let mut bytes = [0; OUTPUT_LIMIT];
        match from.read(&mut bytes) {
            Ok(n) if n > 0 => {
                self.text.extend_from_slice(&bytes[..n]);
                if self.text.len() > OUTPUT_LIMIT {
                    self.text.truncate(OUTPUT_LIMIT);
                    self.from = None;
                }
            }
            _ => self.from = None,
        }
        self.from.is_some()
    }

    fn text(self) -> String {
        String::from_utf8_lossy(&self.text).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(exit_code: i32) -> Check {
        let now = Timestamp::now();
        Check { start: now, end: now, exit_code, output: String::new() }
    }

    const LONG: Duration = Duration::from_secs(1000);

    #[test]
    fn failures_in_a_row_make_it_unhealthy_and_one_success_healthy() {
        let how = HealthCheck { retries: 2, ..HealthCheck::default() };
        let mut health = Health::new();
        let mut verdicts = Vec::new();
        for code in [1, 0, 1, 0, 1, -1, 7, 0] {
            health.take(check(code), &how, LONG);
            verdicts.push(health.status.word());
        }
        let expected = [
            "starting",
            "healthy",
            "healthy",
            "healthy",
            "healthy",
            "unhealthy",
            "unhealthy",
            "healthy",
        ];
        assert_eq!(verdicts, expected);
        assert_eq!((health.failing_streak, health.log.len()), (0, KEPT));
    }

    #[test]
    fn failures_while_it_starts_do_not_count() {
        let how = HealthCheck {
            retries: 1,
            start_period: 10_000_000_000,
            interval: 30_000_000_000,
            start_interval: 1_000_000_000,
            ..HealthCheck::default()
        };
        let mut health = Health::new();
        let early = Duration::from_secs(9);
        assert_eq!(health.pause(&how, early), Duration::from_secs(1));
        health.take(check(1), &how, early);
        assert_eq!(health.status, Verdict::Starting);
        health.take(check(0), &how, early);
        assert_eq!(health.pause(&how, early), Duration::from_secs(30));
        health.take(check(1), &how, early);
        assert_eq!(health.status, Verdict::Unhealthy);
    }

    #[test]
    fn programs_are_dockers() {
        let command = |test: &[&str]| {
            let test = test.iter().map(|part| (*part).to_owned()).collect();
            HealthCheck { test, ..HealthCheck::default() }.command()
        };
        assert_eq!(command(&["CMD", "a", "b"]).unwrap(), ["a", "b"]);
        assert_eq!(command(&["CMD-SHELL", "a b"]).unwrap(), ["/bin/sh", "-c", "a b"]);
        for none in [&["NONE"][..], &[], &["CMD"], &["CMD-SHELL"], &["x"]] {
            assert_eq!(command(none), None);
        }
    }

    #[test]
    fn an_images_check_is_read() {
        let json = r#"{"Test": ["CMD-SHELL", "true"], "Interval": 1000000000, "Retries": 4}"#;
        let image: HealthCheck = serde_json::from_str(json).unwrap();
        let own = HealthCheck { retries: 9, ..HealthCheck::default() };
        let both = own.over(image);
        assert_eq!(
            (both.test.len(), both.interval(), both.retries()),
            (2, Duration::from_secs(1), 9)
        );
    }
}
