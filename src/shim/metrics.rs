//! What a container uses, in containerd's messages: those of the version of control groups that the host
//! has, for its readers look for them there. Pure but for a look at which that is.

use ampoule_protocol::message::{Pressure, PressureLine, Stats, Usage};
use containerd_shim::protos::cgroups::metrics as v1;
use containerd_shim::protos::cgroups_v2::metrics as v2;
use containerd_shim::protos::protobuf::well_known_types::any::Any;
use containerd_shim::protos::protobuf::{MessageField, MessageFull};

use super::error::ShimError;
use crate::oci::cgroup;

/// No limit.
const UNLIMITED: u64 = u64::MAX;

/// No limit of memory, as control groups of version 1 say it.
const UNLIMITED_V1: u64 = 9_223_372_036_854_771_712;

/// The message for this host.
pub fn any(stats: &Stats) -> Result<Any, ShimError> {
    if cgroup::is_unified() { pack(&unified(stats)) } else { pack(&legacy(stats)) }
}

/// With the message's bare name, as containerd's own have it.
fn pack<M: MessageFull>(message: &M) -> Result<Any, ShimError> {
    let value = message.write_to_bytes().map_err(containerd_shim::Error::from)?;
    Ok(Any { type_url: M::descriptor().full_name().to_owned(), value, ..Default::default() })
}

fn some<T>(message: T) -> MessageField<T> {
    MessageField::some(message)
}

