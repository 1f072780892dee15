//! Tables of figures, for people and as JSON.

use std::fs;

use serde_json::{Map, Value, json};

/// One cell: what is printed, and what the JSON holds.
#[derive(Clone, Debug)]
pub enum Cell {
    Text(String),
    /// A number and how many decimals of it mean something.
    Number(f64, usize),
}

impl Cell {
    fn shown(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Number(number, decimals) => format!("{number:.decimals$}"),
        }
    }

    fn json(&self) -> Value {
        match self {
            Self::Text(text) => json!(text),
            Self::Number(number, _) => json!(number),
        }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

/// A table with a title.
#[derive(Clone, Debug)]
pub struct Table {
    title: String,
    head: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
    notes: Vec<String>,
}

impl Table {
    #[must_use]
    pub fn new(title: impl Into<String>, head: &[&'static str]) -> Self {
        Self { title: title.into(), head: head.to_vec(), rows: vec![], notes: vec![] }
    }

    pub fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    fn print(&self) {
        let shown: Vec<Vec<String>> =
            self.rows.iter().map(|row| row.iter().map(Cell::shown).collect()).collect();
        let width = |column: usize| {
            let cells =
                shown.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
            cells.chain([self.head[column].chars().count()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.head.len()).map(width).collect();
        let line = |cells: &mut dyn Iterator<Item = (usize, &str)>| {
            // The first column says what; all others are figures.
            let padded = cells.map(|(at, cell)| match at {
                0 => format!("{cell:<0$}", widths[at]),
                _ => format!("{cell:>0$}", widths[at]),
            });
            println!("  {}", padded.collect::<Vec<_>>().join("  ").trim_end());
        };
        println!("\n{}", self.title);
        line(&mut self.head.iter().copied().enumerate());
        for row in &shown {
            line(&mut row.iter().map(String::as_str).enumerate());
        }
        for note in &self.notes {
            println!("  ({note})");
        }
    }

    fn json(&self) -> Value {
        let row = |cells: &Vec<Cell>| -> Value {
            let named = self.head.iter().zip(cells);
            let object: Map<String, Value> =
                named.map(|(name, cell)| ((*name).to_owned(), cell.json())).collect();
            object.into()
        };
        let rows: Vec<Value> = self.rows.iter().map(row).collect();
        json!({ "title": self.title, "rows": rows, "notes": self.notes })
    }
}

/// Everything that one bench has found.
#[derive(Debug)]
pub struct Report {
    bench: &'static str,
    json: bool,
    load_at_start: String,
    tables: Vec<Table>,
}

impl Report {
    #[must_use]
    pub fn new(bench: &'static str, json: bool) -> Self {
        if !json {
            println!("{bench}: {}", machine());
        }
        if std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0") {
            // Every error that wasmtime carries then takes one, and "would block" is an error.
            eprintln!(
                "{bench}: RUST_BACKTRACE is set, which makes connections several times as dear"
            );
        }
        Self { bench, json, load_at_start: load(), tables: vec![] }
    }

    /// Shows a table as soon as it is there.
    pub fn table(&mut self, table: Table) {
        if !self.json {
            table.print();
        }
        self.tables.push(table);
    }

    pub fn finish(self) {
        if self.json {
            let tables: Vec<Value> = self.tables.iter().map(Table::json).collect();
            println!(
                "{}",
                json!({
                    "bench": self.bench,
                    "machine": machine(),
                    "loadAtStart": self.load_at_start,
                    "loadAtEnd": load(),
                    "tables": tables,
                })
            );
        } else {
            println!("\nload average before and after: {} / {}", self.load_at_start, load());
        }
    }
}

/// Processor, cores and kernel.
fn machine() -> String {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name"));
    let model = model.map_or("unknown processor", |rest| rest.trim_start_matches([' ', '\t', ':']));
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let kernel = read("/proc/sys/kernel/osrelease");
    format!("{model}, {cores} cores, Linux {}", kernel.trim())
}

fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().take(1).collect()
}
