//! Ports of the host that lead to a container: how they are written, and how they are reserved.
//!
//! A port that is published belongs to a socket of the keeper's, bound and never listening: so the kernel
//! itself says whether it is free, two starts at once cannot have the same, and it is free again however
//! the keeper ends. What arrives for it is turned to the container before it reaches any socket.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::sockopt::Ipv6V6Only;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, getsockname,
    setsockopt, socket,
};
use serde::{Deserialize, Serialize};

use super::firewall::{Protocol, Published};

/// Most ports that one option publishes.
const MOST: u16 = 4096;

/// How often another port is tried where the kernel's choice is free for one family only.
const ATTEMPTS: usize = 16;

/// Why a port cannot be published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// not in docker's form
    #[error(
        "invalid publish {0:?}: it is to be [[IP:][HOST_PORT[-END]]:]CONTAINER_PORT[-END][/tcp|/udp|/sctp]"
    )]
    Invalid(String),
    /// ranges that do not fit
    #[error("invalid ranges specified for container and host ports: {0}")]
    Ranges(String),
    /// somebody else has it
    #[error("Bind for {address} failed: port is already allocated")]
    InUse {
        /// address and port
        address: SocketAddr,
    },
    /// all of a range are somebody's
    #[error("all ports of {first}-{last} are allocated")]
    NoneFree {
        /// first of the range
        first: u16,
        /// last of it
        last: u16,
    },
    /// the address is none of this host's, …
    #[error("cannot bind {address}")]
    Bind {
        /// address and port
        address: SocketAddr,
        /// why not
        #[source]
        source: io::Error,
    },
}

/// A port of a container that is to be published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Publish {
    /// Address of the host; every one where none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// Ports of the host, the first free of which is taken: first and last. Any where none are named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<(u16, u16)>,
    /// Port of the container.
    pub container: u16,
    /// Protocol.
    pub protocol: Protocol,
}

/// What docker's `-p` means: one for each port of the container.
///
/// # Errors
/// It is not in docker's form, or its ranges have different lengths.
pub fn parse(text: &str) -> Result<Vec<Publish>, PublishError> {
    let invalid = || PublishError::Invalid(text.to_owned());
    let (ports, protocol) = match text.rsplit_once('/') {
        None => (text, Protocol::Tcp),
        Some((ports, word)) => (ports, self::protocol(word).ok_or_else(invalid)?),
    };
    let (front, container) = match ports.rsplit_once(':') {
        None => (None, ports),
        Some((front, container)) => (Some(front), container),
    };
    let (address, host) = match front {
        None => (None, ""),
        Some(front) => match front.strip_prefix('[') {
            Some(rest) => {
                let (address, rest) = rest.split_once(']').ok_or_else(invalid)?;
                let address: Ipv6Addr = address.parse().map_err(|_| invalid())?;
                let host = if rest.is_empty() {
                    ""
                } else {
                    rest.strip_prefix(':').ok_or_else(invalid)?
                };
                (Some(IpAddr::V6(address)), host)
            }
            None => match front.rsplit_once(':') {
                None => match front.parse::<Ipv4Addr>() {
                    // Its port is the kernel's to choose.
                    Ok(address) => (Some(IpAddr::V4(address)), ""),
                    Err(_) => (None, front),
                },
                Some((address, host)) => {
                    let address: Ipv4Addr = address.parse().map_err(|_| invalid())?;
                    (Some(IpAddr::V4(address)), host)
                }
            },
        },
    };
    let address = address.filter(|address| *address != IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let (first, last) = range(container).ok_or_else(invalid)?;
    let host = match host {
        "" => None,
        host => Some(range(host).ok_or_else(invalid)?),
    };
    let count = last - first;
    if count >= MOST {
        return Err(PublishError::Ranges(text.to_owned()));
    }
    let one = |n: u16| {
        let host = match host {
            // One port of the container may have any of several.
            Some(range) if count == 0 => Some(range),
            Some((start, end)) if end - start == count => Some((start + n, start + n)),
            Some(_) => return Err(PublishError::Ranges(text.to_owned())),
            None => None,
        };
        Ok(Publish { address, host, container: first + n, protocol })
    };
    (0..=count).map(one).collect()
}

/// A port that an image declares (`80/tcp`), to be published at any port of the host.
pub fn exposed(text: &str) -> Option<Vec<Publish>> {
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-/".contains(&b));
    plain.then(|| parse(text).ok()).flatten()
}

fn protocol(word: &str) -> Option<Protocol> {
    match word.to_ascii_lowercase().as_str() {
        "tcp" => Some(Protocol::Tcp),
        "udp" => Some(Protocol::Udp),
        "sctp" => Some(Protocol::Sctp),
        _ => None,
    }
}

fn range(text: &str) -> Option<(u16, u16)> {
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (port(first)?, port(last)?),
        None => (port(text)?, port(text)?),
    };
    (first <= last).then_some((first, last))
}

