//! The node's side of the protocol: one machine, fed with what happened, answering with what to do.
//!
//! Owns: every decision of `docs/mqtt.md`. Not: I/O, clocks, the manifest's rules, running pods; those are [`Input`]s and
//! [`Output`]s (`io`). One per node, owned by the MQTT source's task:
//!
//! ```text
//!  let (mut protocol, outputs) = Protocol::new(now, config, restored);     at boot, without network
//!  let outputs = protocol.step(now, input);                                 from then on
//! ```

pub mod io;

pub use io::{
    Admission, Config, FetchFailure, Input, Instance, Output, PodPhase, PodReport, Publish,
    RecordName, Restored, Ticket, Timing,
};
