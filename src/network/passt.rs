//! A guest's network without any privilege: passt, a program of its own, speaks for the guest by sockets that
//! its user may open anyway. Frames go to and from it over a stream socket, each after its length
//! (QEMU's `-netdev stream`).
//!
//! It ends when the other end of that socket does, however that comes about.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ampoule_protocol::message::{Cidr, Interface, Route};
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::unistd::pipe2;

use super::firewall::{Protocol, Published};
use super::publish::{Publish, PublishError, Reserved};

/// The program.
const PROGRAM: &str = "passt";

/// Most bytes of what it says that are told.
const SAID: u64 = 4096;

/// How long it may take to open what it needs.
const PATIENCE: Duration = Duration::from_secs(10);

/// Longest answer to a question for an address, in bytes.
const LONGEST: u32 = 1500;

/// What the guest has in the older protocol: slirp's, which many programs know.
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
const NAME_SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);
const PREFIX: u8 = 24;

/// What it has in the newer one.
const GUEST_6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xa00, 0x200, 0, 0, 0, 0, 0xf);
const GATEWAY_6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xa00, 0x200, 0, 0, 0, 0, 2);
const PREFIX_6: u8 = 64;

/// Hardware address of its interface, which nobody else sees.
pub const MAC: [u8; 6] = [0x02, 0x42, 10, 0, 2, 15];

/// Largest packet: passt takes what a length of 16 bits can say.
const MTU: u32 = 65_520;

/// Where the kernel tells of routes of the newer protocol.
const ROUTES_6: &str = "/proc/net/ipv6_route";

/// Why passt does not speak for a guest.
#[derive(Debug, thiserror::Error)]
pub enum PasstError {
    /// it is not there
    #[error(
        "network user needs the program passt, which is not in PATH: install it (Debian: apt-get install \
         passt), or use --network none"
    )]
    Missing,
    /// it could not be started
    #[error("cannot start passt")]
    Start(#[source] io::Error),
    /// it has ended at once
    #[error("passt does not start: {0}")]
    Ended(String),
    /// a port of the host
    #[error(transparent)]
    Publish(#[from] PublishError),
}

/// passt, as long as it speaks for a guest.
#[derive(Debug)]
pub struct Passt {
    child: Child,
    /// The guest's end, until its monitor has it.
    socket: Option<OwnedFd>,
    /// Ports of the host that lead to the guest.
    pub published: Vec<Published>,
    six: bool,
}

/// Where the program is.
pub fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
    std::env::split_paths(&path).map(|folder| folder.join(PROGRAM)).find(|path| path.is_file())
}

/// What those of 2024-08 and later can do. Which version it is, not every one tells.
const OF_2024: &str = "--map-host-loopback";

/// Whether long transfers come through it: those of one of March 2023 (Debian 12's) stall, and some of their bytes
/// come twice; with one of May 2025 they do not.
///
/// # Errors
/// It cannot be run.
pub fn is_sound(program: &Path) -> io::Result<bool> {
    let told = Command::new(program).arg("--help").stdin(Stdio::null()).output()?;
    Ok(is_of_2024(&told.stdout) || is_of_2024(&told.stderr))
}

fn is_of_2024(help: &[u8]) -> bool {
    String::from_utf8_lossy(help).contains(OF_2024)
}

