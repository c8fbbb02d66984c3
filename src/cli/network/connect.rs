//! `ampoule network connect`: a container comes to one more network.

use std::net::IpAddr;
use std::process::ExitCode;

use clap::Args as ClapArgs;

use super::super::{Failure, Global};
use crate::sandbox::Registry;
use crate::sandbox::network::{self, Attachment};

/// Put a container on one more network, at once where it runs
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:\n  ampoule network connect back web\n  \
    ampoule network connect --ip 192.0.2.9 --alias db back postgres")]
pub struct Args {
    /// Address of IPv4
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<std::net::Ipv4Addr>,
    /// Address of IPv6
    #[arg(long, value_name = "ADDRESS")]
    ip6: Option<std::net::Ipv6Addr>,
    /// Further name of the container on the network
    #[arg(long = "alias", value_name = "NAME")]
    aliases: Vec<String>,
    /// Network
    network: String,
    /// Container, by name or id
    container: String,
}

/// Runs the verb.
pub fn run(args: Args, global: &Global) -> Result<ExitCode, Failure> {
    let places = global.places();
    let entry = Registry::new(&places).find(&args.container)?;
    let network = network::find(&network::store(&places)?, &args.network)?.name;
    let (ipv4, ipv6) = (args.ip.map(IpAddr::V4), args.ip6.map(IpAddr::V6));
    let attachment = Attachment { network, aliases: args.aliases, ipv4, ipv6, mac: None };
    network::connect(&entry, attachment)?;
    Ok(ExitCode::SUCCESS)
}
