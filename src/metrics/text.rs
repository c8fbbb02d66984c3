//! What was seen, in Prometheus' text format (version 0.0.4). Everything that a guest or its monitor names
//! is compared with what there is, or a label's value, which the encoder escapes.

use std::collections::BTreeMap;

use ampoule_protocol::message::Stats;
use prometheus::TextEncoder;
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};

use super::look::{Look, Subject};
use crate::sandbox::about::Contained;
use crate::sandbox::stats::Usage;
use crate::vmm::devices::virtio::Kind;

/// Most disks of a guest that are told of.
const MOST_DISKS: usize = 32;

/// Longest value of a label, in bytes.
const LONGEST: usize = 256;

/// The text, and the media type that it has.
pub const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All that was seen.
pub fn text(looks: &[Look]) -> String {
    let mut families = Families::default();
    families.gauge(
        "ampoule_build_info",
        "The ampoule that tells this.",
        &[("version", env!("CARGO_PKG_VERSION"))],
        1,
    );
    for look in looks {
        families.sandbox(look);
    }
    let families: Vec<MetricFamily> = families.0.into_values().collect();
    // Every family has a metric and a name: nothing is refused, and text takes all there is.
    TextEncoder::new().encode_to_string(&families).unwrap_or_default()
}

type Labels<'a> = Vec<(&'a str, &'a str)>;

/// Metrics of one name stand together.
#[derive(Default)]
struct Families(BTreeMap<String, MetricFamily>);

impl Families {
    fn add(
        &mut self,
        kind: MetricType,
        name: &str,
        help: &str,
        labels: &[(&str, &str)],
        value: f64,
    ) {
        let family = self.0.entry(name.to_owned()).or_insert_with(|| {
            let mut family = MetricFamily::default();
            family.set_name(name.to_owned());
            family.set_help(help.to_owned());
            family.set_field_type(kind);
            family
        });
        let mut metric = Metric::from_label(labels.iter().map(pair).collect());
        match kind {
            MetricType::COUNTER => {
                let mut counter = Counter::default();
                counter.set_value(value);
                metric.set_counter(counter);
            }
            _ => {
                let mut gauge = Gauge::default();
                gauge.set_value(value);
                metric.set_gauge(gauge);
            }
        }
        family.mut_metric().push(metric);
    }

    fn gauge(&mut self, name: &str, help: &str, labels: &[(&str, &str)], value: u64) {
        self.add(MetricType::GAUGE, name, help, labels, float(value));
    }

    fn counter(&mut self, name: &str, help: &str, labels: &[(&str, &str)], value: u64) {
        self.add(MetricType::COUNTER, name, help, labels, float(value));
    }

    /// Of microseconds, in seconds.
    fn seconds(
        &mut self,
        kind: MetricType,
        name: &str,
        help: &str,
        labels: &[(&str, &str)],
        us: u64,
    ) {
        self.add(kind, name, help, labels, float(us) / 1e6);
    }

    fn sandbox(&mut self, look: &Look) {
        let Subject { id, name, pod, namespace, by, .. } = &look.subject;
        let labels: Labels = vec![("sandbox", id), ("namespace", namespace), ("pod", pod)];
        let info = with(&labels, &[("name", name), ("by", by)]);
        self.gauge("ampoule_sandbox_info", "A sandbox, and who keeps it.", &info, 1);
        self.gauge("ampoule_sandbox_up", "Whether the sandbox runs.", &labels, look.runs.into());
        let help =
            "Whether the sandbox was ended because its monitor made a forbidden system call.";
        self.gauge("ampoule_sandbox_seccomp_violation", help, &labels, look.violation.into());
        if !look.runs {
            return;
        }
        let help = "Whether the sandbox's monitor and its guest's agent have answered.";
        let answers = look.containers.iter().any(|(_, stats)| stats.is_some());
        let mut answered = |part, yes: bool| {
            let labels = with(&labels, &[("part", part)]);
            self.gauge("ampoule_sandbox_answered", help, &labels, yes.into());
        };
        answered("monitor", look.devices.is_some());
        if !look.containers.is_empty() {
            answered("agent", answers);
        }
        for (phase, us) in &look.start {
            let labels = with(&labels, &[("phase", phase)]);
            let help = "Time that a phase of the sandbox's start took.";
            self.seconds(MetricType::GAUGE, "ampoule_sandbox_start_seconds", help, &labels, *us);
        }
        if let Some(usage) = &look.usage {
            self.usage(&labels, usage);
        }
        self.devices(&labels, look);
        for (container, stats) in &look.containers {
            if let Some(stats) = stats {
                self.container(&labels, container, stats);
            }
        }
    }

