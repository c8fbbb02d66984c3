//! Hooks that run in the guest: `createContainer` and `startContainer`.
//!
//! The host has no files in the guest but those that it shares, so that both kinds of hooks are
//! programs of the container's root file system. `createContainer` hooks run when it is the root,
//! before the process has its user; `startContainer` hooks as the process, before its program.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use oci_spec::runtime::{ContainerState, Hook, Spec, StateBuilder};

use ampoule_protocol::message::HookState;

use crate::container::pidfd_open;
use crate::error::{Doing, Error, Result};

/// Bytes of a failed hook's standard error that are told.
const MAX_ERROR: u64 = 4096;

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
            self.run_one(hook).map_err(|e| {
                let program = hook.path().display();
                Error::system(
                    format!("run {} hook #{number} ({program})", self.kind),
                    std::io::Error::other(e.to_string()),
                )
            })?;
        }
        Ok(())
    }

    fn run_one(&self, hook: &Hook) -> Result<()> {
        let (stdin, mut stderr) = (self.input()?, memory("stderr")?);
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
            .envs(environment.map(|e| e.split_once('=').unwrap_or((e, ""))))
            .stdin(stdin)
            .stdout(Stdio::null())
            .stderr(stderr.try_clone().doing(|| "make its standard error")?)
            .spawn()
            .map_err(|e| Error::Invalid(e.to_string()))?;
        let status = wait(&mut child, hook.timeout())?;
        if status.success() {
            return Ok(());
        }
        let mut text = String::new();
        // What is no text is told as far as it is.
        let _ = stderr.rewind().and_then(|()| stderr.take(MAX_ERROR).read_to_string(&mut text));
        Err(Error::Invalid(format!("{}, stderr: {}", describe(status), text.trim_end())))
    }

    /// The state, as a file: a hook that does not read it holds up nobody.
    fn input(&self) -> Result<File> {
        let mut file = memory("state")?;
        let written = file.write_all(self.state.as_bytes()).and_then(|()| file.rewind());
        written.doing(|| "write the state for hooks")?;
        Ok(file)
    }
}

fn memory(name: &str) -> Result<File> {
    memfd_create(name, MFdFlags::MFD_CLOEXEC).map(File::from).doing(|| "make a file in memory")
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, signal) => format!("signal {}", signal.unwrap_or(0)),
    }
}

/// Waits for its end, or kills it after so many seconds.
fn wait(child: &mut Child, timeout: Option<i64>) -> Result<ExitStatus> {
    let Some(seconds) = timeout else {
        return child.wait().doing(|| "wait for it");
    };
    let pid = i32::try_from(child.id()).map_err(std::io::Error::other).doing(|| "wait for it")?;
    let pidfd = pidfd_open(pid).doing(|| "watch it")?;
    let patience = u64::try_from(seconds).unwrap_or(0).saturating_mul(1000);
    let patience = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
    let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    let ended = loop {
        match poll(&mut fds, patience) {
            Err(Errno::EINTR) => {}
            count => break count.doing(|| "watch it")? > 0,
        }
    };
    if ended {
        return child.wait().doing(|| "wait for it");
    }
    // Fails only where it has ended.
    let _ = child.kill();
    child.wait().doing(|| "wait for it")?;
    Err(Error::Invalid(format!("timeout of {seconds} s")))
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
