//! The process whose pid callers know as the container's, or as that of a
//! further process in one. It lives as long, carries its input and output, and exits with its code.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use ampoule_protocol::message::{
    Create, Exec, ExitStatus, HookState, INIT, Rootfs, RootfsSource, WritableLayer,
};
use jiff::Timestamp;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use oci_spec::runtime::{Process, Spec};
use serde::{Deserialize, Serialize};

use super::bundle::Bundle;
use super::error::{OciError, file, host};
use super::face::{Face, Mirror, pair};
use super::hooks::{self, Kind};
use super::network::{self, Listener, Network};
use super::record::{Record, Status};
use super::store::Store;
use super::translate::{self, Translated};
use super::{cgroup, console};
use crate::agent::Events;
use crate::clock::now_us;
use crate::monitor::channel::Channel;
use crate::monitor::control::MonitorRequest;
use crate::monitor::group;
use crate::report::chain;
use crate::sandbox::about::{About, By, Contained, Moments};
use crate::sandbox::container::{self, Running, Then};
use crate::sandbox::launch::{Backing, Launched, Machine};
use crate::sandbox::monitored::wait;

use crate::sandbox::signals::Signals;
use crate::sandbox::streams::Streams;
use crate::sandbox::template::{Template, Templates};
use crate::sandbox::trace;
use crate::sandbox::wake::wake;
use crate::sandbox::{CONTAINER, Ends, Places, Registry, SHARE, SandboxError, Slots, exec};
use crate::vmm::config::Export;

/// What a keeper is to do.
#[derive(Debug)]
pub enum Job {
    /// Create a container and keep it.
    Create(CreateJob),
    /// Run a further process and keep it.
    Exec(Box<ExecJob>),
}

/// A new container.
#[derive(Debug, Clone)]
pub struct CreateJob {
    /// Its id; its folder is made already, and has its `config.json`.
    pub id: String,
    /// The `--root` of its folder.
    pub root: PathBuf,
    /// Absolute path of its bundle.
    pub bundle: PathBuf,
    /// Where sandboxes and templates are.
    pub places: Places,
    /// Where its terminal's master goes.
    pub console_socket: Option<PathBuf>,
    /// How `linux.cgroupsPath` is read.
    pub systemd_cgroup: bool,
}

/// A further process.
#[derive(Debug, Clone)]
pub struct ExecJob {
    /// The socket of the guest.
    pub vsock: PathBuf,
    /// The process.
    pub process: Process,
    /// Where its terminal's master goes.
    pub console_socket: Option<PathBuf>,
}

/// What a keeper tells the command that started it; once.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The process is there.
    Made(Made),
    /// There is none, and nothing is left.
    Failed {
        /// Why.
        message: String,
    },
}

/// What is told of a process that is there.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Made {
    /// The socket of the guest.
    pub vsock: PathBuf,
    /// Absolute path of the container's root file system.
    pub rootfs: PathBuf,
    /// Where the sandbox is.
    pub places: Option<Places>,
    /// Control groups of the host that were made.
    pub cgroups: Vec<PathBuf>,
    /// What is not as it was asked for.
    pub warnings: Vec<String>,
}

impl Made {
    /// The record of the container, whose process has this pid.
    pub fn record(&self, id: &str, bundle: &Bundle, pid: i32, status: Status) -> Record {
        Record {
            oci_version: bundle.spec.version().clone(),
            id: id.to_owned(),
            status,
            pid,
            bundle: bundle.path.clone(),
            rootfs: self.rootfs.clone(),
            created: Timestamp::now(),
            annotations: bundle.spec.annotations().clone().unwrap_or_default(),
            vsock: self.vsock.clone(),
            places: self.places.clone().unwrap_or_else(|| Places::new(None, None, None)),
            cgroups: self.cgroups.clone(),
            failure: None,
        }
    }
}

