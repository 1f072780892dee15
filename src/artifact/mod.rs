//! Brings artifacts (modules, and differences between them) to this node: by digest, from wherever they are.
//!
//! Owns: the ways here. Not: where they are kept (`image`), nor who wants them.
//!
//! ```text
//!  Fetcher::fetch(digest, sources) ─► fetch: one transfer for all who want it
//!       │ each source in turn
//!       ├─► registry ─► http ──┐
//!       ├─► http ──────────────┼─► intake ─► image::Part ─► blob
//!       └─► broker ─► pull ────┘
//!  serve: the other end of a pull, for whoever publishes
//! ```
//!
//! `block`, `request`, `pull` and `serve` are pure; so are `manifest`, `source` and `settings`.

pub mod block;
mod broker;
pub mod delta;
mod failure;
mod fetch;
mod http;
mod images;
mod intake;
pub mod keyring;
pub mod manifest;
pub mod pull;
pub mod push;
mod registry;
pub mod request;
pub mod serve;
mod settings;
mod source;

pub use broker::{BlockChannel, Blocks, NotNow};
pub use failure::{FetchError, FetchFault, Said, SourceError};
pub use fetch::{Delta, Fetched, Fetcher, Want};
pub use http::SetupError;
pub use images::Remote;
pub use intake::Progress;
pub use keyring::{Keyring, KeyringError};
pub use registry::Found;
pub use request::BlockRequest;
pub use settings::{ArtifactSettings, SettingsError, is_loopback};
pub use source::{InvalidSource, Repository, Source};
