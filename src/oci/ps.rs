//! `ampoule-oci ps`: the processes of a container, with the pids that its guest gives them.

use std::process::ExitCode;
use std::time::Duration;

use ampoule_protocol::message::{ProcessRow, Reply, Request};
use jiff::ZonedDateTime;

use super::record::{Record, Status};
use super::{Global, OciError, guest, table};
use crate::agent::{ClientError, EXCHANGE_TIME};
use crate::sandbox::CONTAINER;

/// List the processes of a container
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Form of the list; json: the pids
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t = table::Format::Table)]
    format: table::Format,
    /// Id of the container
    id: String,
    /// Of ps's options, -e, -A, -f and -o with the columns that there are
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "PS OPTIONS")]
    options: Vec<String>,
}

/// Runs the verb.
pub fn run(args: &Args, global: &Global) -> Result<ExitCode, OciError> {
    let columns = columns(&args.options).map_err(OciError::Usage)?;
    let record = global.store().find(&args.id)?;
    if record.status == Status::Stopped {
        return Err(OciError::NotRunning);
    }
    let with_table = args.format == table::Format::Table;
    let (pids, rows) = processes(&record, with_table)?;
    table::print(&if with_table {
        text(&columns, &pids, &rows, &ZonedDateTime::now())
    } else {
        let json = serde_json::to_string(&pids);
        json.map_err(|error| OciError::Host { what: "write JSON", source: error.into() })? + "\n"
    })
}

fn processes(record: &Record, table: bool) -> Result<(Vec<i32>, Vec<ProcessRow>), OciError> {
    let request = Request::Processes { container: CONTAINER.to_owned(), table };
    match guest::ask(record, &request, EXCHANGE_TIME)? {
        Reply::Processes { pids, table } => Ok((pids, table)),
        _ => Err(ClientError::UnexpectedReply.into()),
    }
}

/// A column of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Column {
    User,
    Pid,
    Parent,
    Cpu,
    Started,
    Terminal,
    Time,
    Command,
}

/// Names of columns in `-o`, and their headings.
const NAMES: [(&str, Column, &str); 18] = [
    ("uid", Column::User, "UID"),
    ("euid", Column::User, "EUID"),
    ("user", Column::User, "USER"),
    ("euser", Column::User, "EUSER"),
    ("pid", Column::Pid, "PID"),
    ("ppid", Column::Parent, "PPID"),
    ("c", Column::Cpu, "C"),
    ("stime", Column::Started, "STIME"),
    ("start_time", Column::Started, "START"),
    ("tty", Column::Terminal, "TT"),
    ("tt", Column::Terminal, "TT"),
    ("tname", Column::Terminal, "TTY"),
    ("time", Column::Time, "TIME"),
    ("cputime", Column::Time, "TIME"),
    ("cmd", Column::Command, "CMD"),
    ("args", Column::Command, "COMMAND"),
    ("command", Column::Command, "COMMAND"),
    ("ucmd", Column::Command, "CMD"),
];

/// Those of `ps -ef`.
const FULL: [(Column, &str); 8] = [
    (Column::User, "UID"),
    (Column::Pid, "PID"),
    (Column::Parent, "PPID"),
    (Column::Cpu, "C"),
    (Column::Started, "STIME"),
    (Column::Terminal, "TTY"),
    (Column::Time, "TIME"),
    (Column::Command, "CMD"),
];

/// The columns that options of ps ask for. All processes are listed in any case.
pub(crate) fn columns(options: &[String]) -> Result<Vec<(Column, &'static str)>, String> {
    let mut columns = Vec::new();
    let mut options = options.iter();
    while let Some(option) = options.next() {
        let refused = || {
            format!(
                "ps option {option:?} cannot be honoured: the guest's processes are listed with -e, -A, -f and -o"
            )
        };
        let letters = option.strip_prefix('-').or_else(|| (option == "ef").then_some("ef"));
        let letters = letters.filter(|letters| !letters.is_empty()).ok_or_else(refused)?;
        // A list ends the letters, or is the next argument.
        let (plain, list) = match letters.split_once('o') {
            Some((plain, "")) => (plain, Some(options.next().ok_or_else(refused)?.as_str())),
            Some((plain, list)) => (plain, Some(list)),
            None => (letters, None),
        };
        if !plain.chars().all(|letter| matches!(letter, 'e' | 'A' | 'f')) {
            return Err(refused());
        }
        for name in list.into_iter().flat_map(|list| list.split([',', ' '])) {
            let known = NAMES.iter().find(|(known, ..)| *known == name);
            let (_, column, heading) = known
                .ok_or_else(|| format!("ps column {name:?} is not known of a guest's processes"))?;
            columns.push((*column, *heading));
        }
    }
    Ok(if columns.is_empty() { FULL.to_vec() } else { columns })
}

