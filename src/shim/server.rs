//! The shim's own process: serves the task API at a socket, until there is nothing left to serve.

use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;

use containerd_shim::protos::shim_async::create_task;
use containerd_shim::protos::ttrpc::asynchronous::transport::Listener;
use containerd_shim::protos::ttrpc::asynchronous::{Server, Service};
use containerd_shim::publisher::RemotePublisher;
use containerd_shim::{Flags, logger};
use nix::unistd::dup2_stdout;

use super::bootstrap::{ADDRESS_FILE, EVENTS_ADDRESS, SERVED};
use super::error::{ShimError, file, host};
use super::events::Events;
use super::service::TaskService;
use super::tasks::Tasks;
use super::telling;
use crate::report::chain;

/// Names of the task API: containerd 2 gave the same methods and messages another one.
const NAMES: [&str; 2] = ["containerd.task.v2.Task", "containerd.task.v3.Task"];

/// Serves until the last container is gone and containerd says so. The bundle is the working directory.
pub fn serve(flags: &Flags) -> Result<(), ShimError> {
    logger::init(flags.debug, "info", &flags.namespace, &flags.id)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(host("start a runtime"))?;
    let served = runtime.block_on(run(flags));
    if let Err(error) = &served {
        log::error!("{}", chain(error));
    }
    // Threads that wait for a process that does not end are not waited for.
    runtime.shutdown_background();
    served
}

async fn run(flags: &Flags) -> Result<(), ShimError> {
    let path = Path::new(flags.socket.trim_start_matches("unix://"));
    let listener = listen(path)?;
    let (events, published) = Events::new();
    let tasks = Arc::new(Tasks::new(events));
    let address = std::env::var(EVENTS_ADDRESS).unwrap_or_default();
    let publisher = RemotePublisher::new(&address).await?;
    tokio::spawn(published.run(publisher, flags.namespace.clone()));

    let mut server = Server::new().add_listener(listener).register_service(services(&tasks));
    server.start().await.map_err(containerd_shim::Error::from)?;
    say_that_it_is_served()?;
    telling::served();
    log::info!("serving {} at {}", flags.id, path.display());

    tasks.exit.0.wait().await;
    log::info!("shutting down");
    let _ = server.shutdown().await;
    // Whoever connects from here on is to start another shim.
    let _ = fs::remove_file(path);
    let _ = fs::remove_file(ADDRESS_FILE);
    Ok(())
}

fn listen(path: &Path) -> Result<Listener, ShimError> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(file("create", folder))?;
    }
    let listener = UnixListener::bind(path).map_err(file("listen at", path))?;
    Listener::try_from(listener).map_err(file("listen at", path))
}

fn services(tasks: &Arc<Tasks>) -> HashMap<String, Service> {
    let mut services = HashMap::new();
    for name in NAMES {
        let service = TaskService::new(Arc::clone(tasks));
        // One comes, under the name that it was generated for.
        let made = create_task(Arc::new(service)).into_values();
        services.extend(made.map(|service| (name.to_owned(), service)));
    }
    services
}

/// Tells whoever started this process, and closes the pipes to it: the log has everything from here on.
fn say_that_it_is_served() -> Result<(), ShimError> {
    let mut stdout = io::stdout();
    let said = stdout.write_all(SERVED).and_then(|()| stdout.flush());
    said.map_err(host("say that the socket is served"))?;
    let null = OpenOptions::new().read(true).write(true).open("/dev/null");
    let null = null.map_err(host("open /dev/null"))?;
    // SAFETY: no memory is involved; both descriptors are open, and stay so.
    let moved = unsafe { libc::dup2(null.as_raw_fd(), libc::STDERR_FILENO) };
    nix::errno::Errno::result(moved).map_err(host("close the standard error"))?;
    dup2_stdout(&null).map_err(host("close the standard output"))
}
