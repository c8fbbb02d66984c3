//! Puts rules back that somebody has removed: `nft flush ruleset`, as a restart of Debian's `nftables.service`
//! does it, takes ampoule's tables along, and would leave the containers that run without a filter.
//!
//! Each container's keeper has a thread that waits for that. It makes the tables where nobody was faster, and
//! in them what is its own container's.
//!
//! * [`watch`]: when to look; pure

mod watch;

use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::error::{BridgeError, host};
use super::forwarding;
use super::port::{self, Port};
use super::store::Settings;
use crate::network::firewall::{Firewall, FirewallError, NetworkRules, PortRules, TABLES};
use crate::network::nft::{Events, Heard, NftError};
use crate::report::chain;
use watch::Watch;

/// What the thread is told.
#[derive(Debug, Default)]
struct Told {
    /// What is to be there.
    kept: Vec<(NetworkRules, PortRules)>,
    /// Something went while nothing was to be there yet.
    missed: bool,
    /// Nothing is to be there any more.
    ended: bool,
}

#[derive(Debug)]
struct Shared {
    told: Mutex<Told>,
    /// Counts what the thread is to be woken for.
    wake: EventFd,
}

impl Shared {
    fn told(&self) -> MutexGuard<'_, Told> {
        // Each change of it is one call.
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // A counter that is far from full.
        let _ = self.wake.write(1);
    }
}

/// Keeps the rules of a container's ports where they are, for as long as this lives.
#[derive(Debug)]
pub struct Guard {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Guard {
    /// Listens from here on, in the caller's network namespace.
    pub fn start(settings: Settings) -> Result<Self, BridgeError> {
        let events = Events::open().map_err(FirewallError::from)?;
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
        let wake = wake.map_err(host("make an event"))?;
        let shared = Arc::new(Shared { told: Mutex::default(), wake });
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("rules".into()).spawn(move || {
            if let Err(error) = listen(events, &of_thread, settings) {
                log::warn!("rules that are removed will not be put back: {}", chain(&error));
            }
        });
        Ok(Self { shared, thread: Some(thread.map_err(host("start a thread"))?) })
    }

    /// Keeps the rules of a port that has them.
    pub fn keep(&self, port: &Port) {
        self.keep_rules(port.rules());
    }

    fn keep_rules(&self, rules: (NetworkRules, PortRules)) {
        let mut told = self.shared.told();
        told.kept.push(rules);
        if std::mem::take(&mut told.missed) {
            self.shared.wake();
        }
    }

