//! Tells a pod's core that what a run needs next may not be begun, since the node is short of memory.
//!
//! Owns: the way of that news. Not: when it is so (`daemon::pressure`, through `artifact` and `runtime`), nor what is shown of it (`lifecycle`).

use tokio::sync::{mpsc, watch};

use crate::lifecycle::{Event, RunId};
use crate::pod::hands::Report;

/// Whether somebody is held back, as of now: only the last word counts. At first nobody is.
#[derive(Debug, Default)]
pub struct Holds(watch::Sender<bool>);

impl Holds {
    /// It is so from now on.
    pub fn set(&self, held: bool) {
        self.0.send_if_modified(|before| std::mem::replace(before, held) != held);
    }

    /// Does `work`, and tells of every change meanwhile.
    pub async fn telling<T>(
        &self,
        run: &RunId,
        news: &mpsc::Sender<Report>,
        work: impl Future<Output = T>,
    ) -> T {
        let (mut work, mut held) = (std::pin::pin!(work), self.0.subscribe());
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                Ok(()) = held.changed() => {
                    let event = Event::Held { run: run.clone(), held: *held.borrow_and_update() };
                    // The worker is gone only when nobody is interested any more.
                    drop(news.send(Report::Event(event)).await);
                }
            }
        }
    }
}
