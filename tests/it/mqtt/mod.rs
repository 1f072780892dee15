//! Pods over MQTT, against a real mosquitto: delivered, reported, commanded; and a broker that dies, forgets or turns bad.

mod artifacts;
mod cable;
mod clock;
mod delivery;
mod disk;
mod link;
mod old;
pub(crate) mod rig;
mod rollout;
mod trust;
mod will;
