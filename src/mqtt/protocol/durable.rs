//! A value in memory, its copy on disk, and the one write that may be under way between them.
//!
//! Owns: when a write is due, and when a failed one is tried again. Not: the bytes. What must not happen before it is durable
//! looks at [`Durable::stored`]; everything else at [`Durable::want`].

use std::time::Duration;

use super::io::Ticket;
use crate::clock::Timestamp;

/// See the header.
#[derive(Debug)]
pub(super) struct Durable<T> {
    /// As it should be.
    pub(super) want: T,
    stored: T,
    writing: Option<(Ticket, T)>,
    retry_at: Option<Timestamp>,
    wait: Duration,
    failure: Option<String>,
}

impl<T: Clone + PartialEq> Durable<T> {
    pub(super) fn new(stored: T) -> Self {
        let want = stored.clone();
        Self { want, stored, writing: None, retry_at: None, wait: Duration::ZERO, failure: None }
    }

    /// What is certainly on disk.
    pub(super) fn stored(&self) -> &T {
        &self.stored
    }

    /// Why the last write failed, until one succeeds.
    pub(super) fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// Whether a write is to begin now.
    pub(super) fn is_due(&self, now: Timestamp, differs: impl Fn(&T, &T) -> bool) -> bool {
        self.writing.is_none()
            && self.retry_at.is_none_or(|at| at <= now)
            && differs(&self.want, &self.stored)
    }

    /// A write of `content` begins.
    pub(super) fn begin(&mut self, ticket: Ticket, content: T) {
        self.writing = Some((ticket, content));
        self.retry_at = None;
    }

    pub(super) fn is_writing(&self, ticket: Ticket) -> bool {
        self.writing.as_ref().is_some_and(|(t, _)| *t == ticket)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.writing.is_none()
    }

    /// A write has ended. True if the disk has it now.
    pub(super) fn end(
        &mut self,
        now: Timestamp,
        result: Result<(), String>,
        retry: (Duration, Duration),
    ) -> bool {
        let Some((_, content)) = self.writing.take() else { return false };
        match result {
            Ok(()) => {
                self.stored = content;
                (self.failure, self.wait, self.retry_at) = (None, Duration::ZERO, None);
                true
            }
            Err(why) => {
                self.failure = Some(why);
                self.wait = (self.wait * 2).clamp(retry.0, retry.1);
                self.retry_at = Some(now.plus(self.wait));
                false
            }
        }
    }

    /// Does not wait any longer before the next try.
    pub(super) fn hurry(&mut self) {
        self.retry_at = None;
    }

    pub(super) fn wake_at(&self) -> Option<Timestamp> {
        self.retry_at
    }
}
