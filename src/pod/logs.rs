//! What modules print: lines in a bounded ring, one ring for each run.
//!
//! Owns: splitting output into lines, bounding it in size and in time, waking readers. What a ring holds is on the pod's memory account. Not: serving it (`server` and `play` read it through
//! [`LogSource`]), and never writing it to flash. The writer is the guest's own thread and never waits: when the ring is full the oldest lines go, counted.
//!
//! ```text
//!  PodLogs ── container ─► current LogRing ◄── write() by the guest
//!                          previous LogRing     read(from) by followers, woken through a watch
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;

use crate::board::logs::{LogChunk, LogCursor, LogLine, LogSource, LogStream};
use crate::clock::{Clock, Timestamp};
use crate::lifecycle::Attempt;
use crate::limits::{
    LOG_BURST_BYTES_MIN, LOG_BURST_SECONDS, LOG_BYTES_PER_SECOND, LOG_LINE_BYTES_MAX,
    LOG_RING_BYTES_MAX,
};
use crate::runtime::{self, LogSink, PodAccount};
use crate::spec::ContainerName;

/// What one line costs beside its bytes, so that a flood of empty lines is bounded too.
const LINE_OVERHEAD_BYTES: usize = 48;

/// What was dropped of a container's log because it was too much, over all its runs.
#[derive(Debug, Default)]
pub struct Dropped {
    lines: AtomicU64,
    bytes: AtomicU64,
}

impl Dropped {
    /// Lines.
    #[must_use]
    pub fn lines(&self) -> u64 {
        self.lines.load(Ordering::Relaxed)
    }

    /// Bytes, without what ends the lines.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
struct Lines {
    kept: VecDeque<LogLine>,
    /// Sequence number of the first kept line.
    first: u64,
    bytes: usize,
    /// Unfinished lines of stdout and stderr.
    open: [Vec<u8>; 2],
    ended: bool,
    pace: Pace,
    /// Pays for `bytes`.
    account: Option<PodAccount>,
}

/// How much may be printed, and what was dropped because it was more.
#[derive(Debug)]
struct Pace {
    /// Bytes a second.
    rate: u64,
    left: u64,
    filled_at: Duration,
    lines: u64,
    bytes: u64,
    total: Arc<Dropped>,
}

impl Pace {
    fn new(rate: u64, total: Arc<Dropped>) -> Self {
        let (filled_at, lines, bytes) = (Duration::ZERO, 0, 0);
        Self { rate, left: Self::burst(rate), filled_at, lines, bytes, total }
    }

    /// What may be printed at once.
    fn burst(rate: u64) -> u64 {
        rate.saturating_mul(LOG_BURST_SECONDS).max(LOG_BURST_BYTES_MIN)
    }

    fn refill(&mut self, now: Duration) {
        let since = now.saturating_sub(self.filled_at).as_micros();
        let earned = since.saturating_mul(self.rate.into()) / 1_000_000;
        let earned = u64::try_from(earned).unwrap_or(u64::MAX);
        if earned > 0 {
            self.left = self.left.saturating_add(earned).min(Self::burst(self.rate));
            self.filled_at = now;
        }
    }

    /// Whether a line of so many bytes may be kept; if not, it is counted.
    fn allows(&mut self, bytes: usize) -> bool {
        let cost = (bytes + LINE_OVERHEAD_BYTES) as u64;
        let allowed = cost <= self.left;
        if allowed {
            self.left -= cost;
        } else {
            self.lines += 1;
            self.bytes += bytes as u64;
            self.total.lines.fetch_add(1, Ordering::Relaxed);
            self.total.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        }
        allowed
    }

    /// What to say of the lines that were dropped, once.
    fn note(&mut self) -> Option<String> {
        let (lines, bytes) = (std::mem::take(&mut self.lines), std::mem::take(&mut self.bytes));
        (lines > 0).then(|| {
            format!(
                "podling: {lines} lines ({bytes} bytes) dropped: more than {} KiB of log a second",
                self.rate >> 10
            )
        })
    }
}

/// The output of one run.
#[derive(Debug)]
pub struct LogRing {
    pub attempt: Attempt,
    clock: Clock,
    lines: Mutex<Lines>,
    changed: watch::Sender<u64>,
}

impl LogRing {
    /// An empty one, with the usual bound on bytes a second.
    #[must_use]
    pub fn new(attempt: Attempt, clock: Clock) -> Arc<Self> {
        Self::paced(attempt, clock, LOG_BYTES_PER_SECOND, Arc::default())
    }

