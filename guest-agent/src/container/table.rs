//! `Processes`: the processes of a container, as `ps` would show them.

use std::fs::{self, File};
use std::io::Read;

use ampoule_protocol::message::ProcessRow;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{SysconfVar, sysconf};

use crate::Agent;
use crate::error::Result;

/// Processes that are described: with their commands they fit into one frame.
const MAX_ROWS: usize = 4096;

/// Bytes of a process's command line that are told.
const MAX_COMMAND: usize = 512;

/// Bytes of a file of `/proc` that are looked at.
const MAX_FILE: u64 = 4096;

/// The pids of a container's processes, and what is known of each where a table is asked for.
pub fn processes(agent: &Agent, name: &str, table: bool) -> Result<(Vec<i32>, Vec<ProcessRow>)> {
    let pids = agent.containers.find(name)?.cgroup.pids()?;
    if !table {
        return Ok((pids, Vec::new()));
    }
    let clock = Clock::now();
    let rows = pids.iter().take(MAX_ROWS).filter_map(|pid| row(*pid, &clock)).collect();
    Ok((pids, rows))
}

/// What ticks are measured with.
struct Clock {
    /// Time since the guest was booted, in milliseconds.
    uptime_ms: u64,
    /// Ticks in a second.
    frequency: u64,
}

impl Clock {
    fn now() -> Self {
        // What cannot be asked makes all processes new, no more.
        let uptime = clock_gettime(ClockId::CLOCK_BOOTTIME).ok();
        let number = |value: i64| u64::try_from(value).unwrap_or(0);
        let uptime_ms = uptime
            .map_or(0, |time| number(time.tv_sec()) * 1000 + number(time.tv_nsec()) / 1_000_000);
        let frequency = sysconf(SysconfVar::CLK_TCK).ok().flatten().map_or(100, number).max(1);
        Self { uptime_ms, frequency }
    }

    fn millis(&self, ticks: u64) -> u64 {
        ticks.saturating_mul(1000) / self.frequency
    }
}

/// A process; none where it has ended meanwhile.
fn row(pid: i32, clock: &Clock) -> Option<ProcessRow> {
    let read = |name: &str| {
        let mut bytes = Vec::new();
        File::open(format!("/proc/{pid}/{name}"))
            .ok()?
            .take(MAX_FILE)
            .read_to_end(&mut bytes)
            .ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    };
    let stat = Stat::parse(&read("stat")?)?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let arguments = read("cmdline").unwrap_or_default();
    Some(ProcessRow {
        pid,
        parent: stat.parent,
        uid: effective_uid(&status).unwrap_or(0),
        age_ms: clock.uptime_ms.saturating_sub(clock.millis(stat.started)),
        cpu_ms: clock.millis(stat.cpu),
        terminal: terminal(stat.terminal),
        command: command(&arguments, &stat.name),
    })
}

/// What is of interest in `/proc/PID/stat`; times in ticks.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    name: String,
    parent: i32,
    terminal: u32,
    cpu: u64,
    started: u64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The name may hold anything, also parentheses.
        let (before, after) = text.rsplit_once(')')?;
        let fields: Vec<&str> = after.split_ascii_whitespace().collect();
        // proc(5) counts from 1; the first one after the name is the third.
        let field = |number: usize| fields.get(number - 3).copied();
        let number = |at| field(at)?.parse::<u64>().ok();
        Some(Self {
            name: before.split_once('(')?.1.to_owned(),
            parent: field(4)?.parse().ok()?,
            terminal: field(7)?.parse::<i32>().ok()?.cast_unsigned(),
            cpu: number(14)?.saturating_add(number(15)?),
            started: number(22)?,
        })
    }
}

fn effective_uid(status: &str) -> Option<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// The name of a terminal by its device number; empty where there is none.
fn terminal(device: u32) -> String {
    const PTS: std::ops::RangeInclusive<u32> = 136..=143;
    let (major, minor) = (device >> 8 & 0xfff, (device & 0xff) | (device >> 12 & 0xf_ff00));
    match (major, minor) {
        (0, 0) => String::new(),
        (4, 0..64) => format!("tty{minor}"),
        (4, _) => format!("ttyS{}", minor - 64),
        (5, 1) => "console".into(),
        (major, minor) if PTS.contains(&major) => {
            format!("pts/{}", (major - PTS.start()) * 256 + minor)
        }
        (major, minor) => format!("{major}:{minor}"),
    }
}

/// A command line in one line; the name in brackets where there is none, as for a zombie.
fn command(arguments: &str, name: &str) -> String {
    let arguments = arguments.trim_end_matches('\0');
    let line = if arguments.is_empty() { format!("[{name}]") } else { arguments.to_owned() };
    let mut told = String::new();
    for c in line.chars() {
        let c = match c {
            '\0' => ' ',
            c if c.is_control() => '?',
            c => c,
        };
        if told.len() + c.len_utf8() > MAX_COMMAND {
            break;
        }
        told.push(c);
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_process_is_found_in_its_files() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let row = row(pid, &Clock::now()).unwrap();
        assert_eq!(row.pid, pid);
        assert_eq!(row.parent, nix::unistd::getppid().as_raw());
        assert_eq!(row.uid, nix::unistd::geteuid().as_raw());
        assert!(row.age_ms < 3_600_000, "{row:?}");
        assert!(row.command.contains("ampoule"), "{row:?}");
        assert_eq!(super::row(i32::MAX, &Clock::now()), None);
    }

    #[test]
    fn names_do_not_shift_fields() {
        let text = "7 (a) b) (c) S 3 7 7 34816 7 0 1 2 3 4 50 25 0 0 20 0 1 0 999 0 0";
        let stat = Stat::parse(text).unwrap();
        let name = "a) b) (c".to_owned();
        assert_eq!(stat, Stat { name, parent: 3, terminal: 34816, cpu: 75, started: 999 });
        assert_eq!(terminal(stat.terminal), "pts/0");
        assert_eq!(Stat::parse("7 (a) S 3"), None);
    }

    #[test]
    fn terminals_have_the_names_that_people_know() {
        let device = |major: u32, minor: u32| (minor & 0xff) | major << 8 | (minor & !0xff) << 12;
        for (major, minor, name) in [
            (0, 0, ""),
            (136, 3, "pts/3"),
            (137, 1, "pts/257"),
            (136, 300, "pts/300"),
            (4, 1, "tty1"),
            (4, 64, "ttyS0"),
            (5, 1, "console"),
            (229, 7, "229:7"),
        ] {
            assert_eq!(terminal(device(major, minor)), name);
        }
    }

    #[test]
    fn a_command_is_one_line() {
        assert_eq!(command("sh\0-c\0echo \x1b[2J\n\0", "sh"), "sh -c echo ?[2J?");
        assert_eq!(command("", "kworker"), "[kworker]");
        assert_eq!(command(&"ä".repeat(1000), "").len(), MAX_COMMAND);
    }

    proptest! {
        #[test]
        fn any_file_is_taken_without_panic(text in ".{0,200}", device: u32) {
            let _ = Stat::parse(&text);
            let _ = effective_uid(&text);
            prop_assert!(command(&text, &text).len() <= MAX_COMMAND);
            let _ = terminal(device);
        }
    }
}
