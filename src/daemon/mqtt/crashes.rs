//! Notices that the daemon keeps dying: a pod that takes the gateway down must not do it for ever.
//!
//! A count of starts is written at each, and taken back when the daemon has lived for [`HEALTHY`] or was told to end. So it counts starts
//! that came to a bad end soon, without a clock that survives a power cut. With [`STARTS_MAX`] of them the daemon is in safe
//! mode: pods that were being tried are not tried again (`mqtt::protocol`). Two small writes for each start, none after.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::error::chain;
use crate::store::{Store, StoredMqtt};

/// Under which name the count stands.
const NAME: &str = "starts";

/// Starts in a row that ended badly before this one is careful.
const STARTS_MAX: u32 = 3;

/// A daemon that lived this long has started well.
const HEALTHY: Duration = Duration::from_secs(300);

/// See the header.
#[derive(Debug)]
pub(super) struct Watch {
    bad_starts: u32,
}

impl Watch {
    /// Counts this start; takes its record out of the others.
    pub(super) fn begin(store: &Store, records: &mut Vec<StoredMqtt>) -> Self {
        let at = records.iter().position(|record| record.name == NAME);
        let record = at.map(|at| records.swap_remove(at));
        let text = record.and_then(|record| String::from_utf8(record.content).ok());
        let bad_starts = text.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        let watch = Self { bad_starts };
        let count = u32::saturating_add(bad_starts, 1).to_string();
        if let Err(error) = store.commit_mqtt(NAME, count.as_bytes()) {
            warn!(cause = %chain(&error), "this start is not counted");
        }
        if watch.is_safe_mode() {
            error!(
                bad_starts,
                "safe mode: the daemon died several times soon after its start; pods that were being \
                 tried are not tried again"
            );
        }
        watch
    }

    pub(super) fn is_safe_mode(&self) -> bool {
        self.bad_starts >= STARTS_MAX
    }

    /// Takes the count back when all is well.
    pub(super) async fn run(self, store: Arc<Store>, stop: CancellationToken) {
        tokio::select! {
            () = tokio::time::sleep(HEALTHY) => {}
            () = stop.cancelled() => {}
        }
        let taken_back = tokio::task::spawn_blocking(move || store.delete_mqtt(NAME)).await;
        if let Ok(Err(error)) = taken_back {
            warn!(cause = %chain(&error), "the count of bad starts stays");
        }
    }
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::store::unlucky::Unlucky;

    fn start(disk: &Unlucky) -> (Watch, Arc<Store>) {
        let root = std::path::Path::new("/state");
        let (store, mut loaded, _) = Store::open_on(Arc::new(disk.clone()), root).unwrap();
        let watch = Watch::begin(&store, &mut loaded.mqtt);
        assert!(loaded.mqtt.is_empty(), "the protocol never sees it");
        (watch, Arc::new(store))
    }

    #[tokio::test(start_paused = true)]
    async fn the_fourth_start_after_three_deaths_is_careful_and_a_healthy_one_forgets() {
        let disk = Unlucky::new(std::path::Path::new("/state"));
        for _ in 0..3 {
            assert!(!start(&disk).0.is_safe_mode());
        }
        let (watch, store) = start(&disk);
        assert!(watch.is_safe_mode());
        watch.run(store, CancellationToken::new()).await;
        let (watch, store) = start(&disk);
        assert!(!watch.is_safe_mode());
        let told = CancellationToken::new();
        told.cancel();
        watch.run(store, told).await;
        for _ in 0..3 {
            assert!(!start(&disk).0.is_safe_mode(), "an orderly end is no bad one");
        }
    }
}
