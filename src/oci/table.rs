//! What verbs print: tables and JSON.

use std::io::{self, Write};
use std::process::ExitCode;

use super::OciError;
use super::error::host;

/// Form of what is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Columns, for people
    Table,
    /// For programs
    Json,
}

/// Prints what the verb was asked for.
pub fn print(text: &str) -> Result<ExitCode, OciError> {
    let mut output = io::stdout().lock();
    output
        .write_all(text.as_bytes())
        .and_then(|()| output.flush())
        .map_err(host("write to the standard output"))?;
    Ok(ExitCode::SUCCESS)
}

/// Letters that a column is wide at most; what is longer goes beyond it. Whoever tells long words
/// widens no other line.
const WIDEST: usize = 256;

/// Columns under each other, those of these numbers to the right; the last one as it is.
pub fn align<const N: usize>(lines: &[[String; N]], right: &[usize]) -> String {
    align_all(&lines.iter().map(<[String; N]>::as_slice).collect::<Vec<_>>(), right)
}

/// The same for lines of any one length.
pub fn align_all(lines: &[&[String]], right: &[usize]) -> String {
    let columns = lines.first().map_or(0, |line| line.len());
    let width = |column: usize| {
        lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> =
        (0..columns).map(|column| width(column).unwrap_or(0).min(WIDEST)).collect();
    let mut text = String::new();
    for line in lines {
        for (column, (cell, width)) in line.iter().zip(&widths).enumerate() {
            if column > 0 {
                text.push_str("  ");
            }
            if right.contains(&column) {
                text.push_str(&format!("{cell:>width$}"));
            } else if column + 1 == columns {
                text.push_str(cell);
            } else {
                text.push_str(&format!("{cell:<width$}"));
            }
        }
        text.push('\n');
    }
    text
}

/// Text without what a terminal would act on.
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let line = |cells: [&str; 3]| cells.map(str::to_owned);
        let lines = [line(["PID", "TTY", "CMD"]), line(["12345", "?", "sh -c x"])];
        assert_eq!(align(&lines, &[0]), "  PID  TTY  CMD\n12345  ?    sh -c x\n");
        assert_eq!(align::<3>(&[], &[]), "");
    }

    #[test]
    fn a_long_cell_makes_its_own_line_long_and_no_other() {
        let long = ["1".into(), "x".repeat(100_000), "z".into()];
        let short = ["2".to_owned(), "y".to_owned(), "z".to_owned()];
        let text = align(&[long, short], &[0]);
        let lens: Vec<usize> = text.lines().map(str::len).collect();
        assert_eq!(lens, [1 + 2 + 100_000 + 2 + 1, 1 + 2 + WIDEST + 2 + 1]);
    }

    #[test]
    fn escapes_do_not_reach_a_terminal() {
        assert_eq!(plain("a\x1b[2J\u{9b}ä\n"), "a?[2J?ä?");
    }
}