/// The table. Whatever a guest tells is a line of text, no more.
pub(crate) fn text(
    columns: &[(Column, &str)],
    pids: &[i32],
    rows: &[ProcessRow],
    now: &ZonedDateTime,
) -> String {
    let mut lines: Vec<Vec<String>> =
        vec![columns.iter().map(|(_, heading)| (*heading).to_owned()).collect()];
    let rows = rows.get(..MOST_ROWS).unwrap_or(rows);
    lines.extend(
        rows.iter().map(|row| columns.iter().map(|(column, _)| cell(*column, row, now)).collect()),
    );
    // Those that the guest does not describe, because they are too many.
    let is_described = rows.iter().map(|row| row.pid).collect::<std::collections::HashSet<_>>();
    let is_cut = pids.len() > rows.len() && rows.len() >= MOST_ROWS;
    let others = pids.iter().filter(|pid| is_cut && !is_described.contains(pid));
    lines.extend(others.take(MOST_PIDS).map(|pid| {
        let cell =
            |column: &Column| if *column == Column::Pid { pid.to_string() } else { "?".into() };
        columns.iter().map(|(column, _)| cell(column)).collect()
    }));
    let to_the_right = |column: &Column| {
        matches!(column, Column::Pid | Column::Parent | Column::Cpu | Column::Time)
    };
    let right: Vec<usize> =
        (0..columns.len()).filter(|number| to_the_right(&columns[*number].0)).collect();
    table::align_all(&lines.iter().map(Vec::as_slice).collect::<Vec<_>>(), &right)
}

/// Processes that an agent describes at most: what a guest tells beyond them is not shown.
const MOST_ROWS: usize = 4096;

/// Processes beside them that are listed: as many pids as Linux gives out by default.
const MOST_PIDS: usize = 32_768;

/// The table that a reply becomes.
#[cfg(fuzzing)]
pub fn fuzzing(pids: &[i32], rows: &[ProcessRow]) -> String {
    let columns = [(Column::Command, "CMD"), (Column::Terminal, "TTY"), (Column::Started, "STIME")];
    text(&FULL, pids, rows, &ZonedDateTime::now())
        + &text(&columns, pids, rows, &ZonedDateTime::now())
}

fn cell(column: Column, row: &ProcessRow, now: &ZonedDateTime) -> String {
    match column {
        Column::User => row.uid.to_string(),
        Column::Pid => row.pid.to_string(),
        Column::Parent => row.parent.to_string(),
        // As ps counts it: the share of its whole life, in percent.
        Column::Cpu => (row.cpu_ms.saturating_mul(100) / row.age_ms.max(1)).min(99).to_string(),
        Column::Started => started(row.age_ms, now),
        Column::Terminal if row.terminal.is_empty() => "?".into(),
        Column::Terminal => table::plain(&row.terminal),
        Column::Time => time(row.cpu_ms / 1000),
        Column::Command => table::plain(&row.command),
    }
}

/// The time of today, or the day of this year, or the year.
fn started(age_ms: u64, now: &ZonedDateTime) -> String {
    let Ok(started) = now.checked_sub(Duration::from_millis(age_ms)) else {
        return "?".into();
    };
    let form = if started.date() == now.date() {
        "%H:%M"
    } else if started.year() == now.year() {
        "%b%d"
    } else {
        "%Y"
    };
    started.strftime(form).to_string()
}

