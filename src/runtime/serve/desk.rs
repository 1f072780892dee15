//! Where requests wait for an instance that answers several at a time, and who is called to take them.
//!
//! ```text
//!  a request ─► waiting ─► somebody is called: an instance with room, that waits itself ── the one that waited last
//!                  │            └─ there is none: a new one (`together.rs`)
//!                  └◄── taken, one at a time; whoever takes one and leaves others calls the next
//! ```
//! Owns: the order of requests, and that as long as one waits somebody is on the way. Is not: running anything; it says whom to wake or to start.
//!
//! An instance in a turn is never called: what it does may take long, and it looks for more work by itself before the turn ends. So requests that are answered
//! in short turns meet in one instance, and those that compute spread over as many as there are threads for. One that was called and cannot look (a host function holds
//! it, or it computes) says so at the end of its turn, and another is called.
//!
//! Limits: who waits has a place (`HttpLimits::concurrency`), and there are no more instances than requests, and one.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// `J`: a request. `C`: an instance.
#[derive(Debug)]
pub(super) struct Desk<J, C>(Mutex<State<J, C>>);

#[derive(Debug)]
struct State<J, C> {
    waiting: VecDeque<J>,
    /// Instances at work that wait and have room; the one that came last is called first, since what it needs is in the caches.
    free: Vec<Arc<C>>,
    /// On the way here.
    called: Option<Arc<C>>,
}

/// What the caller has to do, with no lock held.
#[derive(Debug)]
#[must_use]
pub(super) enum Call<C> {
    Nobody,
    Wake(Arc<C>),
    /// A new one, which is to take a request first of all.
    Start(Arc<C>),
}

impl<J, C> Default for Desk<J, C> {
    fn default() -> Self {
        Self(Mutex::new(State { waiting: VecDeque::new(), free: Vec::new(), called: None }))
    }
}

impl<J, C: Default> Desk<J, C> {
    fn state(&self) -> MutexGuard<'_, State<J, C>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request comes.
    pub(super) fn put(&self, request: J) -> Call<C> {
        let mut state = self.state();
        state.waiting.push_back(request);
        state.call()
    }

    /// One that was taken, and could not be begun: it is the next again. Given back if nobody with room could be called.
    pub(super) fn put_back(&self, request: J) -> Result<Call<C>, J> {
        let mut state = self.state();
        if state.free.is_empty() {
            return Err(request);
        }
        state.waiting.push_front(request);
        Ok(state.call())
    }

    /// `who` looks for a request.
    pub(super) fn take(&self, who: &Arc<C>) -> (Option<J>, Call<C>) {
        let mut state = self.state();
        state.has_come(who);
        let request = state.waiting.pop_front();
        (request, state.call())
    }

    /// A turn of `who` begins: it is not to be called.
    pub(super) fn turn_begins(&self, who: &Arc<C>) {
        self.state().free.retain(|free| !Arc::ptr_eq(free, who));
    }

    /// A turn of `who` ends; it may be called if it has room.
    pub(super) fn turn_ends(&self, who: &Arc<C>, has_room: bool) -> Call<C> {
        let mut state = self.state();
        let could_not_look = state.has_come(who);
        let call = if could_not_look { state.call() } else { Call::Nobody };
        if has_room {
            state.free.push(Arc::clone(who));
        }
        call
    }

    /// `who` is over.
    pub(super) fn leave(&self, who: &Arc<C>) -> Call<C> {
        let mut state = self.state();
        state.free.retain(|free| !Arc::ptr_eq(free, who));
        state.has_come(who);
        state.call()
    }

    /// Those that wait and have room: for whoever has something else to tell them than of a request.
    pub(super) fn free(&self) -> Vec<Arc<C>> {
        self.state().free.clone()
    }

    /// Nobody will come any more: what waits is let go.
    pub(super) fn close(&self) {
        let mut state = self.state();
        let all = (std::mem::take(&mut state.waiting), std::mem::take(&mut state.free));
        state.called = None;
        drop(state);
        drop(all);
    }
}

impl<J, C: Default> State<J, C> {
    /// Whether `who` was on the way; it is here now.
    fn has_come(&mut self, who: &Arc<C>) -> bool {
        self.called.take_if(|called| Arc::ptr_eq(called, who)).is_some()
    }

    fn call(&mut self) -> Call<C> {
        if self.waiting.is_empty() || self.called.is_some() {
            return Call::Nobody;
        }
        let (who, call): (_, fn(_) -> _) = match self.free.pop() {
            Some(free) => (free, Call::Wake),
            None => (Arc::default(), Call::Start),
        };
        self.called = Some(Arc::clone(&who));
        call(who)
    }
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    type Tested = Desk<u32, ()>;

    fn started(call: Call<()>) -> Arc<()> {
        match call {
            Call::Start(who) => who,
            other @ (Call::Nobody | Call::Wake(_)) => panic!("{other:?}"),
        }
    }

