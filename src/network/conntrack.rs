//! Connections that the kernel tracks: those of a container that is gone are forgotten. Whoever goes on
//! sending to it, as datagrams do for whom nobody ever said that it has ended, would be led to whom its address
//! belongs by then, whatever rules say: those are asked about the first packet of a connection alone.
//!
//! Over netlink (ctnetlink), by the socket of the packet filter. Of crates, netlink-packet-netfilter knows
//! these messages, but of connections neither their ids nor their zones nor protocols without ports; here the
//! kernel is given back what it said, byte for byte, whatever it is about.

use std::fs;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use netlink_packet_core::NLA_F_NESTED;

use super::nft::NftError;
use super::nft::attributes::{self, Attributes};
use super::nft::netlink::{Netlink, error_code, message};

// From the kernel's include/uapi/linux/netfilter/nfnetlink_conntrack.h: `NFNL_SUBSYS_CTNETLINK`, `IPCTNL_MSG_CT_*`,
// `CTA_*`.
const SUBSYSTEM: u16 = 1;
const GET: u16 = 1;
const DELETE: u16 = 2;
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const ID: u16 = 12;
const ZONE: u16 = 18;
const FILTER: u16 = 25;
const ADDRESSES: u16 = 1;
const SOURCE4: u16 = 1;
const SOURCE6: u16 = 3;
/// `CTA_FILTER_FLAG(CTA_IP_SRC)`.
const BY_SOURCE: u32 = 1;

/// Where it is told how many there are.
const COUNT: &str = "/proc/sys/net/netfilter/nf_conntrack_count";

/// How many are read one by one. What takes time then is the kernel's way through its hash table, some ten
/// milliseconds for 262,144 buckets; where there are more, it goes that way for each address and direction by
/// itself, and tells less.
const FEW: u64 = 16_384;

/// How long is looked for, however many there are: what is left then ends by its own time.
const PATIENCE: Duration = Duration::from_millis(500);

/// How many are looked for before those are forgotten.
const AT_ONCE: usize = 4096;

/// How many are forgotten by one call: as many refusals have room in a socket.
const SENT_AT_ONCE: usize = 64;

/// Why connections are not forgotten.
#[derive(Debug, thiserror::Error)]
#[error("connections of a container that is gone are not forgotten")]
pub struct ConntrackError(#[from] NftError);

/// Forgets all connections that one of these addresses has opened or answers, in the caller's network
/// namespace: how many there were.
pub fn forget(addresses: &[IpAddr]) -> Result<usize, ConntrackError> {
    let count = fs::read_to_string(COUNT).ok().and_then(|count| count.trim().parse().ok());
    match count {
        Some(0) => Ok(0),
        Some(1..=FEW) => Ok(forget_as_told(addresses, None)?),
        _ => Ok(forget_each(addresses)?),
    }
}

fn forget_each(addresses: &[IpAddr]) -> Result<usize, NftError> {
    let mut forgotten = 0;
    for address in addresses {
        for side in [ORIGINAL, REPLY] {
            forgotten += forget_as_told(addresses, Some((*address, side)))?;
        }
    }
    Ok(forgotten)
}

/// What the kernel is asked to tell: connections of this source in one direction, or all.
type Filter = Option<(IpAddr, u16)>;

fn forget_as_told(addresses: &[IpAddr], filter: Filter) -> Result<usize, NftError> {
    let end = Instant::now() + PATIENCE;
    let mut forgotten = 0;
    loop {
        // A list may not have been read to its end: each has a socket.
        let mut socket = Netlink::open()?;
        let found = find(&mut socket, addresses, filter, end)?;
        for some in found.chunks(SENT_AT_ONCE) {
            delete(&mut socket, some)?;
        }
        forgotten += found.len();
        if found.len() < AT_ONCE || Instant::now() >= end {
            return Ok(forgotten);
        }
    }
}

/// A connection, as the kernel names it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Connection {
    family: u8,
    original: Vec<u8>,
    id: Option<Vec<u8>>,
    zone: Option<Vec<u8>>,
}

/// `NFPROTO_*`.
fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { 2 } else { 10 }
}

/// Some of those that one of these addresses has opened or answers.
fn find(
    socket: &mut Netlink,
    addresses: &[IpAddr],
    filter: Filter,
    end: Instant,
) -> Result<Vec<Connection>, NftError> {
    let mut asked = Attributes::default();
    // A kernel before 5.8 knows no such filter, and tells all. Of IPv6, up to 6.18 at least, it tells those that
    // are not meant.
    if let Some((IpAddr::V4(four), side)) = filter {
        asked.nest(side, |a| a.nest(ADDRESSES, |a| a.put(SOURCE4, &four.octets())));
        asked.nest(FILTER, |a| a.put(side, &BY_SOURCE.to_ne_bytes()));
    }
    let flags = u16::try_from(libc::NLM_F_DUMP).map_err(|_| NftError::TooLong)?;
    let family = filter.map_or(0, |(address, _)| family(address));
    let bytes =
        asked.bytes().and_then(|asked| message(SUBSYSTEM << 8 | GET, flags, 1, family, 0, asked));
    socket.send(&bytes.ok_or(NftError::TooLong)?)?;
    let mut found = Vec::new();
    while found.len() < AT_ONCE && Instant::now() < end && socket.receive()? {
        for answer in socket.answers() {
            let answer = answer?;
            match error_code(&answer)? {
                // The kernel tracks none.
                Some(libc::EOPNOTSUPP | libc::EINVAL) => return Ok(Vec::new()),
                Some(0) => return Ok(found),
                Some(code) => {
                    return Err(NftError::Socket(std::io::Error::from_raw_os_error(code)));
                }
                None => found.extend(read(answer.payload, addresses)),
            }
        }
    }
    Ok(found)
}