    /// An empty one; what is more than `rate` bytes a second is counted in `dropped`.
    #[must_use]
    pub fn paced(attempt: Attempt, clock: Clock, rate: u64, dropped: Arc<Dropped>) -> Arc<Self> {
        let lines = Lines {
            kept: VecDeque::new(),
            first: 0,
            bytes: 0,
            open: Default::default(),
            ended: false,
            pace: Pace::new(rate, dropped),
            account: None,
        };
        let (lines, changed) = (Mutex::new(lines), watch::Sender::new(0));
        Arc::new(Self { attempt, clock, lines, changed })
    }

    /// What it holds is the pod's memory from now on. To be called before anything is written.
    pub fn pay_from(&self, account: &PodAccount) {
        self.lock().account = Some(account.clone());
    }

    /// Takes output as it comes. Never waits for a reader.
    pub fn write(&self, stream: LogStream, mut bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let time = self.clock.now();
        let now = wall_ns(time);
        {
            let mut lines = self.lock();
            lines.pace.refill(time.mono());
            while let Some(at) = bytes.iter().position(|b| *b == b'\n') {
                lines.extend(stream, &bytes[..at], now);
                lines.close(stream, now);
                bytes = &bytes[at + 1..];
            }
            lines.extend(stream, bytes, now);
        }
        self.wake();
    }

    /// The run is over: unfinished lines are kept as partial ones, followers come to their end.
    pub fn finish(&self) {
        let now = wall_ns(self.clock.now());
        {
            let mut lines = self.lock();
            for stream in [LogStream::Stdout, LogStream::Stderr] {
                let open = std::mem::take(&mut lines.open[stream as usize]);
                if !open.is_empty() {
                    lines.push(stream, open, true, now);
                }
            }
            lines.tell_dropped(now);
            lines.ended = true;
        }
        self.wake();
    }

    /// The last lines as one text, at most `max_lines` and `max_bytes`: Kubernetes' `FallbackToLogsOnError`.
    #[must_use]
    pub fn last_text(&self, max_lines: usize, max_bytes: usize) -> String {
        let lines = self.lock();
        let mut text = vec![];
        for line in lines.kept.iter().rev().take(max_lines).rev() {
            text.extend_from_slice(&line.bytes);
            if !line.partial {
                text.push(b'\n');
            }
        }
        let cut = text.len().saturating_sub(max_bytes);
        String::from_utf8_lossy(&text[cut..]).into_owned()
    }

    /// Position before the last `count` lines.
    #[must_use]
    pub fn tail(&self, count: u64) -> LogCursor {
        let lines = self.lock();
        LogCursor(lines.end().saturating_sub(count).max(lines.first))
    }

