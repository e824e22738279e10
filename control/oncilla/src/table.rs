//! Tables for people, JSON for programs.

use std::io::Write;

use clap::ValueEnum;
use serde::Serialize;

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

/// Lines of cells under a heading, aligned in columns.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
    columns: usize,
    /// Columns of numbers, which are aligned to the right.
    right: Vec<bool>,
}

impl Table {
    /// A table with these headings; one that begins with `>` stands above numbers.
    pub(crate) fn new(headings: &[&str]) -> Self {
        let right = headings
            .iter()
            .map(|heading| heading.starts_with('>'))
            .collect();
        let row = headings
            .iter()
            .map(|heading| heading.trim_start_matches('>').to_owned());
        Self {
            rows: vec![row.collect()],
            columns: headings.len(),
            right,
        }
    }

    /// Adds a line. Missing cells are empty.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        let mut row = Vec::from(cells.map(|cell| printable(&cell)));
        row.resize(self.columns, String::new());
        self.rows.push(row);
    }

    /// The text, each line ending in a newline; lines end with their last cell.
    pub(crate) fn render(&self) -> String {
        let width = |column: usize| {
            self.rows
                .iter()
                .map(|row| row[column].chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                let (width, gap) = (widths[column], if column == 0 { "" } else { "  " });
                if self.right[column] {
                    line.push_str(&format!("{gap}{cell:>width$}"));
                } else {
                    line.push_str(&format!("{gap}{cell:<width$}"));
                }
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Text without what would steer a terminal.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

/// Prints a value as JSON over several lines.
pub(crate) fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    write_out(text.as_bytes())
}

/// Writes to standard output, and says so when that fails.
pub(crate) fn write_out(bytes: &[u8]) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(&["NAME", ">PACKETS", "NOTE"]);
        table.row(["lan".into(), "7".into(), String::new()]);
        table.row(["uplink\x1b[2J".into(), "12345678".into(), "x".into()]);
        assert_eq!(
            table.render(),
            "NAME         PACKETS  NOTE\nlan                7\nuplink\u{fffd}[2J  12345678  x\n"
        );
    }
}
