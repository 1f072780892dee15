//! The service manager's watchdog (`sd_watchdog_enabled(3)`): systemd kills and starts a daemon anew that says nothing for `WatchdogSec=`.
//!
//! Owns: when `WATCHDOG=1` is said. It is said for the control plane as a whole: only when its timers run and the node's task, through which
//! every change goes, has answered. Modules have no part in it: whatever they do, they do not hold up the control plane, and one that hangs is
//! its probes' affair. Not: the message (`notify`).
//!
//! ```text
//! a third of the time is over ─► ask the node's task ─► answered ─► WATCHDOG=1
//!                                      └─ no answer: nothing is said, and the service manager acts
//! ```

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::warn;

/// Of the time that the service manager waits, so much passes between two signs of life: one may be lost, or late.
const SIGNS: u32 = 3;

/// How long the service manager waits for a sign of life; `None`: it does not.
#[must_use]
pub(super) fn patience() -> Option<Duration> {
    let of = |name| std::env::var(name).ok();
    wanted(of("WATCHDOG_USEC").as_deref(), of("WATCHDOG_PID").as_deref(), std::process::id())
}

/// `usec` is `WATCHDOG_USEC`, `pid` is `WATCHDOG_PID`: whom the variables are meant for, if not everybody.
fn wanted(usec: Option<&str>, pid: Option<&str>, our_pid: u32) -> Option<Duration> {
    if pid.is_some_and(|pid| pid.parse() != Ok(our_pid)) {
        return None;
    }
    let micros: u64 = usec?.parse().ok()?;
    (micros > 0).then(|| Duration::from_micros(micros))
}

/// Gives signs of life until `stop`: `ask` is answered by whom everything goes through, `say` is the sign. systemd counts on while a service
/// stops by `TimeoutStopSec=` and no more by this.
pub(super) async fn run<Answer: Future<Output = bool>>(
    patience: Duration,
    ask: impl Fn() -> Answer,
    say: impl Fn(),
    stop: CancellationToken,
) {
    let every = (patience / SIGNS).max(Duration::from_millis(1));
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let asked = async {
            let mut answer = std::pin::pin!(ask());
            if let Ok(alive) = tokio::time::timeout(every, &mut answer).await {
                return alive;
            }
            warn!(
                "the node's task does not answer: the service manager hears nothing until it does"
            );
            answer.await
        };
        if stop.run_until_cancelled(asked).await == Some(true) {
            say();
        }
    }
}

#[cfg(test)]
mod test {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn signs_come_as_long_as_questions_are_answered_and_no_longer() {
        let (answers, signs) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicU32::new(0)));
        let (asked, said) = (Arc::clone(&answers), Arc::clone(&signs));
        let ask = move || {
            let asked = Arc::clone(&asked);
            async move {
                while !asked.load(Ordering::Relaxed) {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                true
            }
        };
        let stop = CancellationToken::new();
        let say = move || {
            said.fetch_add(1, Ordering::Relaxed);
        };
        let task = tokio::spawn(run(Duration::from_secs(30), ask, say, stop.clone()));
        let after = async |seconds| {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            signs.load(Ordering::Relaxed)
        };
        let alive = after(95).await;
        assert!((9..=11).contains(&alive), "one in ten seconds: {alive}");
        answers.store(false, Ordering::Relaxed);
        // One may be under way.
        let hung = after(20).await;
        assert_eq!(after(600).await, hung);
        answers.store(true, Ordering::Relaxed);
        assert!(after(31).await > hung + 1, "it goes on when the answers do");
        stop.cancel();
        assert!(task.await.is_ok());
    }

    #[test]
    fn the_service_managers_variables_are_understood() {
        let second = Some(Duration::from_secs(1));
        for (usec, pid, expected) in [
            (Some("1000000"), None, second),
            (Some("1000000"), Some("7"), second),
            (Some("1000000"), Some("8"), None),
            (Some("1000000"), Some("seven"), None),
            (Some("0"), None, None),
            (Some("-1"), None, None),
            (Some("soon"), None, None),
            (None, Some("7"), None),
        ] {
            assert_eq!(wanted(usec, pid, 7), expected, "{usec:?} {pid:?}");
        }
    }
}
