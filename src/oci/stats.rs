//! What a container uses, in the JSON of runc's `events`: a pure conversion.
//!
//! The names are those of control groups of version 1, with the counts of version 2 in them where
//! runc has them. Times are in nanoseconds, sizes in bytes; no limit is the largest number.

use std::collections::BTreeMap;

use ampoule_protocol::message::{Pressure, PressureLine, Stats, Usage};
use serde::Serialize;

/// One line of `events`.
#[derive(Debug, Serialize)]
pub struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Data>,
}

impl<'a> Event<'a> {
    /// What the container uses.
    pub fn stats(id: &'a str, stats: Stats) -> Self {
        Self { kind: "stats", id, data: Some(stats.into()) }
    }

    /// A process of it was killed for want of memory.
    pub fn oom(id: &'a str) -> Self {
        Self { kind: "oom", id, data: None }
    }
}

#[derive(Debug, Serialize)]
struct Data {
    cpu: Cpu,
    memory: Memory,
    pids: Pids,
    blkio: Blkio,
    hugetlb: BTreeMap<String, Hugetlb>,
    /// The guest has no such thing.
    intel_rdt: Empty,
    network_interfaces: Option<()>,
}

#[derive(Debug, Serialize)]
struct Empty {}

#[derive(Debug, Serialize)]
struct Cpu {
    usage: CpuUsage,
    throttling: Throttling,
    #[serde(skip_serializing_if = "Option::is_none")]
    psi: Option<Psi>,
}

