//! The few messages of rtnetlink(7) that set an interface up, each sent and acknowledged.
//!
//! Written out here: the crates that know all of rtnetlink are a sixth of the agent's size.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use ampoule_protocol::message::{Cidr, Neighbour, Route};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

/// Bytes of a `struct nlmsghdr`.
const HEADER: usize = 16;

/// Asks for an acknowledgement.
const CHANGE: libc::c_int = libc::NLM_F_REQUEST | libc::NLM_F_ACK;

/// Of something that must not be there yet.
const MAKE: libc::c_int = CHANGE | libc::NLM_F_CREATE | libc::NLM_F_EXCL;

/// A socket to the namespace that its maker was in.
#[derive(Debug)]
pub struct Netlink(OwnedFd);

impl Netlink {
    /// To the calling thread's network namespace.
    pub fn open() -> io::Result<Self> {
        let (kind, flags) = (SockType::Raw, SockFlag::SOCK_CLOEXEC);
        let protocol = SockProtocol::NetlinkRoute;
        Ok(Self(socket(AddressFamily::Netlink, kind, flags, protocol)?))
    }

    /// Moves an interface that is down to another namespace, where it has this name.
    pub fn move_to(&self, index: u32, namespace: BorrowedFd<'_>, name: &str) -> io::Result<()> {
        let message = Message::link(index, 0, 0)
            .attribute(libc::IFLA_NET_NS_FD, &namespace.as_raw_fd().to_ne_bytes())
            .attribute(libc::IFLA_IFNAME, &[name.as_bytes(), b"\0"].concat());
        self.call(message)
    }

    /// Changes what an interface is before it is up.
    pub fn change(&self, index: u32, mac: [u8; 6], mtu: Option<u32>) -> io::Result<()> {
        let mut message = Message::link(index, 0, 0).attribute(libc::IFLA_ADDRESS, &mac);
        if let Some(mtu) = mtu {
            message = message.attribute(libc::IFLA_MTU, &mtu.to_ne_bytes());
        }
        self.call(message)
    }

    /// Brings an interface up or down.
    pub fn set_up(&self, index: u32, up: bool) -> io::Result<()> {
        let flag = libc::IFF_UP.cast_unsigned();
        self.call(Message::link(index, if up { flag } else { 0 }, flag))
    }

    /// Gives an interface an address: at once (nobody else has it), and without a route to its network.
    pub fn add_address(&self, index: u32, address: Cidr) -> io::Result<()> {
        let ip = address.address();
        let body = [family(ip), address.prefix(), 0, libc::RT_SCOPE_UNIVERSE];
        let body = [body, index.to_ne_bytes()].concat();
        let mut message = Message::new(libc::RTM_NEWADDR, MAKE, &body)
            .address(libc::IFA_LOCAL, ip)
            .address(libc::IFA_ADDRESS, ip)
            .attribute(
                libc::IFA_FLAGS,
                &(libc::IFA_F_NOPREFIXROUTE | libc::IFA_F_NODAD).to_ne_bytes(),
            );
        if let (IpAddr::V4(ip), 1..=30) = (ip, address.prefix()) {
            let all = u32::from(ip) | u32::MAX >> address.prefix();
            message = message.attribute(libc::IFA_BROADCAST, &all.to_be_bytes());
        }
        self.call(message)
    }

    /// Adds a route over an interface.
    pub fn add_route(&self, index: u32, route: &Route) -> io::Result<()> {
        let destination = route.destination;
        let family = family(destination.address());
        let flags = if route.on_link { RTNH_F_ONLINK } else { 0 };
        let mut body = vec![family, destination.prefix(), 0, 0];
        body.extend([libc::RT_TABLE_MAIN, libc::RTPROT_BOOT, route.scope, libc::RTN_UNICAST]);
        body.extend(flags.to_ne_bytes());
        // Others may lead to the same place: they come first, as they do on the host.
        let make = CHANGE | libc::NLM_F_CREATE | libc::NLM_F_APPEND;
        let mut message = Message::new(libc::RTM_NEWROUTE, make, &body)
            .attribute(libc::RTA_OIF, &index.to_ne_bytes());
        if destination.prefix() > 0 {
            message = message.address(libc::RTA_DST, destination.address());
        }
        if let Some(gateway) = route.gateway {
            let own = self::family(gateway);
            message = if own == family {
                message.address(libc::RTA_GATEWAY, gateway)
            } else {
                let via = [u16::from(own).to_ne_bytes().to_vec(), bytes(gateway)].concat();
                message.attribute(RTA_VIA, &via)
            };
        }
        if let Some(source) = route.source {
            message = message.address(libc::RTA_PREFSRC, source);
        }
        if let Some(metric) = route.metric {
            message = message.attribute(libc::RTA_PRIORITY, &metric.to_ne_bytes());
        }
        self.call(message)
    }

