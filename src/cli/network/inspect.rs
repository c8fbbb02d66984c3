//! `ampoule network inspect`: what is known of networks.

use std::process::ExitCode;

use clap::Args as ClapArgs;
use serde_json::{Map, Value, json};

use super::super::format::Format;
use super::super::{Failure, Global, each_or_last};
use super::store;
use crate::network::bridge::{BridgeError, Network, NetworkStore, Subnet, port};
use crate::sandbox::Registry;

/// Show what is known of networks, as JSON in docker's words
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:\n  ampoule network inspect front | jq '.[0].Containers'\n  \
    ampoule network inspect -f '{{range .IPAM.Config}}{{.Subnet}} {{end}}' front")]
pub struct Args {
    /// How to show them: json (an object a line), or a template such as {{.Id}}; an array where nothing is asked
    #[arg(short, long, value_name = "FORMAT", default_value = "", hide_default_value = true)]
    format: Format,
    /// Networks
    #[arg(required = true)]
    networks: Vec<String>,
}

/// Runs the verb.
pub fn run(args: &Args, global: &Global) -> Result<ExitCode, Failure> {
    let store = store(global)?;
    let registry = Registry::new(&global.places());
    let mut found = Vec::new();
    let outcome = each_or_last(&args.networks, |name| {
        found.push(told(&store, &registry, &store.get(name)?)?);
        Ok::<_, BridgeError>(())
    });
    print!("{}", args.format.inspect(&found)?);
    outcome
}

fn told(
    store: &NetworkStore,
    registry: &Registry,
    network: &Network,
) -> Result<Value, BridgeError> {
    let mut containers = Map::new();
    for lease in port::alive(store, network)? {
        let name = registry.find(&lease.owner).map(|entry| entry.state.name).unwrap_or_default();
        let of = |four: bool| {
            let address = lease.addresses.iter().find(|address| address.is_ipv4() == four);
            let within =
                |address| network.subnets.iter().find(|subnet| subnet.subnet.contains(address));
            let prefix = address.and_then(within).map(|subnet| subnet.subnet.prefix_len());
            address.zip(prefix).map(|(a, p)| format!("{a}/{p}")).unwrap_or_default()
        };
        containers.insert(
            lease.owner.clone(),
            json!({
                "Name": name,
                "MacAddress": mac(lease.mac),
                "IPv4Address": of(true),
                "IPv6Address": of(false),
            }),
        );
    }
    Ok(json!({
        "Name": network.name,
        "Id": network.id,
        "Created": network.created,
        "Scope": "local",
        "Driver": "bridge",
        "EnableIPv4": true,
        "EnableIPv6": network.gateways().any(|gateway| gateway.is_ipv6()),
        "IPAM": {
            "Driver": "default",
            "Options": {},
            "Config": network.subnets.iter().map(config).collect::<Vec<_>>(),
        },
        "Internal": network.internal,
        "Attachable": false,
        "Ingress": false,
        "Containers": containers,
        "Options": {
            "com.docker.network.bridge.name": network.bridge,
            "com.docker.network.bridge.enable_icc": network.icc.to_string(),
            "com.docker.network.bridge.enable_ip_masquerade": network.masquerade.to_string(),
            "com.docker.network.driver.mtu": network.mtu.to_string(),
        },
        "Labels": network.labels,
    }))
}

fn config(subnet: &Subnet) -> Value {
    let mut config = json!({ "Subnet": subnet.subnet, "Gateway": subnet.gateway });
    if let Some(range) = subnet.range {
        config["IPRange"] = json!(range);
    }
    config
}

/// A hardware address as people write it.
pub fn mac(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