/// A port of the host that nobody else can have.
#[derive(Debug)]
pub struct Reserved {
    /// What was wanted.
    pub publish: Publish,
    /// The port of the host.
    pub port: u16,
    /// Bound to it, one for each family.
    _sockets: Vec<OwnedFd>,
}

impl Reserved {
    /// The first port that is free.
    pub fn new(publish: &Publish) -> Result<Self, PublishError> {
        let Some((first, last)) = publish.host else { return Self::any(publish) };
        for port in first..=last {
            match Self::at(publish, port) {
                Err(PublishError::InUse { .. }) if last > first => {}
                reserved => return reserved,
            }
        }
        Err(PublishError::NoneFree { first, last })
    }

    fn any(publish: &Publish) -> Result<Self, PublishError> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            match Self::at(publish, 0) {
                Err(PublishError::InUse { .. }) if attempt < ATTEMPTS => {}
                reserved => return reserved,
            }
        }
    }

    fn at(publish: &Publish, mut port: u16) -> Result<Self, PublishError> {
        let mut sockets = Vec::new();
        let all = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
        let own = publish.address.map(|address| [address]);
        for address in own.as_ref().map_or(&all[..], |own| &own[..]) {
            match reserve(SocketAddr::new(*address, port), publish.protocol) {
                Ok((socket, bound)) => {
                    sockets.push(socket);
                    port = bound;
                }
                // A host may do without one of the families, or without a protocol.
                Err(Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL | Errno::EPROTONOSUPPORT)
                    if publish.address.is_none() => {}
                Err(errno) => return Err(refused(SocketAddr::new(*address, port), errno)),
            }
        }
        Ok(Self { publish: publish.clone(), port, _sockets: sockets })
    }

    /// Where it leads, for a container with these addresses.
    pub fn leads_to<'a>(&'a self, addresses: &'a [IpAddr]) -> impl Iterator<Item = Published> + 'a {
        let fits = |container: &&IpAddr| {
            self.publish.address.is_none_or(|host| host.is_ipv4() == container.is_ipv4())
        };
        addresses.iter().filter(fits).map(|container| Published {
            host: self.publish.address,
            host_port: self.port,
            container: *container,
            container_port: self.publish.container,
            protocol: self.publish.protocol,
        })
    }
}

fn refused(address: SocketAddr, errno: Errno) -> PublishError {
    match errno {
        Errno::EADDRINUSE => PublishError::InUse { address },
        errno => PublishError::Bind { address, source: errno.into() },
    }
}