fn unified(stats: &Stats) -> v2::Metrics {
    v2::Metrics {
        pids: some(v2::PidsStat {
            current: stats.pids.current,
            // containerd's own reader takes 0 for no limit here.
            limit: stats.pids.limit.unwrap_or(0),
            ..Default::default()
        }),
        cpu: some(cpu(stats)),
        memory: some(memory(stats)),
        io: some(io(stats)),
        hugetlb: stats.hugetlb.iter().map(|(size, usage)| hugetlb(size, usage)).collect(),
        memory_events: some(v2::MemoryEvents {
            max: stats.memory.usage.failures,
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn cpu(stats: &Stats) -> v2::CPUStat {
    let of = |name: &str| stats.cpu.get(name).copied().unwrap_or(0);
    v2::CPUStat {
        usage_usec: of("usage_usec"),
        user_usec: of("user_usec"),
        system_usec: of("system_usec"),
        nr_periods: of("nr_periods"),
        nr_throttled: of("nr_throttled"),
        throttled_usec: of("throttled_usec"),
        nr_bursts: of("nr_bursts"),
        burst_usec: of("burst_usec"),
        psi: pressure(stats, "cpu"),
        ..Default::default()
    }
}

fn memory(stats: &Stats) -> v2::MemoryStat {
    let of = |name: &str| stats.memory.stat.get(name).copied().unwrap_or(0);
    let (usage, swap) = (&stats.memory.usage, &stats.memory.swap);
    v2::MemoryStat {
        anon: of("anon"),
        file: of("file"),
        kernel_stack: of("kernel_stack"),
        slab: of("slab"),
        sock: of("sock"),
        shmem: of("shmem"),
        file_mapped: of("file_mapped"),
        file_dirty: of("file_dirty"),
        file_writeback: of("file_writeback"),
        anon_thp: of("anon_thp"),
        inactive_anon: of("inactive_anon"),
        active_anon: of("active_anon"),
        inactive_file: of("inactive_file"),
        active_file: of("active_file"),
        unevictable: of("unevictable"),
        slab_reclaimable: of("slab_reclaimable"),
        slab_unreclaimable: of("slab_unreclaimable"),
        pgfault: of("pgfault"),
        pgmajfault: of("pgmajfault"),
        pgscan: of("pgscan"),
        pgsteal: of("pgsteal"),
        usage: usage.current,
        usage_limit: usage.limit.unwrap_or(UNLIMITED),
        max_usage: usage.peak.unwrap_or(0),
        swap_usage: swap.current,
        swap_limit: swap.limit.unwrap_or(UNLIMITED),
        swap_max_usage: swap.peak.unwrap_or(0),
        psi: pressure(stats, "memory"),
        ..Default::default()
    }
}

fn io(stats: &Stats) -> v2::IOStat {
    let entry = |disk: &ampoule_protocol::message::IoStats| {
        let of = |name: &str| disk.counts.get(name).copied().unwrap_or(0);
        v2::IOEntry {
            major: disk.major.into(),
            minor: disk.minor.into(),
            rbytes: of("rbytes"),
            wbytes: of("wbytes"),
            rios: of("rios"),
            wios: of("wios"),
            ..Default::default()
        }
    };
    v2::IOStat {
        usage: stats.io.iter().map(entry).collect(),
        psi: pressure(stats, "io"),
        ..Default::default()
    }
}

fn hugetlb(size: &str, usage: &Usage) -> v2::HugeTlbStat {
    v2::HugeTlbStat {
        current: usage.current,
        max: usage.limit.unwrap_or(UNLIMITED),
        pagesize: size.into(),
        failcnt: usage.failures,
        ..Default::default()
    }
}

fn pressure(stats: &Stats, controller: &str) -> MessageField<v2::PSIStats> {
    let data = |line: &PressureLine| {
        some(v2::PSIData {
            avg10: f64::from(line.avg10) / 100.0,
            avg60: f64::from(line.avg60) / 100.0,
            avg300: f64::from(line.avg300) / 100.0,
            total: line.total,
            ..Default::default()
        })
    };
    let both = |pressure: &Pressure| v2::PSIStats {
        some: data(&pressure.some),
        full: data(&pressure.full),
        ..Default::default()
    };
    stats.pressure.get(controller).map(both).into()
}

/// The counts of version 2 where version 1 has the same.
fn legacy(stats: &Stats) -> v1::Metrics {
    let cpu = |name: &str| stats.cpu.get(name).copied().unwrap_or(0).saturating_mul(1000);
    let count = |name: &str| stats.cpu.get(name).copied().unwrap_or(0);
    let of = |name: &str| stats.memory.stat.get(name).copied().unwrap_or(0);
    let entry = |usage: &Usage| {
        some(v1::MemoryEntry {
            limit: usage.limit.unwrap_or(UNLIMITED_V1),
            usage: usage.current,
            max: usage.peak.unwrap_or(0),
            failcnt: usage.failures,
            ..Default::default()
        })
    };
    let memory = v1::MemoryStat {
        cache: of("file"),
        rss: of("anon"),
        mapped_file: of("file_mapped"),
        dirty: of("file_dirty"),
        writeback: of("file_writeback"),
        pg_fault: of("pgfault"),
        pg_maj_fault: of("pgmajfault"),
        inactive_anon: of("inactive_anon"),
        active_anon: of("active_anon"),
        inactive_file: of("inactive_file"),
        active_file: of("active_file"),
        unevictable: of("unevictable"),
        hierarchical_memory_limit: stats.memory.usage.limit.unwrap_or(UNLIMITED_V1),
        total_cache: of("file"),
        total_rss: of("anon"),
        total_inactive_anon: of("inactive_anon"),
        total_active_anon: of("active_anon"),
        total_inactive_file: of("inactive_file"),
        total_active_file: of("active_file"),
        total_pg_fault: of("pgfault"),
        total_pg_maj_fault: of("pgmajfault"),
        usage: entry(&stats.memory.usage),
        swap: entry(&stats.memory.swap),
        ..Default::default()
    };
    v1::Metrics {
        pids: some(v1::PidsStat {
            current: stats.pids.current,
            limit: stats.pids.limit.unwrap_or(0),
            ..Default::default()
        }),
        cpu: some(v1::CPUStat {
            usage: some(v1::CPUUsage {
                total: cpu("usage_usec"),
                kernel: cpu("system_usec"),
                user: cpu("user_usec"),
                ..Default::default()
            }),
            throttling: some(v1::Throttle {
                periods: count("nr_periods"),
                throttled_periods: count("nr_throttled"),
                throttled_time: cpu("throttled_usec"),
                ..Default::default()
            }),
            ..Default::default()
        }),
        memory: some(memory),
        blkio: some(blkio(stats)),
        ..Default::default()
    }
}

fn blkio(stats: &Stats) -> v1::BlkIOStat {
    let entries = |read: &str, write: &str| {
        let of = |op: &'static str, name: &str| {
            let name = name.to_owned();
            stats.io.iter().map(move |disk| v1::BlkIOEntry {
                op: op.into(),
                major: disk.major.into(),
                minor: disk.minor.into(),
                value: disk.counts.get(&name).copied().unwrap_or(0),
                ..Default::default()
            })
        };
        of("read", read).chain(of("write", write)).collect()
    };
    v1::BlkIOStat {
        io_service_bytes_recursive: entries("rbytes", "wbytes"),
        io_serviced_recursive: entries("rios", "wios"),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ampoule_protocol::message::{IoStats, MemoryStats};
    use containerd_shim::protos::protobuf::Message;

    fn stats() -> Stats {
        Stats {
            cpu: [("usage_usec".to_owned(), 1500), ("user_usec".to_owned(), 1000)].into(),
            memory: MemoryStats {
                usage: Usage { current: 4096, peak: Some(8192), limit: Some(1 << 20), failures: 2 },
                stat: [("anon".to_owned(), 1024), ("file".to_owned(), 512)].into(),
                ..Default::default()
            },
            pids: Usage { current: 3, limit: Some(100), ..Default::default() },
            io: vec![IoStats { major: 254, minor: 16, counts: [("rbytes".to_owned(), 7)].into() }],
            ..Default::default()
        }
    }

    #[test]
    fn the_messages_have_the_names_that_readers_look_for() {
        let unified = pack(&unified(&stats())).unwrap();
        assert_eq!(unified.type_url, "io.containerd.cgroups.v2.Metrics");
        let read = v2::Metrics::parse_from_bytes(&unified.value).unwrap();
        assert_eq!((read.memory.usage, read.memory.usage_limit), (4096, 1 << 20));
        assert_eq!(read.memory.swap_limit, UNLIMITED);
        assert_eq!((read.cpu.usage_usec, read.pids.current, read.io.usage[0].rbytes), (1500, 3, 7));
        let legacy = pack(&legacy(&stats())).unwrap();
        assert_eq!(legacy.type_url, "io.containerd.cgroups.v1.Metrics");
    }

    #[test]
    fn version_1_counts_in_nanoseconds() {
        let made = legacy(&stats());
        assert_eq!((made.cpu.usage.total, made.cpu.usage.user), (1_500_000, 1_000_000));
        assert_eq!((made.memory.rss, made.memory.cache, made.memory.usage.max), (1024, 512, 8192));
        assert_eq!(made.blkio.io_service_bytes_recursive[0].value, 7);
    }
}
