//! The agent: PID 1 of a sandbox's guest. It creates OCI containers inside the guest as the host
//! asks it to, over the protocol of [`ampoule_protocol`].
//!
//! | module | what it does |
//! | --- | --- |
//! | [`boot`] | makes an empty guest one that containers can run in |
//! | [`transport`], [`server`], [`host`] | connections; requests; what the host is told unasked |
//! | [`container`] | a container's life: one request a file |
//! | [`archive`] | files of a container, on their way to the host and from it |
//! | [`spec`] | what of the OCI specification is honoured, and what is refused |
//! | [`setup`] | the stage that becomes a container's process |
//! | [`snapshot`] | what a guest does before a snapshot and after it |
//! | [`identity`], [`random`] | what no two guests may share |
//! | [`network`], [`pod`] | interfaces; namespaces that containers share |
//! | [`disks`], [`shares`] | disks by serial number, the host's file systems by tag |
//! | [`cgroup`] | limits, kills, and news of memory that ran out |
//! | [`streams`], [`relay`] | stdio: pairing with connections, copying |
//! | [`init`] | the first process of a container that asked for one |
//! | [`reaper`], [`watch`] | ended children; the main loop |
//! | [`shutdown`] | the guest's end |

// The runtime that a plain `main` brings aborts where descriptors 0 to 2 are closed and there is
// no /dev/null yet: in an initramfs without a console that is just so.
#![cfg_attr(not(test), no_main)]

mod archive;
mod boot;
mod cgroup;
mod container;
mod disks;
mod error;
mod forward;
mod host;
mod identity;
mod init;
mod log;
mod network;
mod pod;
mod random;
mod reaper;
mod relay;
mod server;
mod setup;
mod shares;
mod shutdown;
mod snapshot;
mod spec;
mod streams;
mod thread;
mod transport;
mod watch;

use std::path::PathBuf;
use std::sync::OnceLock;

use container::Containers;
use disks::Disks;
use error::{Doing, Result};
use host::Host;
use identity::Identity;
use reaper::Reaper;
use shares::Shares;
use shutdown::Ending;
use streams::Streams;
use transport::Transport;
use watch::Watcher;

/// Everything that the agent's threads share.
struct Agent {
    containers: Containers,
    streams: Streams,
    reaper: Reaper,
    watcher: Watcher,
    host: Host,
    disks: Disks,
    shares: Shares,
    identity: Identity,
    pod: pod::State,
    prepared: network::Prepared,
    held: snapshot::Held,
    /// The agent's own binary, run anew as the setup stage.
    program: PathBuf,
    ending: Ending,
}

static AGENT: OnceLock<Agent> = OnceLock::new();

/// Where the C library starts the program.
#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn main(_count: libc::c_int, _arguments: *const *const libc::c_char) -> libc::c_int {
    let entered_us = boot::monotonic_us();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        [setup::ARGUMENT] => setup::run(),
        [pod::ARGUMENT] => pod::pause(),
        [init::ARGUMENT, program @ ..] => init::run(program),
        ["serve", "--unix", directory] => {
            serve(&Transport::Unix(directory.into()), Ending::Exit, entered_us)
        }
        // The kernel hands on what it does not know of its command line.
        _ if std::process::id() == 1 => match boot::boot() {
            Ok(()) => serve(&Transport::Vsock, Ending::Reset, entered_us),
            Err(e) => shutdown::fatal(Ending::Reset, e),
        },
        _ => {
            log::line("usage: ampoule-agent serve --unix DIRECTORY (else it is a guest's PID 1)");
            2
        }
    }
}

fn serve(transport: &Transport, ending: Ending, entered_us: u64) -> libc::c_int {
    // One heap for all threads: each further one would be pages of its own for every request.
    // SAFETY: mallopt takes two integers, and there is one thread yet.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    shutdown::end_on_panic(ending);
    match run(transport, ending, entered_us) {
        Ok(()) => shutdown::end(ending),
        Err(e) => shutdown::fatal(ending, e),
    }
}

/// Serves until the host is gone.
fn run(transport: &Transport, ending: Ending, entered_us: u64) -> Result<()> {
    let signals = watch::take_signals()?;
    cgroup::enable_controllers()?;
    let program = std::fs::read_link("/proc/self/exe").doing(|| "read /proc/self/exe")?;
    let requests = transport.listen(ampoule_protocol::RPC_PORT).doing(|| "listen for requests")?;
    let streams = transport.listen(ampoule_protocol::STREAM_PORT).doing(|| "listen for streams")?;
    let identity = Identity::new()?;
    let ready = transport.connect(ampoule_protocol::READY_PORT).doing(|| "connect to the host")?;

    let agent = AGENT.get_or_init(|| Agent {
        containers: Containers::new(),
        streams: Streams::new(),
        reaper: Reaper::new(),
        watcher: Watcher::new(),
        host: Host::new(),
        disks: Disks::new(),
        shares: Shares::new(),
        identity,
        pod: pod::State::new(),
        prepared: network::Prepared::new(),
        program,
        held: snapshot::Held::new(),
        ending,
    });
    agent.host.adopt(ready, &agent.watcher)?;
    thread::spawn("requests", move || {
        let e = server::serve(agent, &requests);
        shutdown::fatal(ending, error::Error::system("accept requests", e))
    })
    .doing(|| "start a thread")?;
    thread::spawn("streams", move || {
        let e = agent.streams.serve(&streams);
        shutdown::fatal(ending, error::Error::system("accept streams", e))
    })
    .doing(|| "start a thread")?;
    agent.host.greet(entered_us, boot::monotonic_us())?;
    watch::run(agent, &signals)
}
