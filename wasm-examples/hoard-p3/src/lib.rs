//! For guests that make their host hold what it can be made to through WASI 0.3: having all that there is, and keeping it.

use std::future::{Future, poll_fn};
use std::hint::black_box;
use std::pin::Pin;
use std::task::Poll;

use guest_p3::wasip3::clocks::monotonic_clock::wait_for;

/// An hour.
pub const LONG: u64 = 3_600_000_000_000;

/// Makes as many as it gets, and keeps them for ever.
pub async fn hold_all<T>(number: usize, mut make: impl FnMut() -> Option<T>) {
    let mut all = Vec::new();
    while all.len() < number {
        match make() {
            Some(one) => all.push(one),
            None => break,
        }
    }
    let words = format!("{} of them", all.len());
    held(all, &words).await;
}

/// Begins as many calls as it may, and waits for them all.
pub async fn wait_for_all<F: Future>(number: usize, mut call: impl FnMut(usize) -> F) {
    let mut calls: Vec<Pin<Box<F>>> = Vec::new();
    for count in 0..number {
        let mut one = Box::pin(call(count));
        let waits = poll_fn(|cx| Poll::Ready(one.as_mut().poll(cx).is_pending())).await;
        if waits {
            calls.push(one);
        }
    }
    let words = format!("{} calls", calls.len());
    held(calls, &words).await;
}

/// It has all that it gets.
pub async fn held<T>(what: T, words: &str) {
    println!("held: {words}");
    wait_for(LONG).await;
    black_box(&what);
}

/// What it is told to do, and how often.
#[must_use]
pub fn told() -> (String, usize) {
    let mut arguments = guest_p3::arguments().into_iter();
    let attack = arguments.next().unwrap_or_default();
    let number = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(1_000_000);
    println!("begins");
    (attack, number)
}
