//! The server's tables, printed.

use anyhow::ensure;
use serde_json::Value;

use crate::server::wire::{Column, Row, Table};

use super::columns::{self, Columns};

/// Prints tables that follow one another as one.
#[derive(Debug)]
pub(super) struct TablePrinter {
    pub(super) columns: Columns,
    /// Of the first table; those that follow have none of their own.
    pub(super) definitions: Vec<Column>,
    pub(super) wide: bool,
    pub(super) namespace: bool,
    pub(super) labels: bool,
    pub(super) headers: bool,
    /// Stands before each name, as `pod/`: where tables of several types follow one another.
    pub(super) prefix: String,
}

impl TablePrinter {
    pub(super) fn print(&mut self, table: &Table) -> anyhow::Result<String> {
        let mut rows = Vec::new();
        if let Some(definitions) = table.column_definitions.as_ref().filter(|d| !d.is_empty()) {
            let first = self.definitions.is_empty();
            self.definitions.clone_from(definitions);
            if first && self.headers {
                rows.push(self.heading());
            }
        }
        for row in &table.rows {
            rows.push(self.row(row)?);
        }
        Ok(self.columns.set(&rows))
    }

    fn heading(&self) -> Vec<String> {
        let shown = self.definitions.iter().filter(|column| self.shows(column));
        let own = shown.map(|column| column.name.to_uppercase());
        let namespace = self.namespace.then(|| "NAMESPACE".to_owned());
        let labels = self.labels.then(|| "LABELS".to_owned());
        namespace.into_iter().chain(own).chain(labels).collect()
    }

    fn row(&self, row: &Row) -> anyhow::Result<Vec<String>> {
        ensure!(
            row.cells.len() == self.definitions.len(),
            "a row of the server's table has the wrong length"
        );
        let meta = row.object.as_ref().map(|object| &object["metadata"]);
        let mut cells = Vec::new();
        if self.namespace {
            let namespace = meta.and_then(|meta| meta["namespace"].as_str()).unwrap_or_default();
            cells.push(namespace.to_owned());
        }
        for (column, value) in self.definitions.iter().zip(&row.cells) {
            if self.shows(column) {
                cells.push(match value {
                    Value::String(text) if column.name == "Name" => {
                        format!("{}{}", self.prefix, columns::cell(text))
                    }
                    Value::String(text) => columns::cell(text),
                    Value::Null => "<none>".to_owned(),
                    Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                        value.to_string()
                    }
                });
            }
        }
        if self.labels {
            let labels = meta.and_then(|meta| meta["labels"].as_object());
            let labels: Vec<String> = labels
                .into_iter()
                .flatten()
                .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
                .collect();
            cells.push(if labels.is_empty() { "<none>".to_owned() } else { labels.join(",") });
        }
        Ok(cells)
    }

    fn shows(&self, column: &Column) -> bool {
        column.priority == 0 || self.wide
    }
}
