//! The caller's own programs at points of a container's life: those hooks that run on the host.
//! `createContainer` and `startContainer` are the agent's to run, in the guest.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::memfd::{MFdFlags, memfd_create};
use oci_spec::runtime::{Hook, Spec};

use super::record::Record;
use crate::sandbox::process::Process;

/// Bytes of a failed hook's standard error that are told.
const MAX_ERROR: u64 = 4096;

/// When hooks run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Before the container is created; older than the next, and before it.
    Prestart,
    /// Before the container is created.
    CreateRuntime,
    /// When its program runs.
    Poststart,
    /// When it has been removed.
    Poststop,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Prestart => "prestart",
            Self::CreateRuntime => "createRuntime",
            Self::Poststart => "poststart",
            Self::Poststop => "poststop",
        }
    }

    /// What `state` tells a hook of this kind.
    fn status(self) -> &'static str {
        match self {
            Self::Prestart | Self::CreateRuntime => "creating",
            Self::Poststart => "running",
            Self::Poststop => "stopped",
        }
    }

    #[allow(deprecated)] // prestart: the specification still has it, and docker uses it
    fn of(self, spec: &Spec) -> &[Hook] {
        let Some(hooks) = spec.hooks() else { return &[] };
        let hooks = match self {
            Self::Prestart => hooks.prestart(),
            Self::CreateRuntime => hooks.create_runtime(),
            Self::Poststart => hooks.poststart(),
            Self::Poststop => hooks.poststop(),
        };
        hooks.as_deref().unwrap_or_default()
    }
}

/// A hook that failed.
#[derive(Debug, thiserror::Error)]
#[error("error running {kind} hook #{number} ({program})")]
pub struct HookError {
    kind: &'static str,
    number: usize,
    program: String,
    #[source]
    source: io::Error,
}

/// Runs the hooks of a kind one after another, up to the first that fails. Each gets the container's
/// state on its standard input.
pub fn run(spec: &Spec, kind: Kind, record: &Record) -> Result<(), HookError> {
    let hooks = kind.of(spec);
    if hooks.is_empty() {
        return Ok(());
    }
    let state = state(kind, record).to_string();
    for (number, hook) in hooks.iter().enumerate() {
        let program = || hook.path().display().to_string();
        let failed = |source| HookError { kind: kind.name(), number, program: program(), source };
        run_one(hook, &state).map_err(failed)?;
    }
    Ok(())
}

fn state(kind: Kind, record: &Record) -> serde_json::Value {
    let pid = if kind == Kind::Poststop { 0 } else { record.pid };
    serde_json::json!({
        "ociVersion": record.oci_version,
        "id": record.id,
        "status": kind.status(),
        "pid": pid,
        "bundle": record.bundle,
        "annotations": record.annotations,
    })
}

fn run_one(hook: &Hook, state: &str) -> io::Result<()> {
    if !hook.path().is_absolute() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "its path is not absolute"));
    }
    let (mut stdin, mut stderr) = (memory()?, memory()?);
    stdin.write_all(state.as_bytes())?;
    stdin.rewind()?;
    let program = hook.path().as_os_str();
    let (name, arguments) = match hook.args().as_deref() {
        Some([name, arguments @ ..]) => (name.as_ref(), arguments),
        _ => (program, [].as_slice()),
    };
    let environment = hook.env().iter().flatten();
    let mut child = Command::new(program)
        .arg0(name)
        .args(arguments)
        .env_clear()
        .envs(environment.map(|entry| entry.split_once('=').unwrap_or((entry, ""))))
        // A hook that does not read it holds up nobody.
        .stdin(stdin)
        .stdout(Stdio::null())
        .stderr(stderr.try_clone()?)
        .spawn()?;
    let status = wait(&mut child, hook.timeout())?;
    if status.success() {
        return Ok(());
    }
    let mut text = String::new();
    // What is no text is told as far as it is.
    let _ = stderr.rewind().and_then(|()| stderr.take(MAX_ERROR).read_to_string(&mut text));
    Err(io::Error::other(format!("{}, stderr: {}", describe(status), text.trim_end())))
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
    let process = Process::of(i32::try_from(child.id()).map_err(io::Error::other)?)?;
    if process.ends_within(Some(Duration::from_secs(seconds)))? {
        return child.wait();
    }
    child.kill()?;
    child.wait()?;
    Err(io::Error::other(format!("timeout of {seconds} s")))
}

#[cfg(test)]
mod tests {
    use super::super::store::testing::record;
    use super::*;
    use serde_json::json;

    fn with(hooks: serde_json::Value) -> Spec {
        serde_json::from_value(json!({"ociVersion": "1.2.0", "hooks": hooks})).unwrap()
    }

    #[test]
    fn hooks_are_told_the_state_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("told");
        let cat = |text: &str| {
            let script = format!("echo {text} >> {0}; cat >> {0}", file.display());
            json!({"path": "/bin/sh", "args": ["sh", "-c", script]})
        };
        let spec = with(json!({"prestart": [cat("one"), cat("two")]}));
        run(&spec, Kind::Prestart, &record("c")).unwrap();
        run(&spec, Kind::Poststop, &record("c")).unwrap();
        let told = std::fs::read_to_string(&file).unwrap();
        assert!(told.starts_with("one\n{") && told.contains("two\n{"), "{told}");
        assert!(
            told.contains("\"status\":\"creating\"") && told.contains("\"id\":\"c\""),
            "{told}"
        );
    }

    #[test]
    fn the_first_failure_ends_it_and_is_told() {
        let script = "echo why >&2; exit 3";
        let spec = with(json!({"poststop": [
            {"path": "/bin/sh", "args": ["sh", "-c", script]}, {"path": "/nonexistent"},
        ]}));
        let error = run(&spec, Kind::Poststop, &record("c")).unwrap_err();
        let text = crate::report::chain(&error);
        assert!(
            text.contains("poststop hook #0") && text.contains("exit status 3, stderr: why"),
            "{text}"
        );
        let relative = with(json!({"poststop": [{"path": "sh"}]}));
        assert!(run(&relative, Kind::Poststop, &record("c")).is_err());
    }

    #[test]
    fn a_hook_that_takes_too_long_is_killed() {
        let spec = with(json!({"poststart": [
            {"path": "/bin/sleep", "args": ["sleep", "1000"], "timeout": 1},
        ]}));
        let error = run(&spec, Kind::Poststart, &record("c")).unwrap_err();
        assert!(crate::report::chain(&error).contains("timeout of 1 s"));
    }
}
