//! The files that tell a container of its network, as docker writes them. Pure, but for the reading of the
//! host's own.

use std::fmt::Write;
use std::fs;
use std::net::IpAddr;

use resolv_conf::{Config, ScopedIp};

use super::options::{Host, NetworkOptions};

/// Where the host's resolver is told whom to ask, and where systemd says whom its own asks.
const OF_HOST: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];

/// Largest such file that is read, in bytes.
const LIMIT: u64 = 1 << 20;

/// What a resolver is told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolver {
    /// Whom it asks.
    pub servers: Vec<IpAddr>,
    /// Domains that names are looked for in.
    pub search: Vec<String>,
    /// Its options.
    pub options: Vec<String>,
}

impl Resolver {
    /// What the host's own is told, as far as a guest can be told the same: who listens at the host's loopback
    /// addresses cannot be asked from elsewhere.
    pub fn of_host() -> Self {
        let mut last = Self::default();
        for path in OF_HOST {
            let small = fs::metadata(path).is_ok_and(|metadata| metadata.len() <= LIMIT);
            let Some(bytes) = small.then(|| fs::read(path).ok()).flatten() else { continue };
            let mut found = Self::parse(&bytes);
            found.servers.retain(|server| !server.is_loopback());
            if !found.servers.is_empty() {
                return found;
            }
            last.search = found.search;
        }
        last
    }

    /// Whom the host's own resolver asks, itself among them where it does.
    pub fn asked_by_host() -> Vec<IpAddr> {
        let bytes = fs::read(OF_HOST[0]).unwrap_or_default();
        Self::parse(&bytes).servers
    }

    /// What a `resolv.conf` says; nothing where it makes no sense.
    fn parse(bytes: &[u8]) -> Self {
        let Ok(config) = Config::parse(bytes) else { return Self::default() };
        let plain = |server: &ScopedIp| match server {
            ScopedIp::V4(four) => Some(IpAddr::V4(*four)),
            // What is said of an interface of the host means nothing elsewhere.
            ScopedIp::V6(six, None) => Some(IpAddr::V6(*six)),
            ScopedIp::V6(_, Some(_)) => None,
        };
        let search = config.get_last_search_or_domain().cloned().collect();
        let mut options = Vec::new();
        if config.ndots != 1 {
            options.push(format!("ndots:{}", config.ndots));
        }
        Self { servers: config.nameservers.iter().filter_map(plain).collect(), search, options }
    }

    /// With what the user has said.
    #[must_use]
    pub fn with(mut self, options: &NetworkOptions) -> Self {
        if !options.dns.is_empty() {
            self.servers.clone_from(&options.dns);
        }
        if !options.dns_search.is_empty() {
            // docker's word for none at all.
            let none = options.dns_search.iter().any(|domain| domain == ".");
            self.search = if none { Vec::new() } else { options.dns_search.clone() };
        }
        if !options.dns_options.is_empty() {
            self.options.clone_from(&options.dns_options);
        }
        self
    }

    /// `/etc/resolv.conf`.
    pub fn file(&self) -> String {
        let mut text = String::new();
        for server in &self.servers {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "nameserver {server}");
        }
        for (key, values) in [("search", &self.search), ("options", &self.options)] {
            if !values.is_empty() {
                let _ = writeln!(text, "{key} {}", values.join(" "));
            }
        }
        text
    }
}

/// `/etc/hosts`: `own` are the container's addresses, `gateway` is the host's on its network.
pub fn hosts(
    hostname: &str,
    domain: Option<&str>,
    own: &[IpAddr],
    added: &[Host],
    gateway: Option<IpAddr>,
) -> String {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::\tip6-localnet\n\
         ff00::\tip6-mcastprefix\n\
         ff02::1\tip6-allnodes\n\
         ff02::2\tip6-allrouters\n",
    );
    for Host { name, address } in added {
        if let Some(address) = address.or(gateway) {
            let _ = writeln!(text, "{address}\t{name}");
        }
    }
    let full = domain.map(|domain| format!("{hostname}.{domain} {hostname}"));
    let names = full.as_deref().unwrap_or(hostname);
    for address in own {
        let _ = writeln!(text, "{address}\t{names}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(text: &str) -> Resolver {
        Resolver::parse(text.as_bytes())
    }

    #[test]
    fn the_hosts_file_is_read_and_written_again() {
        let text = "# mine\nnameserver 192.0.2.1\nnameserver 2001:db8::1\nsearch a.example b.example\n\
                    options ndots:5\n";
        let resolver = parsed(text);
        let expected = "nameserver 192.0.2.1\nnameserver 2001:db8::1\nsearch a.example b.example\n\
                        options ndots:5\n";
        assert_eq!(resolver.file(), expected);
        assert_eq!(parsed("nameserver fe80::1%eth0\n").servers, Vec::<IpAddr>::new());
    }

    #[test]
    fn what_the_user_says_stands_in_its_place() {
        let options = NetworkOptions {
            dns: vec!["192.0.2.9".parse().unwrap()],
            dns_search: vec![".".into()],
            dns_options: vec!["timeout:1".into()],
            ..NetworkOptions::default()
        };
        let resolver = parsed("nameserver 192.0.2.1\nsearch a.example\n").with(&options);
        assert_eq!(resolver.file(), "nameserver 192.0.2.9\noptions timeout:1\n");
    }

    #[test]
    fn hosts_are_dockers() {
        let added = [
            Host { name: "db".into(), address: Some("192.0.2.7".parse().unwrap()) },
            Host { name: "host.internal".into(), address: None },
        ];
        let own = ["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()];
        let text = hosts("web", None, &own, &added, Some("10.0.0.1".parse().unwrap()));
        let tail = "192.0.2.7\tdb\n10.0.0.1\thost.internal\n10.0.0.2\tweb\nfd00::2\tweb\n";
        assert!(text.starts_with("127.0.0.1\tlocalhost\n") && text.ends_with(tail), "{text}");
        let text = hosts("web", Some("example"), &own[..1], &[], None);
        assert!(text.ends_with("10.0.0.2\tweb.example web\n"), "{text}");
        assert!(!hosts("web", None, &[], &added[1..], None).contains("host.internal"));
    }

    proptest! {
        #[test]
        fn any_file_is_read(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Resolver::parse(&bytes).file();
        }
    }
}
