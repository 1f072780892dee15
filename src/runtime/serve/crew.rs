//! The requests that one instance answers at a time, as the instance and those who wait for them know of each other.
//!
//! Owns: the list of them, what their askers have told since, and whether the instance takes more. Is not: their answering (`together.rs`).

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};

use futures_util::task::AtomicWaker;
use hyper::Request;
use tokio::sync::oneshot;

use super::call::{Held, Said};
use super::reply::{Link, RequestBody};
use super::together::Job;
use super::works::Ended;

/// Names of requests in one line of the log.
const NAMES_MAX: usize = 3;

/// What became of whoever asked, as far as the handler has yet to answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Asker {
    /// Waits for the answer, or has it.
    #[default]
    Waits,
    /// The client has gone. The handler may go on for a while.
    Gone,
    /// It took too long, and the client was told so.
    GivenUp,
}

/// An instance, as others see it.
#[derive(Default)]
pub(super) struct Crew {
    /// Of the task that the instance is in.
    pub(super) waker: AtomicWaker,
    flights: Mutex<Flights>,
    /// It takes no more requests: one of its requests took too long, and will not be waited for.
    closing: AtomicBool,
    /// In the turn in progress it could look, and had room.
    has_room: AtomicBool,
    /// Nothing is under way in it, and it waits for more.
    at_rest: AtomicBool,
    turn: Arc<Turn>,
}

/// Whether an instance has a turn, or wants one.
#[derive(Debug, Default)]
struct Turn {
    /// It has one.
    in_turn: AtomicBool,
    /// It was woken since that began.
    woken: AtomicBool,
}

#[derive(Default)]
struct Flights {
    list: Vec<Flight>,
    /// The last request that was begun, for the log.
    last: Option<Arc<str>>,
}

struct Flight {
    link: Arc<Link>,
    name: Arc<str>,
    asker: Asker,
    /// How the answer is told; `None`: it was. Here, so that nobody hears of a broken instance before its memory is given back.
    head: Option<oneshot::Sender<Said>>,
    _held: Option<Held>,
}

/// What is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UnderWay {
    /// Nothing, but for what handlers do after their answers.
    Nothing,
    /// Somebody waits, and of some the client has gone.
    SomeGone,
    Waited,
    /// Nobody waits for any of it.
    AllGivenUp,
}

impl Crew {
    fn flights(&self) -> MutexGuard<'_, Flights> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request begins; `None`: nobody waits for it any more, and it is not to begin.
    pub(super) fn begin(self: &Arc<Self>, job: Job) -> Option<(Request<RequestBody>, Arc<Link>)> {
        let Job { request, name, head, link, held } = job;
        let waits = self.enter(Flight {
            link: Arc::clone(&link),
            name,
            asker: Asker::Waits,
            head: Some(head),
            _held: Some(held),
        });
        waits.then_some((request, link))
    }

    fn enter(self: &Arc<Self>, flight: Flight) -> bool {
        let link = Arc::clone(&flight.link);
        // On the list first: whoever leaves from here on finds it there.
        let mut flights = self.flights();
        flights.last = Some(Arc::clone(&flight.name));
        flights.list.push(flight);
        drop(flights);
        let waits = link.taken_by(self) == Asker::Waits;
        if !waits {
            self.end(&link);
        }
        waits
    }

    /// Tells the answer; `false`: nobody hears it.
    pub(super) fn say(&self, link: &Link, said: Said) -> bool {
        let mut flights = self.flights();
        let flight = flights.list.iter_mut().find(|flight| std::ptr::eq(&*flight.link, link));
        let head = flight.and_then(|flight| flight.head.take());
        drop(flights);
        head.is_some_and(|head| head.send(said).is_ok())
    }

    /// A request is over.
    pub(super) fn end(&self, link: &Link) {
        let mut flights = self.flights();
        let at = flights.list.iter().position(|flight| std::ptr::eq(&*flight.link, link));
        let ended = at.map(|at| flights.list.remove(at));
        drop(flights);
        drop(ended);
    }

    /// All are over: whoever waits is told so.
    pub(super) fn disband(&self) {
        let all = std::mem::take(&mut self.flights().list);
        drop(all);
    }

    /// Whoever asked has left.
    pub(super) fn left(&self, link: &Link, asker: Asker) {
        let mut flights = self.flights();
        let known = flights.list.iter_mut().find(|flight| std::ptr::eq(&*flight.link, link));
        let Some(flight) = known else { return };
        flight.asker = asker;
        drop(flights);
        if asker == Asker::GivenUp {
            self.closing.store(true, Ordering::Release);
        }
        self.waker.wake();
    }

    /// Time is up for those whose client has gone.
    pub(super) fn give_up_those_gone(&self) {
        let mut flights = self.flights();
        for flight in flights.list.iter_mut().filter(|flight| flight.asker == Asker::Gone) {
            flight.asker = Asker::GivenUp;
        }
        self.closing.store(true, Ordering::Release);
    }

