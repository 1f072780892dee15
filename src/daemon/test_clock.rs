//! A wall clock that a file sets, again and again: how a whole node is tested without a battery, or with a time service that errs. For tests;
//! never for use.
//!
//! Owns: reading the file. Not: the clock ([`crate::clock`]). The file holds milliseconds since 1970: what the clock is to show when that
//! number is first seen; from then on it runs. Configured by `testClock`, which a release build refuses.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::clock;

/// How often the file is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// Sets the clock as the file says, before anything has read it; what it says.
pub(super) fn begin(file: &Path) -> Option<i64> {
    let said = read(file);
    if let Some(ms) = said {
        clock::set_wall(ms);
    }
    warn!(?said, "the wall clock is set by a file: a test");
    said
}

/// Sets the clock each time the file says something else.
pub(super) async fn follow(file: PathBuf, mut said: Option<i64>, stop: CancellationToken) {
    while stop.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_some() {
        let now = read(&file);
        if let Some(ms) = now.filter(|_| now != said) {
            clock::set_wall(ms);
            said = now;
            warn!(ms, "the wall clock jumps: a test");
        }
    }
}

fn read(file: &Path) -> Option<i64> {
    std::fs::read_to_string(file).ok()?.trim().parse().ok()
}