    /// What the sandbox takes of the host.
    fn usage(&mut self, labels: &Labels<'_>, usage: &Usage) {
        let name = "ampoule_sandbox_memory_bytes";
        let help = "Memory of the host that the sandbox takes: proportional share, private, shared, swapped.";
        let parts = [("guest", usage.guest), ("monitor", usage.monitor), ("keeper", usage.keeper)];
        for (part, memory) in parts {
            for (kind, bytes) in [
                ("pss", memory.pss),
                ("private", memory.private),
                ("shared", memory.shared),
                ("swap", memory.swap),
            ] {
                self.gauge(name, help, &with(labels, &[("part", part), ("kind", kind)]), bytes);
            }
        }
        let help = "Size of the guest's memory, touched or not.";
        self.gauge("ampoule_sandbox_guest_memory_size_bytes", help, labels, usage.guest_size);
        let us = crate::clock::micros(usage.cpu);
        let help = "CPU time of the host that the sandbox's processes have taken.";
        self.seconds(MetricType::COUNTER, "ampoule_sandbox_cpu_seconds_total", help, labels, us);
        let help = "Threads of the sandbox's processes.";
        self.gauge("ampoule_sandbox_threads", help, labels, usage.threads);
    }

    /// What its devices have counted.
    fn devices(&mut self, labels: &Labels<'_>, look: &Look) {
        let mut numbers = BTreeMap::new();
        for device in look.devices.iter().flatten() {
            let number: &mut usize = numbers.entry(device.kind).or_default();
            let text = number.to_string();
            *number += 1;
            for name in counted(device.kind) {
                let Some(count) = device.counts.get(name) else { continue };
                let labels = with(labels, &[("device", &text)]);
                let kind = device.kind.name();
                let metric = format!("ampoule_{kind}_{name}_total");
                let help =
                    format!("Of a {kind} device of the sandbox: {}.", name.replace('_', " "));
                self.counter(&metric, &help, &labels, *count);
            }
        }
    }

    /// What the guest says that a container uses.
    fn container(&mut self, labels: &Labels<'_>, container: &Contained, stats: &Stats) {
        let labels = with(labels, &[("container", &container.name), ("id", &container.id)]);
        let cpu = |name: &str| stats.cpu.get(name).copied();
        for (name, help, field) in [
            ("usage", "CPU time that the container has taken, in the guest.", "usage_usec"),
            ("user", "Its part in user mode.", "user_usec"),
            ("system", "Its part in the guest's kernel.", "system_usec"),
            (
                "throttled",
                "Time that the container's limit has kept it from running.",
                "throttled_usec",
            ),
        ] {
            if let Some(us) = cpu(field) {
                let name = format!("ampoule_container_cpu_{name}_seconds_total");
                self.seconds(MetricType::COUNTER, &name, help, &labels, us);
            }
        }
        let memory = &stats.memory;
        let idle = memory.stat.get("inactive_file").copied().unwrap_or(0);
        let working = memory.usage.current.saturating_sub(idle);
        for (name, help, bytes) in [
            ("usage", "Memory of the guest that the container uses.", Some(memory.usage.current)),
            ("working_set", "The same without files that were not used lately.", Some(working)),
            ("limit", "The container's limit of memory.", memory.usage.limit),
            ("peak", "The most memory that the container has used.", memory.usage.peak),
            ("swap", "Swap of the guest that the container uses.", Some(memory.swap.current)),
        ] {
            if let Some(bytes) = bytes {
                self.gauge(&format!("ampoule_container_memory_{name}_bytes"), help, &labels, bytes);
            }
        }
        let help = "Times that the limit of memory was in the way.";
        let name = "ampoule_container_memory_limit_hits_total";
        self.counter(name, help, &labels, memory.usage.failures);
        let help = "Processes and threads of the container.";
        self.gauge("ampoule_container_pids", help, &labels, stats.pids.current);
        for disk in stats.io.iter().take(MOST_DISKS) {
            let device = format!("{}:{}", disk.major, disk.minor);
            let labels = with(&labels, &[("device", &device)]);
            for (name, help, field) in [
                ("read_bytes", "Bytes that the container read from a disk of the guest.", "rbytes"),
                ("written_bytes", "Bytes that it wrote to one.", "wbytes"),
                ("reads", "Reads of a disk of the guest.", "rios"),
                ("writes", "Writes to one.", "wios"),
            ] {
                if let Some(count) = disk.counts.get(field) {
                    self.counter(&format!("ampoule_container_{name}_total"), help, &labels, *count);
                }
            }
        }
    }
}

/// Names of what a kind of device counts.
fn counted(kind: Kind) -> impl Iterator<Item = &'static String> {
    use std::sync::LazyLock;
    static ALL: LazyLock<BTreeMap<Kind, BTreeMap<String, u64>>> =
        LazyLock::new(|| Kind::ALL.into_iter().map(|kind| (kind, kind.counted())).collect());
    ALL.get(&kind).into_iter().flat_map(BTreeMap::keys)
}

