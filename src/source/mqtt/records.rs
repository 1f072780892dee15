//! The names under which the protocol's records stand in the store, and writing them.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use tracing::warn;

use crate::error::chain;
use crate::image::Digest;
use crate::mqtt::protocol::{RecordName, Restored};
use crate::spec::PodKey;
use crate::store::{Store, StoredMqtt};

/// The name in the store. A namespace holds no dot.
pub(super) fn name(record: &RecordName) -> String {
    match record {
        RecordName::Node => "node".to_owned(),
        RecordName::Trust => "trust".to_owned(),
        RecordName::Pod(key) => format!("pod.{}.{}", key.namespace, key.name),
    }
}

fn record(name: &str) -> Option<RecordName> {
    match name {
        "node" => Some(RecordName::Node),
        "trust" => Some(RecordName::Trust),
        other => {
            let (namespace, name) = other.strip_prefix("pod.")?.split_once('.')?;
            Some(RecordName::Pod(PodKey::new(namespace, name)))
        }
    }
}

/// What the store held of this source, for the protocol. A record of a name that this version does not know stays where it is.
#[must_use]
pub fn restored(stored: Vec<StoredMqtt>, present: BTreeSet<Digest>) -> Restored {
    let mut records = vec![];
    for StoredMqtt { name, content } in stored {
        match record(&name) {
            Some(record) => records.push((record, Bytes::from(content))),
            None => warn!(name, "an unknown MQTT record is not used"),
        }
    }
    Restored { records, present }
}

/// Makes a record durable, or its absence. Blocking.
///
/// # Errors
/// If it is not certain: why, for people.
pub fn write(
    store: &Arc<Store>,
    record: &RecordName,
    content: Option<&[u8]>,
) -> Result<(), String> {
    let name = name(record);
    match content {
        Some(content) => store.commit_mqtt(&name, content).map(drop).map_err(|e| chain(&e)),
        None => store.delete_mqtt(&name).map(drop).map_err(|e| chain(&e)),
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn names_come_back_as_they_were() {
        let pod = RecordName::Pod(PodKey::new("default", "web.v1"));
        for known in [RecordName::Node, RecordName::Trust, pod] {
            assert_eq!(record(&name(&known)), Some(known));
        }
        assert_eq!(record("pod.x"), None);
        assert_eq!(record("other"), None);
    }
}
