//! What there is in a network namespace.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ampoule_protocol::message::{Cidr, Neighbour, Route};
use futures_util::{Stream, TryStreamExt};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteType,
    RouteVia,
};
use rtnetlink::{Handle, RouteMessageBuilder};

use super::error::NetworkError;
use super::plan::{Link, Seen, Way};

/// Reads all that can be of use.
pub async fn read(handle: &Handle) -> Result<Seen, NetworkError> {
    let links = all("list the interfaces", handle.link().get().execute()).await?;
    let links: Vec<Link> = links.iter().map(link).collect();
    if !links.iter().any(Link::is_in_use) {
        // As most are that nobody lays a network in: the rest is not worth the time.
        return Ok(Seen { links, ..Seen::default() });
    }
    let addresses = all("list the addresses", handle.address().get().execute()).await?;
    let four = RouteMessageBuilder::<Ipv4Addr>::new().build();
    let six = RouteMessageBuilder::<Ipv6Addr>::new().build();
    let mut routes = all("list the routes", handle.route().get(four).execute()).await?;
    // A host may do without the newer protocol.
    routes.extend(all("", handle.route().get(six).execute()).await.unwrap_or_default());
    let neighbours = all("list the neighbours", handle.neighbours().get().execute()).await?;
    Ok(Seen {
        links,
        addresses: addresses.iter().filter_map(address).collect(),
        routes: routes.iter().flat_map(route).collect(),
        neighbours: neighbours.iter().filter_map(neighbour).collect(),
    })
}

async fn all<T>(
    what: &'static str,
    stream: impl Stream<Item = Result<T, rtnetlink::Error>>,
) -> Result<Vec<T>, NetworkError> {
    stream.try_collect().await.map_err(|error| NetworkError::kernel(what, &error))
}

fn link(message: &LinkMessage) -> Link {
    let flags = message.header.flags;
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mac: Vec::new(),
        mtu: 0,
        ethernet: message.header.link_layer_type == LinkLayerType::Ether,
        loopback: flags.contains(LinkFlags::Loopback),
        up: flags.contains(LinkFlags::Up),
        enslaved: false,
        carrier: flags.contains(LinkFlags::LowerUp),
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Address(mac) => link.mac.clone_from(mac),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Controller(index) => link.enslaved = *index != 0,
            // Told also of what is down.
            LinkAttribute::Carrier(carrier) => link.carrier = *carrier != 0,
            _ => {}
        }
    }
    link
}

/// Addresses that somebody gave it: those that a host makes for itself, the guest makes, too.
fn address(message: &AddressMessage) -> Option<(u32, Cidr)> {
    let (mut local, mut other, mut flags) = (None, None, AddressFlags::empty());
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => local = Some(*address),
            AddressAttribute::Address(address) => other = Some(*address),
            AddressAttribute::Flags(all) => flags = *all,
            _ => {}
        }
    }
    let address = local.or(other)?;
    if let IpAddr::V6(six) = address
        && (six.is_unicast_link_local() || !flags.contains(AddressFlags::Permanent))
    {
        return None;
    }
    Some((message.header.index, Cidr::new(address, message.header.prefix_len)?))
}

/// A route, for each interface that it goes over.
fn route(message: &RouteMessage) -> Vec<(u32, Way)> {
    let header = &message.header;
    let mut table = u32::from(header.table);
    let (mut over, mut hops) = (None, Vec::new());
    let (mut to, mut gateway, mut source, mut metric) = (None, None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Oif(index) => over = Some(*index),
            RouteAttribute::MultiPath(all) => {
                hops = all.iter().map(|hop| hop.interface_index).collect();
            }
            RouteAttribute::Destination(address) => to = ip(address),
            RouteAttribute::Gateway(address) => gateway = ip(address),
            RouteAttribute::Via(RouteVia::Inet(address)) => gateway = Some((*address).into()),
            RouteAttribute::Via(RouteVia::Inet6(address)) => gateway = Some((*address).into()),
            RouteAttribute::PrefSource(address) => source = ip(address),
            RouteAttribute::Priority(number) => metric = Some(*number),
            _ => {}
        }
    }
    let wanted = table == u32::from(RouteHeader::RT_TABLE_MAIN)
        && header.kind == RouteType::Unicast
        && header.protocol != RouteProtocol::Ra
        && !header.flags.contains(RouteFlags::Cloned);
    let anywhere = match header.address_family {
        netlink_packet_route::AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        _ => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let to = to.unwrap_or(anywhere);
    let Some(destination) = Cidr::new(to, header.destination_prefix_length).filter(|_| wanted)
    else {
        return Vec::new();
    };
    // As the address that it belongs to, it is the guest's own.
    if matches!(to, IpAddr::V6(six) if six.is_unicast_link_local())
        && header.protocol == RouteProtocol::Kernel
    {
        return Vec::new();
    }
    if !hops.is_empty() {
        hops.sort_unstable();
        hops.dedup();
        return hops.into_iter().map(|index| (index, Way::Several(destination))).collect();
    }
    let route = Route {
        destination,
        gateway,
        source,
        metric,
        scope: header.scope.into(),
        on_link: header.flags.contains(RouteFlags::Onlink),
    };
    over.map(|index| (index, Way::One(route))).into_iter().collect()
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

fn neighbour(message: &NeighbourMessage) -> Option<(u32, Neighbour)> {
    if message.header.state != NeighbourState::Permanent {
        return None;
    }
    let (mut address, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(four)) => {
                address = Some(IpAddr::V4(*four));
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(six)) => {
                address = Some(IpAddr::V6(*six));
            }
            NeighbourAttribute::LinkLayerAddress(bytes) => {
                mac = bytes.as_slice().try_into().ok();
            }
            _ => {}
        }
    }
    Some((message.header.ifindex, Neighbour { address: address?, mac: mac? }))
}