/// The keeper's life, of a process that was forked for it. `channel` is the way to the command; `lock`
/// is held to the process's end, by being open, and not by what it starts.
pub fn live(job: Job, channel: Channel, lock: Option<File>) -> ! {
    let failed = |what: &str, error: std::io::Error| -> ! {
        // Whoever started it is told, if it is there still.
        let _ = channel.send(&Answer::Failed { message: format!("cannot {what}: {error}") });
        std::process::exit(super::KEEPER_FAILED.into())
    };
    if let Some(mut lock) = lock.as_ref() {
        // For whoever finds it locked and no record.
        let pid = write!(lock, "{}", std::process::id());
        pid.unwrap_or_else(|error| failed("write down its pid", error));
    }
    let signals = Signals::block().unwrap_or_else(|error| failed("block signals", error));
    let (mirror, stage) = pair();
    let copy = channel.try_clone().unwrap_or_else(|error| failed("copy a descriptor", error));
    let work = move || {
        // Held to the very end of the process, which exits without dropping it.
        let _lock = lock;
        let code = match job {
            Job::Create(job) => create(&job, &copy, &signals, &mirror),
            Job::Exec(job) => further(*job, &copy, &signals),
        };
        std::process::exit(code.into())
    };
    match thread::Builder::new().name("keeper".into()).spawn(work) {
        Ok(_) => {
            // The other thread's copy is the one that is spoken to.
            drop(channel);
            stage.serve()
        }
        Err(error) => failed("start a thread", error),
    }
}

/// Creates a container and keeps it: its exit code.
fn create(job: &CreateJob, channel: &Channel, signals: &Signals, mirror: &Mirror) -> u8 {
    let tell = |made: Made| {
        channel.send(&Answer::Made(made))?;
        // Its end instead: the command was killed, and there is to be nothing.
        Ok(channel.receive::<()>()?.is_some())
    };
    match keep(job, signals, mirror, tell) {
        Ok(code) => code,
        Err(error) => {
            let message = chain(&error);
            // Where the container was created, nobody hears it now, but may ask for it.
            if let Ok(folder) = Store::new(&job.root).folder(&job.id) {
                folder.write_failure(&message);
            }
            let _ = channel.send(&Answer::Failed { message });
            super::KEEPER_FAILED
        }
    }
}

/// A container, from its creation to its exit code. `tell` is called when it is there, and says
/// whether it is wanted still. On failure nothing is left but the folder that was there before.
pub fn keep(
    job: &CreateJob,
    signals: &Signals,
    mirror: &Mirror,
    tell: impl FnOnce(Made) -> Result<bool, OciError>,
) -> Result<u8, OciError> {
    let folder = Store::new(&job.root).folder(&job.id)?;
    let spec = folder.read_config()?;
    let translated = translate::translate(spec.clone(), &job.bundle, "", translate::look)?;
    let cgroups = match spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_ref()) {
        Some(name) => cgroup::enter(name, job.systemd_cgroup, |group| folder.write_cgroup(group))?,
        None => Vec::new(),
    };
    let kept = keep_in(job, &spec, translated, cgroups.clone(), signals, mirror, tell);
    if kept.is_err() {
        // The group has this process in it, which goes now: the caller removes it.
        leave(&cgroups);
    }
    kept
}

/// Moves out of the groups that were made, and removes them.
fn leave(cgroups: &[PathBuf]) {
    for group in cgroups {
        // What cannot be left behind empty is the caller's to see.
        let _ =
            cgroup::enter(Path::new("/"), false, |_| Ok(())).and_then(|_| cgroup::remove(group));
    }
}