    fn woken(call: Call<()>) -> Arc<()> {
        match call {
            Call::Wake(who) => who,
            other @ (Call::Nobody | Call::Start(_)) => panic!("{other:?}"),
        }
    }

    fn is_nobody(call: &Call<()>) -> bool {
        matches!(call, Call::Nobody)
    }

    #[test]
    fn one_is_called_at_a_time_and_whoever_takes_a_request_and_leaves_others_calls_the_next() {
        let desk = Tested::default();
        let first = started(desk.put(1));
        assert!(is_nobody(&desk.put(2)), "somebody is on the way");
        let (request, call) = desk.take(&first);
        assert_eq!(request, Some(1));
        let second = started(call);
        // The first takes the other as well, in the same turn.
        let (request, call) = desk.take(&first);
        assert_eq!((request, is_nobody(&call)), (Some(2), true));
        let (request, call) = desk.take(&second);
        assert_eq!(
            (request, is_nobody(&call)),
            (None, true),
            "and the second has come for nothing"
        );
        assert!(is_nobody(&desk.leave(&second)));
    }

    #[test]
    fn who_waits_with_room_is_called_before_a_new_one_is_made_and_the_last_that_came_first() {
        let desk = Tested::default();
        let (one, other) = (Arc::new(()), Arc::new(()));
        assert!(is_nobody(&desk.turn_ends(&one, true)));
        assert!(is_nobody(&desk.turn_ends(&other, true)));
        assert!(Arc::ptr_eq(&woken(desk.put(1)), &other));
        desk.turn_begins(&other);
        assert_eq!(desk.take(&other).0, Some(1));
        // In a turn it is not called.
        assert!(Arc::ptr_eq(&woken(desk.put(2)), &one));
        desk.turn_begins(&one);
        assert_eq!(desk.take(&one).0, Some(2));
        drop(started(desk.put(3)));
    }

    #[test]
    fn who_was_called_and_could_not_look_passes_it_on() {
        let desk = Tested::default();
        let held = Arc::new(());
        assert!(is_nobody(&desk.turn_ends(&held, true)));
        assert!(Arc::ptr_eq(&woken(desk.put(1)), &held));
        desk.turn_begins(&held);
        let other = started(desk.turn_ends(&held, false));
        assert_eq!(desk.take(&other).0, Some(1));
    }

    #[test]
    fn who_ends_while_called_leaves_the_call_to_another() {
        let desk = Tested::default();
        let first = started(desk.put(1));
        let other = started(desk.leave(&first));
        assert_eq!(desk.take(&other).0, Some(1));
        assert!(is_nobody(&desk.leave(&other)));
    }

    #[test]
    fn a_request_that_could_not_be_begun_goes_to_one_with_room_or_back() {
        let desk = Tested::default();
        let poor = started(desk.put(1));
        assert_eq!(desk.take(&poor).0, Some(1));
        assert_eq!(desk.put_back(1).unwrap_err(), 1);
        let rich = Arc::new(());
        assert!(is_nobody(&desk.turn_ends(&rich, true)));
        assert!(Arc::ptr_eq(&woken(desk.put_back(1).unwrap()), &rich));
        assert_eq!(desk.take(&rich).0, Some(1));
    }

    /// Whatever happens in whatever order: while a request waits, somebody is on the way.
    #[test]
    fn nothing_waits_with_nobody_on_the_way() {
        use proptest::prelude::*;
        proptest!(|(steps in prop::collection::vec((0..6_u8, 0..4_usize, any::<bool>()), 1..60))| {
            let desk = Tested::default();
            let mut known: Vec<Arc<()>> = Vec::new();
            let mut put = 0;
            for (step, which, flag) in steps {
                let who = known.get(which).cloned();
                let call = match (step, who) {
                    (0 | 1, _) => { put += 1; desk.put(put) }
                    (2, Some(who)) => desk.take(&who).1,
                    (3, Some(who)) => { desk.turn_begins(&who); Call::Nobody }
                    (4, Some(who)) => { desk.turn_begins(&who); desk.turn_ends(&who, flag) }
                    (5, Some(who)) => { known.retain(|known| !Arc::ptr_eq(known, &who)); desk.leave(&who) }
                    _ => Call::Nobody,
                };
                match call {
                    Call::Start(who) => known.push(who),
                    Call::Wake(who) => prop_assert!(known.iter().any(|known| Arc::ptr_eq(known, &who))),
                    Call::Nobody => {}
                }
                let state = desk.state();
                prop_assert_eq!(state.waiting.is_empty() || state.called.is_some(), true);
                if let Some(called) = &state.called {
                    prop_assert!(known.iter().any(|known| Arc::ptr_eq(known, called)), "who is called is there");
                }
            }
        });
    }
}
