//! Runs one hook, as either side does: the host those of the caller, the agent those of the
//! container.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::SigSet;
use oci_spec::runtime::Hook;

/// Bytes of the end of a failed hook's standard error that are told.
const MAX_ERROR: u64 = 4096;

/// Runs a hook to its end, or kills it after its timeout. It gets `input` on its standard input and
/// has just the environment that it names.
///
/// # Errors
/// It cannot be executed, takes too long, or fails: then with what it wrote to its standard error.
pub fn run(hook: &Hook, input: impl AsRef<[u8]>) -> io::Result<()> {
    if !hook.path().is_absolute() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "its path is not absolute"));
    }
    // Files: a hook that does not read, or writes without end, holds up nobody.
    let (mut stdin, mut stderr) = (memory()?, memory()?);
    stdin.write_all(input.as_ref())?;
    stdin.rewind()?;
    let program = hook.path().as_os_str();
    let (name, arguments) = match hook.args().as_deref() {
        Some([name, arguments @ ..]) => (name.as_ref(), arguments),
        _ => (program, [].as_slice()),
    };
    let environment = hook.env().iter().flatten();
    let mut command = Command::new(program);
    // Signals that this process reads from a descriptor are the hook's to take.
    // SAFETY: between fork and exec this makes one system call, and allocates nothing.
    unsafe { command.pre_exec(|| Ok(SigSet::empty().thread_set_mask()?)) };
    let mut child = command
        .arg0(name)
        .args(arguments)
        .env_clear()
        .envs(environment.map(|entry| entry.split_once('=').unwrap_or((entry, ""))))
        .stdin(stdin)
        .stdout(Stdio::null())
        .stderr(stderr.try_clone()?)
        .spawn()?;
    let status = wait(&mut child, hook.timeout())?;
    if status.success() {
        return Ok(());
    }
    // What cannot be read is missing from the message, no more.
    let text = last_words(&mut stderr).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    Err(io::Error::other(format!("{}, stderr: {}", describe(status), text.trim_end())))
}

fn last_words(stderr: &mut File) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let length = stderr.seek(SeekFrom::End(0))?;
    stderr.seek(SeekFrom::Start(length.saturating_sub(MAX_ERROR)))?;
    stderr.take(MAX_ERROR).read_to_end(&mut text)?;
    Ok(text)
}

fn memory() -> io::Result<File> {
    Ok(memfd_create("hook", MFdFlags::MFD_CLOEXEC)?.into())
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, signal) => format!("signal {}", signal.unwrap_or(0)),
    }
}

/// Waits for its end, or kills it after so many seconds.
fn wait(child: &mut Child, timeout: Option<i64>) -> io::Result<ExitStatus> {
    let Some(seconds) = timeout.and_then(|seconds| u64::try_from(seconds).ok()) else {
        return child.wait();
    };
    if ends_within(child, Duration::from_secs(seconds))? {
        return child.wait();
    }
    // Fails only where it has ended.
    let _ = child.kill();
    child.wait()?;
    Err(io::Error::other(format!("timeout of {seconds} s")))
}

fn ends_within(child: &Child, time: Duration) -> io::Result<bool> {
    let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
    // SAFETY: the call takes no pointers.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the descriptor is new and nobody else's.
    let pidfd = unsafe { OwnedFd::from_raw_fd(fd) };
    // None for a time that is beyond all clocks.
    let deadline = Instant::now().checked_add(time);
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let timeout =
            left.map_or(PollTimeout::MAX, |left| left.try_into().unwrap_or(PollTimeout::MAX));
        let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout) {
            Err(Errno::EINTR) => {}
            Ok(0) if left.is_none_or(|left| !left.is_zero()) => {}
            count => return Ok(count? > 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(json: &str) -> Hook {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_hook_has_the_state_and_its_own_environment() {
        let script = r#"{"path": "/bin/sh", "env": ["A=b", "C"],
            "args": ["sh", "-c", "read line; test \"$line$A${C-unset}$HOME\" = stateb"]}"#;
        run(&hook(script), "state\n").unwrap();
        assert!(run(&hook(script), "other\n").is_err());
    }

    #[test]
    fn a_failure_is_told_in_the_hooks_own_words() {
        let failing =
            r#"{"path": "/bin/sh", "args": ["sh", "-c", "printf 'why\\377' >&2; exit 3"]}"#;
        let text = run(&hook(failing), "").unwrap_err().to_string();
        assert_eq!(text, "exit status 3, stderr: why\u{fffd}");
        let killed = r#"{"path": "/bin/sh", "args": ["sh", "-c", "kill -9 $$"]}"#;
        assert!(run(&hook(killed), "").unwrap_err().to_string().starts_with("signal 9"));
        let relative = run(&hook(r#"{"path": "sh"}"#), "").unwrap_err();
        assert_eq!(relative.to_string(), "its path is not absolute");
        let missing = run(&hook(r#"{"path": "/nonexistent"}"#), "").unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_hook_that_takes_too_long_is_killed() {
        let slow = r#"{"path": "/bin/sleep", "args": ["sleep", "1000"], "timeout": 1}"#;
        assert_eq!(run(&hook(slow), "").unwrap_err().to_string(), "timeout of 1 s");
        let quick = r#"{"path": "/bin/true", "timeout": 9223372036854775807}"#;
        run(&hook(quick), "").unwrap();
    }
}
