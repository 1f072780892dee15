//! Which form of a pod something is about, where a pod keeps its UID while it changes.
//!
//! Owns: what makes two forms of one pod the same. Not: replacing the one by the other (`desired`), nor the facts that are kept about a form
//! (`records`).
//!
//! Only intents change a pod in place: a file's UID is made of its content, and the API's pods are made anew. So only they have a form. It
//! is compared over restarts and upgrades of the daemon, so it is made of what was written (the wire form, defaulted, and the digests that
//! its images stand for), never of what this version makes of it.

use serde::{Deserialize, Serialize};

use super::desired::Accepted;
use crate::mqtt::envelope::digest;
use crate::source::mqtt::INTENT_ANNOTATION;
use crate::spec::{ImageRef, Source};

/// One form of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Form {
    /// SHA-256 of the intent.
    intent: String,
    /// SHA-256 of what runs: see [`content`].
    content: String,
}

impl Form {
    /// The form of a pod that may change in place; `None` for all others.
    #[must_use]
    pub fn of(accepted: &Accepted) -> Option<Self> {
        if accepted.pod.source != Source::Mqtt {
            return None;
        }
        let annotations = accepted.object.metadata.annotations.as_ref();
        let intent = annotations.and_then(|all| all.get(INTENT_ANNOTATION)).cloned();
        Some(Self { intent: intent.unwrap_or_default(), content: content(accepted) })
    }

    #[cfg(test)]
    pub(super) fn named(intent: &str, content: &str) -> Self {
        Self { intent: intent.to_owned(), content: content.to_owned() }
    }

    /// Whether what is known of the one holds for the other: the same intent, or another that runs the same.
    #[must_use]
    pub fn runs_as(&self, other: &Self) -> bool {
        self.intent == other.intent || self.content == other.content
    }
}

/// SHA-256 of everything of a pod that is more than shown: its spec, its annotations, and which modules its images are. Not its labels, its
/// generation, nor the names of this node and of the intent.
#[must_use]
pub fn content(accepted: &Accepted) -> String {
    let object = &accepted.object;
    let mut spec = object.spec.clone();
    if let Some(spec) = &mut spec {
        spec.node_name = None;
    }
    let mut annotations = object.metadata.annotations.clone().unwrap_or_default();
    annotations.remove(INTENT_ANNOTATION);
    let module = |image: &ImageRef| match image {
        ImageRef::Digest { hex, .. } => hex.to_string(),
        ImageRef::Named { .. } | ImageRef::File { .. } => image.text().to_owned(),
    };
    let images: Vec<String> = accepted.pod.all_containers().map(|c| module(&c.image)).collect();
    let bytes = serde_json::to_vec(&(spec, annotations, images));
    digest(&bytes.expect("a pod always has a JSON form")).hex()
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::sync::Arc;

    use super::*;
    use crate::manifest;
    use crate::reconciler::intake::pod_offer;
    use crate::spec::PodUid;

    /// A pod as an intent brings it.
    fn accepted(intent: &str, node: &str, spec: &str, labels: &str, hex: &str) -> Accepted {
        let text = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: a, namespace: default, labels: {labels}}}\n\
             spec: {{containers: [{{name: c, image: 'm:1'}}], {spec}}}\n"
        );
        let mut pod = serde_yaml::from_str(&text).unwrap();
        manifest::default::pod(&mut pod);
        let (mut accepted, _) = pod_offer(pod, PodUid::new("u"), &Source::Mqtt, node).unwrap();
        let annotations =
            Arc::make_mut(&mut accepted.object).metadata.annotations.get_or_insert_default();
        annotations.insert(INTENT_ANNOTATION.into(), intent.into());
        let pod = Arc::make_mut(&mut accepted.pod);
        pod.containers[0].image = ImageRef::Digest { text: "m:1".into(), hex: hex.into() };
        accepted
    }

    #[test]
    fn a_form_is_what_runs_whatever_it_is_called() {
        let form = |intent, node, spec, labels, hex| {
            Form::of(&accepted(intent, node, spec, labels, hex)).unwrap()
        };
        let first = form("i1", "gw-1", "hostname: a", "{}", "00");
        let rows = [
            ("the same", form("i1", "gw-1", "hostname: a", "{}", "00"), true),
            ("a label", form("i2", "gw-1", "hostname: a", "{x: y}", "00"), true),
            ("the node has a new name", form("i2", "gw-2", "hostname: a", "{}", "00"), true),
            (
                "what is the default is said",
                form("i2", "gw-1", "hostname: a, restartPolicy: Always", "{}", "00"),
                true,
            ),
            ("another spec", form("i2", "gw-1", "hostname: b", "{}", "00"), false),
            ("another module", form("i2", "gw-1", "hostname: a", "{}", "01"), false),
            (
                "a newer version sees more in the same intent",
                form("i1", "gw-1", "hostname: b", "{}", "00"),
                true,
            ),
        ];
        for (what, other, same) in rows {
            assert_eq!(first.runs_as(&other), same, "{what}");
        }
    }

    #[test]
    fn only_what_changes_in_place_has_a_form() {
        let mut accepted = accepted("i", "gw", "hostname: a", "{}", "00");
        Arc::make_mut(&mut accepted.pod).source = Source::Api;
        assert_eq!(Form::of(&accepted), None);
    }
}
