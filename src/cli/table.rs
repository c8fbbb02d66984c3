//! A table for people: columns as wide as their widest cell, three spaces between (docker's form).

use std::fmt;

/// Widest column, in characters: beyond it a cell pushes what is behind it aside. More than 65,535
/// blanks cannot be formatted.
const WIDEST: usize = 256;

/// Rows under headings.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings.
    pub fn new(headings: &[&str]) -> Self {
        Self { rows: vec![headings.iter().map(|&heading| heading.to_owned()).collect()] }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0).min(WIDEST)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for row in &self.rows {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            writeln!(f, "{}", cells.collect::<Vec<_>>().join("   ").trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["ID", "NAME"]);
        table.row(["1".into(), "long name".into()]);
        table.row(["1234".into(), "x".into()]);
        assert_eq!(table.to_string(), "ID     NAME\n1      long name\n1234   x\n");
    }

    #[test]
    fn a_long_cell_makes_its_own_line_long_and_no_other() {
        let mut table = Table::new(&["ID", "NAME"]);
        table.row(["x".repeat(100_000), "a".into()]);
        let text = table.to_string();
        let lens: Vec<usize> = text.lines().map(str::len).collect();
        assert_eq!(lens, [WIDEST + 3 + 4, 100_000 + 3 + 1]);
    }
}