#[derive(Debug, Serialize)]
struct CpuUsage {
    total: u64,
    kernel: u64,
    user: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Throttling {
    #[serde(skip_serializing_if = "is_zero")]
    periods: u64,
    #[serde(skip_serializing_if = "is_zero")]
    throttled_periods: u64,
    #[serde(skip_serializing_if = "is_zero")]
    throttled_time: u64,
}

#[derive(Debug, Serialize)]
struct Memory {
    #[serde(skip_serializing_if = "is_zero")]
    cache: u64,
    usage: MemoryEntry,
    swap: MemoryEntry,
    kernel: MemoryEntry,
    #[serde(rename = "kernelTCP")]
    kernel_tcp: MemoryEntry,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    raw: BTreeMap<String, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    psi: Option<Psi>,
}

#[derive(Debug, Default, Serialize)]
struct MemoryEntry {
    limit: u64,
    #[serde(skip_serializing_if = "is_zero")]
    usage: u64,
    #[serde(skip_serializing_if = "is_zero")]
    max: u64,
    failcnt: u64,
}

#[derive(Debug, Serialize)]
struct Pids {
    #[serde(skip_serializing_if = "is_zero")]
    current: u64,
    #[serde(skip_serializing_if = "is_zero")]
    limit: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Blkio {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    io_service_bytes_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    io_serviced_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    psi: Option<Psi>,
}

#[derive(Debug, Serialize)]
struct BlkioEntry {
    major: u32,
    minor: u32,
    op: &'static str,
    #[serde(skip_serializing_if = "is_zero")]
    value: u64,
}

#[derive(Debug, Serialize)]
struct Hugetlb {
    #[serde(skip_serializing_if = "is_zero")]
    usage: u64,
    #[serde(skip_serializing_if = "is_zero")]
    max: u64,
    failcnt: u64,
}

#[derive(Debug, Serialize)]
struct Psi {
    some: PsiLine,
    full: PsiLine,
}

/// Shares of the time in percent, and microseconds.
#[derive(Debug, Serialize)]
struct PsiLine {
    avg10: f64,
    avg60: f64,
    avg300: f64,
    total: u64,
}

// The signature is serde's.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl From<Stats> for Data {
    fn from(stats: Stats) -> Self {
        let psi = |name: &str| stats.pressure.get(name).map(Psi::from);
        let cpu = |name: &str| stats.cpu.get(name).copied().unwrap_or(0);
        let nanos = |name: &str| cpu(name).saturating_mul(1000);
        let usage = MemoryEntry::from(&stats.memory.usage);
        // Version 1 counts memory and swap together.
        let mut swap = MemoryEntry::from(&stats.memory.swap);
        swap.usage = swap.usage.saturating_add(usage.usage);
        swap.limit = swap.limit.saturating_add(usage.limit);
        let io = |reads: &str, writes: &str| {
            let disks = stats.io.iter().flat_map(|disk| {
                [("Read", reads), ("Write", writes)].into_iter().filter_map(|(op, name)| {
                    let value = *disk.counts.get(name)?;
                    Some(BlkioEntry { major: disk.major, minor: disk.minor, op, value })
                })
            });
            disks.collect()
        };
        Self {
            cpu: Cpu {
                usage: CpuUsage {
                    total: nanos("usage_usec"),
                    kernel: nanos("system_usec"),
                    user: nanos("user_usec"),
                },
                throttling: Throttling {
                    periods: cpu("nr_periods"),
                    throttled_periods: cpu("nr_throttled"),
                    throttled_time: nanos("throttled_usec"),
                },
                psi: psi("cpu"),
            },
            memory: Memory {
                cache: stats.memory.stat.get("file").copied().unwrap_or(0),
                usage,
                swap,
                kernel: MemoryEntry::default(),
                kernel_tcp: MemoryEntry::default(),
                psi: psi("memory"),
                raw: stats.memory.stat,
            },
            pids: Pids { current: stats.pids.current, limit: stats.pids.limit.unwrap_or(0) },
            blkio: Blkio {
                io_service_bytes_recursive: io("rbytes", "wbytes"),
                io_serviced_recursive: io("rios", "wios"),
                psi: psi("io"),
            },
            hugetlb: stats
                .hugetlb
                .iter()
                .map(|(size, usage)| (size.clone(), usage.into()))
                .collect(),
            intel_rdt: Empty {},
            network_interfaces: None,
        }
    }
}

impl From<&Usage> for MemoryEntry {
    fn from(usage: &Usage) -> Self {
        Self {
            limit: usage.limit.unwrap_or(u64::MAX),
            usage: usage.current,
            max: usage.peak.unwrap_or(0),
            failcnt: usage.failures,
        }
    }
}

impl From<&Usage> for Hugetlb {
    fn from(usage: &Usage) -> Self {
        let max = usage.peak.unwrap_or(0);
        Self { usage: usage.current, max, failcnt: usage.failures }
    }
}

impl From<&Pressure> for Psi {
    fn from(pressure: &Pressure) -> Self {
        let line = |line: &PressureLine| PsiLine {
            avg10: f64::from(line.avg10) / 100.0,
            avg60: f64::from(line.avg60) / 100.0,
            avg300: f64::from(line.avg300) / 100.0,
            total: line.total,
        };
        Self { some: line(&pressure.some), full: line(&pressure.full) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn converted(stats: Value) -> Value {
        let stats: Stats = serde_json::from_value(stats).unwrap();
        serde_json::to_value(Event::stats("c", stats)).unwrap()
    }

    #[test]
    fn counts_of_version_2_have_the_names_of_version_1() {
        let event = converted(json!({
            "cpu": {"usage_usec": 30, "user_usec": 20, "system_usec": 10, "nr_throttled": 4,
                "throttled_usec": 5},
            "memory": {
                "usage": {"current": 100, "peak": 120, "limit": 1000, "failures": 3},
                "swap": {"current": 10, "limit": 500},
                "stat": {"file": 7, "anon": 93},
            },
            "pids": {"current": 2, "limit": 50},
            "io": [{"major": 254, "minor": 0,
                "counts": {"rbytes": 4096, "wbytes": 0, "rios": 1, "wios": 2, "dios": 9}}],
            "hugetlb": {"2MB": {"current": 1, "peak": 2, "failures": 3}},
            "pressure": {"cpu": {"some": {"avg10": 125, "total": 99}}},
        }));
        assert_eq!((&event["type"], &event["id"]), (&json!("stats"), &json!("c")));
        let data = &event["data"];
        assert_eq!(
            data["cpu"]["usage"],
            json!({"total": 30_000, "kernel": 10_000, "user": 20_000})
        );
        let throttling = json!({"throttledPeriods": 4, "throttledTime": 5000});
        assert_eq!(data["cpu"]["throttling"], throttling);
        assert_eq!(data["cpu"]["psi"]["some"]["avg10"], 1.25);
        let usage = json!({"limit": 1000, "usage": 100, "max": 120, "failcnt": 3});
        assert_eq!(data["memory"]["usage"], usage);
        assert_eq!(data["memory"]["swap"], json!({"limit": 1500, "usage": 110, "failcnt": 0}));
        assert_eq!(
            (&data["memory"]["cache"], &data["memory"]["raw"]["anon"]),
            (&json!(7), &json!(93))
        );
        assert_eq!(data["pids"], json!({"current": 2, "limit": 50}));
        let disk = json!([{"major": 254, "minor": 0, "op": "Read", "value": 4096},
            {"major": 254, "minor": 0, "op": "Write"}]);
        assert_eq!(data["blkio"]["ioServiceBytesRecursive"], disk);
        assert_eq!(data["blkio"]["ioServicedRecursive"][1]["value"], 2);
        assert_eq!(data["hugetlb"]["2MB"], json!({"usage": 1, "max": 2, "failcnt": 3}));
        assert_eq!(data["intel_rdt"], json!({}));
    }

    #[test]
    fn without_limits_they_are_the_largest_number() {
        let most = json!({"current": u64::MAX, "limit": u64::MAX});
        let event = converted(json!({
            "cpu": {"usage_usec": u64::MAX}, "memory": {"usage": {"current": 1}, "swap": most},
        }));
        let data = &event["data"];
        assert_eq!(data["memory"]["usage"]["limit"], u64::MAX);
        assert_eq!(data["memory"]["swap"]["limit"], u64::MAX);
        assert_eq!(data["cpu"]["usage"]["total"], u64::MAX);
        assert_eq!(data["pids"], json!({}));
    }

    #[test]
    fn an_event_without_data_has_none() {
        let text = serde_json::to_string(&Event::oom("c")).unwrap();
        assert_eq!(text, r#"{"type":"oom","id":"c"}"#);
    }
}
