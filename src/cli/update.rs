//! `ampoule update`: other limits, and another restart policy, for containers that are there.

use std::process::ExitCode;

use ampoule_protocol::message::Request;
use clap::Args as ClapArgs;

use super::arguments::{cpus, memory};
use super::{Failure, Global, each};
use crate::agent::{Client, EXCHANGE_TIME};
use crate::sandbox::limits::resources;
use crate::sandbox::{InGuest, Options, Registry, RestartPolicy, events, join};

/// Change limits and restart policies of containers, running or not
///
/// A running container's limits stay within the machine that it was started with.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:\n  ampoule update --restart unless-stopped web\n  \
    ampoule update -m 256m --pids-limit 100 web")]
pub struct Args {
    /// When the container is started again: no, on-failure[:MAX], always, unless-stopped
    #[arg(long, value_name = "POLICY")]
    restart: Option<RestartPolicy>,
    /// CPUs of the container, fractions allowed
    #[arg(long, value_name = "N", value_parser = cpus)]
    cpus: Option<f64>,
    /// Memory limit of the container (b, k, m, g)
    #[arg(short, long, value_name = "SIZE", value_parser = memory)]
    memory: Option<u64>,
    /// Memory that is taken from the container last
    #[arg(long, value_name = "SIZE", value_parser = memory)]
    memory_reservation: Option<u64>,
    /// Weight of the container's CPU time in the guest (2 to 262144)
    #[arg(short = 'c', long, value_name = "N")]
    cpu_shares: Option<u64>,
    /// Most processes and threads of the container; -1 for any
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pids_limit: Option<i64>,
    /// Containers, by name or id
    #[arg(required = true)]
    containers: Vec<String>,
}

impl Args {
    fn apply(&self, options: &mut Options) {
        options.restart = self.restart.unwrap_or(options.restart);
        if self.cpus.is_some() {
            options.cpus = self.cpus;
            (options.limits.cpu_quota, options.limits.cpu_period) = (None, None);
        }
        options.memory = self.memory.or(options.memory);
        let limits = &mut options.limits;
        limits.memory_reservation = self.memory_reservation.or(limits.memory_reservation);
        limits.cpu_shares = self.cpu_shares.or(limits.cpu_shares);
        limits.pids = self.pids_limit.or(limits.pids);
    }
}

/// Runs the verb.
pub fn run(args: &Args, global: &Global) -> Result<ExitCode, Failure> {
    let registry = Registry::new(&global.places());
    each(&args.containers, |container| update(&registry, container, args))
}

fn update(registry: &Registry, container: &str, args: &Args) -> Result<(), Failure> {
    let entry = registry.find(container)?;
    let mut record = entry.record()?;
    let machine = record.options.shape();
    let before = resources(&record.options);
    args.apply(&mut record.options);
    let wanted = record.options.shape();
    let after = resources(&record.options);
    if entry.state.status.is_running() && before != after {
        if let Some(guest) = &entry.state.guest {
            join::Size::of(&record.options).fits(guest.memory_mib, guest.vcpus)?;
        } else if wanted.memory_mib > machine.memory_mib || wanted.vcpus > machine.vcpus {
            return Err(format!(
                "container {}: its machine has {} CPUs and {} MiB, and cannot grow while it runs: stop \
                 the container first",
                entry.state.name, machine.vcpus, machine.memory_mib
            )
            .into());
        }
        let resources = Box::new(after);
        let InGuest { vsock, container } = entry.in_guest();
        let request = Request::Update { container, resources };
        Client::open(&vsock, EXCHANGE_TIME)?.call(&request)?;
    }
    record.write(entry.folder.container())?;
    events::tell(registry.places(), "update", &entry.state, &[]);
    Ok(())
}
