//! The caller's own programs at points of a container's life: those hooks that run on the host.
//! `createContainer` and `startContainer` are the agent's to run, in the guest.

use std::io;
use std::time::Duration;

use ampoule_protocol::hooks;
use oci_spec::runtime::{Hook, Spec};

use super::record::Record;

/// All of the specification's, in their order: those of the host, and of the guest.
pub const NAMES: [&str; 6] =
    ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

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

    /// Whether there are any.
    pub fn is_in(self, spec: &Spec) -> bool {
        !self.of(spec).is_empty()
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

/// How long the start of a program may take, hooks in the guest counted: each as long as it may, an
/// hour where nothing bounds it.
pub fn guest_time(spec: &Spec, without: Duration) -> Duration {
    const UNBOUNDED: u64 = 3600;
    let hooks = spec.hooks().as_ref().and_then(|hooks| hooks.start_container().as_deref());
    let seconds = hooks.unwrap_or_default().iter().map(|hook| {
        hook.timeout().and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(UNBOUNDED)
    });
    without.saturating_add(Duration::from_secs(seconds.fold(0, u64::saturating_add)))
}

/// Runs the hooks of a kind one after another, up to the first that fails. Each gets the container's
/// state on its standard input.
pub fn run(spec: &Spec, kind: Kind, record: &Record) -> Result<(), HookError> {
    let all = kind.of(spec);
    if all.is_empty() {
        return Ok(());
    }
    let state = state(kind, record).to_string();
    for (number, hook) in all.iter().enumerate() {
        let program = || hook.path().display().to_string();
        let failed = |source| HookError { kind: kind.name(), number, program: program(), source };
        hooks::run(hook, &state).map_err(failed)?;
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
}
