//! `ampoule stats`: what running containers take of the host.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args as ClapArgs;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use serde::Serialize;

use super::format::{Format, FormatError, List};
use super::{Failure, Global, size};
use crate::sandbox::stats::{Memory, Usage, usage};
use crate::sandbox::{Entry, Registry, RegistryError, Status};

/// Time between two looks: what CPU use is measured over.
const INTERVAL: Duration = Duration::from_secs(1);

/// Show what running containers take of the host's memory and CPUs, once a second
///
/// Memory is the proportional share (PSS) of both of a sandbox's processes: what is shared by
/// several sandboxes is divided among them. GUEST is the part that is the guest's memory, MONITOR
/// and KEEPER what the processes themselves take. The limit is the guest's memory size. PIDS counts
/// the threads of both processes, not those inside the guest.
#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Examples:\n  ampoule stats\n  ampoule stats --no-stream --format json web\n  \
    ampoule stats --format '{{.Name}}: {{.MemUsage}}'"
)]
pub struct Args {
    /// Those that do not run too
    #[arg(short, long)]
    all: bool,
    /// Show them once
    #[arg(long)]
    no_stream: bool,
    /// How to show them: table, json (an object a line, with sizes in bytes beside docker's fields), or a
    /// template such as {{.Name}}
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: Format,
    /// Containers, by name or id; all that run where none is given
    containers: Vec<String>,
}

const LIST: List = List {
    fields: &[
        ("ID", "CONTAINER ID"),
        ("Container", "CONTAINER"),
        ("Name", "NAME"),
        ("CPUPerc", "CPU %"),
        ("MemUsage", "MEM USAGE / LIMIT"),
        ("MemPerc", "MEM %"),
        ("NetIO", "NET I/O"),
        ("BlockIO", "BLOCK I/O"),
        ("PIDs", "PIDS"),
        ("Guest", "GUEST"),
        ("Monitor", "MONITOR"),
        ("Keeper", "KEEPER"),
        ("Private", "PRIVATE"),
        ("Shared", "SHARED"),
    ],
    columns: &[
        "ID", "Name", "CPUPerc", "MemUsage", "MemPerc", "Guest", "Monitor", "Keeper", "Private",
        "Shared", "PIDs",
    ],
};