fn keep_in(
    job: &CreateJob,
    spec: &Spec,
    mut translated: Translated,
    cgroups: Vec<PathBuf>,
    signals: &Signals,
    mirror: &Mirror,
    tell: impl FnOnce(Made) -> Result<bool, OciError>,
) -> Result<u8, OciError> {
    pin(&translated.processors)?;
    if let Some(group) = cgroups.last() {
        // A host that does not count memory in groups cannot limit it either.
        let _ = group::limit_memory(group, translated.shape.size());
    }
    if let Some(socket) = &job.console_socket {
        console::take(socket, console_size(spec.process().as_ref()))
            .map_err(file("send a terminal to", socket))?;
    }
    if let Some(process) = translated.spec.process_mut() {
        console::size_as_own(process);
    }
    let named = network::named(spec).map(open_network).transpose()?;
    mirror.show(Face::Network(named)).map_err(host("make or join a network namespace"))?;
    let mut made = Made {
        rootfs: translated.host_rootfs.clone(),
        places: Some(job.places.clone()),
        cgroups,
        warnings: std::mem::take(&mut translated.warnings),
        ..Made::default()
    };
    let pid = i32::try_from(std::process::id()).unwrap_or(-1);
    let bundle = Bundle { path: job.bundle.clone(), config: Vec::new(), spec: spec.clone() };
    let record = made.record(&job.id, &bundle, pid, Status::Created);
    for kind in [Kind::Prestart, Kind::CreateRuntime] {
        hooks::run(spec, kind, &record)?;
    }
    let mut network = Network::join()?;
    made.warnings.extend(network.warnings());
    // Whoever has hooks here may lay a network later, too: of how many interfaces, nobody knows.
    if network.len() > 1 || Kind::Prestart.is_in(spec) || Kind::CreateRuntime.is_in(spec) {
        translated.shape.slots.nets = Slots::POD.nets;
    }
    translated.networked = network.has_first_interface();
    // The third is held: its end would be the guest's.
    let mut moments = Moments { create_us: now_us(), ..Moments::default() };
    let (mut machine, running, _events) = begin(job, &translated, signals, &mut made.warnings)?;
    moments.ready_us = now_us();
    network.give(&mut machine)?;
    moments.joined_us = now_us();
    made.vsock = machine.vsock();
    let listener = Listener::new(&made.vsock)?;
    // A terminal's size is asked of standard input.
    if !running.has_terminal() {
        console::let_go().map_err(host("let go of the standard streams"))?;
    }
    // Now that the guest has made the mount points in it.
    let (rootfs, binds) = (made.rootfs.clone(), binds(spec, &job.bundle));
    mirror.show(Face::Root { rootfs, binds }).map_err(host("make a mount namespace"))?;
    if !tell(made)? {
        return Ok(super::KEEPER_FAILED);
    }
    describe(&job.id, &mut machine, moments);
    // What others left is cleared when nobody waits for it; that it could not be is theirs to tell.
    let _ = Registry::new(&job.places).sweep();
    stay(machine, running, (network, &listener), signals)
}

/// Opens a namespace that a container is to join.
fn open_network(path: &Path) -> Result<Arc<File>, OciError> {
    let namespace = File::open(path).map_err(file("open the network namespace", path))?;
    crate::network::check(namespace.as_fd())
        .map_err(|source| OciError::Namespace { path: path.to_owned(), source })?;
    Ok(Arc::new(namespace))
}

/// Tells others of the sandbox. Nobody waits for it any more, and nothing fails for it.
fn describe(id: &str, machine: &mut Machine, mut moments: Moments) {
    moments.warm = machine.guest.timings.warm;
    let Some(folder) = machine.kept().map(|kept| kept.folder.clone()) else { return };
    let main = Contained { id: id.to_owned(), name: id.to_owned(), guest: CONTAINER.to_owned() };
    let mut about = About::new(By::Oci, id, machine.guest.pid());
    (about.containers, about.moments) = (vec![main], moments);
    let _ = about.write(&folder);
    // A death meanwhile is for whoever waits for it to see.
    if trace::is_wanted() && machine.guest.ask(MonitorRequest::Timings, &[]).is_ok() {
        let timings = &machine.guest.timings;
        (moments.monitor_us, moments.first_run_us) = (timings.monitor_us, timings.first_run_us);
        trace::moments(&format!("container {id}"), id, &moments);
    }
}

