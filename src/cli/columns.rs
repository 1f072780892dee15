//! Text in columns, as kubectl's tab writer sets it.
//!
//! Owns: two layouts. [`align`] is Go's `text/tabwriter`: a column lasts as long as consecutive lines have a cell in it. [`Columns`] is the
//! writer of `get`, which remembers widths so that the lines of a watch stay under their headings.

/// Aligns tab-separated cells. Cells end with a tab; the text after the last tab of a line belongs to no column.
#[must_use]
pub(super) fn align(text: &str, padding: usize) -> String {
    let lines: Vec<Vec<&str>> = text.split('\n').map(|line| line.split('\t').collect()).collect();
    let mut widths: Vec<Vec<usize>> = lines.iter().map(|_| Vec::new()).collect();
    measure(&lines, &mut widths, 0, 0..lines.len(), padding);
    let mut out = String::with_capacity(text.len() * 2);
    for (at, (cells, widths)) in lines.iter().zip(&widths).enumerate() {
        if at > 0 {
            out.push('\n');
        }
        for (column, cell) in cells.iter().enumerate() {
            out.push_str(cell);
            if column + 1 < cells.len() {
                let width = widths.get(column).copied().unwrap_or_default();
                pad(&mut out, width.saturating_sub(cell.chars().count()));
            }
        }
    }
    out
}

/// Finds the width of one column within a run of lines, block by block, then of the next column within each block.
fn measure(
    lines: &[Vec<&str>],
    widths: &mut [Vec<usize>],
    column: usize,
    range: std::ops::Range<usize>,
    padding: usize,
) {
    let has = |line: usize| lines[line].len() > column + 1;
    let mut at = range.start;
    while at < range.end {
        if !has(at) {
            at += 1;
            continue;
        }
        let mut end = at;
        while end < range.end && has(end) {
            end += 1;
        }
        let longest = (at..end).map(|line| lines[line][column].chars().count()).max();
        let width = match longest.unwrap_or_default() {
            // A column of empty cells has no width at all in a tab writer without minimum width.
            0 => padding,
            longest => longest + padding,
        };
        for line in &mut widths[at..end] {
            line.push(width);
        }
        measure(lines, widths, column + 1, at..end, padding);
        at = end;
    }
}

fn pad(out: &mut String, count: usize) {
    out.extend(std::iter::repeat_n(' ', count));
}

/// Rows under headings; widths only grow.
#[derive(Debug, Default)]
pub(super) struct Columns {
    widths: Vec<usize>,
}

impl Columns {
    /// Narrowest column, padding included, and the padding (kubectl: `printers.GetNewTabWriter`).
    const MINIMUM: usize = 6;
    const PADDING: usize = 3;

    /// Sets these rows, wide enough for them and for all rows before.
    #[must_use]
    pub(super) fn set(&mut self, rows: &[Vec<String>]) -> String {
        for row in rows {
            for (column, cell) in row.iter().enumerate() {
                if self.widths.len() <= column {
                    self.widths.push(Self::MINIMUM);
                }
                let width = cell.chars().count() + Self::PADDING;
                self.widths[column] = self.widths[column].max(width);
            }
        }
        let mut out = String::new();
        for row in rows {
            for (column, cell) in row.iter().enumerate() {
                out.push_str(cell);
                if column + 1 < row.len() {
                    pad(&mut out, self.widths[column] - cell.chars().count());
                }
            }
            out.push('\n');
        }
        out
    }
}

/// A cell as a terminal may see it: one line, no control characters.
#[must_use]
pub(super) fn cell(text: &str) -> String {
    let line = text.split(['\n', '\r', '\u{c}']).next().unwrap_or_default();
    let mut out = visible(line);
    if line.len() < text.len() {
        out.push_str("...");
    }
    out
}

/// The text with control characters shown rather than sent to the terminal.
#[must_use]
pub(super) fn visible(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\u{1b}' => out.push_str("^["),
            '\t' | '\n' => out.push(c),
            '\r' => out.push_str("\\r"),
            c if c.is_control() => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
    out
}
