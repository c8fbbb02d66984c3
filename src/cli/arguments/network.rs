//! Which network a container is on: `--network` and what belongs to it.

use std::net::IpAddr;

use clap::Args;
use nix::unistd::geteuid;

use super::super::Failure;
use crate::network::bridge::definition::DEFAULT;
use crate::network::egress::{Egress, EgressRule};
use crate::network::publish::{self, Publish};
use crate::sandbox::join::JoinError;
use crate::sandbox::network::{self, Attachment, Host, NetworkMode, NetworkOptions};
use crate::sandbox::{Places, Registry, SandboxError};

/// docker's word for the host in `--add-host`.
const HOST_GATEWAY: &str = "host-gateway";

/// The network of a container.
#[derive(Debug, Args)]
pub struct NetworkArgs {
    /// Network of the container: bridge, a network's name, none, user, netns:PATH or container:NAME; several
    /// where it is to be on several networks [default: bridge, without root user]
    #[arg(
        long = "network",
        visible_alias = "net",
        value_name = "NETWORK",
        env = "AMPOULE_NETWORK"
    )]
    networks: Vec<String>,
    /// Further name of the container on its network
    #[arg(long = "network-alias", value_name = "NAME")]
    aliases: Vec<String>,
    /// Address of IPv4 on its network
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<std::net::Ipv4Addr>,
    /// Address of IPv6 on its network
    #[arg(long, value_name = "ADDRESS")]
    ip6: Option<std::net::Ipv6Addr>,
    /// Hardware address on its network
    #[arg(long, value_name = "MAC", value_parser = mac)]
    mac_address: Option<Mac>,
    /// Publish a port: [[IP:][HOST_PORT[-END]]:]PORT[-END][/tcp|udp|sctp]
    #[arg(short, long, value_name = "PORT", value_parser = ports)]
    publish: Vec<Ports>,
    /// Publish all ports that the image declares, at ports that are free
    #[arg(short = 'P', long)]
    publish_all: bool,
    /// Port that the container serves, beside those that its image declares
    #[arg(long, value_name = "PORT", value_parser = exposed)]
    expose: Vec<Ports>,
    /// Name server
    #[arg(long, value_name = "ADDRESS")]
    dns: Vec<IpAddr>,
    /// Domain that names are looked for in; . for none
    #[arg(long, value_name = "DOMAIN", value_parser = word)]
    dns_search: Vec<String>,
    /// Option of the resolver
    #[arg(long, visible_alias = "dns-opt", value_name = "OPTION", value_parser = word)]
    dns_option: Vec<String>,
    /// Line of /etc/hosts: NAME:ADDRESS, or NAME:host-gateway for the host
    #[arg(long = "add-host", value_name = "NAME:ADDRESS", value_parser = host)]
    hosts: Vec<Host>,
    /// Domain of the container's name
    #[arg(long, value_name = "DOMAIN", value_parser = word)]
    domainname: Option<String>,
    /// Where the container may connect to: all, public, none, or CIDR[:PORT[-END]][/tcp|udp|sctp], which
    /// closes everything else (docs/network.md)
    #[arg(long, value_name = "RULE")]
    egress: Vec<EgressRule>,
}

/// Hardware address of an interface.
type Mac = [u8; 6];

/// Ports of one option.
#[derive(Debug, Clone)]
struct Ports(Vec<Publish>);

impl NetworkArgs {
    /// What was asked for. Names are those of now: a network or a container that is not there is told before
    /// anything is made.
    pub fn options(self, places: &Places) -> Result<NetworkOptions, Failure> {
        let mode = self.mode(places)?;
        let mut published: Vec<Publish> =
            self.publish.into_iter().flat_map(|ports| ports.0).collect();
        if self.publish_all {
            published.extend(self.expose.into_iter().flat_map(|ports| ports.0));
        }
        Ok(NetworkOptions {
            mode,
            publish: published,
            publish_all: self.publish_all,
            dns: self.dns,
            dns_search: self.dns_search,
            dns_options: self.dns_option,
            hosts: self.hosts,
            domainname: self.domainname,
            egress: Egress::new(self.egress)?,
        })
    }

    fn mode(&self, places: &Places) -> Result<NetworkMode, Failure> {
        let [first, more @ ..] = self.networks.as_slice() else {
            return match geteuid().is_root() {
                true => self.attachments(places, &[DEFAULT.to_owned()]),
                false => self.refuse_addresses(network::default_without_root()),
            };
        };
        let alone = match first.split_once(':') {
            Some(("netns" | "ns", path)) => NetworkMode::Namespace(std::path::absolute(path)?),
            Some(("container", name)) => {
                NetworkMode::Container(Registry::new(places).find(name)?.state.id)
            }
            _ => match first.as_str() {
                "none" => NetworkMode::None,
                "user" => NetworkMode::User,
                "host" => {
                    return Err("network host: a guest has a kernel of its own, and no part in the \
                                host's network; publish ports (-p), or join a namespace (netns:PATH)"
                        .into());
                }
                _ => return self.attachments(places, &self.networks),
            },
        };
        if !more.is_empty() {
            return Err(format!("network {first} stands alone: name no other beside it").into());
        }
        self.refuse_addresses(alone)
    }

