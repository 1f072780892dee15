//! The daemon's log on standard error, in the form that whoever reads it expects.
//!
//! Owns: telling systemd's journal from everything else. The journal gets each line's priority in front (`sd-daemon(3)`), so that
//! `journalctl -p warning` finds what it should, and no time of ours: it has its own, also where the clock is wrong at first. Not: what is logged.

use std::fmt;
use std::os::linux::fs::MetadataExt as _;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Whether standard error leads into the journal.
pub(super) fn is_on_stderr() -> bool {
    let Ok(named) = std::env::var("JOURNAL_STREAM") else { return false };
    let Ok(stderr) = std::fs::metadata("/proc/self/fd/2") else { return false };
    is_stream(&named, stderr.st_dev(), stderr.st_ino())
}

/// `JOURNAL_STREAM` is the device and the inode of what the service manager has connected. A child that writes elsewhere inherits the variable all
/// the same.
fn is_stream(named: &str, device: u64, inode: u64) -> bool {
    let parse = |text: &str| text.parse::<u64>().ok();
    let named = named.split_once(':').map(|(device, inode)| (parse(device), parse(inode)));
    named == Some((Some(device), Some(inode)))
}

/// A line for the journal.
#[derive(Debug)]
pub(super) struct Lines(Format<Full, ()>);

impl Lines {
    pub(super) fn new() -> Self {
        Self(Format::default().without_time().with_level(false).with_ansi(false))
    }
}

/// syslog's numbers.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        write!(writer, "<{}>", priority(*event.metadata().level()))?;
        self.0.format_event(context, writer, event)
    }
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn the_journal_is_known_by_what_is_connected_and_not_by_the_variable_alone() {
        assert!(is_stream("8:9", 8, 9));
        for other in ["8:10", "9:9", "8", "", "8:9:10", "a:9"] {
            assert!(!is_stream(other, 8, 9), "{other}");
        }
    }

    #[derive(Clone, Default)]
    struct Paper(Arc<Mutex<Vec<u8>>>);

    impl Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_begins_with_its_priority_and_has_no_time() {
        let paper = Paper::default();
        let writer = paper.clone();
        let log = tracing_subscriber::fmt()
            .with_max_level(Level::TRACE)
            .with_writer(move || writer.clone())
            .event_format(Lines::new())
            .finish();
        tracing::subscriber::with_default(log, || {
            tracing::error!(pod = "web", "one");
            tracing::warn!("two");
            tracing::info!("three");
            tracing::debug!("four");
        });
        let text = String::from_utf8(paper.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let begins: Vec<&str> = lines.iter().map(|line| &line[..3]).collect();
        assert_eq!(begins, ["<3>", "<4>", "<6>", "<7>"]);
        assert!(lines[0].ends_with(": one pod=\"web\""), "{text}");
        assert!(!text.contains("20") && !text.contains("WARN"), "{text}");
    }
}
