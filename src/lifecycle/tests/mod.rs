//! The rules of a pod's life, each as a sentence; and random histories against what must hold in all of them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "a test looks for one variant; the rest is what it is not about"
)]

mod edits;
mod end;
mod histories;
mod images;
mod init;
mod probes;
mod restarts;
mod restored;
mod status;
mod stop;
