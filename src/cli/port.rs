//! `ampoule port`: which ports of the host lead to a container.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;

use clap::Args as ClapArgs;

use super::{Failure, Global};
use crate::network::firewall::{Protocol, Published};
use crate::sandbox::{Registry, SandboxError, State};

/// Print which ports of the host lead to a container
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:\n  ampoule port web\n  ampoule port web 80/tcp")]
pub struct Args {
    /// Container, by name or id
    container: String,
    /// Port of the container: PORT[/tcp|udp|sctp]
    #[arg(value_parser = port)]
    port: Option<(u16, Protocol)>,
}

/// Runs the verb.
pub fn run(args: &Args, global: &Global) -> Result<ExitCode, Failure> {
    let state = Registry::new(&global.places()).find(&args.container)?.state;
    if !state.status.is_running() {
        let (name, status) = (state.name, state.status);
        return Err(SandboxError::NotRunning { name, status }.into());
    }
    let all = published(&state);
    let Some((port, protocol)) = args.port else {
        for published in all {
            let (port, protocol) = (published.container_port, published.protocol);
            println!("{port}/{protocol} -> {}", host(&published));
        }
        return Ok(ExitCode::SUCCESS);
    };
    let wanted = |p: &&Published| (p.container_port, p.protocol) == (port, protocol);
    let found: Vec<_> = all.iter().filter(wanted).collect();
    if found.is_empty() {
        let name = &state.name;
        return Err(format!("no public port '{port}/{protocol}' published for {name}").into());
    }
    found.iter().for_each(|published| println!("{}", host(published)));
    Ok(ExitCode::SUCCESS)
}

/// What leads to a container that runs, in the order of its ports.
pub fn published(state: &State) -> Vec<Published> {
    let mut all: Vec<Published> =
        state.networks.iter().flat_map(|on| on.published.iter().copied()).collect();
    all.sort_by_key(|p| (p.container_port, p.protocol, p.container.is_ipv6(), p.host_port));
    all
}

/// Where somebody comes from elsewhere.
pub fn host(published: &Published) -> SocketAddr {
    let any: IpAddr = match published.container {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    SocketAddr::new(published.host.unwrap_or(any), published.host_port)
}

fn port(text: &str) -> Result<(u16, Protocol), String> {
    let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let port = port.parse().map_err(|_| format!("{port:?} is no port"))?;
    Ok((port, protocol.parse::<Protocol>().map_err(|error| error.to_string())?))
}
