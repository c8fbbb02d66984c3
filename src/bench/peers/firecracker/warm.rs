//! Loads a snapshot: from the start of the process until the loaded guest has been resumed.
//!
//! The snapshot is taken once, of the same guest at the same moment as a template: its agent is
//! ready and has told so by vsock. Each start has a folder of its own as its working directory, in
//! which the relative path of its vsock socket is free.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use inotify::{Inotify, WatchMask};
use serde_json::{Value, json};

use super::api::{Api, ApiError};
use crate::agent::{ClientError, ReadyListener};
use crate::bench::attempt::{AttemptError, end, handle, start};
use crate::bench::entrant::{Start, Subject};
use crate::bench::interrupt::Interrupt;
use crate::bench::wait::first_of;
use crate::clock::now_us;
use crate::process::Process;
use crate::sandbox::timings::Phase;

/// What one start does.
pub const DOES: &str = "Firecracker: loads a snapshot of the same guest with its agent ready, and \
                        resumes it; runs no container";

const API_SOCKET: &str = "api.sock";
const VSOCK: &str = "vsock.sock";
const STATE: &str = "state";
const MEMORY: &str = "memory";

/// How long its guest may take to boot, and it to offer its API.
const PATIENCE: Duration = Duration::from_secs(120);

/// Why there is no snapshot, or it was not loaded.
#[derive(Debug, thiserror::Error)]
pub enum WarmError {
    /// it cannot be started or watched
    #[error(transparent)]
    Attempt(#[from] AttemptError),
    /// a file or socket of this side
    #[error("{0}")]
    Host(&'static str, #[source] io::Error),
    /// it ended before it was to
    #[error("firecracker ended before {0}")]
    Ended(&'static str),
    /// it does nothing
    #[error("firecracker was not ready within {limit} s: {0}", limit = PATIENCE.as_secs())]
    Late(&'static str),
    /// what the agent says
    #[error("its guest's agent is not understood")]
    Agent(#[source] ClientError),
    /// what it answers
    #[error(transparent)]
    Api(#[from] ApiError),
}

impl WarmError {
    fn host(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Host(doing, source)
    }
}

/// A snapshot to load.
#[derive(Debug)]
pub struct Warm {
    program: PathBuf,
    /// Where each start has its folder.
    scratch: PathBuf,
    snapshot: PathBuf,
}

/// A process of Firecracker; ended when dropped.
#[derive(Debug)]
struct Vmm {
    child: Child,
    process: Process,
    began_us: u64,
}

impl Drop for Vmm {
    fn drop(&mut self) {
        // It keeps nothing that a kill could spoil, and is not asked to end in the time measured.
        let _ = self.child.kill();
        end(&mut self.child);
    }
}

impl Vmm {
    fn start(program: &Path, folder: &Path, arguments: &[&str]) -> Result<Self, WarmError> {
        let mut command = Command::new(program);
        command.args(["--api-sock", API_SOCKET]).args(arguments).current_dir(folder);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let (mut child, began_us) = start(&mut command)?;
        match handle(&child) {
            Ok(process) => Ok(Self { child, process, began_us }),
            Err(error) => {
                end(&mut child);
                Err(WarmError::Host("cannot watch firecracker", error))
            }
        }
    }

    /// Waits for an event that it brings about.
    fn wait_for(
        &self,
        event: &impl AsFd,
        what: &'static str,
        interrupt: &Interrupt,
    ) -> Result<(), WarmError> {
        let fds = [event.as_fd(), self.process.as_fd(), interrupt.as_fd()];
        match first_of(&fds, Some(PATIENCE)).map_err(WarmError::host("cannot wait for events"))? {
            Some(0) => Ok(()),
            Some(1) => Err(WarmError::Ended(what)),
            Some(_) => Err(AttemptError::Interrupted.into()),
            None => Err(WarmError::Late(what)),
        }
    }
}

impl Warm {
    /// Boots the machine once and takes the snapshot in `scratch`.
    pub fn new(
        program: &Path,
        scratch: &Path,
        machine: Value,
        interrupt: &Interrupt,
    ) -> Result<Self, WarmError> {
        // Its starts have working directories of their own; a path without a folder is looked up
        // in PATH and stays as it is.
        let program = match program.components().count() {
            0 | 1 => program.to_owned(),
            _ => std::path::absolute(program).map_err(WarmError::host("cannot find a path"))?,
        };
        let snapshot = scratch.join("firecracker-snapshot");
        fs::create_dir(&snapshot).map_err(WarmError::host("cannot make a folder"))?;
        let config = snapshot.join("config.json");
        fs::write(&config, with_vsock(machine).to_string())
            .map_err(WarmError::host("cannot write its configuration"))?;
        take(&program, &snapshot, interrupt)?;
        Ok(Self { program, scratch: scratch.to_owned(), snapshot })
    }

    fn load(&self, folder: &Path, interrupt: &Interrupt) -> Result<Start, WarmError> {
        let watch = "cannot watch a folder";
        let appears = Inotify::init().map_err(WarmError::host(watch))?;
        appears.watches().add(folder, WatchMask::CREATE).map_err(WarmError::host(watch))?;
        let vmm = Vmm::start(&self.program, folder, &[])?;
        vmm.wait_for(&appears, "its API was there", interrupt)?;
        let mut api = Api::connect(&folder.join(API_SOCKET))
            .map_err(WarmError::host("cannot connect to firecracker"))?;
        let connected_us = now_us();
        api.request("PUT", "/snapshot/load", &loading(&self.snapshot))?;
        let loaded_us = now_us();
        let phase = |name: &'static str, from: u64, to: u64| Phase {
            name: name.into(),
            us: to.saturating_sub(from),
        };
        let phases = vec![
            phase("API there", vmm.began_us, connected_us),
            phase("snapshot loaded", connected_us, loaded_us),
        ];
        Ok(Start { total_us: loaded_us.saturating_sub(vmm.began_us), phases })
    }
}

/// The agent tells by vsock that it is ready.
fn with_vsock(mut machine: Value) -> Value {
    if let Some(machine) = machine.as_object_mut() {
        machine.insert("vsock".into(), json!({ "guest_cid": 3, "uds_path": VSOCK }));
    }
    machine
}

/// The guest's memory is mapped from its file, as a template's is.
fn loading(snapshot: &Path) -> Value {
    json!({
        "snapshot_path": snapshot.join(STATE),
        "mem_backend": { "backend_type": "File", "backend_path": snapshot.join(MEMORY) },
        "resume_vm": true,
    })
}

fn take(program: &Path, folder: &Path, interrupt: &Interrupt) -> Result<(), WarmError> {
    let listener = ReadyListener::bind(&folder.join(VSOCK))
        .map_err(WarmError::host("cannot listen for the guest's agent"))?;
    let vmm = Vmm::start(program, folder, &["--config-file", "config.json"])?;
    vmm.wait_for(&listener, "its guest's agent was ready", interrupt)?;
    let _ready = listener.accept().map_err(WarmError::Agent)?;
    let mut api = Api::connect(&folder.join(API_SOCKET))
        .map_err(WarmError::host("cannot connect to firecracker"))?;
    api.request("PATCH", "/vm", &json!({ "state": "Paused" }))?;
    let snapshot =
        json!({ "snapshot_type": "Full", "snapshot_path": STATE, "mem_file_path": MEMORY });
    Ok(api.request("PUT", "/snapshot/create", &snapshot)?)
}

impl Subject for Warm {
    fn start(&self, label: &str, interrupt: &Interrupt) -> Result<Start, AttemptError> {
        let folder = self.scratch.join(label);
        fs::create_dir(&folder).map_err(AttemptError::host("cannot make a folder"))?;
        let start = self.load(&folder, interrupt).map_err(|error| match error {
            WarmError::Attempt(error) => error,
            other => {
                AttemptError::host("firecracker's snapshot was not loaded")(io::Error::other(other))
            }
        });
        // Whatever is left of it goes with the whole.
        let _ = fs::remove_dir_all(&folder);
        start
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_loaded_is_what_was_taken() {
        let request = loading(Path::new("/s"));
        assert_eq!(request["snapshot_path"], "/s/state");
        assert_eq!(request["mem_backend"]["backend_path"], "/s/memory");
        assert_eq!(request["resume_vm"], true);
    }

    /// Speaks to this side as Firecracker and its guest's agent are documented to; loads only what
    /// it has taken.
    const STAND_IN: &str = r#"#!/usr/bin/env python3
import json, os, socket, struct, sys
api = socket.socket(socket.AF_UNIX)
api.bind("api.sock")
api.listen()
if "--config-file" in sys.argv:
    vsock = json.load(open("config.json"))["vsock"]["uds_path"]
    agent = socket.socket(socket.AF_UNIX)
    agent.connect(vsock + "_1024")
    hello = json.dumps({"version": VERSION}).encode()
    agent.sendall(struct.pack("<I", len(hello)) + hello)
client, _ = api.accept()
paused = False
while request := client.recv(65536).decode():
    head, body = request.split("\r\n\r\n")
    body = json.loads(body)
    match head.split(" ")[:2]:
        case ["PATCH", "/vm"]:
            paused = body == {"state": "Paused"}
            done = paused
        case ["PUT", "/snapshot/create"]:
            done = paused
            for name in "snapshot_path", "mem_file_path":
                open(body[name], "w").close()
        case ["PUT", "/snapshot/load"]:
            files = body["snapshot_path"], body["mem_backend"]["backend_path"]
            done = all(map(os.path.exists, files)) and body["resume_vm"]
    answer = "204 \r\n\r\n" if done else "400 \r\nContent-Length: 2\r\n\r\nno"
    client.sendall(("HTTP/1.1 " + answer).encode())
"#;

    #[test]
    fn a_snapshot_is_taken_once_and_loaded_by_each_start() {
        let scratch = tempfile::tempdir().unwrap();
        let program = scratch.path().join("firecracker");
        let script = STAND_IN.replace("VERSION", &ampoule_protocol::VERSION.to_string());
        let text = scratch.path().join("script");
        fs::write(&text, script).unwrap();
        // By another program: a file that some thread of this one still has open cannot be run.
        let mut install = Command::new("install");
        assert!(install.args(["-m", "755"]).args([&text, &program]).status().unwrap().success());
        let interrupt = Interrupt::block().unwrap();

        let warm = Warm::new(&program, scratch.path(), json!({}), &interrupt).unwrap();
        for label in ["a", "b"] {
            let start = warm.start(label, &interrupt).unwrap();
            let phases: u64 = start.phases.iter().map(|phase| phase.us).sum();
            assert_eq!(phases, start.total_us);
            assert!(!scratch.path().join(label).exists());
        }

        fs::remove_file(warm.snapshot.join(MEMORY)).unwrap();
        let error = warm.start("c", &interrupt).unwrap_err();
        let told = crate::report::chain(&error);
        assert!(told.contains("/snapshot/load was answered with 400: no"), "{told}");
    }

    #[test]
    fn a_firecracker_that_ends_takes_no_snapshot() {
        let scratch = tempfile::tempdir().unwrap();
        let interrupt = Interrupt::block().unwrap();
        let warm = Warm::new(Path::new("true"), scratch.path(), json!({}), &interrupt);
        assert!(matches!(warm, Err(WarmError::Ended(_))), "{warm:?}");
    }

    #[test]
    fn the_sockets_path_is_free_in_every_folder() {
        let machine = with_vsock(json!({ "drives": [] }));
        assert!(Path::new(machine["vsock"]["uds_path"].as_str().unwrap()).is_relative());
        assert_eq!(machine["drives"], json!([]));
    }
}