/// The sandbox, and the container in it; from a template where that can be done.
fn begin(
    job: &CreateJob,
    translated: &Translated,
    signals: &Signals,
    warnings: &mut Vec<String>,
) -> Result<(Machine, Running, Option<Events>), OciError> {
    let templates = Templates::new(job.places.templates());
    let warn = |warning| warnings.push(warning);
    let begin = |template: Option<&Template>| begin_with(job, translated, template, signals);
    Ok(templates.begin(&translated.shape, warn, begin)?)
}

fn begin_with(
    job: &CreateJob,
    translated: &Translated,
    template: Option<&Template>,
    signals: &Signals,
) -> Result<(Machine, Running, Option<Events>), SandboxError> {
    let backing = Backing {
        export: Some(Export::Tree(translated.shares.clone())),
        callers_group: translated.grouped,
        ..Backing::default()
    };
    let (mut machine, launched) =
        Machine::start(&job.places, &translated.shape, backing, template)?;
    let vsock = machine.vsock();
    let (events, wake) = match launched {
        Launched::Cold(listener) => {
            (Some(machine.guest.await_ready(listener, Some(signals))?.events), None)
        }
        Launched::Warm => {
            let name = translated.spec.hostname().as_deref().filter(|name| !name.is_empty());
            (None, Some(wake(name.unwrap_or("ampoule"))?))
        }
    };
    let ends = Ends::own(true);
    let create = request(job, translated, &ends);
    let starting = container::start(&vsock, create, None, wake, Then::Wait)
        .map_err(|error| machine.guest.or_its_death(error))?;
    let guest = &mut machine.guest;
    guest.await_guest(starting.as_fd(), Some(signals))?;
    let running = starting
        .finish(&ends, || {}, |fd| guest.await_guest(fd, Some(signals)))
        .map_err(|error| guest.or_its_death(error))?;
    if let Some(template) = template.filter(|template| template.touched.is_none()) {
        machine.guest.add_touched(template)?;
    }
    Ok((machine, running, events))
}

fn request(job: &CreateJob, translated: &Translated, ends: &Ends) -> Create {
    let process = translated.spec.process().as_ref();
    let terminal = process.and_then(Process::terminal).unwrap_or(false);
    Create {
        container: CONTAINER.to_owned(),
        spec: Box::new(translated.spec.clone()),
        identity: HookState { id: job.id.clone(), bundle: job.bundle.clone() },
        rootfs: Rootfs {
            source: RootfsSource::Share { tag: SHARE.into(), path: translated.rootfs.clone() },
            writable: WritableLayer::Source,
        },
        block_devices: Vec::new(),
        files: Vec::new(),
        networked: translated.networked,
        user: None,
        stdio: Streams::names(INIT, ends, terminal),
    }
}

/// Waits for the end of the container's program, passing signals on to it; its sandbox goes with it,
/// once everything that it wrote has been handed over.
fn stay(
    mut machine: Machine,
    mut running: Running,
    (mut network, listener): (Network, &Listener),
    signals: &Signals,
) -> Result<u8, OciError> {
    let exit = attend(&mut machine, &mut running, (&mut network, listener), signals)?;
    machine.end()?;
    network.leave()?;
    if let Some(source) = running.streams.failure() {
        return Err(OciError::Host { what: "write the container's output", source });
    }
    Ok(u8::try_from(exit.code).unwrap_or(255))
}