    /// Keeps those of a port no longer, which is about to be undone.
    pub fn let_go(&self, tap: &str) {
        self.shared.told().kept.retain(|(_, port)| port.tap != tap);
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.shared.told().ended = true;
        self.shared.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn listen(mut events: Events, shared: &Shared, settings: Settings) -> Result<(), NftError> {
    let mut watch = Watch::default();
    loop {
        let patience = watch.patience(Instant::now()).map_or(PollTimeout::NONE, timeout);
        let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut fds = [readable(shared.wake.as_fd()), readable(events.as_fd())];
        match poll(&mut fds, patience) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(NftError::Socket(errno.into())),
        }
        let mut heard = events.heard(TABLES)?;
        // What there is to look after.
        if shared.wake.read().is_ok() {
            heard = Heard::Gone;
        }
        // Whoever is undone waits until this is done.
        let mut told = shared.told();
        if told.ended {
            return Ok(());
        }
        if watch.hear(heard, Instant::now()) {
            told.missed = told.kept.is_empty();
            let mended = mend(&told.kept, settings);
            if let Err(error) = &mended {
                log::warn!("rules that were removed are not back yet: {}", chain(error));
            }
            watch.looked(mended.is_ok(), Instant::now());
        }
    }
}

/// A millisecond more than asked for, rather than less.
fn timeout(patience: Duration) -> PollTimeout {
    let millis = patience.as_millis().saturating_add(1);
    PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)
}

/// Makes what is missing of one container's rules, and of what all have in common.
fn mend(kept: &[(NetworkRules, PortRules)], settings: Settings) -> Result<(), BridgeError> {
    if kept.is_empty() {
        return Ok(());
    }
    // All keepers of this host have heard the same, and a start may be about it, too.
    let _alone = port::alone()?;
    let mut firewall = Firewall::open()?;
    let mut mended = false;
    for (network, port) in kept {
        mended |= firewall.put_back(network, &[port])?;
    }
    if mended {
        forwarding::put_back(&mut firewall, settings.close_forwarding)?;
        log::info!("somebody removed the packet filter's rules: those of this container are back");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::store::Pools;
    use super::*;
    use crate::network::egress::Egress;
    use crate::network::nft::events::GROUP;
    use crate::network::nft::netlink::Netlink;
    use crate::network::testing::Namespace;

    fn rules(number: u8) -> (NetworkRules, PortRules) {
        let network = NetworkRules {
            bridge: format!("br{number}"),
            subnets: vec![format!("10.9.{number}.0/24").parse().unwrap()],
            masquerade: true,
            internal: false,
            icc: true,
        };
        let port = PortRules {
            tap: format!("tap{number}"),
            bridge: network.bridge.clone(),
            mac: [2, 0, 0, 0, 0, number],
            addresses: vec![[10, 9, number, 2].into()],
            egress: Egress::None,
            published: Vec::new(),
        };
        (network, port)
    }

    /// What nft shows, in an order that does not depend on who was first.
    fn shown(host: &Namespace) -> Vec<String> {
        let text = host.run("nft -s list ruleset");
        let words = text.split(|c: char| c.is_whitespace() || c == ',');
        let mut words: Vec<_> = words.filter(|word| !word.is_empty()).map(str::to_owned).collect();
        words.sort_unstable();
        words
    }

    /// Waits until they are as they were.
    fn await_rules(host: &Namespace, told: &mut Netlink, wanted: &[String]) {
        loop {
            // Before the look: what changes after it is told. Too much is told, too.
            while told.receive().unwrap_or(true) {}
            let now = shown(host);
            if now == wanted {
                return;
            }
            let mut fds = [PollFd::new(told.as_fd(), PollFlags::POLLIN)];
            let changed = poll(&mut fds, PollTimeout::from(20_000u16)).unwrap();
            assert_eq!(changed, 1, "{now:?}");
        }
    }

    fn settings() -> Settings {
        let net = |second, prefix| ipnet::Ipv4Net::new_assert([10, second, 0, 0].into(), prefix);
        let pools = Pools { default: net(201, 16), others: net(202, 15), prefix: 24 };
        Settings { pools, close_forwarding: true }
    }

    fn all_that_is_told(host: &Namespace) -> Netlink {
        let mut told = host.within(|| Netlink::open().unwrap());
        told.join(GROUP).unwrap();
        told
    }

    #[test]
    fn what_went_before_there_was_something_to_keep_is_not_missed() {
        let Some(host) = Namespace::possible(&["nft", "nsenter"]) else { return };
        let mut firewall = host.within(|| Firewall::open().unwrap());
        let (network, port) = rules(1);
        firewall.put_back(&network, &[&port]).unwrap();
        let before = shown(&host);
        let mut told = all_that_is_told(&host);
        let guard = host.within(|| Guard::start(settings()).unwrap());
        host.run("nft flush ruleset");
        guard.keep_rules((network, port));
        await_rules(&host, &mut told, &before);
    }

    #[test]
    fn what_is_flushed_is_put_back_by_all_together() {
        let Some(host) = Namespace::possible(&["nft", "nsenter"]) else { return };
        let mut firewall = host.within(|| Firewall::open().unwrap());
        let all: Vec<_> = (1..5).map(rules).collect();
        for (network, port) in &all {
            assert!(firewall.put_back(network, &[port]).unwrap());
            assert!(!firewall.put_back(network, &[port]).unwrap());
        }
        let before = shown(&host);
        // As many keepers.
        let start = |rules: &(NetworkRules, PortRules)| {
            let guard = host.within(|| Guard::start(settings()).unwrap());
            guard.keep_rules(rules.clone());
            guard
        };
        let guards: Vec<_> = all.iter().map(start).collect();
        let mut told = all_that_is_told(&host);
        for flush in [
            "nft flush ruleset",
            "nft delete table bridge ampoule",
            "nft delete table inet ampoule",
            "nft flush ruleset; nft flush ruleset",
        ] {
            host.run(flush);
            await_rules(&host, &mut told, &before);
        }
        // Nobody puts back what is no longer to be there.
        guards.iter().zip(&all).for_each(|(guard, (_, port))| guard.let_go(&port.tap));
        host.run("nft flush ruleset");
        drop(guards);
        assert_eq!(shown(&host), Vec::<String>::new());
    }
}
