//! Parts of a response that wait for the rest of it, while that is about to come.
//!
//! ```text
//!  a little is to be written ─► is the response all there? ─► is its handler at work, or about to be? ─► it waits
//!                                     └ yes: out                     └ no: out                            │
//!                       out ◄── the handler has nothing more to do for now, or has had [`TURNS`] turns ◄──┘
//! ```
//! Owns: that decision, for one connection. A handler of WASI 0.3 answers in some turns of its own: head, content and end would go out one by one, each
//! with a send and whatever wakes its reader. Nothing waits for a clock, nor for a handler that waits for something else: but for [`OWN_TURNS`] of the connection, one
//! right after the other, where the handler is its own.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};

use super::crew::Crew;
use crate::wasi::http::io::Cork;

/// Turns of a handler for which a part of its response waits: one that answers sixteen at a time comes to the end of each in eight or so. They are some
/// microseconds each.
const TURNS: u32 = 32;

/// The same where the handler is polled by the connection itself, which has to come back for each. Nobody knows there whether it is at work or waits.
const OWN_TURNS: u32 = 4;

/// One connection's.
#[derive(Default)]
pub(super) struct Corked(Mutex<State>);

#[derive(Default)]
struct State {
    /// A response is under way, and this is who has yet to say the rest of it; `None`: a task of the connection itself.
    of: Option<Option<Arc<Crew>>>,
    /// Turns that something has waited for.
    turns: u32,
    waits: Option<Waker>,
}

impl Corked {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A response begins, whose rest is yet to come from `crew`.
    pub(super) fn begins(&self, crew: Option<Arc<Crew>>) {
        *self.state() = State { of: Some(crew), ..State::default() };
    }

    /// The response is all there.
    pub(super) fn ends(&self) {
        *self.state() = State::default();
    }

    /// Its handler has had a turn; `goes_on`: and has more to do.
    pub(super) fn turn_ended(&self, goes_on: bool) {
        let mut state = self.state();
        if state.waits.is_none() {
            return;
        }
        state.turns += 1;
        if goes_on && state.turns < TURNS {
            return;
        }
        state.turns = TURNS;
        let waits = state.waits.take();
        drop(state);
        waits.into_iter().for_each(Waker::wake);
    }
}

impl Cork for Corked {
    fn waits(&self, cx: &Context<'_>) -> bool {
        let mut state = self.state();
        let (is_new, by_itself) = match &state.of {
            Some(Some(_)) => (state.turns < TURNS, false),
            Some(None) => (state.turns < OWN_TURNS, true),
            None => (false, true),
        };
        // Before the question: whoever ends a turn after it finds this.
        state.waits = Some(cx.waker().clone());
        let is_busy = || matches!(&state.of, Some(Some(crew)) if crew.is_busy());
        if !is_new || !(by_itself || is_busy()) {
            (state.turns, state.waits) = (0, None);
            return false;
        }
        if by_itself {
            // The next turn of its handler is the connection's own.
            state.turns += 1;
            state.waits = None;
            drop(state);
            cx.waker().wake_by_ref();
        }
        true
    }
}

impl fmt::Debug for Corked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Corked").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod test {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A connection, how often it was woken, and a handler that has a turn.
    fn connection() -> (Arc<Corked>, Arc<Count>, Arc<Crew>) {
        let crew = Arc::<Crew>::default();
        crew.turn_begins();
        (Arc::default(), Arc::default(), crew)
    }

    fn waits(corked: &Corked, woken: &Arc<Count>) -> bool {
        corked.waits(&Context::from_waker(&Waker::from(Arc::clone(woken))))
    }

    #[test]
    fn a_part_waits_for_the_end_of_its_handlers_turn() {
        let (corked, woken, crew) = connection();
        assert!(!waits(&corked, &woken), "no response is under way");
        corked.begins(Some(Arc::clone(&crew)));
        assert!(waits(&corked, &woken));
        crew.turn_ends();
        corked.turn_ended(false);
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        assert!(!waits(&corked, &woken), "it waits for something else");
        // The next part, in its next turn.
        crew.turn_begins();
        assert!(waits(&corked, &woken));
        corked.ends();
        assert!(!waits(&corked, &woken), "it is all there");
    }

    #[test]
    fn a_part_waits_for_a_few_turns_of_a_handler_that_goes_on_and_on() {
        let (corked, woken, crew) = connection();
        corked.begins(Some(crew));
        for turn in 1..=TURNS {
            assert!(waits(&corked, &woken), "turn {turn}");
            corked.turn_ended(true);
        }
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        assert!(!waits(&corked, &woken));
    }

    #[test]
    fn a_part_waits_for_a_few_turns_of_its_own_connection() {
        let (corked, woken, _) = connection();
        corked.begins(None);
        for turn in 1..=OWN_TURNS as usize {
            assert!(waits(&corked, &woken));
            assert_eq!(woken.0.load(Ordering::Relaxed), turn, "nobody else wakes it");
        }
        assert!(!waits(&corked, &woken));
    }

    #[test]
    fn a_handler_whose_turn_ended_before_is_not_waited_for() {
        let (corked, woken, crew) = connection();
        corked.begins(Some(Arc::clone(&crew)));
        crew.turn_ends();
        assert!(!waits(&corked, &woken), "nobody would tell");
        assert_eq!(woken.0.load(Ordering::Relaxed), 0);
    }
}
