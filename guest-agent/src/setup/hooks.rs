//! Hooks that run in the guest: `createContainer` and `startContainer`.
//!
//! The host has no files in the guest but those that it shares, so that both kinds of hooks are
//! programs of the container's root file system. `createContainer` hooks run when it is the root,
//! before the process has its user; `startContainer` hooks as the process, before its program.

use ampoule_protocol::hooks;
use ampoule_protocol::message::HookState;
use oci_spec::runtime::{ContainerState, Hook, Spec, StateBuilder};

use crate::error::{Doing, Error, Result};

/// Hooks of one kind, and what they are told.
#[derive(Debug, Default)]
pub struct Hooks {
    kind: &'static str,
    hooks: Vec<Hook>,
    state: String,
}

impl Hooks {
    /// Those that run while the container is created.
    pub fn create_container(spec: &Spec, container: &HookState) -> Result<Self> {
        let hooks = spec.hooks().as_ref().and_then(|hooks| hooks.create_container().clone());
        Self::new("createContainer", hooks, spec, container, ContainerState::Creating)
    }

    /// Those that run when it is started.
    pub fn start_container(spec: &Spec, container: &HookState) -> Result<Self> {
        let hooks = spec.hooks().as_ref().and_then(|hooks| hooks.start_container().clone());
        Self::new("startContainer", hooks, spec, container, ContainerState::Created)
    }

    fn new(
        kind: &'static str,
        hooks: Option<Vec<Hook>>,
        spec: &Spec,
        container: &HookState,
        status: ContainerState,
    ) -> Result<Self> {
        let hooks = hooks.unwrap_or_default();
        if hooks.is_empty() {
            return Ok(Self { kind, ..Self::default() });
        }
        let mut state = StateBuilder::default()
            .version(spec.version())
            .id(container.id.as_str())
            .status(status)
            .pid(i32::try_from(std::process::id()).unwrap_or(0))
            .bundle(container.bundle.as_path());
        if let Some(annotations) = spec.annotations() {
            state = state.annotations(annotations.clone());
        }
        let action = || "make the state for hooks";
        let state = state.build().map_err(std::io::Error::other).doing(action)?;
        let state = serde_json::to_string(&state).map_err(std::io::Error::other).doing(action)?;
        Ok(Self { kind, hooks, state })
    }

    /// Runs them one after another, up to the first that fails.
    pub fn run(&self) -> Result<()> {
        for (number, hook) in self.hooks.iter().enumerate() {
            let program = hook.path().display();
            hooks::run(hook, &self.state)
                .doing(|| format!("run {} hook #{number} ({program})", self.kind))?;
        }
        Ok(())
    }
}

/// Checks the hooks that run in the guest.
pub fn check(spec: &Spec) -> Result<()> {
    let Some(hooks) = spec.hooks() else {
        return Ok(());
    };
    for (kind, list) in
        [("createContainer", hooks.create_container()), ("startContainer", hooks.start_container())]
    {
        for hook in list.iter().flatten() {
            if !hook.path().is_absolute() {
                let path = hook.path().display();
                return Err(Error::Invalid(format!("hooks.{kind}: path {path} is not absolute")));
            }
            if hook.timeout().is_some_and(|seconds| seconds <= 0) {
                return Err(Error::Invalid(format!("hooks.{kind}: timeout is not above 0")));
            }
        }
    }
    Ok(())
}
