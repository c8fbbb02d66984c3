//! What one client may take of a name server, so that there is enough for the others. Pure.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Queries of one client within a second.
const RATE: u32 = 1000;

/// Clients whose queries are counted: more have no place on a network.
const MAX_CLIENTS: usize = 4096;

/// What one client waits for at a time, and all of them.
const WAITING: usize = 32;
const ALL_WAITING: usize = 512;

/// How much each client takes.
#[derive(Debug)]
pub struct Bounds {
    second: Instant,
    asked: HashMap<IpAddr, u32>,
    waiting: HashMap<IpAddr, usize>,
    all_waiting: usize,
}

impl Bounds {
    /// Nobody takes anything.
    pub fn new(now: Instant) -> Self {
        Self { second: now, asked: HashMap::new(), waiting: HashMap::new(), all_waiting: 0 }
    }

    /// Whether a client's query is looked at.
    pub fn asks(&mut self, client: IpAddr, now: Instant) -> bool {
        if now.saturating_duration_since(self.second) >= Duration::from_secs(1) {
            self.second = now;
            self.asked.clear();
        }
        if self.asked.len() >= MAX_CLIENTS && !self.asked.contains_key(&client) {
            return false;
        }
        let asked = self.asked.entry(client).or_default();
        *asked = asked.saturating_add(1);
        *asked <= RATE
    }

    /// Whether a client may wait for one thing more: until it [`leaves`](Self::leaves).
    pub fn waits(&mut self, client: IpAddr) -> bool {
        let waiting = self.waiting.get(&client).copied().unwrap_or_default();
        if waiting >= WAITING || self.all_waiting >= ALL_WAITING {
            return false;
        }
        self.waiting.insert(client, waiting + 1);
        self.all_waiting += 1;
        true
    }

    /// A client waits for one thing less.
    pub fn leaves(&mut self, client: IpAddr) {
        if let Some(waiting) = self.waiting.get_mut(&client) {
            *waiting = waiting.saturating_sub(1);
            self.all_waiting = self.all_waiting.saturating_sub(1);
            if *waiting == 0 {
                self.waiting.remove(&client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_floods_leaves_enough_for_others() {
        let (loud, quiet) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let now = Instant::now();
        let mut bounds = Bounds::new(now);
        assert_eq!((0..5000).filter(|_| bounds.asks(loud, now)).count(), RATE as usize);
        assert!(bounds.asks(quiet, now));
        assert!(bounds.asks(loud, now + Duration::from_secs(1)));
        assert_eq!((0..100).filter(|_| bounds.waits(loud)).count(), WAITING);
        assert!(bounds.waits(quiet));
        bounds.leaves(loud);
        assert!(bounds.waits(loud) && !bounds.waits(loud));
        let others = (0..=255u8).map(|n| IpAddr::from([10, 1, 0, n]));
        let all: usize = others.map(|c| (0..40).filter(|_| bounds.waits(c)).count()).sum();
        assert_eq!(all, ALL_WAITING - WAITING - 1);
    }
}
