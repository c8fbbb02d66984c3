//! How much a container's network and disks may do in a second.

use clap::Args;

use super::size;
use crate::sandbox::rates::{NetRates, Rates};
use crate::vmm::rate::{RateLimiter, TokenBucket};

/// How much a container's network and disks may do in a second.
#[derive(Debug, Args)]
pub struct RateArgs {
    /// Most that comes to the container, and that it sends, in a second, on each network interface
    /// (in=SIZE,out=SIZE,in-packets=N,out-packets=N; sizes in bytes, with b, k, m, g)
    #[arg(long, value_name = "LIMITS", value_parser = network)]
    network_rate: Option<NetRates>,
    /// Most that each of its disks does in a second, reads and writes together (bytes=SIZE,requests=N). What
    /// is mounted from the host is on none of them
    #[arg(long, value_name = "LIMITS", value_parser = disk)]
    disk_rate: Option<RateLimiter>,
}

impl RateArgs {
    /// All limits.
    pub fn rates(&self) -> Rates {
        Rates {
            network: self.network_rate.unwrap_or_default(),
            disk: self.disk_rate.unwrap_or_default(),
        }
    }
}

fn network(text: &str) -> Result<NetRates, String> {
    let mut rates = NetRates::NONE;
    for (key, rate) in limits(text)? {
        let limit = match key {
            "in" => &mut rates.rx.bandwidth,
            "out" => &mut rates.tx.bandwidth,
            "in-packets" => &mut rates.rx.ops,
            "out-packets" => &mut rates.tx.ops,
            _ => return Err(format!("there is no limit {key:?}")),
        };
        set(limit, key, rate)?;
    }
    Ok(rates)
}

fn disk(text: &str) -> Result<RateLimiter, String> {
    let mut rates = RateLimiter::NONE;
    for (key, rate) in limits(text)? {
        let limit = match key {
            "bytes" => &mut rates.bandwidth,
            "requests" => &mut rates.ops,
            _ => return Err(format!("there is no limit {key:?}")),
        };
        set(limit, key, rate)?;
    }
    Ok(rates)
}

/// Names and numbers, which are not 0: that would be no limit, or none that lets anything through.
fn limits(text: &str) -> Result<Vec<(&str, u64)>, String> {
    let limit = |part| {
        let (key, rate) =
            str::split_once(part, '=').ok_or(format!("{part:?} is no NAME=NUMBER"))?;
        match size(rate)? {
            0 => Err(format!("{key}: a limit is at least 1")),
            rate => Ok((key, rate)),
        }
    };
    text.split(',').map(limit).collect()
}

fn set(limit: &mut Option<TokenBucket>, key: &str, rate: u64) -> Result<(), String> {
    match limit.replace(TokenBucket::per_second(rate)) {
        None => Ok(()),
        Some(_) => Err(format!("{key} is there twice")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn limits_are_per_second() {
        let rates = network("in=10m,out-packets=500").unwrap();
        let tenth = |size| Some(TokenBucket { size, one_time_burst: 0, refill_time: 100 });
        assert_eq!(rates.rx, RateLimiter { bandwidth: tenth(1 << 20), ops: None });
        assert_eq!(rates.tx, RateLimiter { bandwidth: None, ops: tenth(50) });
        let rates = disk("requests=100,bytes=1m").unwrap();
        assert_eq!(rates, RateLimiter { bandwidth: tenth(104_858), ops: tenth(10) });
    }

    #[test]
    fn what_limits_nothing_is_refused() {
        for wrong in ["", "in", "in=", "in=0", "in=x", "in=1,", "in=1,in=2", "bytes=1", "in=-1"] {
            assert!(network(wrong).is_err(), "{wrong}");
        }
        for wrong in ["read=1m", "bytes=0", "bytes=1,bytes=1"] {
            assert!(disk(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn a_limit_that_is_taken_limits(text in "(in|out|in-packets|bytes|,|=|[0-9kmg]){0,12}") {
            if let Ok(rates) = network(&text) {
                prop_assert!(rates.rx.limits() || rates.tx.limits());
            }
            if let Ok(rates) = disk(&text) {
                prop_assert!(rates.limits());
            }
        }
    }
}