fn attend(
    machine: &mut Machine,
    running: &mut Running,
    (network, listener): (&mut Network, &Listener),
    signals: &Signals,
) -> Result<ExitStatus, SandboxError> {
    let mut exit: Option<ExitStatus> = None;
    if running.has_terminal() {
        running.follow_terminal();
    }
    loop {
        let awaited: BorrowedFd<'_> =
            if exit.is_none() { running.as_fd() } else { running.streams.as_fd() };
        let mut fds = [
            PollFd::new(awaited, PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(listener.as_fd(), PollFlags::POLLIN),
            PollFd::new(machine.guest.as_fd(), PollFlags::POLLIN),
        ];
        match (wait(&mut fds, PollTimeout::NONE)?, exit) {
            (Some(0), None) => {
                let taken = running.take_exit();
                exit = Some(taken.map_err(|error| machine.guest.or_its_death(error))?);
            }
            (Some(0), Some(exit)) => return Ok(exit),
            (Some(1), _) => running.pass_on_next(signals)?,
            (Some(2), _) => network.serve(listener, machine),
            (_, exit) => {
                if let Some(death) = machine.guest.death()? {
                    return exit.ok_or(death);
                }
            }
        }
    }
}

/// Runs a further process and keeps it: its exit code.
fn further(job: ExecJob, channel: &Channel, signals: &Signals) -> u8 {
    let ExecJob { vsock, process, console_socket } = job;
    let terminal = console_socket.map_or(Ok(()), |socket| {
        console::take(&socket, console_size(Some(&process)))
            .map_err(file("send a terminal to", &socket))
    });
    let begun = terminal.and_then(|()| {
        let running = run_further(&vsock, process)?;
        if !running.has_terminal() {
            console::let_go().map_err(host("let go of the standard streams"))?;
        }
        Ok(running)
    });
    let mut running = match begun {
        Ok(running) => running,
        Err(error) => {
            let _ = channel.send(&Answer::Failed { message: chain(&error) });
            return super::KEEPER_FAILED;
        }
    };
    let told = channel.send(&Answer::Made(Made::default()));
    let wanted = told.and_then(|()| channel.receive::<()>());
    if !matches!(wanted, Ok(Some(()))) {
        // The command has failed, or was killed: nobody knows of the process.
        running.kill();
    }
    match exec::keep(&mut running, signals, exec::Caller::Patient) {
        Ok(exec::End::Exit(code)) => code,
        // No keys are looked for.
        Ok(exec::End::LetGo) | Err(_) => super::KEEPER_FAILED,
    }
}

/// Starts a further process with this process's standard streams.
pub fn run_further(vsock: &Path, mut process: Process) -> Result<Running, OciError> {
    console::size_as_own(&mut process);
    let ends = Ends::own(true);
    let name = container::fresh_name("exec")?;
    let stdio = Streams::names(&name, &ends, process.terminal().unwrap_or(false));
    let request = Exec {
        container: CONTAINER.to_owned(),
        process: name,
        spec: Box::new(process),
        user: None,
        inherit: false,
        stdio,
    };
    Ok(container::exec(vsock, request, &ends)?)
}

fn console_size(process: Option<&Process>) -> Option<(u16, u16)> {
    let size = process?.console_size()?;
    let cells = |n: u64| u16::try_from(n).unwrap_or(u16::MAX);
    Some((cells(size.height()), cells(size.width())))
}

/// What of the host is mounted in the container.
fn binds(spec: &Spec, bundle: &Path) -> Vec<(PathBuf, PathBuf)> {
    let mounts = spec.mounts().iter().flatten();
    let is_bind = |option: &String| option == "bind" || option == "rbind";
    mounts
        .filter(|mount| {
            mount.typ().as_deref() == Some("bind") || mount.options().iter().flatten().any(is_bind)
        })
        .filter_map(|mount| {
            Some((bundle.join(mount.source().as_ref()?), mount.destination().clone()))
        })
        .collect()
}

/// The monitor's vCPUs run where the container may.
fn pin(processors: &[usize]) -> Result<(), OciError> {
    if processors.is_empty() {
        return Ok(());
    }
    let mut set = nix::sched::CpuSet::new();
    for processor in processors {
        set.set(*processor).map_err(host("name the processors of linux.resources.cpu.cpus"))?;
    }
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &set)
        .map_err(host("run on the processors of linux.resources.cpu.cpus"))
}
