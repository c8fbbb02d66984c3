//! What networks of containers need.

use std::path::{Path, PathBuf};
use std::{fs, io};

use nix::unistd::geteuid;

use super::finding::{Finding, Group};
use super::host_files::HostFiles;
use crate::network::firewall::{Firewall, FirewallError};
use crate::network::passt;
use crate::report::chain;

/// Looks at all of it.
pub fn look(host: &HostFiles) -> Group {
    let rules = geteuid().is_root().then(|| Firewall::open().and_then(|mut rules| rules.ports()));
    Group::new(
        Some("networks"),
        [
            ("taps", of_tun(fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun"))),
            ("rules", of_rules(rules)),
            ("IPv6", of_ipv6(host)),
            ("passt", of_passt(passt::find(), passt::is_sound)),
        ],
    )
}

fn of_tun(opened: io::Result<fs::File>) -> Finding {
    match opened {
        Ok(_) => Finding::Good("/dev/net/tun can be opened".into()),
        Err(error) => Finding::Weak(
            format!("bridge networks and `ampoule vm run --net` need /dev/net/tun: {error}"),
            "modprobe tun, or run as root",
        ),
    }
}

/// Of the kernel's packet filter, which root alone may ask.
fn of_rules(rules: Option<Result<Vec<String>, FirewallError>>) -> Finding {
    match rules {
        None => Finding::Weak(
            "bridge networks are root's: without root there are --network user and none".into(),
            "run as root",
        ),
        Some(Ok(ports)) => {
            Finding::Good(format!("nf_tables answers; rules of {} containers", ports.len()))
        }
        Some(Err(error)) => Finding::Weak(
            format!("bridge networks need the kernel's nf_tables: {}", chain(&error)),
            "modprobe -a nf_tables nft_chain_nat nft_masq bridge",
        ),
    }
}

fn of_ipv6(host: &HostFiles) -> Finding {
    match host.has("proc/sys/net/ipv6") {
        true => Finding::Good("the kernel has it".into()),
        false => Finding::Weak(
            "the kernel does without: networks have IPv4 alone".into(),
            "boot without ipv6.disable=1",
        ),
    }
}

fn of_passt(program: Option<PathBuf>, sound: fn(&Path) -> io::Result<bool>) -> Finding {
    let Some(program) = program else {
        return Finding::Weak(
            "there is none: without root containers have no network".into(),
            "apt-get install passt",
        );
    };
    let name = program.display();
    match sound(&program) {
        Ok(true) => Finding::Good(name.to_string()),
        Ok(false) => Finding::Weak(
            format!("{name} is older than August 2024: through one of 2023 long transfers stall"),
            "install a newer one, such as Debian 13's",
        ),
        Err(error) => {
            Finding::Weak(format!("{name} does not run: {error}"), "apt-get install passt")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::host_files::testing::host;
    use super::*;

    #[test]
    fn what_is_missing_comes_with_what_brings_it() {
        let refused = io::Error::from_raw_os_error(libc::ENOENT);
        assert!(matches!(of_tun(Err(refused)), Finding::Weak(..)));
        assert!(matches!(of_rules(None), Finding::Weak(..)));
        assert!(matches!(of_rules(Some(Ok(Vec::new()))), Finding::Good(_)));
        let found = |sound| of_passt(Some("/usr/bin/passt".into()), sound);
        assert!(matches!(of_passt(None, |_| Ok(true)), Finding::Weak(..)));
        assert!(matches!(found(|_| Ok(true)), Finding::Good(_)));
        assert!(matches!(found(|_| Ok(false)), Finding::Weak(..)));
        assert!(matches!(found(|_| Err(io::ErrorKind::NotFound.into())), Finding::Weak(..)));
        let (_root, files) = host(&[("proc/sys/net/ipv6/x", "")]);
        assert!(matches!(of_ipv6(&files), Finding::Good(_)));
        let (_root, files) = host(&[]);
        assert!(matches!(of_ipv6(&files), Finding::Weak(..)));
    }
}