    pub(super) fn under_way(&self) -> UnderWay {
        let flights = self.flights();
        let count = |asker| flights.list.iter().filter(|flight| flight.asker == asker).count();
        match (flights.list.len(), count(Asker::GivenUp), count(Asker::Gone)) {
            (0, ..) => UnderWay::Nothing,
            (all, given_up, _) if all == given_up => UnderWay::AllGivenUp,
            (_, _, 0) => UnderWay::Waited,
            _ => UnderWay::SomeGone,
        }
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    pub(super) fn turn_begins(&self) {
        self.has_room.store(false, Ordering::Relaxed);
        self.turn.in_turn.store(true, Ordering::SeqCst);
        self.turn.woken.store(false, Ordering::SeqCst);
    }

    /// Told by the instance when it looks for more work.
    pub(super) fn set_room(&self, has_room: bool) {
        self.has_room.store(has_room, Ordering::Relaxed);
    }

    pub(super) fn has_room(&self) -> bool {
        self.has_room.load(Ordering::Relaxed)
    }

    /// Whether it has a turn, or is about to: then it tells of the turn's end.
    pub(super) fn is_busy(&self) -> bool {
        self.turn.in_turn.load(Ordering::SeqCst) || self.turn.woken.load(Ordering::SeqCst)
    }

    /// Whether it was woken since this was last asked, or its turn began.
    pub(super) fn was_woken(&self) -> bool {
        self.turn.woken.swap(false, Ordering::SeqCst)
    }

    /// Its turn is over: those whose responses are under way are told so. Returns whether it wants another one.
    pub(super) fn turn_ends(&self) -> bool {
        self.turn.in_turn.store(false, Ordering::SeqCst);
        let goes_on = self.turn.woken.load(Ordering::SeqCst);
        for flight in &self.flights().list {
            flight.link.turn_ended(goes_on);
        }
        goes_on
    }

    /// Told by the instance at the end of its turn.
    pub(super) fn set_at_rest(&self, at_rest: bool) {
        self.at_rest.store(at_rest, Ordering::Relaxed);
    }

    pub(super) fn is_at_rest(&self) -> bool {
        self.at_rest.load(Ordering::Relaxed)
    }

    /// The instance is broken, and whatever it has begun with it. Returns how many requests those are.
    pub(super) fn breaks(&self) -> usize {
        let flights = self.flights();
        for flight in &flights.list {
            flight.link.breaks(Ended::Broken);
        }
        flights.list.len()
    }

    /// What is under way, for the log.
    pub(super) fn names(&self) -> String {
        let flights = self.flights();
        match &*flights.list {
            [] => flights.last.as_deref().unwrap_or_default().to_owned(),
            [one] => one.name.to_string(),
            several => {
                let names: Vec<_> =
                    several.iter().take(NAMES_MAX).map(|flight| &*flight.name).collect();
                let more = if several.len() > NAMES_MAX { ", …" } else { "" };
                format!("one of {} requests ({}{more})", several.len(), names.join(", "))
            }
        }
    }
}

/// Wakes the task that the instance is in, and remembers that it did.
#[derive(Debug)]
struct Alert {
    /// Not the whole of it: that keeps one of these.
    turn: Arc<Turn>,
    task: Waker,
}

/// The same for as long as the task is.
#[derive(Debug, Default)]
pub(super) struct Alerts(Option<(Waker, Waker)>);

impl Alerts {
    /// What wakes `task` for `crew`.
    pub(super) fn of(&mut self, crew: &Crew, task: &Waker) -> &Waker {
        let known = self.0.take().filter(|(known, _)| known.will_wake(task));
        let (_, alert) = self.0.insert(known.unwrap_or_else(|| {
            let alert = Alert { turn: Arc::clone(&crew.turn), task: task.clone() };
            (task.clone(), Waker::from(Arc::new(alert)))
        }));
        alert
    }
}

impl Wake for Alert {
    fn wake(self: Arc<Self>) {
        Self::wake_by_ref(&self);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.turn.woken.store(true, Ordering::SeqCst);
        // In a turn it looks for that itself, before the turn ends and after: one of the two sees the other.
        if !self.turn.in_turn.load(Ordering::SeqCst) {
            self.task.wake_by_ref();
        }
    }
}

impl fmt::Debug for Crew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Crew").field("under_way", &self.under_way()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn begin(crew: &Arc<Crew>, link: &Arc<Link>, name: &str) -> bool {
        let (link, name) = (Arc::clone(link), name.into());
        crew.enter(Flight { link, name, asker: Asker::Waits, head: None, _held: None })
    }

    #[test]
    fn the_log_names_what_was_under_way() {
        let crew = Arc::new(Crew::default());
        let links: Vec<_> = (0..5).map(|_| Link::new()).collect();
        assert!(begin(&crew, &links[0], "GET /0"));
        assert_eq!(crew.names(), "GET /0");
        crew.end(&links[0]);
        assert_eq!(crew.names(), "GET /0", "what it does afterwards");
        for (n, link) in links.iter().enumerate().skip(1) {
            assert!(begin(&crew, link, &format!("GET /{n}")));
        }
        assert_eq!(crew.names(), "one of 4 requests (GET /1, GET /2, GET /3, …)");
        crew.disband();
        assert_eq!(crew.under_way(), UnderWay::Nothing);
    }

    #[test]
    fn who_leaves_is_noticed_before_and_after_the_beginning() {
        let crew = Arc::new(Crew::default());
        let (early, gone, late) = (Link::new(), Link::new(), Link::new());
        early.leave(Asker::Gone);
        assert!(!begin(&crew, &early, "GET /early"));
        assert_eq!(crew.under_way(), UnderWay::Nothing);
        assert!(begin(&crew, &gone, "GET /gone") && begin(&crew, &late, "GET /late"));
        assert_eq!(crew.under_way(), UnderWay::Waited);
        gone.leave(Asker::Gone);
        assert_eq!((crew.under_way(), crew.is_closing()), (UnderWay::SomeGone, false));
        late.leave(Asker::GivenUp);
        assert_eq!((crew.under_way(), crew.is_closing()), (UnderWay::SomeGone, true));
        crew.give_up_those_gone();
        assert_eq!(crew.under_way(), UnderWay::AllGivenUp);
        crew.end(&late);
        crew.end(&gone);
        assert_eq!(crew.under_way(), UnderWay::Nothing);
    }
}