impl Passt {
    /// Starts it, and waits until it has opened what it needs.
    pub fn start(publish: &[Publish]) -> Result<Self, PasstError> {
        let program = find().ok_or(PasstError::Missing)?;
        let six = host_has_ipv6();
        // passt binds them itself: they are looked for here, and let go of.
        let reserved = publish.iter().map(Reserved::new).collect::<Result<Vec<_>, _>>()?;
        let addresses = [IpAddr::V4(GUEST), IpAddr::V6(GUEST_6)];
        let addresses = if six { &addresses[..] } else { &addresses[..1] };
        let published: Vec<Published> =
            reserved.iter().flat_map(|port| port.leads_to(addresses)).collect();
        drop(reserved);

        let (ours, theirs) = UnixStream::pair().map_err(PasstError::Start)?;
        let (said, says) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).map_err(errno)?;
        let mut command = Command::new(program);
        command
            .args(arguments(theirs.as_raw_fd(), six, &published))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(says)
            .current_dir("/")
            .process_group(0);
        let inherited = theirs.as_raw_fd();
        // SAFETY: between fork and exec it changes a flag of the child's own descriptor, which is open.
        unsafe {
            command.pre_exec(move || {
                let socket = BorrowedFd::borrow_raw(inherited);
                fcntl(socket, FcntlArg::F_SETFD(FdFlag::empty()))?;
                Ok(())
            });
        }
        let mut child = command.spawn().map_err(PasstError::Start)?;
        drop((theirs, command));
        if !answers(&ours) {
            let _ = child.kill();
            let _ = child.wait();
            let mut text = Vec::new();
            // What is not there any more is not waited for.
            let _ = File::from(said).take(SAID).read_to_end(&mut text);
            return Err(PasstError::Ended(last_words(&text)));
        }
        Ok(Self { child, socket: Some(ours.into()), published, six })
    }

    /// The guest's end of the socket, to be plugged in.
    pub fn take_socket(&mut self) -> Option<OwnedFd> {
        self.socket.take()
    }

    /// Who answers for names.
    pub fn name_server() -> IpAddr {
        NAME_SERVER.into()
    }

    /// What the guest is told of its interface.
    pub fn interface(&self, name: &str) -> Interface {
        let mut addresses: Vec<Cidr> = Cidr::new(GUEST.into(), PREFIX).into_iter().collect();
        let mut routes = routes(GUEST.into(), PREFIX, GATEWAY.into());
        if self.six {
            addresses.extend(Cidr::new(GUEST_6.into(), PREFIX_6));
            routes.extend(self::routes(GUEST_6.into(), PREFIX_6, GATEWAY_6.into()));
        }
        Interface {
            slot: 0,
            name: name.to_owned(),
            mac: MAC,
            mtu: Some(MTU),
            addresses,
            routes,
            neighbours: Vec::new(),
        }
    }

    /// Its gateways, as the guest sees them.
    pub fn gateways(&self) -> Vec<IpAddr> {
        let six = self.six.then_some(IpAddr::V6(GATEWAY_6));
        [IpAddr::V4(GATEWAY)].into_iter().chain(six).collect()
    }
}

impl Drop for Passt {
    /// It ends by itself, but its caller waits for nobody.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn errno(errno: nix::errno::Errno) -> PasstError {
    PasstError::Start(errno.into())
}

/// Asks for its hardware address, as the guest will: it answers when it has opened everything, and the socket
/// ends where that fails.
fn answers(socket: &UnixStream) -> bool {
    let [nobody, everybody] = [[0; 6], [0xff; 6]];
    // ARP (RFC 826) over Ethernet, after its length.
    let mut frame = vec![0, 0, 0, 42];
    frame.extend(everybody);
    frame.extend(MAC);
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(MAC);
    frame.extend(GUEST.octets());
    frame.extend(nobody);
    frame.extend(GATEWAY.octets());
    let asked = socket.set_read_timeout(Some(PATIENCE)).and_then(|()| (&*socket).write_all(&frame));
    let mut length = [0; 4];
    if asked.and_then(|()| (&*socket).read_exact(&mut length)).is_err() {
        return false;
    }
    // What it answers is of no interest, but is not the guest's.
    let length = u32::from_be_bytes(length);
    let mut answer = Vec::new();
    let read = socket.take(length.into()).read_to_end(&mut answer);
    length <= LONGEST && read.is_ok() && socket.set_read_timeout(None).is_ok()
}

