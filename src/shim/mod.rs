//! `containerd-shim-ampoule-v2`: containerd's way to a sandbox (its runtime v2 API).
//!
//! containerd calls the program to `start` a shim, which serves the task API on a socket, and to
//! `delete` what a shim that died has left. One shim keeps one sandbox: that of a container, or that of
//! a pod with all of its containers. What is the pod's pause container for other runtimes is the sandbox
//! itself here.
//!
//! * [`bootstrap`]: what `start` does: a shim's process, or the one of the pod
//! * [`server`]: that process: the socket, and its end
//! * [`service`], [`task`]: the methods of the task API, one per file
//! * [`tasks`], [`process`]: what is kept of containers and their processes
//! * [`keeper`]: the thread that keeps the machine
//! * [`sandbox`]: the guest, as tasks use it
//! * [`spec`]: what a `config.json` of a pod means
//! * [`rootfs`], [`stdio`]: the mounts and named pipes that containerd hands over
//! * [`forward`]: ports of a pod, as containerd's clients reach them
//! * [`network`], [`disks`]: what is plugged into the machine while it runs
//! * [`hooks`]: programs of the caller's, at points of a container's life
//! * [`metrics`], [`events`]: what containerd is told
//! * [`telling`]: what others are told: metrics, and a trace of the start
//! * [`cleanup`]: what `delete` does

mod bootstrap;
mod cleanup;
mod disks;
mod error;
mod events;
mod forward;
mod hooks;
mod keeper;
mod metrics;
mod network;
mod process;
mod rootfs;
mod sandbox;
mod server;
mod service;
mod spec;
mod stdio;
mod task;
mod tasks;
mod telling;

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::{Mutex, MutexGuard, PoisonError};

use containerd_shim::Flags;

pub use error::ShimError;

use crate::report::chain;

/// The runtime's type, as containerd names it.
pub const RUNTIME: &str = "io.containerd.ampoule.v2";

/// Parses the command line, as containerd and its runtimes write it, and does what it says.
pub fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    if arguments.first().is_some_and(|verb| verb == "monitor") {
        return ended(crate::monitor::process::main());
    }
    match containerd_shim::parse(&arguments) {
        Ok(flags) => ended(run(&flags)),
        Err(error) => ended::<ShimError>(Err(error.into())),
    }
}

/// What a thread that panicked has left is as good as it was before.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn run(flags: &Flags) -> Result<(), ShimError> {
    if flags.version {
        println!("{RUNTIME}:\n  Version:  {}", env!("CARGO_PKG_VERSION"));
        return Ok(());
    }
    if flags.info {
        return bootstrap::info();
    }
    match flags.action.as_str() {
        "start" => bootstrap::start(flags),
        "delete" => cleanup::delete(flags),
        "" if !flags.socket.is_empty() => server::serve(flags),
        action => Err(ShimError::Usage(format!(
            "{RUNTIME} is called by containerd, to start or delete; not to {action:?}"
        ))),
    }
}

fn ended<E: std::error::Error + 'static>(result: Result<(), E>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // containerd shows it.
            eprintln!("{}", chain(&error));
            ExitCode::FAILURE
        }
    }
}
