//! Writes answers to standard output: tables for people, JSON for programs.

use std::io::{self, Write};

use crate::cli::OutputFormat;

/// Standard output in the format the user asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    format: OutputFormat,
}

impl Output {
    /// Output in `format`.
    pub(crate) fn new(format: OutputFormat) -> Self {
        Self { format }
    }

    /// Whether programs read it.
    pub(crate) fn is_json(self) -> bool {
        self.format == OutputFormat::Json
    }

    /// Writes the text or the JSON document, whichever is asked for; only that one is made.
    pub(crate) fn answer(
        self,
        text: impl FnOnce() -> String,
        json: impl FnOnce() -> serde_json::Value,
    ) -> anyhow::Result<()> {
        if self.is_json() { self.line(&json().to_string()) } else { self.line(&text()) }
    }

    /// Writes one line (or several, if `text` has line ends).
    #[expect(clippy::unused_self, reason = "output goes through one door")]
    pub(crate) fn line(self, text: &str) -> anyhow::Result<()> {
        let mut out = io::stdout().lock();
        match writeln!(out, "{}", text.trim_end_matches('\n')).and_then(|()| out.flush()) {
            // Whoever reads, such as `head`, has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => Ok(other?),
        }
    }
}

/// Columns aligned by spaces, under a header.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = header.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let header: Vec<String> = header.iter().map(|cell| cell.to_uppercase()).collect();
    for row in std::iter::once(&header).chain(rows) {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let rows = [vec!["a".to_owned(), "1".to_owned()], vec!["Zürich".to_owned(), "22".to_owned()]];
        assert_eq!(table(&["name", "n"], &rows), "NAME    N\na       1\nZürich  22\n");
    }
}
