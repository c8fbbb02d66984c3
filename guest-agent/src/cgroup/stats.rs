//! What a group uses, out of the files that the kernel counts it in.

use std::collections::BTreeMap;
use std::fs;

use ampoule_protocol::message::{IoStats, MemoryStats, Pressure, PressureLine, Stats, Usage};

use super::{Cgroup, read_number};

impl Cgroup {
    /// Bytes of memory; none where there is no memory controller.
    pub fn memory_used(&self) -> Option<u64> {
        read_number(&self.file("memory.current"))
    }

    /// What it uses. A file that is not there counts nothing.
    pub fn stats(&self) -> Stats {
        let pressure = ["cpu", "memory", "io"].into_iter().filter_map(|name| {
            let text = fs::read_to_string(self.file(&format!("{name}.pressure"))).ok()?;
            Some((name.to_owned(), parse_pressure(&text)))
        });
        Stats {
            cpu: parse_flat(&self.text("cpu.stat")),
            memory: MemoryStats {
                usage: self.usage("memory", "current", "memory.events"),
                swap: self.usage("memory.swap", "current", "memory.swap.events"),
                stat: parse_flat(&self.text("memory.stat")),
            },
            pids: self.usage("pids", "current", "pids.events"),
            io: self.text("io.stat").lines().filter_map(parse_io).collect(),
            hugetlb: self.huge_pages(),
            pressure: pressure.collect(),
        }
    }

    fn text(&self, file: &str) -> String {
        fs::read_to_string(self.file(file)).unwrap_or_default()
    }

    fn usage(&self, prefix: &str, current: &str, events: &str) -> Usage {
        let number = |name: &str| read_number(&self.file(&format!("{prefix}.{name}")));
        Usage {
            current: number(current).unwrap_or(0),
            peak: number("peak"),
            limit: number("max"),
            failures: parse_flat(&self.text(events)).get("max").copied().unwrap_or(0),
        }
    }

    fn huge_pages(&self) -> BTreeMap<String, Usage> {
        let Ok(files) = fs::read_dir(self.file("")) else {
            return BTreeMap::new();
        };
        let names = files.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        names
            .filter_map(|name| {
                let size = name.strip_prefix("hugetlb.")?.strip_suffix(".current")?;
                let prefix = format!("hugetlb.{size}");
                // Those of reservations are counted in files of their own.
                let is_size = !size.contains('.');
                is_size.then(|| {
                    let usage = self.usage(&prefix, "current", &format!("{prefix}.events"));
                    (size.to_owned(), usage)
                })
            })
            .collect()
    }
}

/// Lines of a name and a number.
fn parse_flat(text: &str) -> BTreeMap<String, u64> {
    let line = |line: &str| {
        let (name, number) = line.split_once(' ')?;
        Some((name.to_owned(), number.trim().parse().ok()?))
    };
    text.lines().filter_map(line).collect()
}

/// `254:0 rbytes=4096 wbytes=0 …`
fn parse_io(line: &str) -> Option<IoStats> {
    let mut words = line.split_whitespace();
    let (major, minor) = words.next()?.split_once(':')?;
    let count = |word: &str| {
        let (name, number) = word.split_once('=')?;
        Some((name.to_owned(), number.parse().ok()?))
    };
    Some(IoStats {
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
        counts: words.filter_map(count).collect(),
    })
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and `full …`.
fn parse_pressure(text: &str) -> Pressure {
    let line = |kind: &str| {
        let mut parsed = PressureLine::default();
        let found = text.lines().find_map(|line| line.strip_prefix(kind)).unwrap_or_default();
        for (name, value) in found.split_whitespace().filter_map(|word| word.split_once('=')) {
            match name {
                "avg10" => parsed.avg10 = hundredths(value),
                "avg60" => parsed.avg60 = hundredths(value),
                "avg300" => parsed.avg300 = hundredths(value),
                "total" => parsed.total = value.parse().unwrap_or(0),
                _ => {}
            }
        }
        parsed
    };
    Pressure { some: line("some "), full: line("full ") }
}

/// The kernel writes two decimals, always.
fn hundredths(value: &str) -> u32 {
    let digits: String = value.chars().filter(char::is_ascii_digit).collect();
    digits.parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flat_files_are_names_and_numbers() {
        let parsed = parse_flat("usage_usec 12\nuser_usec 7\nnr_bursts x\n\n");
        assert_eq!(parsed, BTreeMap::from([("usage_usec".into(), 12), ("user_usec".into(), 7)]));
    }

    #[test]
    fn disks_are_counted_apart() {
        let io = parse_io("254:16 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0").unwrap();
        assert_eq!(
            (io.major, io.minor, io.counts["rbytes"], io.counts["rios"]),
            (254, 16, 4096, 1)
        );
        // A disk that was never used has no counts; what is no disk has no line.
        assert!(parse_io("254:0").unwrap().counts.is_empty());
        assert_eq!(parse_io("default 100"), None);
    }

    #[test]
    fn pressure_is_in_hundredths_of_a_percent() {
        let text = "some avg10=1.25 avg60=0.07 avg300=100.00 total=99\n\
                    full avg10=0.00 avg60=0.00 avg300=0.00 total=3\n";
        let pressure = parse_pressure(text);
        let some = PressureLine { avg10: 125, avg60: 7, avg300: 10_000, total: 99 };
        assert_eq!((pressure.some, pressure.full.total), (some, 3));
        assert_eq!(parse_pressure(""), Pressure::default());
    }
}
