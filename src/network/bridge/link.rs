//! Bridges and taps of the host's kernel, in the calling process's own network namespace.

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use futures_util::TryStreamExt;
use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressFlags};
use netlink_packet_route::link::{
    InfoBridgePort, InfoPortData, InfoPortKind, LinkAttribute, LinkMessage,
};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use nix::net::if_::if_nametoindex;
use rtnetlink::{Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, RouteMessageBuilder};

use super::definition::Network;
use super::error::{BridgeError, host, kernel};
use crate::network::error::refusal;

/// Where the kernel is told how interfaces behave.
const SYSCTL: &str = "/proc/sys/net";

/// Does something with a connection to the kernel.
pub fn speak<T>(
    work: impl AsyncFnOnce(Handle) -> Result<T, BridgeError>,
) -> Result<T, BridgeError> {
    let failed = "speak to the kernel about interfaces";
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(host(failed))?.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(host(failed))?;
        // Ends with the runtime.
        tokio::spawn(connection);
        work(handle).await
    })
}

/// Whether this host has the newer protocol.
pub fn has_ipv6() -> bool {
    Path::new(SYSCTL).join("ipv6").exists()
}

/// What there is of a bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Nothing of its name.
    Missing,
    /// Itself, with this index.
    Ours(u32),
    /// Something else of its name.
    Foreign,
}

/// Looks for the bridge of a network.
pub async fn find(handle: &Handle, network: &Network) -> Result<Found, BridgeError> {
    let links = handle.link().get().match_name(&network.bridge).execute();
    match links.try_collect::<Vec<_>>().await {
        Ok(links) => Ok(links.first().map_or(Found::Missing, |link| found(link, network))),
        Err(error) if refusal(&error).raw_os_error() == Some(libc::ENODEV) => Ok(Found::Missing),
        Err(error) => Err(kernel(format!("look for interface {}", network.bridge))(error)),
    }
}

fn found(link: &LinkMessage, network: &Network) -> Found {
    let ours = |attribute: &LinkAttribute| matches!(attribute, LinkAttribute::Address(mac) if *mac == network.mac);
    match link.attributes.iter().any(ours) {
        true => Found::Ours(link.header.index),
        false => Found::Foreign,
    }
}

/// Makes the bridge of a network, with the host's addresses on it: its index.
pub async fn make(handle: &Handle, network: &Network) -> Result<u32, BridgeError> {
    let name = &network.bridge;
    let bridge = LinkMessageBuilder::<LinkBridge>::new(name)
        .address(network.mac.to_vec())
        .mtu(network.mtu)
        .mcast_snooping(false)
        .build();
    let made = handle.link().add(bridge).execute().await;
    made.map_err(kernel(format!("make bridge {name}")))?;
    let index = if_nametoindex(name.as_str()).map_err(host(format!("find bridge {name}")))?;
    match furnish(handle, network, index).await {
        Ok(()) => Ok(index),
        Err(error) => {
            // Half of it would be taken for the whole.
            let _ = handle.link().del(index).execute().await;
            Err(error)
        }
    }
}

async fn furnish(handle: &Handle, network: &Network, index: u32) -> Result<(), BridgeError> {
    let name = &network.bridge;
    let six = network.gateways().any(|gateway| gateway.is_ipv6());
    // Nobody else has its addresses: they are good at once, and nobody's routers count.
    for (key, value) in [("accept_ra", "0"), ("accept_dad", "0"), ("disable_ipv6", off(!six))] {
        set(&format!("ipv6/conf/{name}/{key}"), value);
    }
    // What is published leads from the host's own loopback addresses, too.
    set(&format!("ipv4/conf/{name}/route_localnet"), "1");
    for subnet in &network.subnets {
        let prefix = subnet.subnet.prefix_len();
        let mut added = handle.address().add(index, subnet.gateway, prefix);
        if subnet.gateway.is_ipv6() {
            let flags = AddressAttribute::Flags(AddressFlags::Nodad | AddressFlags::Permanent);
            added.message_mut().attributes.push(flags);
        }
        match added.execute().await {
            // Switched off for all of the host.
            Err(error)
                if subnet.gateway.is_ipv6()
                    && refusal(&error).raw_os_error() != Some(libc::EEXIST) =>
            {
                log::warn!("bridge {name} without {}: {error}", subnet.gateway);
            }
            added => added.map_err(kernel(format!("give bridge {name} {}", subnet.gateway)))?,
        }
    }
    let up = LinkMessageBuilder::<LinkUnspec>::new().index(index).up().build();
    handle.link().set(up).execute().await.map_err(kernel(format!("set up bridge {name}")))
}

