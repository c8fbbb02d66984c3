//! `Create`: a sandbox, and the container in it, or a further one; up to the point where its program
//! waits for the start.

use std::path::Path;
use std::sync::Arc;
use std::thread;

use ampoule_protocol::message::{ProcessId, Reply, Request};
use containerd_shim::protos::api::CreateTaskRequest;

use super::start::watch;
use crate::oci::Bundle;
use crate::oci::hooks::Kind as HookKind;
use crate::oci::network;
use crate::sandbox::Places;
use crate::shim::error::{ShimError, host};
use crate::shim::hooks::Hooked;
use crate::shim::process::Process;
use crate::shim::rootfs;
use crate::shim::sandbox::{Made, NewContainer, Sandbox, Seen};
use crate::shim::spec::{self, Kind};
use crate::shim::stdio::Paths;
use crate::shim::tasks::{Task, Tasks};

/// Stack of a thread that waits for one message.
const STACK: usize = 128 << 10;

/// Runs the method: the pid that stands for the container.
pub fn create(tasks: &Arc<Tasks>, request: &CreateTaskRequest) -> Result<u32, ShimError> {
    if tasks.find(&request.id).is_ok() {
        let message = format!("container {}: already exists", request.id);
        return Err(ShimError::AlreadyExists(message));
    }
    if !request.checkpoint.is_empty() {
        let message = "a container cannot be restored from a checkpoint: fork a sandbox instead";
        return Err(ShimError::Unsupported(message.into()));
    }
    let bundle = Bundle::open(Path::new(&request.bundle))?;
    let paths = Paths {
        stdin: request.stdin.clone(),
        stdout: request.stdout.clone(),
        stderr: request.stderr.clone(),
        terminal: request.terminal,
    };
    let kind = Kind::of(&bundle.spec)?;
    let created = match &kind {
        Kind::Pod => pod(tasks, request, &bundle, paths.clone()),
        Kind::PodContainer { .. } => {
            let sandbox = tasks.sandbox()?;
            container(tasks, &sandbox, kind, request, &bundle, paths.clone())
        }
        Kind::Alone => {
            let sandbox = start(tasks, &request.id, &bundle, &kind)?;
            let created = container(tasks, &sandbox, kind, request, &bundle, paths.clone());
            if created.is_err() {
                // The first error is the one to tell.
                let _ = sandbox.end();
            }
            created
        }
    };
    created?;
    let pid = tasks.pid();
    tasks.events.create(&request.id, &request.bundle, &paths, pid);
    Ok(pid)
}

/// The sandbox of a pod, or of a container that is alone.
fn start(
    tasks: &Arc<Tasks>,
    id: &str,
    bundle: &Bundle,
    kind: &Kind,
) -> Result<Arc<Sandbox>, ShimError> {
    let dying = Arc::downgrade(tasks);
    let died = move |_| {
        if let Some(tasks) = dying.upgrade() {
            tasks.sandbox_died();
        }
    };
    let sandbox = Sandbox::start(Places::of_environment(), id, bundle, kind, died)?;
    Ok(tasks.set_sandbox(sandbox))
}

/// A pod: a sandbox without a container of its own.
fn pod(
    tasks: &Arc<Tasks>,
    request: &CreateTaskRequest,
    bundle: &Bundle,
    paths: Paths,
) -> Result<(), ShimError> {
    spec::check_pod(&bundle.spec)?;
    let sandbox = start(tasks, &request.id, bundle, &Kind::Pod)?;
    if let Some(namespace) = network::named(&bundle.spec).map(Path::to_owned) {
        // Nobody waits for it.
        let thread = thread::Builder::new().name("ports".into()).stack_size(STACK);
        thread.spawn(move || sandbox.forward_ports(&namespace)).map_err(host("start a thread"))?;
    }
    let init = Process::new(None, paths, None);
    tasks.add(Task::new(&request.id, bundle.path.clone(), Kind::Pod, init, Seen::default(), None));
    Ok(())
}

/// A container in a sandbox.
fn container(
    tasks: &Arc<Tasks>,
    sandbox: &Sandbox,
    kind: Kind,
    request: &CreateTaskRequest,
    bundle: &Bundle,
    paths: Paths,
) -> Result<(), ShimError> {
    let rootfs = rootfs::prepare(&request.rootfs, &bundle.path)?;
    let (id, spec, pid) = (&request.id, &bundle.spec, sandbox.pid());
    Hooked { id, bundle: &bundle.path, spec, pid }
        .run(&[HookKind::Prestart, HookKind::CreateRuntime])?;
    let new = NewContainer { id: &request.id, kind: &kind, bundle, paths: &paths, rootfs };
    let Made { container, running, pipes, seen, mounted } = sandbox.create(new)?;
    let init = Process::new(Some(ProcessId::init(&container)), paths, None);
    init.set_pipes(pipes);
    let mut task = Task::new(&request.id, bundle.path.clone(), kind, init, seen, mounted);
    task.hooks = spec.hooks().is_some().then(|| Box::new(spec.clone()));
    let task = tasks.add(task);
    watch(tasks, &task, "", Arc::clone(&task.init), running)?;
    watch_memory(tasks, &request.id, &container)
}

/// Tells of processes that are killed for want of memory.
fn watch_memory(tasks: &Arc<Tasks>, id: &str, container: &str) -> Result<(), ShimError> {
    let (tasks, id, container) = (Arc::downgrade(tasks), id.to_owned(), container.to_owned());
    let watch = move || {
        let mut after = Some(0);
        loop {
            // Not held while it waits: a shim that is no longer wanted ends.
            let Some(sandbox) = tasks.upgrade().and_then(|tasks| tasks.sandbox().ok()) else {
                return;
            };
            let request = Request::AwaitOutOfMemory { container: container.clone(), after };
            let told = sandbox.ask_patiently(&request);
            drop(sandbox);
            let (Ok(Reply::OutOfMemory { kills: Some(kills) }), Some(tasks)) =
                (told, tasks.upgrade())
            else {
                return;
            };
            tasks.events.oom(&id);
            after = Some(kills);
        }
    };
    let thread = thread::Builder::new().name("memory".into()).stack_size(STACK);
    thread.spawn(watch).map(drop).map_err(host("start a thread"))
}
