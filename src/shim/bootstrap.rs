//! `start`: containerd asks for a shim, and is told the address of one.
//!
//! The `containerd-shim` crate has this too, for the task API of containerd 2 alone. Here the server
//! speaks that and the one before it, so that the bare address, which all versions from 1.6 on take, is
//! the reply to all but those that ask by the bootstrap protocol (2.3 and later).

use std::fs;
use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use containerd_shim::bootstrap::{BootstrapParams, BootstrapResult};
use containerd_shim::protos::protobuf::Message;
use containerd_shim::protos::types::introspection::RuntimeInfo;
use containerd_shim::{Flags, StartOpts, cgroup};

use super::error::{ShimError, file, host};
use super::telling::CALLED;
use super::{RUNTIME, spec};
use crate::clock::now_us;
use crate::oci;

/// Environment variable with the socket that events are published at.
pub const EVENTS_ADDRESS: &str = "TTRPC_ADDRESS";

/// Most that containerd hands over, in bytes: its own limit.
const INPUT_LIMIT: u64 = 10 << 20;

/// File of a bundle from which containerd knows its shim again when it has been restarted.
pub const ADDRESS_FILE: &str = "address";

/// What the shim's process says when its socket is served.
pub const SERVED: &[u8] = b"served\n";

/// Version of the task API that the reply of the bootstrap protocol names.
const TASK_API: i32 = 3;

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    /// Flags, environment, and the runtime's options on standard input.
    Flags,
    /// [`BootstrapParams`] on standard input.
    Bootstrap,
}

/// Runs the action; the bundle is the working directory.
pub fn start(flags: &Flags) -> Result<(), ShimError> {
    let called_us = now_us();
    let input = read_input()?;
    let (options, protocol) = params(&input, flags);
    if flags.id.is_empty() || flags.namespace.is_empty() {
        return Err(ShimError::Usage("start takes -id and -namespace".into()));
    }
    let grouping = grouping(flags)?;
    let address = options.socket_address(&grouping);
    if !is_served(&address) {
        spawn(&options, &address, called_us)?;
    }
    let path = Path::new(ADDRESS_FILE);
    fs::write(path, &address).map_err(file("write", path))?;
    let reply = match protocol {
        Protocol::Flags => address.into_bytes(),
        Protocol::Bootstrap => BootstrapResult {
            version: TASK_API,
            address,
            protocol: "ttrpc".into(),
            ..Default::default()
        }
        .write_to_bytes()
        .map_err(containerd_shim::Error::from)?,
    };
    answer(&reply)
}

/// Runs the action `-info`: what containerd wants to know before there is a shim.
pub fn info() -> Result<(), ShimError> {
    let info = RuntimeInfo { name: RUNTIME.into(), ..Default::default() };
    answer(&info.write_to_bytes().map_err(containerd_shim::Error::from)?)
}

/// Gives containerd what it reads from an action.
pub fn answer(reply: &[u8]) -> Result<(), ShimError> {
    let mut stdout = io::stdout();
    stdout.write_all(reply).and_then(|()| stdout.flush()).map_err(host("answer containerd"))
}

fn read_input() -> Result<Vec<u8>, ShimError> {
    let mut input = Vec::new();
    // Somebody tries it by hand.
    if !io::stdin().is_terminal() {
        let read = io::stdin().take(INPUT_LIMIT).read_to_end(&mut input);
        read.map_err(host("read what containerd hands over"))?;
    }
    Ok(input)
}

/// What is asked for. The options of a runtime can be read as the message of the newer protocol, with
/// two fields that are none of it: only one that names this very shim is one.
fn params(input: &[u8], flags: &Flags) -> (StartOpts, Protocol) {
    let named = |params: &BootstrapParams| {
        !input.is_empty() && params.instance_id == flags.id && params.namespace == flags.namespace
    };
    if let Ok(params) = BootstrapParams::parse_from_bytes(input)
        && named(&params)
    {
        let mut options = StartOpts::from(params);
        options.debug |= flags.debug;
        return (options, Protocol::Bootstrap);
    }
    let options = StartOpts {
        id: flags.id.clone(),
        publish_binary: flags.publish_binary.clone(),
        address: flags.address.clone(),
        ttrpc_address: std::env::var(EVENTS_ADDRESS).unwrap_or_default(),
        namespace: flags.namespace.clone(),
        debug: flags.debug,
        ..StartOpts::default()
    };
    (options, Protocol::Flags)
}

