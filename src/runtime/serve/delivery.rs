//! How far a response has come on its way to the client, for those who wait for its end.
//!
//! Owns: that, and who waits: three at most, each of whom has a place here, since there is one of these for each request.

use std::future::poll_fn;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

/// How far a response's body has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Delivery {
    #[default]
    UnderWay,
    Complete,
    BrokenOff,
}

/// Who waits for the end.
#[derive(Clone, Copy, Debug)]
pub(super) enum Who {
    /// The host, to let go of the request.
    Host,
    /// The handler, which is told how it went.
    Handler,
    /// The clock that runs from then on.
    Clock,
}

#[derive(Debug, Default)]
pub(super) struct Way(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    now: Delivery,
    waiting: [Option<Waker>; 3],
}

impl Way {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set(&self, now: Delivery) {
        let mut state = self.state();
        state.now = now;
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        waiting.into_iter().flatten().for_each(Waker::wake);
    }

    /// How it ended, once it has.
    pub(super) async fn end(&self, who: Who) -> Delivery {
        poll_fn(|cx| {
            let mut state = self.state();
            if state.now != Delivery::UnderWay {
                return Poll::Ready(state.now);
            }
            match &mut state.waiting[who as usize] {
                Some(waker) => waker.clone_from(cx.waker()),
                place @ None => *place = Some(cx.waker().clone()),
            }
            Poll::Pending
        })
        .await
    }
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn all_who_wait_hear_of_the_end_and_who_comes_later_too() {
        for end in [Delivery::Complete, Delivery::BrokenOff] {
            let way = Arc::<Way>::default();
            let waiting = [Who::Host, Who::Handler, Who::Clock].map(|who| {
                let way = Arc::clone(&way);
                tokio::spawn(async move { way.end(who).await })
            });
            tokio::task::yield_now().await;
            way.set(end);
            for task in waiting {
                let heard = tokio::time::timeout(Duration::from_secs(60), task).await;
                assert_eq!(heard.unwrap().unwrap(), end);
            }
            assert_eq!(way.end(Who::Host).await, end);
        }
    }
}
