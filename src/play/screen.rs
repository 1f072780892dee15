//! What a person sees of `play`: a live table with log lines above it, or plain lines where the output is no terminal.
//!
//! Owns: the terminal. Plain output is stable: one line a change, no colours, no cursor movement.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::sync::{Arc, Mutex, PoisonError};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio_util::sync::CancellationToken;

use super::{End, label};
use crate::pod::host_port::published_address;
use crate::spec::{Pod, PodKey, Protocol};

/// One container's line in the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) state: String,
    pub(super) ready: bool,
    pub(super) restarts: i32,
}

/// Cheap to clone; all clones are the same terminal.
#[derive(Clone, Debug)]
pub(super) struct Screen(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    live: Option<Live>,
    shown: Mutex<BTreeMap<(PodKey, String), Row>>,
    /// Nobody reads the output any more.
    gone: CancellationToken,
}

#[derive(Debug)]
struct Live {
    table: MultiProgress,
    rows: BTreeMap<(PodKey, String), ProgressBar>,
    width: usize,
}

impl Screen {
    /// Takes the terminal.
    #[must_use]
    pub(super) fn open(pods: &[Arc<Pod>]) -> Self {
        let live = std::io::stdout().is_terminal().then(|| Live::new(pods));
        Self(Arc::new(Inner { live, shown: Mutex::default(), gone: CancellationToken::new() }))
    }

    /// Shows where a pod can be reached from this machine, now that it can.
    pub(super) fn published(&self, pod: &Pod) {
        for line in published(pod) {
            self.line(&line);
        }
    }

    /// Prints a line above the table.
    pub(super) fn line(&self, text: &str) {
        let printed = match &self.0.live {
            Some(live) => live.table.println(text),
            None => writeln!(std::io::stdout().lock(), "{text}"),
        };
        if printed.is_err() {
            self.0.gone.cancel();
        }
    }

    /// Waits until nobody reads the output any more (`play F | head`).
    pub(super) async fn gone(&self) {
        self.0.gone.cancelled().await;
    }

    /// Shows how a container is.
    pub(super) fn row(&self, pod: &PodKey, container: &str, row: Row) {
        let key = (pod.clone(), container.to_owned());
        let mut shown = self.0.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if shown.get(&key) == Some(&row) {
            return;
        }
        match &self.0.live {
            Some(live) => live.show(&key, &row),
            None => self.line(&plain(&key, &row)),
        }
        shown.insert(key, row);
    }

    /// Leaves the terminal as a shell wants it.
    pub(super) fn close(&self, end: &End) {
        if let Some(live) = &self.0.live {
            for bar in live.rows.values() {
                bar.finish_and_clear();
            }
        }
        self.line(match end {
            End::Stopped => "stopped",
            End::AllSucceeded => "all pods succeeded",
            End::SomeFailed => "a pod failed",
        });
    }
}

fn plain((pod, container): &(PodKey, String), row: &Row) -> String {
    let ready = if row.ready { ", ready" } else { "" };
    let restarts = match row.restarts {
        0 => String::new(),
        n => format!(", restarts {n}"),
    };
    format!("pod/{} {container}: {}{ready}{restarts}", label(pod), row.state)
}

impl Live {
    fn new(pods: &[Arc<Pod>]) -> Self {
        let table = MultiProgress::with_draw_target(ProgressDrawTarget::stdout());
        let style = ProgressStyle::with_template("{prefix}  {msg}");
        let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
        let names = pods
            .iter()
            .flat_map(|pod| pod.all_containers().map(|c| (pod.key.clone(), c.name.to_string())));
        let names: Vec<_> = names.collect();
        let title = |(pod, c): &(PodKey, String)| format!("{}/{c}", label(pod));
        let width = names.iter().map(|n| title(n).len()).max().unwrap_or(0);
        let mut rows = BTreeMap::new();
        for name in names {
            let bar = table.add(ProgressBar::new_spinner());
            bar.set_style(style.clone());
            bar.set_prefix(format!("{:width$}", title(&name)));
            bar.set_message("Pending");
            rows.insert(name, bar);
        }
        Self { table, rows, width }
    }

    fn show(&self, key: &(PodKey, String), row: &Row) {
        let Some(bar) = self.rows.get(key) else { return };
        bar.set_message(cells(row, columns().saturating_sub(self.width + MARGIN)));
        bar.tick();
    }
}

/// Columns that the table leaves free: between name and cells, and at the right edge, where a terminal that echoes `^C` would
/// wrap and lose count of the lines.
const MARGIN: usize = 6;

/// What a terminal has where it does not say.
const COLUMNS: usize = 80;

/// The columns of the terminal now; it may have been resized.
fn columns() -> usize {
    console::Term::stdout().size_checked().map_or(COLUMNS, |(_rows, columns)| columns.into())
}

/// A row's cells, what matters most first, cut to `width` characters.
fn cells(row: &Row, width: usize) -> String {
    let ready = if row.ready { "ready" } else { "" };
    let text = format!("{ready:5}  restarts {:<4} {}", row.restarts, row.state);
    text.chars().take(width).collect()
}

/// The lines that say where a pod can be reached from this machine.
fn published(pod: &Pod) -> Vec<String> {
    let mut lines = vec![];
    for container in pod.all_containers() {
        for port in &container.ports {
            let Some(address) = published_address(port) else { continue };
            let protocol = match port.protocol {
                Protocol::Tcp => "",
                Protocol::Udp => "/udp",
            };
            lines.push(format!(
                "published {address}{protocol} -> {}/{}:{}",
                label(&pod.key),
                container.name,
                port.container_port
            ));
        }
    }
    lines
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_row_of_the_table_is_cut_to_the_terminal_and_keeps_what_matters() {
        let state = "CrashLoopBackOff (Trapped, exit code 134: unreachable code was executed)";
        let row = Row { state: state.to_owned(), ready: false, restarts: 12 };
        let text = cells(&row, 40);
        assert_eq!(text.chars().count(), 40);
        assert!(text.contains("restarts 12") && text.contains("CrashLoop"), "{text}");
    }

    #[test]
    fn plain_rows_say_what_matters() {
        let key = (PodKey::new("default", "greenhouse"), "web".to_owned());
        let row = |state: &str, ready, restarts| Row { state: state.to_owned(), ready, restarts };
        let rows = [
            (row("Running", true, 0), "pod/greenhouse web: Running, ready"),
            (row("CrashLoopBackOff", false, 3), "pod/greenhouse web: CrashLoopBackOff, restarts 3"),
        ];
        for (row, expected) in rows {
            assert_eq!(plain(&key, &row), expected);
        }
        let other = (PodKey::new("edge", "greenhouse"), "web".to_owned());
        assert_eq!(plain(&other, &row("Running", false, 0)), "pod/edge/greenhouse web: Running");
    }
}
