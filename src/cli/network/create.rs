//! `ampoule network create`: a new network.

use std::net::IpAddr;
use std::process::ExitCode;

use clap::{ArgAction, Args as ClapArgs};
use ipnet::IpNet;
use nix::unistd::geteuid;

use super::super::arguments::label;
use super::super::{Failure, Global};
use super::store;
use crate::network::bridge::Wanted;
use crate::network::bridge::definition::MTUS;
use crate::network::bridge::port::host_subnets;
use crate::sandbox::network::AttachError;

/// Make a network, and print its id
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:\n  ampoule network create front\n  \
    ampoule network create --internal --subnet 192.0.2.0/24 back\n  \
    ampoule network create -o mtu=9000 -o icc=false jumbo\n  \
    ampoule run -d --name web --network front nginx")]
pub struct Args {
    /// Driver of the network: there is one, bridge
    #[arg(short, long, value_name = "NAME", default_value = "bridge", value_parser = ["bridge"])]
    driver: String,
    /// Subnet, one of each family; a free one by default
    #[arg(long = "subnet", value_name = "CIDR")]
    subnets: Vec<IpNet>,
    /// The host's address in a subnet; its first one by default
    #[arg(long = "gateway", value_name = "ADDRESS")]
    gateways: Vec<IpAddr>,
    /// Part of a subnet that containers get addresses from
    #[arg(long = "ip-range", value_name = "CIDR")]
    ranges: Vec<IpNet>,
    /// Whether it has IPv6, too
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = true,
        default_missing_value = "true", action = ArgAction::Set)]
    ipv6: bool,
    /// Nothing leads out of it or into it
    #[arg(long)]
    internal: bool,
    /// Label of the network
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
    /// mtu=N, icc=BOOL (its containers may speak to each other), masquerade=BOOL (what leaves has the host's
    /// address); docker's longer names are known, too
    #[arg(short, long = "opt", value_name = "KEY=VALUE", value_parser = option)]
    options: Vec<Choice>,
    /// Name
    name: String,
}

#[derive(Debug, Clone, Copy)]
enum Choice {
    Mtu(u32),
    Icc(bool),
    Masquerade(bool),
}

/// Runs the verb.
pub fn run(args: Args, global: &Global) -> Result<ExitCode, Failure> {
    if !geteuid().is_root() {
        return Err(AttachError::NeedsRoot.into());
    }
    let Args { subnets, gateways, ranges, ipv6, internal, labels, options, name, .. } = args;
    let labels = labels.into_iter().collect();
    let mut wanted =
        Wanted { subnets, gateways, ranges, ipv6, internal, labels, ..Wanted::default() };
    for choice in options {
        match choice {
            Choice::Mtu(mtu) => wanted.mtu = mtu,
            Choice::Icc(icc) => wanted.icc = icc,
            Choice::Masquerade(masquerade) => wanted.masquerade = masquerade,
        }
    }
    let network = store(global)?.create(&name, wanted, &host_subnets()?)?;
    println!("{}", network.id);
    Ok(ExitCode::SUCCESS)
}

fn option(text: &str) -> Result<Choice, String> {
    let (key, value) = text.split_once('=').ok_or("it is to be KEY=VALUE")?;
    let bool = || value.parse::<bool>().map_err(|_| format!("{key} is to be true or false"));
    match key {
        "mtu" | "com.docker.network.driver.mtu" => {
            let mtu = value.parse().ok().filter(|mtu| MTUS.contains(mtu));
            let wrong = || format!("an MTU is {} to {}", MTUS.start(), MTUS.end());
            Ok(Choice::Mtu(mtu.ok_or_else(wrong)?))
        }
        "icc" | "com.docker.network.bridge.enable_icc" => bool().map(Choice::Icc),
        "masquerade" | "com.docker.network.bridge.enable_ip_masquerade" => {
            bool().map(Choice::Masquerade)
        }
        _ => Err("there are mtu, icc and masquerade".into()),
    }
}