/// A connection, where it is one of these addresses'.
fn read(payload: &[u8], addresses: &[IpAddr]) -> Option<Connection> {
    // `struct nfgenmsg`.
    let (header, all) = payload.split_at_checked(4)?;
    let is_own = |side| source(all, side).is_some_and(|source| addresses.contains(&source));
    (is_own(ORIGINAL) || is_own(REPLY)).then_some(())?;
    let own = |kind| attributes::find(all, kind).map(<[u8]>::to_vec);
    let family = header.first().copied()?;
    Some(Connection { family, original: own(ORIGINAL)?, id: own(ID), zone: own(ZONE) })
}

/// Where its packets come from in one direction.
fn source(connection: &[u8], side: u16) -> Option<IpAddr> {
    let addresses = attributes::find(attributes::find(connection, side)?, ADDRESSES)?;
    if let Some(four) = attributes::find(addresses, SOURCE4) {
        return Some(IpAddr::from(<[u8; 4]>::try_from(four).ok()?));
    }
    Some(IpAddr::from(<[u8; 16]>::try_from(attributes::find(addresses, SOURCE6)?).ok()?))
}

/// Forgets some. Those that have ended meanwhile are refused, which nobody reads.
fn delete(socket: &mut Netlink, connections: &[Connection]) -> Result<(), NftError> {
    let mut bytes = Vec::new();
    for (connection, number) in connections.iter().zip(1..) {
        let mut named = Attributes::default();
        named.put(ORIGINAL | NLA_F_NESTED, &connection.original);
        for (kind, value) in [(ID, &connection.id), (ZONE, &connection.zone)] {
            if let Some(value) = value {
                named.put(kind, value);
            }
        }
        let one = named.bytes().and_then(|named| {
            message(SUBSYSTEM << 8 | DELETE, 0, number, connection.family, 0, named)
        });
        bytes.extend(one.ok_or(NftError::TooLong)?);
    }
    socket.send(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn told(source: [u8; 4]) -> Vec<u8> {
        let mut written = Attributes::default();
        for side in [ORIGINAL, REPLY] {
            let of_side = if side == ORIGINAL { source } else { [10, 9, 0, 2] };
            written.nest(side, |a| a.nest(ADDRESSES, |a| a.put(SOURCE4, &of_side)));
        }
        written.put(ID, &[1, 2, 3, 4]);
        [&[2, 0, 0, 0][..], written.bytes().unwrap()].concat()
    }

    #[test]
    fn a_connection_is_one_by_either_of_its_sources() {
        let told = told([192, 0, 2, 1]);
        let read = |addresses: &[&str]| {
            let addresses: Vec<_> = addresses.iter().map(|one| one.parse().unwrap()).collect();
            read(&told, &addresses)
        };
        let found = read(&["10.9.0.2"]).unwrap();
        assert_eq!((found.family, found.id.as_deref()), (2, Some(&[1, 2, 3, 4][..])));
        assert_eq!(read(&["fd00::2", "192.0.2.1"]), Some(found));
        assert_eq!(read(&["10.9.0.3", "fd00::1"]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_connection_or_none(bytes: Vec<u8>) {
            let _ = read(&bytes, &[IpAddr::from([10, 9, 0, 2])]);
        }
    }

    type Way = fn(&[IpAddr]) -> Result<usize, NftError>;

    /// However many there are, they are found either way.
    #[test]
    fn those_of_an_address_are_found_and_no_others() {
        let Some(host) = crate::network::testing::Namespace::possible(&["nft", "nsenter"]) else {
            return;
        };
        // Nothing is tracked without a rule that wants it.
        host.run(
            "ip link set lo up; ip address add fd00::1/128 dev lo nodad; ip address add fd00::2/128 dev lo nodad
             nft 'add table inet t; add chain inet t c { type filter hook output priority 0; };
                  add rule inet t c ct state new accept'",
        );
        let open = || {
            for (own, to, count) in [
                ("127.0.0.1", "127.0.0.2:9", 300),
                ("127.0.0.3", "127.0.0.4:9", 20),
                ("[fd00::1]", "[fd00::2]:9", 200),
            ] {
                for _ in 0..count {
                    let socket = host.socket(&format!("{own}:0"));
                    // Nobody listens there, which it may have been told already.
                    let _ = socket.send_to(b"x", to);
                }
            }
        };
        let both = ["127.0.0.1".parse().unwrap(), "fd00::2".parse().unwrap()];
        let ways: [Way; 2] = [forget_each, |addresses| forget_as_told(addresses, None)];
        for forget in ways {
            open();
            let forgotten = host.within(|| (forget(&both).unwrap(), forget(&both).unwrap()));
            // The kernel may give a port twice.
            assert!((490..=500).contains(&forgotten.0), "{forgotten:?}");
            assert_eq!(forgotten.1, 0);
        }
        let left = host.within(|| super::forget(&["127.0.0.3".parse().unwrap()]).unwrap());
        assert!((19..=40).contains(&left), "{left}");
        assert_eq!(host.within(|| super::forget(&[]).unwrap()), 0);
    }
}