    fn attachments(&self, places: &Places, names: &[String]) -> Result<NetworkMode, Failure> {
        let store = network::store(places)?;
        let mut attachments: Vec<Attachment> = Vec::new();
        for name in names {
            let name = if name == "default" { DEFAULT } else { name };
            // docker's longer form says the same.
            let name = name.strip_prefix("name=").unwrap_or(name);
            let network = match name {
                // Made by the first container that is on it.
                DEFAULT => DEFAULT.to_owned(),
                name => store.get(name)?.name,
            };
            if attachments.iter().any(|attachment| attachment.network == network) {
                return Err(format!("network {network} is named twice").into());
            }
            attachments.push(Attachment { network, ..Attachment::default() });
        }
        if let Some(first) = attachments.first_mut() {
            first.aliases.clone_from(&self.aliases);
            (first.ipv4, first.ipv6) = (self.ip.map(IpAddr::V4), self.ip6.map(IpAddr::V6));
            first.mac = self.mac_address;
        }
        Ok(NetworkMode::Networks(attachments))
    }

    fn refuse_addresses(&self, mode: NetworkMode) -> Result<NetworkMode, Failure> {
        if mode.host().is_some() {
            let conflicts = [
                (self.ip.is_some() || self.ip6.is_some(), "IP address"),
                (self.mac_address.is_some(), "mac-address"),
                (!self.aliases.is_empty(), "network-alias"),
            ];
            if let Some((_, what)) = conflicts.into_iter().find(|(asked, _)| *asked) {
                return Err(SandboxError::from(JoinError::Conflict(what)).into());
            }
        }
        let asked = self.ip.is_some() || self.ip6.is_some() || self.mac_address.is_some();
        match asked || !self.aliases.is_empty() {
            true => Err(format!(
                "--ip, --ip6, --mac-address and --network-alias need a network of ampoule's own, and \
                 this is {}",
                mode.word()
            )
            .into()),
            false => Ok(mode),
        }
    }
}

fn ports(text: &str) -> Result<Ports, String> {
    publish::parse(text).map(Ports).map_err(|error| error.to_string())
}

fn exposed(text: &str) -> Result<Ports, String> {
    publish::exposed(text).map(Ports).ok_or_else(|| "it is to be PORT[-END][/tcp|udp|sctp]".into())
}

/// A word of a file whose words are separated by blanks.
fn word(text: &str) -> Result<String, String> {
    let fits = !text.is_empty() && text.len() <= 253 && text.chars().all(|c| c.is_ascii_graphic());
    if fits { Ok(text.to_owned()) } else { Err("it is to be one word".into()) }
}

fn host(text: &str) -> Result<Host, String> {
    let form = || "it is to be NAME:ADDRESS or NAME:host-gateway".to_owned();
    let (name, address) = text.split_once('=').or_else(|| text.split_once(':')).ok_or_else(form)?;
    let address = match address {
        HOST_GATEWAY => None,
        address => {
            let plain = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
            Some(plain.unwrap_or(address).parse().map_err(|_| form())?)
        }
    };
    Ok(Host { name: word(name)?, address })
}

fn mac(text: &str) -> Result<Mac, String> {
    let wrong = || "it is to be six bytes like 02:42:0a:c9:00:02".to_owned();
    let bytes = text.split([':', '-']).map(|byte| match byte.len() {
        2 => u8::from_str_radix(byte, 16).map_err(|_| wrong()),
        _ => Err(wrong()),
    });
    let mac: Mac = bytes.collect::<Result<Vec<_>, _>>()?.try_into().map_err(|_| wrong())?;
    match mac.first() {
        Some(first) if first & 1 == 0 && mac != [0; 6] => Ok(mac),
        _ => Err("it is the address of no single interface".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_dockers() {
        assert_eq!(host("db:192.0.2.1").unwrap().address, Some("192.0.2.1".parse().unwrap()));
        assert_eq!(host("db:::1").unwrap().address, Some("::1".parse().unwrap()));
        assert_eq!(host("db=[::1]").unwrap().name, "db");
        assert_eq!(host("h:host-gateway").unwrap().address, None);
        for wrong in ["", "db", "db:", "db:x", ":192.0.2.1", "a b:192.0.2.1", "a\n:192.0.2.1"] {
            assert!(host(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn hardware_addresses_are_those_of_one_interface() {
        assert_eq!(mac("02:42:0a:C9:00:02"), Ok([2, 0x42, 10, 0xc9, 0, 2]));
        for wrong in ["", "02:42:0a:c9:00", "01:00:00:00:00:00", "00:00:00:00:00:00", "0:1:2:3:4:5"]
        {
            assert!(mac(wrong).is_err(), "{wrong:?}");
        }
    }
}