/// A socket that is bound, and its port.
fn reserve(address: SocketAddr, protocol: Protocol) -> Result<(OwnedFd, u16), Errno> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let (kind, protocol) = match protocol {
        Protocol::Tcp => (SockType::Stream, Some(SockProtocol::Tcp)),
        Protocol::Udp => (SockType::Datagram, Some(SockProtocol::Udp)),
        Protocol::Sctp => (SockType::Stream, Some(SockProtocol::Sctp)),
    };
    let socket = socket(family, kind, SockFlag::SOCK_CLOEXEC, protocol)?;
    if address.is_ipv6() {
        setsockopt(&socket, Ipv6V6Only, &true)?;
    }
    bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    let bound: SockaddrStorage = getsockname(socket.as_raw_fd())?;
    let port = bound.as_sockaddr_in().map(nix::sys::socket::SockaddrIn::port);
    let port = port.or_else(|| bound.as_sockaddr_in6().map(nix::sys::socket::SockaddrIn6::port));
    Ok((socket, port.unwrap_or(address.port())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one(text: &str) -> (Option<String>, Option<(u16, u16)>, u16, Protocol) {
        let all = parse(text).unwrap();
        let [publish] = all.as_slice() else { panic!("{all:?}") };
        let address = publish.address.map(|address| address.to_string());
        (address, publish.host, publish.container, publish.protocol)
    }

    #[test]
    fn dockers_forms_are_understood() {
        let (tcp, udp) = (Protocol::Tcp, Protocol::Udp);
        assert_eq!(one("80"), (None, None, 80, tcp));
        assert_eq!(one("8080:80"), (None, Some((8080, 8080)), 80, tcp));
        assert_eq!(one("8080:53/udp"), (None, Some((8080, 8080)), 53, udp));
        assert_eq!(one("8000-8010:80"), (None, Some((8000, 8010)), 80, tcp));
        assert_eq!(
            one("127.0.0.1:8080:80"),
            (Some("127.0.0.1".into()), Some((8080, 8080)), 80, tcp)
        );
        assert_eq!(one("127.0.0.1::80"), (Some("127.0.0.1".into()), None, 80, tcp));
        assert_eq!(one("0.0.0.0:1:2"), (None, Some((1, 1)), 2, tcp));
        assert_eq!(one("[::1]:8080:80/TCP"), (Some("::1".into()), Some((8080, 8080)), 80, tcp));
        assert_eq!(one("[::1]::80"), (Some("::1".into()), None, 80, tcp));
        let all = parse("8000-8002:80-82").unwrap();
        let pairs: Vec<_> = all.iter().map(|p| (p.host.unwrap().0, p.container)).collect();
        assert_eq!(pairs, [(8000, 80), (8001, 81), (8002, 82)]);
        assert_eq!(parse("80-82").unwrap().len(), 3);
        assert_eq!(exposed("80/tcp").unwrap().len(), 1);
    }

    #[test]
    fn what_is_not_in_dockers_form_is_refused() {
        for text in [
            "",
            ":",
            "x",
            "0",
            "65536",
            "80/icmp",
            "8080:",
            "8:8:8:8",
            "[::1:80",
            "2-1",
            "a:80",
            "1.2.3:80:80",
            "[::1]80:80",
            "-",
            "80-",
            "1-65535",
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
        assert!(matches!(parse("8000-8001:80-82"), Err(PublishError::Ranges(_))));
        assert!(exposed("127.0.0.1:1:2").is_none());
    }

    #[test]
    fn a_port_is_had_once_and_free_again() {
        let publish = |text: &str| parse(text).unwrap().remove(0);
        let any = Reserved::new(&publish("127.0.0.1::80")).unwrap();
        let wanted = publish(&format!("127.0.0.1:{}:80", any.port));
        let error = Reserved::new(&wanted).unwrap_err().to_string();
        assert!(error.ends_with("port is already allocated"), "{error}");
        // The other protocol's is another one.
        Reserved::new(&Publish { protocol: Protocol::Udp, ..wanted.clone() }).unwrap();
        let listening = std::net::TcpListener::bind(("127.0.0.1", any.port));
        assert!(listening.is_err(), "a server has it, too");
        drop(any);
        Reserved::new(&wanted).unwrap();
    }

    #[test]
    fn it_leads_to_the_addresses_of_its_family() {
        let both: Vec<IpAddr> = vec!["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()];
        let reserved = |text: &str| Reserved::new(&parse(text).unwrap().remove(0)).unwrap();
        assert_eq!(reserved("80").leads_to(&both).count(), 2);
        let four = reserved("127.0.0.1::80");
        let to: Vec<_> = four.leads_to(&both).map(|published| published.container).collect();
        assert_eq!(to, both[..1]);
    }

    proptest! {
        #[test]
        fn any_text_is_understood_or_refused(text in "[0-9a-z:./\\[\\]-]{0,24}") {
            for publish in parse(&text).unwrap_or_default() {
                prop_assert!(publish.container > 0);
                prop_assert!(publish.host.is_none_or(|(first, last)| first > 0 && first <= last));
            }
        }
    }
}
