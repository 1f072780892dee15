//! Pods over MQTT, against a real mosquitto: delivered, reported, commanded; and a broker that dies, forgets or turns bad.

mod delivery;
mod link;
pub(crate) mod rig;