fn time(seconds: u64) -> String {
    let (days, hours) = (seconds / 86_400, seconds / 3600 % 24);
    let clock = format!("{hours:02}:{:02}:{:02}", seconds / 60 % 60, seconds % 60);
    if days > 0 { format!("{days}-{clock}") } else { clock }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn now() -> ZonedDateTime {
        "2026-03-05T12:00:00[UTC]".parse().unwrap()
    }

    fn row() -> ProcessRow {
        ProcessRow {
            pid: 57,
            parent: 1,
            uid: 1000,
            age_ms: 600_000,
            cpu_ms: 61_000,
            terminal: "pts/0".into(),
            command: "sh -c sleep".into(),
        }
    }

    fn asked(options: &[&str]) -> Result<Vec<(Column, &'static str)>, String> {
        columns(&options.iter().map(|option| (*option).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn a_process_is_shown_as_ps_does() {
        let text = text(&FULL, &[57, 58], &[row()], &now());
        let lines: Vec<Vec<&str>> = text.lines().map(|l| l.split_whitespace().collect()).collect();
        assert_eq!(lines[0], ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]);
        let shown = ["1000", "57", "1", "10", "11:50", "pts/0", "00:01:01", "sh", "-c", "sleep"];
        assert_eq!(lines[1], shown);
        // One that has ended meanwhile is not shown.
        assert_eq!(lines.len(), 2);
    }

    #[test]
    fn long_words_of_a_guest_widen_no_other_line() {
        let long = "x".repeat(100_000);
        let row = ProcessRow { terminal: long.clone(), command: long.clone(), ..row() };
        let columns = asked(&["-o", "tty,args,pid"]).unwrap();
        let rows = vec![row; MOST_ROWS / 64];
        let described: usize = rows.len() * (2 * long.len() + 16);
        let pids: Vec<i32> = (0..10_000).collect();
        let table = text(&columns, &pids, &rows, &now());
        assert!(table.len() <= described + 1000, "{} bytes", table.len());
        let rows = vec![ProcessRow { terminal: "y".repeat(200), ..self::row() }; MOST_ROWS];
        let table = text(&columns, &pids, &rows, &now());
        assert!(table.len() < (pids.len() + rows.len()) * 400, "{} bytes", table.len());
    }

    #[test]
    fn a_guest_does_not_decide_how_long_the_list_is() {
        let pids: Vec<i32> = (100..100_000).collect();
        let text = text(&FULL, &pids, &vec![row(); 2 * MOST_ROWS], &now());
        assert_eq!(text.lines().count(), 1 + MOST_ROWS + MOST_PIDS);
    }

    #[test]
    fn times_are_short() {
        assert_eq!([time(59), time(86_400 + 3661)], ["00:00:59", "1-01:01:01"]);
        let day = 86_400_000;
        assert_eq!([started(day, &now()), started(90 * day, &now())], ["Mar04", "2025"]);
        assert_eq!(started(u64::MAX, &now()), "?");
    }

    #[test]
    fn options_choose_columns_or_are_refused_by_name() {
        for all in [&[][..], &["-ef"], &["-e", "-f"], &["ef"], &["-A"]] {
            assert_eq!(asked(all).unwrap(), FULL);
        }
        let two = vec![(Column::Pid, "PID"), (Column::Command, "COMMAND")];
        for options in [
            &["-o", "pid,args"][..],
            &["-eo", "pid,args"],
            &["-opid,args"],
            &["-o", "pid", "-o", "args"],
        ] {
            assert_eq!(asked(options).unwrap(), two);
        }
        for (options, word) in [
            (&["aux"][..], "aux"),
            (&["-o"], "-o"),
            (&["-o", "rss"], "rss"),
            (&["-q", "1"], "-q"),
            (&["--sort=pid"], "--sort"),
            (&["-"], "-"),
        ] {
            assert!(asked(options).unwrap_err().contains(word), "{options:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_a_guest_tells_is_lines_of_plain_text(
            pid: i32, uid: u32, age_ms: u64, cpu_ms: u64, terminal in ".{0,20}", command in "(?s).{0,80}",
        ) {
            let row = ProcessRow { pid, parent: pid, uid, age_ms, cpu_ms, terminal, command };
            let text = text(&FULL, &[pid], &[row], &now());
            prop_assert_eq!(text.lines().count(), 2);
            prop_assert!(text.chars().all(|c| c == '\n' || !c.is_control()));
        }

        #[test]
        fn any_options_are_taken_without_panic(options in prop::collection::vec("-?[eAfo,pid]{0,6}|.{0,6}", 0..4)) {
            let _ = columns(&options);
        }
    }
}
