//! Lines, bounds, pace, and who reads where.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use super::*;
use crate::spec::ContainerName;

fn ring() -> Arc<LogRing> {
    LogRing::new(0, Clock::start())
}

fn read(ring: &LogRing, from: u64) -> LogChunk {
    ring.read(LogCursor(from), usize::MAX)
}

fn texts(chunk: &LogChunk) -> Vec<(String, bool)> {
    let text = |l: &LogLine| (String::from_utf8_lossy(&l.bytes).into_owned(), l.partial);
    chunk.lines.iter().map(text).collect()
}

#[test]
fn output_becomes_lines_however_it_is_cut() {
    let ring = ring();
    for piece in ["he", "llo\nwor", "ld\n", "\n", "end"] {
        ring.write(LogStream::Stdout, piece.as_bytes());
    }
    ring.finish();
    let lines = texts(&read(&ring, 0));
    let expected = [("hello", false), ("world", false), ("", false), ("end", true)]
        .map(|(t, p)| (t.to_owned(), p));
    assert_eq!(lines, expected);
}

#[test]
fn the_two_streams_do_not_mix_within_a_line() {
    let ring = ring();
    ring.write(LogStream::Stdout, b"out");
    ring.write(LogStream::Stderr, b"err\n");
    ring.write(LogStream::Stdout, b"put\n");
    assert_eq!(texts(&read(&ring, 0)), [("err".to_owned(), false), ("output".to_owned(), false)]);
}

#[test]
fn a_line_without_end_is_cut_and_a_flood_is_bounded() {
    let ring = ring();
    for _ in 0..64 {
        ring.write(LogStream::Stdout, &[b'x'; 10_000]);
    }
    let chunk = read(&ring, 0);
    assert!(chunk.lines.iter().all(|l| l.partial && l.bytes.len() == LOG_LINE_BYTES_MAX));
    assert!(chunk.dropped > 0);
    for _ in 0..100_000 {
        ring.write(LogStream::Stderr, b"\n");
    }
    let kept = read(&ring, 0).lines.len();
    assert!(kept <= LOG_RING_BYTES_MAX / LINE_OVERHEAD_BYTES, "{kept}");
}

#[test]
fn who_prints_too_fast_loses_lines_and_a_line_says_how_many() {
    let ring = ring();
    let line = [b'x'; 999];
    let fit = Pace::burst(LOG_BYTES_PER_SECOND) / (999 + LINE_OVERHEAD_BYTES as u64);
    for _ in 0..fit + 500 {
        ring.write(LogStream::Stdout, &line);
        ring.write(LogStream::Stdout, b"\n");
    }
    // As long as it goes on there is no room for a word about it; afterwards there is.
    ring.lock().pace.left = 5000;
    ring.write(LogStream::Stdout, b"later\n");
    let said = ring.last_text(2, 1000);
    let (note, last) = said.split_once('\n').unwrap();
    assert_eq!(last, "later\n");
    let dropped = note.strip_prefix("podling: ").and_then(|note| note.split_once(" lines ("));
    let (lines, rest) = dropped.unwrap_or_else(|| panic!("{said}"));
    let lines: u64 = lines.parse().unwrap();
    // The bucket fills while this goes on.
    assert!((1..=500).contains(&lines), "{said}");
    assert_eq!(rest, format!("{} bytes) dropped: more than 256 KiB of log a second", lines * 999));
    assert!(ring.lock().pace.note().is_none());
    let dropped = Arc::clone(&ring.lock().pace.total);
    // Some may have been told of before.
    assert!(dropped.lines() >= lines, "for the metrics");
    assert_eq!(dropped.bytes(), dropped.lines() * 999);
}

#[test]
fn a_pace_is_a_burst_and_then_a_rate() {
    let mut pace = Pace::new(LOG_BYTES_PER_SECOND, Arc::default());
    let line = (LOG_BYTES_PER_SECOND / 256) as usize - LINE_OVERHEAD_BYTES;
    let mut kept = 0;
    for ms in 0..10_000 {
        pace.refill(Duration::from_millis(ms));
        for _ in 0..3 {
            kept += u64::from(pace.allows(line));
        }
    }
    // Ten seconds' worth, and the burst.
    assert!((256 * 10 + 1024 - 2..=256 * 10 + 1024).contains(&kept), "{kept}");
}