    fn wake(&self) {
        self.changed.send_modify(|version| *version += 1);
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        // A panic while holding it cannot leave lines half-written in a way that matters to a reader.
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LogSource for LogRing {
    fn read(&self, from: LogCursor, max_bytes: usize) -> LogChunk {
        let lines = self.lock();
        let start = from.0.clamp(lines.first, lines.end());
        let skip = usize::try_from(start - lines.first).unwrap_or(usize::MAX);
        let mut room = max_bytes;
        let fits = |line: &&LogLine| {
            let first = room == max_bytes;
            let fits = first || line.bytes.len() <= room;
            room = room.saturating_sub(line.bytes.len().max(1));
            fits
        };
        let out: Vec<LogLine> = lines.kept.iter().skip(skip).take_while(fits).cloned().collect();
        let next = start + out.len() as u64;
        LogChunk {
            lines: out,
            next: LogCursor(next),
            ended: lines.ended && next == lines.end(),
            dropped: lines.first.saturating_sub(from.0),
        }
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

fn wall_ns(now: Timestamp) -> i64 {
    now.wall_ms().saturating_mul(1_000_000)
}

impl Lines {
    /// Position after the last kept line.
    fn end(&self) -> u64 {
        self.first + self.kept.len() as u64
    }

    /// Adds bytes without a newline to the stream's unfinished line, cutting off full pieces.
    fn extend(&mut self, stream: LogStream, mut bytes: &[u8], now: i64) {
        loop {
            let room = LOG_LINE_BYTES_MAX - self.open[stream as usize].len();
            let (part, rest) = bytes.split_at(bytes.len().min(room));
            self.open[stream as usize].extend_from_slice(part);
            if rest.is_empty() {
                return;
            }
            let full = std::mem::take(&mut self.open[stream as usize]);
            self.push(stream, full, true, now);
            bytes = rest;
        }
    }

    fn close(&mut self, stream: LogStream, now: i64) {
        let line = std::mem::take(&mut self.open[stream as usize]);
        self.push(stream, line, false, now);
    }

    fn push(&mut self, stream: LogStream, bytes: Vec<u8>, partial: bool, time_ns: i64) {
        if self.pace.allows(bytes.len()) {
            self.tell_dropped(time_ns);
            self.keep(stream, bytes, partial, time_ns);
        }
    }

    /// A line of our own about those that were dropped.
    fn tell_dropped(&mut self, time_ns: i64) {
        if let Some(note) = self.pace.note() {
            self.keep(LogStream::Stderr, note.into_bytes(), false, time_ns);
        }
    }

    fn keep(&mut self, stream: LogStream, bytes: Vec<u8>, partial: bool, time_ns: i64) {
        let cost = bytes.len() + LINE_OVERHEAD_BYTES;
        while self.bytes + cost > LOG_RING_BYTES_MAX && self.drop_oldest() {}
        // A pod that has no memory left keeps fewer lines.
        while !self.account.as_ref().is_none_or(|account| account.take_memory(cost as u64)) {
            if !self.drop_oldest() {
                // Nothing left to give up: readers see the gap.
                self.first += 1;
                return;
            }
        }
        self.bytes += cost;
        self.kept.push_back(LogLine { time_ns, stream, partial, bytes: Bytes::from(bytes) });
    }

    fn drop_oldest(&mut self) -> bool {
        let Some(old) = self.kept.pop_front() else { return false };
        let cost = old.bytes.len() + LINE_OVERHEAD_BYTES;
        self.bytes -= cost;
        self.first += 1;
        if let Some(account) = &self.account {
            account.give_back_memory(cost as u64);
        }
        true
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        if let Some(account) = &self.account {
            account.give_back_memory(self.bytes as u64);
        }
    }
}

/// The runtime's end of a ring.
#[derive(Debug)]
pub struct RunLog(pub Arc<LogRing>);

impl LogSink for RunLog {
    fn write(&self, stream: runtime::Stream, bytes: &[u8]) {
        let stream = match stream {
            runtime::Stream::Stdout => LogStream::Stdout,
            runtime::Stream::Stderr => LogStream::Stderr,
        };
        self.0.write(stream, bytes);
    }

    /// Whole lines are kept as they come; an unfinished one waits for its rest.
    fn flush(&self) {}
}

/// The rings of one pod: for each container the current run's and the one before it.
#[derive(Debug)]
pub struct PodLogs {
    rings: Mutex<BTreeMap<ContainerName, Rings>>,
    changed: watch::Sender<u64>,
}

#[derive(Debug)]
struct Rings {
    current: Arc<LogRing>,
    previous: Option<Arc<LogRing>>,
    dropped: Arc<Dropped>,
}

impl PodLogs {
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self { rings: Mutex::default(), changed: watch::Sender::new(0) })
    }

    /// A new run begins; its predecessor's ring stays readable, the one before that goes. A run that is tried again under the
    /// same number (it did not start) replaces its own ring only.
    #[must_use]
    pub fn begin(
        &self,
        container: &ContainerName,
        attempt: Attempt,
        clock: Clock,
        rate: u64,
    ) -> Arc<LogRing> {
        let ring = {
            let mut rings = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
            let before = rings.remove(container);
            let dropped = before.as_ref().map(|r| Arc::clone(&r.dropped)).unwrap_or_default();
            let previous = before.and_then(|r| match r.current.attempt {
                again if again == attempt => r.previous,
                _ => Some(r.current),
            });
            let ring = LogRing::paced(attempt, clock, rate, Arc::clone(&dropped));
            let entry = Rings { current: Arc::clone(&ring), previous, dropped };
            rings.insert(container.clone(), entry);
            ring
        };
        self.changed.send_modify(|version| *version += 1);
        ring
    }

    /// A run did not come about: it leaves no log, and the one before it is the newest again.
    pub fn abandon(&self, container: &ContainerName, attempt: Attempt) {
        let mut rings = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(entry) = rings.remove(container) else { return };
        if entry.current.attempt != attempt {
            rings.insert(container.clone(), entry);
        } else if let Some(current) = entry.previous {
            let (previous, dropped) = (None, entry.dropped);
            rings.insert(container.clone(), Rings { current, previous, dropped });
        }
    }

    /// What was dropped of a container's log.
    #[must_use]
    pub fn dropped(&self, container: &ContainerName) -> Arc<Dropped> {
        let rings = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
        rings.get(container).map(|rings| Arc::clone(&rings.dropped)).unwrap_or_default()
    }

    #[must_use]
    pub fn get(&self, container: &ContainerName, previous: bool) -> Option<Arc<LogRing>> {
        let rings = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
        let rings = rings.get(container)?;
        if previous { rings.previous.clone() } else { Some(Arc::clone(&rings.current)) }
    }

    /// Changes whenever a run begins.
    #[must_use]
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

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
        assert_eq!(
            texts(&read(&ring, 0)),
            [("err".to_owned(), false), ("output".to_owned(), false)]
        );
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
        assert_eq!(
            rest,
            format!("{} bytes) dropped: more than 256 KiB of log a second", lines * 999)
        );
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
}
