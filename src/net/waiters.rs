//! Many who wait for one thing, each with a place of its own.
//!
//! Owns: the wakers, and giving a place back when its holder loses interest, so that the list is
//! never longer than those who wait at once.
//! Is not: a lock, nor a bound: whoever holds a place is a future that somebody else counts.

use std::task::Waker;

/// See the header. Allocates nothing before someone waits.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    places: Vec<Place>,
}

#[derive(Debug)]
enum Place {
    Free,
    /// Its holder waits, or was woken and has not asked again.
    Held(Option<Waker>),
}

impl Waiters {
    /// Keeps `waker` in the holder's place, which is taken at its first call.
    pub(crate) fn wait(&mut self, place: &mut Option<usize>, waker: &Waker) {
        let index = *place.get_or_insert_with(|| self.take_place());
        if let Some(Place::Held(slot)) = self.places.get_mut(index) {
            super::tcp::pipe::remember(slot, waker);
        }
    }

    fn take_place(&mut self) -> usize {
        let free = self.places.iter().position(|place| matches!(place, Place::Free));
        let index = free.unwrap_or(self.places.len());
        if index == self.places.len() {
            self.places.push(Place::Free);
        }
        self.places[index] = Place::Held(None);
        index
    }

    /// The holder of `place` waits no more.
    pub(crate) fn leave(&mut self, place: usize) {
        if let Some(kept) = self.places.get_mut(place) {
            *kept = Place::Free;
        }
        while matches!(self.places.last(), Some(Place::Free)) {
            self.places.pop();
        }
    }

    /// Who has to be woken, once nothing is locked. Their places stay theirs.
    #[must_use]
    pub(crate) fn take(&mut self) -> Vec<Waker> {
        let held = self.places.iter_mut().filter_map(|place| match place {
            Place::Held(waker) => waker.take(),
            Place::Free => None,
        });
        held.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::tests::Bell;

    #[test]
    fn whoever_leaves_takes_nobody_elses_place() {
        let (first, second) = (Bell::new(), Bell::new());
        let mut waiters = Waiters::default();
        let (mut a, mut b) = (None, None);
        first.with(|cx| waiters.wait(&mut a, cx.waker()));
        assert_eq!(waiters.take().len(), 1, "woken, and still in its place");
        second.with(|cx| waiters.wait(&mut b, cx.waker()));
        assert_ne!(a, b);
        waiters.leave(a.unwrap_or_default());
        for waker in waiters.take() {
            waker.wake();
        }
        assert_eq!((first.rang(), second.rang()), (0, 1));
        waiters.leave(b.unwrap_or_default());
        assert!(waiters.places.is_empty());
    }
}
