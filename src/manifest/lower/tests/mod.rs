#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

//! Lowering: every rule in Kubernetes' words, and what a valid object becomes.

mod containers;
mod meaning;
mod pods;
mod volumes;

use std::path::PathBuf;

use super::*;
use crate::manifest::{FieldValidation, parse};
use crate::spec::{
    ContainerKind, ContainerRestartPolicy, EnvSource, FieldPath, Handler, Hook, HttpLimits,
    ImageRef, OnMemoryLimit, PortRef, QosClass, RuleAction, StopSignal, SubPath, VolumeSource,
};

fn read(text: &str) -> corev1::Pod {
    let mut parsed = parse(text.as_bytes(), FieldValidation::Strict);
    assert!(parsed.errors.is_empty(), "{:?}\n{text}", parsed.errors);
    match parsed.documents.pop().unwrap().object {
        Object::Pod(pod) => *pod,
        other @ (Object::ConfigMap(_)
        | Object::Secret(_)
        | Object::Service(_)
        | Object::NetworkPolicy(_)) => panic!("{other:?}"),
    }
}

/// A pod with this metadata and spec, in YAML flow style.
fn pod_of(metadata: &str, spec: &str) -> corev1::Pod {
    read(&format!("{{apiVersion: v1, kind: Pod, metadata: {{{metadata}}}, spec: {{{spec}}}}}"))
}

fn try_lower(pod: &corev1::Pod, source: &Source) -> Result<Lowered, Vec<String>> {
    let uid = PodUid::new("u");
    lower(pod, source, uid).map_err(|errors| errors.iter().map(ToString::to_string).collect())
}

fn good(metadata: &str, spec: &str) -> Lowered {
    try_lower(&pod_of(metadata, spec), &Source::Api).unwrap()
}

/// A pod with one container that has these fields beside its name and image.
fn container(fields: &str) -> crate::spec::Container {
    let spec = format!("containers: [{{name: c, image: x, {fields}}}]");
    good("name: p", &spec).pod.containers.remove(0)
}

const C: &str = "containers: [{name: c, image: x}]";

/// Each spec breaks exactly these rules, in Kubernetes' words.
fn check_spec(cases: &[(&str, &[&str])]) {
    for (spec, expected) in cases {
        let errors = try_lower(&pod_of("name: p", spec), &Source::Api).expect_err(spec);
        assert_eq!(errors, *expected, "{spec}");
    }
}

/// As [`check_spec`], with the fields of one container; paths are within it.
fn check_container(cases: &[(&str, &[&str])]) {
    for (fields, expected) in cases {
        let spec = format!("containers: [{{name: c, image: x, {fields}}}]");
        let errors = try_lower(&pod_of("name: p", &spec), &Source::Api).expect_err(fields);
        let expected: Vec<String> =
            expected.iter().map(|text| format!("spec.containers[0].{text}")).collect();
        assert_eq!(errors, expected, "{fields}");
    }
}

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start \
                     and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
                     '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
