//! What Wasm adds to a pod as annotations: `KEY.podling.dev/CONTAINER`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as corev1;

use super::super::support::{ANNOTATIONS, AnnotationRow};
use super::METADATA;
use super::check::Check;
use crate::spec::{OnMemoryLimit, StopSignal};

/// The settings of all containers, by name.
#[derive(Debug, Default)]
pub(super) struct Annotations {
    stop_signal: BTreeMap<String, StopSignal>,
    on_memory_limit: BTreeMap<String, OnMemoryLimit>,
}

impl Annotations {
    pub(super) fn stop_signal(&self, container: &str) -> StopSignal {
        self.stop_signal.get(container).copied().unwrap_or(StopSignal::Lifecycle)
    }

    pub(super) fn on_memory_limit(&self, container: &str) -> OnMemoryLimit {
        self.on_memory_limit.get(container).copied().unwrap_or(OnMemoryLimit::Kill)
    }

    /// Reads ours among the pod's annotations; one of ours that does not exist is an error, for it
    /// would be ignored in silence otherwise.
    pub(super) fn read(pod: &corev1::Pod, check: &mut Check<'_>) -> Self {
        let mut read = Self::default();
        let list = METADATA.field("annotations");
        for (key, value) in pod.metadata.annotations.iter().flatten() {
            let Some((prefix, container)) = key.split_once('/') else { continue };
            if prefix != "podling.dev" && !prefix.ends_with(".podling.dev") {
                continue;
            }
            let path = list.key(key);
            let word = prefix.strip_suffix(".podling.dev").unwrap_or_default();
            let Some(row) = ANNOTATIONS.iter().find(|row| row.word == word) else {
                let known: Vec<String> = ANNOTATIONS.iter().map(AnnotationRow::form).collect();
                let known = known.join(", ");
                check.forbidden(&path, &format!("not an annotation of podling; known: {known}"));
                continue;
            };
            if !has_container(pod, container) {
                check.not_found(&path, container);
            }
            read.set(row, container, value, &path, check);
        }
        read
    }

    fn set(
        &mut self,
        row: &AnnotationRow,
        container: &str,
        value: &str,
        path: &super::Path<'_>,
        check: &mut Check<'_>,
    ) {
        let name = container.to_owned();
        match row.word {
            "stop-signal" => {
                let known = [("lifecycle", StopSignal::Lifecycle), ("stdin", StopSignal::StdinEof)];
                if let Some(signal) = check.choice(path, Some(value), &known) {
                    self.stop_signal.insert(name, signal);
                }
            }
            _ => {
                let known = [("kill", OnMemoryLimit::Kill), ("fail", OnMemoryLimit::Fail)];
                if let Some(what) = check.choice(path, Some(value), &known) {
                    self.on_memory_limit.insert(name, what);
                }
            }
        }
    }
}

fn has_container(pod: &corev1::Pod, name: &str) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let init = spec.init_containers.iter().flatten();
    init.chain(&spec.containers).any(|container| container.name == name)
}
