//! Turns on that the host forwards packets, without making it a router between its other interfaces.
//!
//! A host whose administrator has turned it on is a router, and stays one. Where ampoule turns it on, others
//! did not ask for it: what comes from no bridge of ampoule's and goes to none is dropped, as docker has it by
//! the policy of iptables' FORWARD.
//!
//! Who turned it on is written down below `/run`, as what it is about goes with a reboot, too: the rules may be
//! flushed, and then nothing else would tell.

use std::fs;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use crate::network::firewall::{Families, Firewall};
use crate::report::chain;

use super::error::{BridgeError, file};

/// Where the kernel is told.
const SYSCTL: &str = "/proc/sys/net";
const FOUR: &str = "ipv4/ip_forward";
const SIX: &str = "ipv6/conf/all/forwarding";

/// Where it is written down, with the cookie of the network namespace behind it.
const RECORD: &str = "/run/ampoule-forwarding";

/// Has the host forward for a network: rules first. Other interfaces are not kept apart unless `close`. Nobody
/// else is about it: the caller is alone.
pub fn turn_on(firewall: &mut Firewall, six: bool, close: bool) -> Result<(), BridgeError> {
    let off = Families { four: is_off(FOUR), six: six && is_off(SIX) };
    let record = record();
    let own = read(&record);
    let turned = Families { four: own.four || off.four, six: own.six || off.six };
    if turned != own {
        // Whatever becomes of it: without it a flush opens the host, and nothing else.
        if let Err(error) = write(&record, turned) {
            log::warn!("{}", chain(&error));
        }
    }
    if close {
        firewall.close_others(turned)?;
    }
    for (is_off, key) in [(off.four, FOUR), (off.six, SIX)] {
        if is_off {
            super::link::set(key, "1");
        }
    }
    Ok(())
}

/// Puts back what was closed, where somebody has flushed it.
pub fn put_back(firewall: &mut Firewall, close: bool) -> Result<(), BridgeError> {
    let own = read(&record());
    if close && own != Families::default() {
        firewall.close_others(own)?;
    }
    Ok(())
}

/// A kernel without the newer protocol has nothing to turn on.
fn is_off(key: &str) -> bool {
    fs::read_to_string(Path::new(SYSCTL).join(key)).is_ok_and(|now| now.trim() == "0")
}

fn record() -> PathBuf {
    PathBuf::from(format!("{RECORD}-{}", cookie().unwrap_or(0)))
}

/// What tells this network namespace from all others since the host was booted; from Linux 5.14 on.
fn cookie() -> Option<u64> {
    let socket = std::net::UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    let mut cookie = 0u64;
    let mut length = libc::socklen_t::try_from(size_of_val(&cookie)).ok()?;
    // SAFETY: the value has as much room as is said.
    let told = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    (told == 0).then_some(cookie)
}

fn read(record: &Path) -> Families {
    parse(&fs::read(record).unwrap_or_default())
}

fn write(record: &Path, families: Families) -> Result<(), BridgeError> {
    let text = [(families.four, "4"), (families.six, "6")];
    let text: String = text.iter().filter(|(is, _)| *is).map(|(_, word)| *word).collect();
    fs::write(record, text).map_err(file("write", record))
}

fn parse(text: &[u8]) -> Families {
    Families { four: text.contains(&b'4'), six: text.contains(&b'6') }
}

/// What was written down of a namespace that is gone.
#[cfg(test)]
fn forget() {
    match fs::remove_file(record()) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("{error}"),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::testing::Namespace;

    #[test]
    fn who_turned_it_on_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("record");
        assert_eq!(read(&path), Families::default());
        for (four, six) in [(true, false), (false, true), (true, true)] {
            write(&path, Families { four, six }).unwrap();
            assert_eq!(read(&path), Families { four, six });
        }
    }

    #[test]
    fn a_router_stays_one_and_another_host_does_not_become_one() {
        let Some(host) = Namespace::possible(&["nft", "nsenter"]) else { return };
        let turn = |six: &str, close: bool| {
            host.run(&format!(
                "echo 0 > /proc/sys/net/ipv4/ip_forward; echo {six} > /proc/sys/net/ipv6/conf/all/forwarding"
            ));
            host.within(|| {
                forget();
                let mut firewall = Firewall::open().unwrap();
                firewall.ensure().unwrap();
                turn_on(&mut firewall, true, close).unwrap();
                // As the next network finds it.
                turn_on(&mut firewall, true, close).unwrap();
            });
            let on = "cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/forwarding";
            assert_eq!(host.run(on), "1\n1\n");
            let closed = || {
                let shown = host.run("nft list chain inet ampoule others");
                (shown.contains("ipv4 drop"), shown.contains("ipv6 drop"))
            };
            let before = closed();
            host.run("nft flush ruleset");
            host.within(|| {
                let mut firewall = Firewall::open().unwrap();
                firewall.ensure().unwrap();
                put_back(&mut firewall, close).unwrap();
                forget();
            });
            assert_eq!(closed(), before);
            host.run("nft flush ruleset");
            before
        };
        assert_eq!(turn("0", true), (true, true));
        // Of IPv6 it is one.
        assert_eq!(turn("1", true), (true, false));
        assert_eq!(turn("0", false), (false, false));
    }
}