#[test]
fn who_prints_often_has_the_same_pace() {
    for (rate, every) in [(1024, 900), (LOG_BYTES_PER_SECOND, 5), (3, 250_000)] {
        let (mut often, mut once) =
            (Pace::new(rate, Arc::default()), Pace::new(rate, Arc::default()));
        (often.left, once.left) = (0, 0);
        for turn in 1..=1000 {
            often.refill(Duration::from_micros(every * turn));
        }
        once.refill(Duration::from_micros(every * 1000));
        assert_eq!(often.left, once.left, "{rate} bytes a second");
        often.refill(Duration::ZERO);
        assert_eq!(often.left, once.left, "a clock that goes back earns nothing");
    }
}

#[test]
fn what_is_printed_at_once_is_taken_in_parts_between_lines() {
    let line = [b"x".repeat(999), b"\n".to_vec()].concat();
    let lines = line.repeat(1000);
    for printed in [lines, b"\n".repeat(1 << 20), b"x".repeat(1 << 20), b"x\n".to_vec(), vec![]] {
        let cut: Vec<&[u8]> = parts(&printed).collect();
        assert_eq!(cut.concat(), printed);
        assert!(cut.iter().all(|part| !part.is_empty() && part.len() <= WRITE_AT_ONCE));
        assert!(cut.len() <= printed.len() / (WRITE_AT_ONCE / 2) + 1, "{}", cut.len());
        if printed.ends_with(b"\n") {
            assert!(cut.iter().all(|part| part.ends_with(b"\n")));
        }
    }
}

#[test]
fn lines_are_on_the_pods_account_as_long_as_they_are_kept() {
    let limits = crate::runtime::PodLimits { memory_bytes: Some(10_000), ..Default::default() };
    let account = PodAccount::new(limits);
    let ring = ring();
    ring.pay_from(&account);
    for _ in 0..100 {
        ring.write(LogStream::Stdout, &[b'x'; 900]);
        ring.write(LogStream::Stdout, b"\n");
    }
    let held = account.memory_bytes();
    assert!((9000..=10_000).contains(&held), "{held}");
    let chunk = read(&ring, 0);
    assert_eq!((chunk.lines.len(), chunk.dropped), (10, 90), "the oldest went");
    assert!(account.take_memory(10_000 - held));
    ring.write(LogStream::Stdout, b"x\n");
    assert_eq!(read(&ring, 0).lines.last().unwrap().bytes, "x");
    drop(ring);
    assert_eq!(account.memory_bytes(), 10_000 - held);
}

#[test]
fn a_reader_goes_on_where_it_stopped_and_learns_the_end() {
    let ring = ring();
    ring.write(LogStream::Stdout, b"a\nb\nc\n");
    let first = ring.read(LogCursor::START, 2);
    assert_eq!((first.lines.len(), first.ended), (2, false));
    ring.finish();
    let second = read(&ring, first.next.0);
    assert_eq!(texts(&second), [("c".to_owned(), false)]);
    assert!(second.ended);
    assert_eq!(read(&ring, ring.tail(1).0).lines.len(), 1);
    assert!(read(&ring, ring.tail(0).0).lines.is_empty());
}

#[test]
fn the_previous_run_stays_readable_and_no_more_than_that() {
    let (logs, name) = (PodLogs::new(), ContainerName::new("c"));
    for attempt in 0..3 {
        let ring = logs.begin(&name, attempt, Clock::start(), LOG_BYTES_PER_SECOND);
        ring.write(LogStream::Stdout, format!("run {attempt}\n").as_bytes());
    }
    let again = logs.begin(&name, 2, Clock::start(), LOG_BYTES_PER_SECOND);
    again.write(LogStream::Stdout, b"run 2\n");
    let run = |previous| logs.get(&name, previous).map(|r| r.last_text(80, 2048));
    assert_eq!(run(false).as_deref(), Some("run 2\n"));
    assert_eq!(run(true).as_deref(), Some("run 1\n"));
    logs.abandon(&name, 1);
    assert_eq!(run(false).as_deref(), Some("run 2\n"), "an older run is not the newest");
    logs.abandon(&name, 2);
    assert_eq!(run(false).as_deref(), Some("run 1\n"));
}
