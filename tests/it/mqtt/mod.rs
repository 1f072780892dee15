//! Pods over MQTT, against a real mosquitto: delivered, reported, commanded; and a broker that dies, forgets or turns bad.

mod artifacts;
mod delivery;
mod figures;
mod link;
pub(crate) mod rig;
mod rollout;
mod trust;
