//! `ampoule system info`: what this ampoule is, and what it has.

use std::process::ExitCode;

use clap::Args as ClapArgs;
use serde_json::{Value, json};

use super::super::format::Format;
use super::super::{Failure, Global};
use crate::image::Store;
use crate::sandbox::guest::GuestFiles;
use crate::sandbox::{Registry, Status};

/// Print what this ampoule is, where it keeps things, and what the host is
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:\n  ampoule system info\n  \
    ampoule system info -f '{{.ServerVersion}} {{.KernelVersion}}'")]
pub struct Args {
    /// How to show it: text, json (an object in a line), or a template such as {{.ServerVersion}}
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    format: Format,
}

/// Runs the verb.
pub fn run(args: &Args, global: &Global) -> Result<ExitCode, Failure> {
    let told = told(global)?;
    if let Some(told) = args.format.one(&told)? {
        println!("{told}");
        return Ok(ExitCode::SUCCESS);
    }
    for (key, value) in told.as_object().into_iter().flatten() {
        match value {
            Value::String(text) => println!("{key}: {text}"),
            other => println!("{key}: {other}"),
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn told(global: &Global) -> Result<Value, Failure> {
    let places = global.places();
    let entries = Registry::new(&places).list()?;
    let count = |meets: fn(Status) -> bool| {
        entries.iter().filter(|entry| meets(entry.state.status)).count()
    };
    let host = nix::sys::utsname::uname()?;
    let memory = nix::sys::sysinfo::sysinfo()?.ram_total();
    let word = |text: &std::ffi::OsStr| text.to_string_lossy().into_owned();
    let guest = GuestFiles::find(None);
    Ok(json!({
        "ServerVersion": env!("CARGO_PKG_VERSION"),
        "Containers": entries.len(),
        "ContainersRunning": count(|status| status == Status::Running),
        "ContainersPaused": count(|status| status == Status::Paused),
        "ContainersStopped": count(|status| !status.is_running()),
        "Images": Store::open(&places.data)?.list()?.len(),
        "RootDir": places.data,
        "StateDir": places.state,
        "TemplatesDir": places.templates(),
        "GuestKernel": guest.as_ref().map(|files| files.kernel.clone()).ok(),
        "KernelVersion": word(host.release()),
        "Architecture": word(host.machine()),
        "Name": word(host.nodename()),
        "NCPU": std::thread::available_parallelism().map_or(1, usize::from),
        "MemTotal": memory,
        "Kvm": crate::vmm::probe::probe().word(),
        "Rootless": !nix::unistd::geteuid().is_root(),
    }))
}