/// Runs the verb.
pub fn run(args: &Args, global: &Global) -> Result<ExitCode, Failure> {
    let registry = Registry::new(&global.places());
    let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC)?;
    let interval = TimeSpec::from_duration(INTERVAL);
    timer.set(Expiration::Interval(interval), TimerSetTimeFlags::empty())?;
    let mut clocks = Clocks::default();
    // CPU use is what changes between two looks: the first shows nothing.
    look(args, &registry, &mut clocks)?;
    let json = matches!(args.format, Format::Json);
    let screen = !json && !args.no_stream && io::stdout().is_terminal();
    if screen {
        print!("\x1b[2J");
    }
    loop {
        timer.wait()?;
        let rows = look(args, &registry, &mut clocks)?;
        let text = match json {
            true => args.format.list(&LIST, &rows)?,
            false => words(&args.format, &rows)?,
        };
        let mut stdout = io::stdout().lock();
        stdout.write_all(if screen { over(&text) } else { text }.as_bytes())?;
        stdout.flush()?;
        if args.no_stream {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

/// The containers that were asked for, now.
fn look(args: &Args, registry: &Registry, clocks: &mut Clocks) -> Result<Vec<Row>, Failure> {
    let mut entries = if args.containers.is_empty() {
        let mut entries = registry.list()?;
        // Newest first, as docker.
        entries.reverse();
        entries
    } else {
        named(&args.containers, registry, clocks)?
    };
    let all = args.all || !args.containers.is_empty();
    entries.retain(|entry| all || entry.state.status == Status::Running);
    let mut rows = Vec::with_capacity(entries.len());
    for entry in &entries {
        match usage(entry)? {
            Some(usage) => rows.push(Row::new(entry, &usage, clocks)),
            None if all => rows.push(Row::new(entry, &Usage::default(), clocks)),
            None => {}
        }
    }
    Ok(rows)
}

/// The containers of these names; one that is gone since the last look is left out.
fn named(
    names: &[String],
    registry: &Registry,
    clocks: &Clocks,
) -> Result<Vec<Entry>, RegistryError> {
    let mut entries = Vec::with_capacity(names.len());
    for name in names {
        match registry.find(name) {
            Err(RegistryError::NotFound(_)) if !clocks.0.is_empty() => {}
            other => entries.push(other?),
        }
    }
    Ok(entries)
}

/// CPU time that each sandbox had taken when it was last looked at.
#[derive(Debug, Default)]
struct Clocks(HashMap<String, (Instant, Duration)>);

impl Clocks {
    /// Per cent of one CPU since the last look; 0 at the first.
    fn percent(&mut self, id: &str, cpu: Duration) -> f64 {
        let now = Instant::now();
        let Some((then, before)) = self.0.insert(id.to_owned(), (now, cpu)) else {
            return 0.0;
        };
        let passed = now.duration_since(then).as_secs_f64();
        if passed > 0.0 { cpu.saturating_sub(before).as_secs_f64() / passed * 100.0 } else { 0.0 }
    }
}

/// A container in the words of docker's list, and in more: bytes.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    #[serde(rename = "ID")]
    id: String,
    /// As it was asked for; here always its id.
    container: String,
    name: String,
    #[serde(rename = "CPUPerc")]
    cpu: String,
    mem_usage: String,
    mem_perc: String,
    #[serde(rename = "PIDs")]
    pids: String,
    #[serde(flatten)]
    total: Memory,
    guest_size: u64,
    guest: Memory,
    monitor: Memory,
    keeper: Memory,
}

impl Row {
    fn new(entry: &Entry, usage: &Usage, clocks: &mut Clocks) -> Self {
        let total = usage.total();
        let of = format!("{} / {}", size::binary(total.pss), size::binary(usage.guest_size));
        Self {
            id: entry.state.short_id().to_owned(),
            container: entry.state.short_id().to_owned(),
            name: entry.state.name.clone(),
            cpu: format!("{:.2}%", clocks.percent(&entry.state.id, usage.cpu)),
            mem_usage: of,
            mem_perc: format!("{:.2}%", percent(total.pss, usage.guest_size)),
            pids: usage.threads.to_string(),
            total,
            guest_size: usage.guest_size,
            guest: usage.guest,
            monitor: usage.monitor,
            keeper: usage.keeper,
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 * 100.0 }
}

/// A container in words alone.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Words<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    container: &'a str,
    name: &'a str,
    #[serde(rename = "CPUPerc")]
    cpu: &'a str,
    mem_usage: &'a str,
    mem_perc: &'a str,
    /// What is not counted, as docker has it.
    #[serde(rename = "NetIO")]
    net: &'static str,
    #[serde(rename = "BlockIO")]
    block: &'static str,
    #[serde(rename = "PIDs")]
    pids: &'a str,
    guest: String,
    monitor: String,
    keeper: String,
    private: String,
    shared: String,
}

fn words(format: &Format, rows: &[Row]) -> Result<String, FormatError> {
    let words = rows.iter().map(|row| Words {
        id: &row.id,
        container: &row.container,
        name: &row.name,
        cpu: &row.cpu,
        mem_usage: &row.mem_usage,
        mem_perc: &row.mem_perc,
        net: "--",
        block: "--",
        pids: &row.pids,
        guest: size::binary(row.guest.pss),
        monitor: size::binary(row.monitor.pss),
        keeper: size::binary(row.keeper.pss),
        private: size::binary(row.total.private),
        shared: size::binary(row.total.shared),
    });
    format.list(&LIST, &words.collect::<Vec<_>>())
}

/// The text over what the terminal shows, without a flicker: every line is cleared behind its end,
/// and what is below the last.
fn over(text: &str) -> String {
    let mut screen = "\x1b[H".to_owned();
    for line in text.lines() {
        // Writing to a string does not fail.
        let _ = write!(screen, "{line}\x1b[K\r\n");
    }
    screen.push_str("\x1b[J");
    screen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_use_is_what_has_passed_since_the_last_look() {
        let mut clocks = Clocks::default();
        assert_eq!(clocks.percent("a", Duration::from_secs(100)), 0.0);
        let (then, _) = clocks.0["a"];
        let earlier = then.checked_sub(Duration::from_secs(10)).unwrap();
        clocks.0.insert("a".into(), (earlier, Duration::from_secs(95)));
        let percent = clocks.percent("a", Duration::from_secs(100));
        assert!((49.0..=50.0).contains(&percent), "{percent}");
        // A sandbox of the same name that is another one has less behind it.
        assert_eq!(clocks.percent("a", Duration::ZERO), 0.0);
    }

    #[test]
    fn parts_of_nothing_are_none() {
        assert_eq!((percent(0, 0), percent(1, 0), percent(1, 4)), (0.0, 0.0, 25.0));
    }

    #[test]
    fn a_screen_is_written_over() {
        assert_eq!(over("a\nb\n"), "\x1b[Ha\x1b[K\r\nb\x1b[K\r\n\x1b[J");
    }
}