    /// Makes a neighbour known for good.
    pub fn add_neighbour(&self, index: u32, neighbour: &Neighbour) -> io::Result<()> {
        let mut body = vec![family(neighbour.address), 0, 0, 0];
        body.extend(index.to_ne_bytes());
        body.extend(libc::NUD_PERMANENT.to_ne_bytes());
        body.extend([0, 0]);
        // It may be known already, less well.
        let flags = CHANGE | libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
        let message = Message::new(libc::RTM_NEWNEIGH, flags, &body)
            .address(libc::NDA_DST, neighbour.address)
            .attribute(libc::NDA_LLADDR, &neighbour.mac);
        self.call(message)
    }

    /// Sends a message and takes its acknowledgement.
    fn call(&self, message: Message) -> io::Result<()> {
        let fd = self.0.as_raw_fd();
        let kernel = NetlinkAddr::new(0, 0);
        sendto(fd, &message.finish(), &kernel, MsgFlags::empty())?;
        let mut answer = [0; 256];
        let length = loop {
            match recv(fd, &mut answer, MsgFlags::empty()) {
                Err(Errno::EINTR) => {}
                received => break received?,
            }
        };
        // Its header, and then a `struct nlmsgerr`, which begins with the error.
        let code = answer.get(HEADER..length).and_then(<[u8]>::first_chunk);
        match code.map(|code| i32::from_ne_bytes(*code)) {
            Some(0) => Ok(()),
            Some(error) => Err(io::Error::from_raw_os_error(error.saturating_neg())),
            None => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

// From the kernel's include/uapi/linux/rtnetlink.h: libc does not have them.
const RTNH_F_ONLINK: u32 = 4;
const RTA_VIA: u16 = 18;

/// A message without its length yet.
struct Message(Vec<u8>);

impl Message {
    fn new(kind: u16, flags: libc::c_int, body: &[u8]) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend(kind.to_ne_bytes());
        // All flags that there are have 16 bits.
        bytes.extend(u16::try_from(flags).unwrap_or_default().to_ne_bytes());
        // Number and sender: there is only ever one message under way, from whom the kernel knows.
        bytes.extend([0; 8]);
        bytes.extend(body);
        Self(bytes)
    }

    /// A change of an interface.
    fn link(index: u32, flags: u32, mask: u32) -> Self {
        let words = [0, index, flags, mask];
        Self::new(libc::RTM_NEWLINK, CHANGE, &words.map(u32::to_ne_bytes).concat())
    }

    fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        // All that is sent here is short.
        let length = u16::try_from(value.len() + 4).unwrap_or_default();
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    fn address(self, kind: u16, address: IpAddr) -> Self {
        self.attribute(kind, &bytes(address))
    }

    fn finish(mut self) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).unwrap_or_default();
        self.0.splice(..4, length.to_ne_bytes());
        self.0
    }
}

fn family(address: IpAddr) -> u8 {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    u8::try_from(family).unwrap_or_default()
}

fn bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_their_lengths_and_are_aligned() {
        let message = Message::link(7, 1, 1).attribute(libc::IFLA_IFNAME, b"eth0\0").finish();
        assert_eq!(message.len(), 32 + 12);
        assert_eq!(message[..4], 44u32.to_ne_bytes());
        assert_eq!(message[32..34], 9u16.to_ne_bytes());
        assert_eq!(&message[36..], b"eth0\0\0\0\0");
    }

    #[test]
    fn refusals_of_the_kernel_are_errors() {
        let netlink = Netlink::open().unwrap();
        let error = netlink.set_up(u32::MAX >> 1, true).unwrap_err();
        assert!(matches!(error.raw_os_error(), Some(libc::ENODEV | libc::EPERM)), "{error}");
    }
}