fn off(off: bool) -> &'static str {
    if off { "1" } else { "0" }
}

/// Sets what the kernel has a default for; one without the newer protocol has no such files.
pub fn set(key: &str, value: &str) {
    let path = Path::new(SYSCTL).join(key);
    // Some are read-only where they are right already.
    if fs::read_to_string(&path).is_ok_and(|now| now.trim() == value) {
        return;
    }
    if let Err(error) = fs::write(&path, value) {
        log::debug!("{}: {error}", path.display());
    }
}

/// Removes a bridge; one that is gone already is no failure.
pub async fn remove(handle: &Handle, network: &Network) -> Result<(), BridgeError> {
    let Found::Ours(index) = find(handle, network).await? else { return Ok(()) };
    match handle.link().del(index).execute().await {
        Err(error) if refusal(&error).raw_os_error() != Some(libc::ENODEV) => {
            Err(kernel(format!("remove bridge {}", network.bridge))(error))
        }
        _ => Ok(()),
    }
}

/// Makes a tap that is open a port of a bridge.
pub async fn plug(handle: &Handle, tap: &str, bridge: u32, mtu: u32) -> Result<(), BridgeError> {
    let index = match if_nametoindex(tap) {
        Ok(index) => index,
        Err(errno) => return Err(host(format!("find interface {tap}"))(errno)),
    };
    // The host has nothing to say on it.
    set(&format!("ipv6/conf/{tap}/disable_ipv6"), "1");
    let message =
        LinkMessageBuilder::<LinkUnspec>::new().index(index).controller(bridge).mtu(mtu).up();
    let plugged = handle.link().set(message.build()).execute().await;
    plugged.map_err(kernel(format!("make interface {tap} a port of the bridge")))
}

/// Lets a port have its own frames back: what a container sends to its own published port, where the kernel
/// passes bridged packets to its packet filter (`br_netfilter`).
pub async fn turn_back(handle: &Handle, tap: &str) {
    let Ok(index) = if_nametoindex(tap) else { return };
    let data = InfoPortData::BridgePort(vec![InfoBridgePort::HairpinMode(true)]);
    let message = LinkMessageBuilder::<LinkUnspec>::new()
        .index(index)
        .set_port_kind(InfoPortKind::Bridge)
        .set_port_data(data);
    // All else goes without it.
    if let Err(error) = handle.link().change(message.build()).execute().await {
        log::warn!("{tap} does not get its own frames back: {error}");
    }
}

/// The subnets that lead somewhere already: those of routes but the default one, and of addresses.
pub async fn subnets(handle: &Handle) -> Result<Vec<IpNet>, BridgeError> {
    let mut all = Vec::new();
    let addresses: Vec<_> = handle
        .address()
        .get()
        .execute()
        .try_collect()
        .await
        .map_err(kernel("list the addresses"))?;
    for message in addresses {
        let local = message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        });
        all.extend(local.and_then(|local| IpNet::new(local, message.header.prefix_len).ok()));
    }
    let four = RouteMessageBuilder::<std::net::Ipv4Addr>::new().build();
    let six = RouteMessageBuilder::<std::net::Ipv6Addr>::new().build();
    for of_family in [four, six] {
        let routes: Result<Vec<_>, _> = handle.route().get(of_family).execute().try_collect().await;
        // A host may do without one of the families.
        all.extend(routes.unwrap_or_default().iter().filter_map(destination));
    }
    all.retain(|subnet: &IpNet| {
        let address = subnet.network();
        let everybodys = matches!(address, IpAddr::V6(six) if six.is_unicast_link_local());
        subnet.prefix_len() > 0 && !address.is_loopback() && !address.is_multicast() && !everybodys
    });
    Ok(all.into_iter().map(|subnet| subnet.trunc()).collect())
}

fn destination(message: &RouteMessage) -> Option<IpNet> {
    let header = &message.header;
    let internet = matches!(header.address_family, AddressFamily::Inet | AddressFamily::Inet6);
    if !internet || header.table == libc::RT_TABLE_LOCAL {
        return None;
    }
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(four)) => Some(IpAddr::V4(*four)),
        RouteAttribute::Destination(RouteAddress::Inet6(six)) => Some(IpAddr::V6(*six)),
        _ => None,
    });
    IpNet::new(address?, header.destination_prefix_length).ok()
}