fn arguments(socket: i32, six: bool, published: &[Published]) -> Vec<String> {
    let mut words: Vec<String> = ["--foreground", "--quiet", "--one-off"].map(str::to_owned).into();
    let mut say = |key: &str, value: String| words.extend([key.to_owned(), value]);
    say("--fd", socket.to_string());
    say("--address", GUEST.to_string());
    say("--netmask", PREFIX.to_string());
    say("--gateway", GATEWAY.to_string());
    say("--dns-forward", NAME_SERVER.to_string());
    say("--mtu", MTU.to_string());
    if six {
        say("--address", GUEST_6.to_string());
        say("--gateway", GATEWAY_6.to_string());
    }
    for port in published {
        let key = match port.protocol {
            Protocol::Tcp => "--tcp-ports",
            Protocol::Udp => "--udp-ports",
            // It knows no other.
            Protocol::Sctp => continue,
        };
        // Both families at once where no address is named.
        if port.host.is_some() || port.container.is_ipv4() {
            let host = port.host.map(|host| format!("{host}/")).unwrap_or_default();
            say(key, format!("{host}{}:{}", port.host_port, port.container_port));
        }
    }
    // The host's own loopback addresses are not the guest's to reach.
    words.push("--no-map-gw".to_owned());
    if !six {
        words.push("--ipv4-only".to_owned());
    }
    words
}

fn routes(address: IpAddr, prefix: u8, gateway: IpAddr) -> Vec<Route> {
    let anywhere: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let network = ipnet::IpNet::new(address, prefix).map(|net| net.network()).unwrap_or(address);
    let route = |destination: IpAddr, prefix, gateway: Option<IpAddr>| {
        let scope = if gateway.is_none() && destination.is_ipv4() { 253 } else { 0 };
        let destination = Cidr::new(destination, prefix)?;
        Some(Route { destination, gateway, source: None, metric: None, scope, on_link: false })
    };
    [route(network, prefix, None), route(anywhere, 0, Some(gateway))]
        .into_iter()
        .flatten()
        .collect()
}

/// Whether the host has a way out in the newer protocol.
fn host_has_ipv6() -> bool {
    has_way_out(&std::fs::read_to_string(ROUTES_6).unwrap_or_default())
}

/// Looks for a default route over another interface than loopback's (proc(5)).
fn has_way_out(routes: &str) -> bool {
    routes.lines().any(|line| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let everywhere = words.first().is_some_and(|to| to.bytes().all(|digit| digit == b'0'));
        everywhere && words.get(1) == Some(&"00") && words.last().is_some_and(|dev| *dev != "lo")
    })
}

/// Without what says only that nobody keeps a log.
fn last_words(said: &[u8]) -> String {
    let text = String::from_utf8_lossy(said);
    let lines: Vec<&str> =
        text.lines().filter(|l| !l.trim().is_empty() && !l.contains("to syslog")).collect();
    lines.last().map_or_else(|| "it said nothing".to_owned(), |line| (*line).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_out_is_a_default_route_over_a_card() {
        let zero = "0".repeat(32);
        let line = |prefix: &str, device: &str| {
            format!(
                "{zero} {prefix} {zero} 00 {zero} ffffffff 00000001 00000000 00200200 {device}\n"
            )
        };
        assert!(has_way_out(&line("00", "eth0")));
        assert!(!has_way_out(&line("00", "lo")) && !has_way_out(&line("40", "eth0")));
        assert!(!has_way_out("") && !has_way_out("x y z\n"));
    }

    #[test]
    fn an_old_one_is_known_by_what_it_cannot_do() {
        let common = "  --no-map-gw\t\tDon't map gateway address to host\n";
        let newer =
            format!("  --map-host-loopback ADDR\tTranslate ADDR to refer to host\n{common}");
        assert!(is_of_2024(newer.as_bytes()));
        assert!(!is_of_2024(common.as_bytes()) && !is_of_2024(b"\xff\xfe"));
    }

    #[test]
    fn what_it_is_told_is_what_the_guest_is_told() {
        let published = Published {
            host: Some("127.0.0.1".parse().unwrap()),
            host_port: 8080,
            container: GUEST.into(),
            container_port: 80,
            protocol: Protocol::Udp,
        };
        let words = arguments(7, false, &[published]).join(" ");
        assert!(words.contains("--fd 7 ") && words.contains("--udp-ports 127.0.0.1/8080:80"));
        assert!(words.contains("--ipv4-only") && words.contains("--no-map-gw"), "{words}");
        assert_eq!(
            last_words(b"Failed to send 3 bytes to syslog\nNo routable interface\n\n"),
            "No routable interface"
        );
    }
}