fn with<'a>(labels: &[(&'a str, &'a str)], more: &[(&'a str, &'a str)]) -> Labels<'a> {
    [labels, more].concat()
}

fn pair((name, value): &(&str, &str)) -> LabelPair {
    let mut end = value.len().min(LONGEST);
    while !value.is_char_boundary(end) {
        end -= 1;
    }
    let mut pair = LabelPair::default();
    pair.set_name((*name).to_owned());
    pair.set_value(value[..end].to_owned());
    pair
}

/// Beyond 2^53 not to the last digit, which is how Prometheus keeps all numbers.
#[expect(clippy::cast_precision_loss, reason = "all numbers of the format are doubles")]
fn float(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::super::look::testing::look;
    use super::*;
    use crate::sandbox::stats::Memory;
    use crate::vmm::devices::virtio::Counts;
    use ampoule_protocol::message::IoStats;

    #[test]
    fn a_sandbox_is_told_with_its_pod() {
        let mut look = look();
        look.start = vec![("machine restored", 1500)];
        let guest = Memory { pss: 4096, ..Memory::default() };
        look.usage =
            Some(Usage { guest, cpu: std::time::Duration::from_millis(2500), ..Usage::default() });
        let disk =
            |reads| Counts { kind: Kind::Block, counts: [("reads".to_owned(), reads)].into() };
        look.devices = Some(vec![disk(3), disk(4)]);
        let mut stats = Stats::default();
        stats.cpu.insert("usage_usec".into(), 1_000_000);
        stats.memory.usage.current = 10;
        stats.memory.stat.insert("inactive_file".into(), 4);
        look.containers[0].1 = Some(stats);
        let text = text(&[look]);
        let id = "a".repeat(64);
        let of = format!("sandbox=\"{id}\",namespace=\"default\",pod=\"shop\"");
        let container = format!("{of},container=\"web\",id=\"{}\"", "c".repeat(64));
        for line in [
            format!("ampoule_sandbox_up{{{of}}} 1"),
            format!("ampoule_sandbox_start_seconds{{{of},phase=\"machine restored\"}} 0.0015"),
            format!("ampoule_sandbox_memory_bytes{{{of},part=\"guest\",kind=\"pss\"}} 4096"),
            "# TYPE ampoule_sandbox_cpu_seconds_total counter".into(),
            format!("ampoule_sandbox_cpu_seconds_total{{{of}}} 2.5"),
            format!("ampoule_block_reads_total{{{of},device=\"0\"}} 3"),
            format!("ampoule_block_reads_total{{{of},device=\"1\"}} 4"),
            format!("ampoule_container_cpu_usage_seconds_total{{{container}}} 1"),
            format!("ampoule_container_memory_working_set_bytes{{{container}}} 6"),
        ] {
            assert!(text.lines().any(|there| there == line), "{line}\n{text}");
        }
        // Each name is told of once, and everything is sorted under it.
        let types: Vec<_> = text.lines().filter(|line| line.starts_with("# TYPE")).collect();
        let mut once = types.clone();
        once.sort_unstable();
        once.dedup();
        assert_eq!(types, once);
    }

    #[test]
    fn what_a_guest_says_stays_in_its_place() {
        let mut look = look();
        look.containers[0].0.name = "a\"} 1\nampoule_sandbox_up{x=\"".into();
        let mut stats = Stats::default();
        stats.cpu.insert("evil_usec\n".into(), 1);
        stats.io = vec![IoStats::default(); 1000];
        stats.memory.usage.current = u64::MAX;
        look.containers[0].1 = Some(stats);
        let counts = [("reads{\n".to_owned(), 1), ("reads".to_owned(), 2)].into();
        look.devices = Some(vec![Counts { kind: Kind::Block, counts }]);
        look.subject.pod = "ü".repeat(1000);
        let text = text(&[look]);
        assert!(!text.contains("evil") && !text.contains("reads{\n"), "{text}");
        assert!(text.len() < 60_000, "{}", text.len());
        let ups = text.lines().filter(|line| line.starts_with("ampoule_sandbox_up{"));
        assert_eq!(ups.count(), 1, "{text}");
    }

    #[test]
    fn a_record_is_told_of_for_what_has_ended_it() {
        let mut look = look();
        (look.runs, look.violation) = (false, true);
        let text = text(&[look]);
        assert!(text.contains("ampoule_sandbox_seccomp_violation{sandbox="), "{text}");
        assert!(!text.contains("ampoule_sandbox_answered"), "{text}");
    }
}