/// Id of the container whose shim this one's is: a pod's containers are in the sandbox of the pod.
fn grouping(flags: &Flags) -> Result<String, ShimError> {
    let spec = oci::read_spec(Path::new("config.json"))?;
    Ok(match spec::Kind::of(&spec)? {
        spec::Kind::PodContainer { sandbox } => sandbox,
        spec::Kind::Alone | spec::Kind::Pod => flags.id.clone(),
    })
}

/// Whether a shim listens there; the socket of one that was killed goes.
fn is_served(address: &str) -> bool {
    let path = Path::new(address.trim_start_matches("unix://"));
    match UnixStream::connect(path) {
        Ok(_) => true,
        Err(error) => {
            if error.kind() == io::ErrorKind::ConnectionRefused {
                let _ = fs::remove_file(path);
            }
            false
        }
    }
}

/// Starts the shim's own process, which says so on its standard output when it can be called.
fn spawn(options: &StartOpts, address: &str, called_us: u64) -> Result<(), ShimError> {
    use std::os::unix::process::CommandExt;
    let mut command = Command::new("/proc/self/exe");
    command
        // By this name it is a shim.
        .arg0(std::env::args_os().next().unwrap_or_else(|| "containerd-shim-ampoule-v2".into()))
        .args(["-namespace", &options.namespace, "-id", &options.id])
        .args(["-address", &options.address, "-socket", address])
        .args(options.debug.then_some("-debug"))
        .env(EVENTS_ADDRESS, &options.ttrpc_address)
        .env(CALLED, called_us.to_string())
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().map_err(host("start the shim's process"))?;
    let confined = options
        .extension::<containerd_shim::api::Options>()
        .map(|options| options.map(|options| options.shim_cgroup).unwrap_or_default())
        .and_then(|group| cgroup::set_cgroup_and_oom_score(child.id(), &group));
    let mut said = Vec::new();
    let limit = SERVED.len() as u64;
    let out = child.stdout.take();
    let ready = out.map_or(Ok(0), |out| out.take(limit).read_to_end(&mut said));
    let failed = |child: &mut std::process::Child| {
        let _ = child.kill();
        let _ = child.wait();
    };
    if let Err(error) = confined {
        failed(&mut child);
        return Err(error.into());
    }
    ready.map_err(host("wait for the shim's process"))?;
    if said == SERVED {
        return Ok(());
    }
    // It has ended, or is about to, and tells why.
    let mut words = String::new();
    let stderr = child.stderr.take();
    let _ = stderr.map(|stderr| stderr.take(4096).read_to_string(&mut words));
    failed(&mut child);
    let source = io::Error::other(words.trim().to_owned());
    Err(ShimError::Host { what: "start the shim's process", source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use containerd_shim::protos::protobuf::well_known_types::any::Any;

    fn flags() -> Flags {
        Flags {
            id: "abc".into(),
            namespace: "k8s.io".into(),
            address: "/run/containerd/containerd.sock".into(),
            ..Flags::default()
        }
    }

    #[test]
    fn flags_alone_are_the_older_protocol() {
        let (options, protocol) = params(&[], &flags());
        assert_eq!(protocol, Protocol::Flags);
        assert_eq!((options.id.as_str(), options.namespace.as_str()), ("abc", "k8s.io"));
        let any = Any { type_url: "runtimeoptions.v1.Options".into(), ..Default::default() };
        let (_, protocol) = params(&any.write_to_bytes().unwrap(), &flags());
        assert_eq!(protocol, Protocol::Flags);
        assert_eq!(params(&[0xff; 9], &flags()).1, Protocol::Flags);
    }

    #[test]
    fn params_that_name_the_shim_are_the_newer_one() {
        let wanted = BootstrapParams {
            instance_id: "abc".into(),
            namespace: "k8s.io".into(),
            containerd_ttrpc_address: "/x.ttrpc".into(),
            ..Default::default()
        };
        let (options, protocol) = params(&wanted.write_to_bytes().unwrap(), &flags());
        assert_eq!((protocol, options.ttrpc_address.as_str()), (Protocol::Bootstrap, "/x.ttrpc"));
    }
}
