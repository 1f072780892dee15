//! The operator's side of `docs/mqtt.md`: publishing pods to nodes through a broker, and reading what the nodes say.
//!
//! Owns: what of some manifests goes to which pod, where its modules are, which generation comes next, one connection to the
//! broker, and seeing a document through to the node's verdict. Not: the documents' form and signatures (`mqtt::controller`),
//! the command line (`cli::publish`, `cli::fleet`).
//!
//! ```text
//!  files ─► bundle ─► images ─┐
//!  broker ─► session ─► next ─┴─► mqtt::controller ─► signed document ─► session ─► broker
//!               ▲                                                          │
//!               └─ get ─► offer ─► blocks          statuses ─► verdict ─► publish ─► progress, outcome
//! ```
//!
//! `command` asks a node that is there, and puts its answer together.
//!
//! `known` says which key is which node's, so that a broker cannot speak for one.
//!
//! `bundle`, `next` and `known` are pure. Nothing but the keys of known nodes is kept between two runs: the broker's retained documents and the
//! node's own status are the memory, so any laptop with the key can go on where another one stopped.

pub mod bundle;
pub mod command;
pub mod images;
pub mod known;
pub mod next;
pub mod offer;
pub mod prune;
pub mod publish;
pub mod session;

#[cfg(test)]
mod tests;
