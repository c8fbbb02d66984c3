//! What a container may take.

use clap::Args;
use oci_spec::runtime::PosixRlimitType;

use super::super::Failure;
use super::{cpus, memory, size};
use crate::sandbox::limits::{Limits, Ulimit, listed};
use crate::vmm::config::MAX_VCPUS;

/// What a container may take: its guest keeps to it, and its machine is as large as it says.
#[derive(Debug, Args)]
pub struct LimitArgs {
    /// CPUs of the container, fractions allowed
    #[arg(long, value_name = "N", value_parser = cpus, conflicts_with_all = ["cpu_quota", "cpu_period"])]
    pub cpus: Option<f64>,
    /// Processors of the host that the machine runs on, such as 0-3,8; it has as many vCPUs
    #[arg(long, value_name = "LIST", value_parser = processors)]
    cpuset_cpus: Option<Processors>,
    /// Weight of the container's CPU time in the guest (2 to 262144)
    #[arg(short = 'c', long, value_name = "N")]
    cpu_shares: Option<u64>,
    /// Microseconds of a CPU period
    #[arg(long, value_name = "US", value_parser = clap::value_parser!(u64).range(1000..=1_000_000))]
    cpu_period: Option<u64>,
    /// Microseconds of CPU time in each period; -1 for any
    #[arg(long, value_name = "US", allow_negative_numbers = true,
        value_parser = clap::value_parser!(i64).range(-1..))]
    cpu_quota: Option<i64>,
    /// Memory limit of the container (b, k, m, g)
    #[arg(short, long, value_name = "SIZE", value_parser = memory)]
    pub memory: Option<u64>,
    /// Memory and swap together; -1 for any. A guest has no swap unless a container makes some
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true, value_parser = swap)]
    memory_swap: Option<i64>,
    /// Memory that is taken from the container last
    #[arg(long, value_name = "SIZE", value_parser = memory)]
    memory_reservation: Option<u64>,
    /// Most processes and threads of the container; -1 for any
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pids_limit: Option<i64>,
    /// Limit of each process (NAME=SOFT[:HARD], such as nofile=1024:2048)
    #[arg(long = "ulimit", value_name = "LIMIT", value_parser = ulimit)]
    ulimits: Vec<Ulimit>,
    /// How readily processes are killed for want of memory (-1000 to 1000)
    #[arg(long, value_name = "N", allow_negative_numbers = true,
        value_parser = clap::value_parser!(i32).range(-1000..=1000))]
    oom_score_adj: Option<i32>,
    /// Size of /dev/shm
    #[arg(long, value_name = "SIZE", value_parser = size)]
    shm_size: Option<u64>,
    /// Parameter of the kernel that is the container's own (NAME=VALUE)
    #[arg(long = "sysctl", value_name = "NAME=VALUE", value_parser = parameter)]
    sysctls: Vec<(String, String)>,
}

/// A list of processors: a `Vec` would be several values to clap.
#[derive(Debug, Clone)]
struct Processors(Vec<usize>);

fn processors(text: &str) -> Result<Processors, String> {
    let all = listed(text).ok_or("it is to be a list such as 0-3,8")?;
    if all.len() > usize::from(MAX_VCPUS) {
        return Err(format!("a machine has at most {MAX_VCPUS} vCPUs"));
    }
    Ok(Processors(all))
}

fn swap(text: &str) -> Result<i64, String> {
    if text == "-1" {
        return Ok(-1);
    }
    i64::try_from(size(text)?).map_err(|error| error.to_string())
}

fn parameter(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("it is to be NAME=VALUE".into()),
    }
}

/// `NAME=SOFT[:HARD]`, -1 for no limit.
fn ulimit(text: &str) -> Result<Ulimit, String> {
    let (name, values) = text.split_once('=').ok_or("it is to be NAME=SOFT[:HARD]")?;
    let kind = format!("RLIMIT_{}", name.to_ascii_uppercase()).parse::<PosixRlimitType>();
    let kind = kind.map_err(|_| format!("there is no limit {name:?}"))?;
    let value = |text: &str| match text {
        "-1" | "unlimited" => Ok(u64::MAX),
        text => text.parse().map_err(|_| format!("{text:?} is no number")),
    };
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    let (soft, hard) = (value(soft)?, value(hard)?);
    if soft > hard {
        return Err(format!("the soft limit of {name} is beyond the hard one"));
    }
    Ok(Ulimit { kind, soft, hard })
}

impl LimitArgs {
    /// The limits, where they go together (docker's rules).
    pub fn limits(self) -> Result<Limits, Failure> {
        match (self.memory, self.memory_swap) {
            (None, Some(swap)) if swap != -1 => {
                return Err("--memory-swap needs a --memory that is not beyond it".into());
            }
            (Some(memory), Some(swap)) if u64::try_from(swap).is_ok_and(|swap| swap < memory) => {
                return Err(
                    "--memory-swap is for memory and swap together: it is below --memory".into()
                );
            }
            _ => {}
        }
        if self.memory.zip(self.memory_reservation).is_some_and(|(most, kept)| kept > most) {
            return Err("--memory-reservation is beyond --memory".into());
        }
        Ok(Limits {
            cpuset: self.cpuset_cpus.map(|list| list.0).unwrap_or_default(),
            cpu_shares: self.cpu_shares,
            cpu_period: self.cpu_period,
            cpu_quota: self.cpu_quota,
            memory_swap: self.memory_swap,
            memory_reservation: self.memory_reservation,
            pids: self.pids_limit,
            ulimits: last_of_each(self.ulimits),
            oom_score_adj: self.oom_score_adj,
            shm_size: self.shm_size,
            sysctls: self.sysctls.into_iter().collect(),
        })
    }
}

/// The last of a kind counts.
fn last_of_each(ulimits: Vec<Ulimit>) -> Vec<Ulimit> {
    let mut kept: Vec<Ulimit> = Vec::new();
    for ulimit in ulimits {
        kept.retain(|other| other.kind != ulimit.kind);
        kept.push(ulimit);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ulimits_are_dockers() {
        let made = |soft, hard| Ulimit { kind: PosixRlimitType::RlimitNofile, soft, hard };
        assert_eq!(ulimit("nofile=1024").unwrap(), made(1024, 1024));
        assert_eq!(ulimit("nofile=1:2").unwrap(), made(1, 2));
        assert_eq!(ulimit("nofile=5:-1").unwrap(), made(5, u64::MAX));
        for bad in ["nofile", "nofile=", "nofile=2:1", "nofiles=1", "nofile=-2", "nofile=-1:5"] {
            assert!(ulimit(bad).is_err(), "{bad}");
        }
        let kept = last_of_each(vec![made(1, 1), made(2, 2)]);
        assert_eq!(kept, [made(2, 2)]);
    }

    #[test]
    fn swap_is_any_or_a_size() {
        assert_eq!((swap("-1"), swap("1m")), (Ok(-1), Ok(1 << 20)));
        assert!(swap("-2").is_err() && swap("x").is_err());
    }

    #[test]
    fn processors_are_a_list_of_as_many_as_a_machine_has() {
        assert_eq!(processors("0-2,5").unwrap().0, [0, 1, 2, 5]);
        assert!(processors("0-32").is_err() && processors("x").is_err());
    }

    proptest! {
        #[test]
        fn a_soft_limit_is_never_beyond_the_hard_one(text in "(nofile|core|x)=[-0-9:]{0,12}") {
            if let Ok(made) = ulimit(&text) {
                prop_assert!(made.soft <= made.hard);
            }
        }
    }
}
