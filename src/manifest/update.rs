//! What may be changed in a pod that exists (`KUBELET.md` 20, "Update rules").
//!
//! Owns: telling allowed changes from others. Not: what an allowed change does to a running pod
//! (`reconciler`).

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1 as corev1;
use serde_json::{Map, Value};

use super::error::{FieldError, FieldErrorKind};
use super::path::Path;

const SPEC: Path<'static> = Path::root("spec");

/// Kubernetes' sentence for a field that may not change.
const FIXED: &str = "pod updates may not change fields other than \
                     `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,\
                     `spec.tolerations` (only additions to existing tolerations),\
                     `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

const HOST_LOOPBACK: &str = "podling.dev/host-loopback";

/// Fields that a refusal names. Whoever changes more than that has another pod in mind.
const NAMED_MAX: usize = 8;

/// Compares two defaulted pods of the same name: the spec after the change, if it is changed at all.
///
/// # Errors
/// Everything that changes though it may not.
pub fn pod(
    old: &corev1::Pod,
    new: &corev1::Pod,
) -> Result<Option<corev1::PodSpec>, Vec<FieldError>> {
    let mut errors = Vec::new();
    identity(old, new, &mut errors);
    let absent = corev1::PodSpec::default();
    let old = old.spec.as_ref().unwrap_or(&absent);
    let new = new.spec.as_ref().unwrap_or(&absent);
    let lists = [
        ("containers", &old.containers[..], &new.containers[..]),
        (
            "initContainers",
            old.init_containers.as_deref().unwrap_or_default(),
            new.init_containers.as_deref().unwrap_or_default(),
        ),
    ];
    for (field, old, new) in lists {
        if old.len() != new.len() {
            let detail = "pod updates may not add or remove containers";
            forbid(&SPEC.field(field), detail, &mut errors);
        }
    }
    active_deadline(old, new, &mut errors);
    tolerations(old, new, &mut errors);
    let changed = with_allowed_changes(old, new);
    if errors.is_empty() {
        let fixed = fixed_fields(&changed, new);
        if !fixed.is_empty() {
            forbid(&SPEC, &format!("{FIXED}; changed: {}", fixed.join(", ")), &mut errors);
        }
    }
    if errors.is_empty() { Ok(Some(changed).filter(|changed| changed != old)) } else { Err(errors) }
}

/// What to tell whoever changes a container's settings (`KEY.podling.dev/CONTAINER`) in a pod that is at work: it keeps those that it began with.
/// What annotations say of the pod as a whole (`podling.dev/KEY`) is in force at once, but for ports of the host's loopback that it
/// did not have: its way there was made when it began. Those that are taken back are gone at once.
#[must_use]
pub fn settings_for_later(old: &corev1::Pod, new: &corev1::Pod) -> Vec<String> {
    let of = |pod: &corev1::Pod| pod.metadata.annotations.clone().unwrap_or_default();
    let (old, new) = (of(old), of(new));
    let keys: BTreeSet<_> = old.keys().chain(new.keys()).collect();
    let is_later = |key: &&String| {
        let (old, new) = (old.get(*key), new.get(*key));
        match key.as_str() {
            HOST_LOOPBACK => items(new).any(|port| !items(old).any(|had| had == port)),
            key => is_containers(key) && old != new,
        }
    };
    let changed = keys.into_iter().filter(is_later);
    let metadata = Path::root("metadata");
    let list = metadata.field("annotations");
    let told = |key: &String| {
        format!(
            "{}: the running pod keeps what it began with; this is in force when the pod is created anew, or when podling starts again",
            list.key(key)
        )
    };
    changed.map(told).collect()
}

fn items(list: Option<&String>) -> impl Iterator<Item = &str> {
    let items = list.map(String::as_str).unwrap_or_default().split(',').map(str::trim);
    items.filter(|item| !item.is_empty())
}

fn is_containers(key: &str) -> bool {
    key.split_once('/').is_some_and(|(prefix, _)| prefix.ends_with(".podling.dev"))
}

/// Paths of what differs though it may not, [`NAMED_MAX`] at most. (Kubernetes prints Go's difference of the two.)
fn fixed_fields(allowed: &corev1::PodSpec, new: &corev1::PodSpec) -> Vec<String> {
    let mut allowed = allowed.clone();
    // Filled in by the node; a client's file does not have it.
    if new.node_name.as_deref().unwrap_or_default().is_empty() {
        allowed.node_name.clone_from(&new.node_name);
    }
    let mut paths = Vec::new();
    if allowed != *new {
        let json = |spec: &corev1::PodSpec| {
            serde_json::to_value(spec).expect("a spec always has a JSON form")
        };
        differences("spec", &json(&allowed), &json(new), &mut paths);
        // What differs in no field that is written, such as an empty list for none, cannot be named.
        if paths.is_empty() {
            paths.push("spec".to_owned());
        }
    }
    paths
}

fn differences(path: &str, old: &Value, new: &Value, paths: &mut Vec<String>) {
    if old == new || paths.len() >= NAMED_MAX {
        return;
    }
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
            for key in keys {
                let of = |map: &Map<String, Value>| map.get(key).cloned().unwrap_or_default();
                differences(&format!("{path}.{key}"), &of(old), &of(new), paths);
            }
        }
        (Value::Array(old), Value::Array(new)) if old.len() == new.len() => {
            for (i, (old, new)) in old.iter().zip(new).enumerate() {
                differences(&format!("{path}[{i}]"), old, new, paths);
            }
        }
        _ => paths.push(path.to_owned()),
    }
}

fn identity(old: &corev1::Pod, new: &corev1::Pod, errors: &mut Vec<FieldError>) {
    let metadata = Path::root("metadata");
    let (old, new) = (&old.metadata, &new.metadata);
    let fields = [
        ("name", &old.name, &new.name),
        ("namespace", &old.namespace, &new.namespace),
        ("uid", &old.uid, &new.uid),
    ];
    for (field, old, new) in fields {
        // A client that leaves its copy of these out means the object that is there.
        if let Some(value) =
            new.as_ref().filter(|value| !value.is_empty() && old.as_ref() != Some(value))
        {
            let kind = FieldErrorKind::Invalid {
                value: format!("{value:?}"),
                detail: "field is immutable".to_owned(),
            };
            errors.push(FieldError { path: metadata.field(field).to_string(), kind });
        }
    }
}

fn active_deadline(old: &corev1::PodSpec, new: &corev1::PodSpec, errors: &mut Vec<FieldError>) {
    let path = SPEC.field("activeDeadlineSeconds");
    let fault = match (old.active_deadline_seconds, new.active_deadline_seconds) {
        (Some(old), Some(new)) if new > old => {
            Some((new.to_string(), "must be less than or equal to previous value"))
        }
        (Some(_), None) => {
            Some(("null".to_owned(), "must not update from a positive integer to nil value"))
        }
        (Some(_) | None, Some(_) | None) => None,
    };
    if let Some((value, detail)) = fault {
        let kind = FieldErrorKind::Invalid { value, detail: detail.to_owned() };
        errors.push(FieldError { path: path.to_string(), kind });
    }
}

fn tolerations(old: &corev1::PodSpec, new: &corev1::PodSpec, errors: &mut Vec<FieldError>) {
    let new = new.tolerations.as_deref().unwrap_or_default();
    let kept = |old: &corev1::Toleration| {
        let same = |new: &corev1::Toleration| {
            let toleration_seconds = new.toleration_seconds;
            corev1::Toleration { toleration_seconds, ..old.clone() } == *new
        };
        new.iter().any(same)
    };
    if !old.tolerations.iter().flatten().all(kept) {
        let detail = "existing toleration can not be modified except its tolerationSeconds";
        forbid(&SPEC.field("tolerations"), detail, errors);
    }
}

/// The old spec with everything from the new one that may change. (A negative `terminationGracePeriodSeconds` is 1 by now in both.)
fn with_allowed_changes(old: &corev1::PodSpec, new: &corev1::PodSpec) -> corev1::PodSpec {
    let mut allowed = old.clone();
    for (old, new) in allowed.containers.iter_mut().zip(&new.containers) {
        old.image.clone_from(&new.image);
    }
    let inits = allowed.init_containers.iter_mut().flatten();
    for (old, new) in inits.zip(new.init_containers.iter().flatten()) {
        old.image.clone_from(&new.image);
    }
    allowed.active_deadline_seconds = new.active_deadline_seconds;
    allowed.tolerations.clone_from(&new.tolerations);
    allowed
}

fn forbid(path: &Path<'_>, detail: &str, errors: &mut Vec<FieldError>) {
    let kind = FieldErrorKind::Forbidden { detail: detail.to_owned() };
    errors.push(FieldError { path: path.to_string(), kind });
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    const SAMPLE: &str = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","uid":"1"},
        "spec":{"activeDeadlineSeconds":60,"nodeName":"gw","terminationGracePeriodSeconds":-5,
        "tolerations":[{"key":"a","operator":"Exists","tolerationSeconds":5}],
        "initContainers":[{"name":"i","image":"i:1"}],
        "containers":[{"name":"c","image":"x:1","env":[{"name":"A","value":"1"}]}]}}"#;

    fn sample() -> corev1::Pod {
        let mut pod = serde_json::from_str(SAMPLE).unwrap();
        crate::manifest::default::pod(&mut pod);
        pod
    }

    #[test]
    fn settings_that_a_running_pod_does_not_take_up_are_named() {
        let with = |annotations: &[(&str, &str)]| {
            let mut pod = sample();
            let owned = annotations.iter().map(|(key, value)| ((*key).into(), (*value).into()));
            pod.metadata.annotations = Some(owned.collect());
            pod
        };
        let old = with(&[("log-rate.podling.dev/c", "1Ki"), ("podling.dev/egress-names", "a.b")]);
        assert_eq!(settings_for_later(&old, &old), Vec::<String>::new());
        let noted = with(&[
            ("log-rate.podling.dev/c", "1Ki"),
            ("podling.dev/egress-names", "c.d"),
            ("example.com/note", "x"),
        ]);
        assert_eq!(settings_for_later(&old, &noted), Vec::<String>::new());
        let new = with(&[("log-rate.podling.dev/c", "2Ki"), ("http-timeout.podling.dev/c", "5")]);
        let told = settings_for_later(&old, &new);
        let begins = |key: &str| format!("metadata.annotations[{key}]: the running pod keeps");
        assert_eq!(told.len(), 2, "{told:?}");
        for (told, key) in told.iter().zip(["http-timeout.podling.dev/c", "log-rate.podling.dev/c"])
        {
            assert!(told.starts_with(&begins(key)), "{told}");
        }
        let granted = |ports: &str| with(&[(HOST_LOOPBACK, ports)]);
        for (old, new, told) in [
            (with(&[]), granted("tcp/5432"), 1),
            (granted("tcp/5432"), granted("udp/53, tcp/5432"), 1),
            (granted("tcp/5432,udp/53"), granted("udp/53"), 0),
            (granted("tcp/5432"), with(&[]), 0),
        ] {
            assert_eq!(settings_for_later(&old, &new).len(), told);
        }
    }

    type Change = fn(&mut corev1::Pod, &mut corev1::PodSpec);

    fn check(change: Change) -> Result<Option<corev1::PodSpec>, Vec<String>> {
        let old = sample();
        let mut new: corev1::Pod = serde_json::from_str(SAMPLE).unwrap();
        let mut spec = new.spec.take().unwrap_or_default();
        change(&mut new, &mut spec);
        new.spec = Some(spec);
        crate::manifest::default::pod(&mut new);
        pod(&old, &new).map_err(|errors| errors.iter().map(ToString::to_string).collect())
    }

    fn toleration(key: &str, seconds: Option<i64>) -> corev1::Toleration {
        corev1::Toleration {
            key: Some(key.to_owned()),
            operator: Some("Exists".to_owned()),
            toleration_seconds: seconds,
            ..corev1::Toleration::default()
        }
    }

    #[test]
    fn what_kubernetes_lets_change_is_taken_over_and_nothing_else() {
        let same: [Change; 4] = [
            |_, _| {},
            |pod, _| pod.metadata.labels = Some([("a".into(), "b".into())].into()),
            |_, spec| spec.node_name = None,
            // Stored as 1 when it was negative, it may be said to be that.
            |_, spec| spec.termination_grace_period_seconds = Some(1),
        ];
        for change in same {
            assert_eq!(check(change), Ok(None));
        }
        let changes: [Change; 6] = [
            |_, spec| spec.containers[0].image = Some("x:2".to_owned()),
            |_, spec| spec.init_containers.as_mut().unwrap()[0].image = Some("i:2".to_owned()),
            |_, spec| spec.active_deadline_seconds = Some(30),
            |_, spec| {
                let more = toleration("b", None);
                spec.tolerations.as_mut().unwrap().push(more);
            },
            |_, spec| spec.tolerations = Some(vec![toleration("a", Some(7))]),
            |_, spec| spec.tolerations = Some(vec![toleration("a", None)]),
        ];
        for change in changes {
            let mut expected = sample();
            let mut spec = expected.spec.take().unwrap();
            change(&mut expected, &mut spec);
            assert_eq!(
                check(change),
                Ok(Some(spec)),
                "the rest, the node's name too, is as before"
            );
        }
    }

    #[test]
    fn a_deadline_may_be_newly_set() {
        let mut old = sample();
        let mut new = sample();
        old.spec.as_mut().unwrap().active_deadline_seconds = None;
        new.spec.as_mut().unwrap().active_deadline_seconds = Some(5);
        assert_eq!(pod(&old, &new), Ok(new.spec));
    }

    #[test]
    fn everything_else_is_refused_in_kubernetes_words_with_the_fields() {
        const OTHERS: &str = "(allow it to be set to 1 if it was previously negative); changed: ";
        let cases: [(Change, &str, &str); 9] = [
            (
                |_, spec| spec.active_deadline_seconds = Some(61),
                "spec.activeDeadlineSeconds: Invalid value: 61: must be less than or equal to previous value",
                "",
            ),
            (
                |_, spec| spec.active_deadline_seconds = None,
                "spec.activeDeadlineSeconds: Invalid value: null: must not update from a positive integer to nil value",
                "",
            ),
            (
                |_, spec| spec.containers.push(corev1::Container::default()),
                "spec.containers: Forbidden: pod updates may not add or remove containers",
                "",
            ),
            (
                |_, spec| spec.tolerations = Some(vec![toleration("b", Some(5))]),
                "spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds",
                "",
            ),
            (
                |_, spec| spec.containers[0].name = "d".to_owned(),
                "spec: Forbidden: pod updates may not change fields other than",
                "spec.containers[0].name",
            ),
            (
                |_, spec| {
                    spec.hostname = Some("h".to_owned());
                    spec.containers[0].env.as_mut().unwrap()[0].value = Some("2".to_owned());
                    spec.containers[0].image = Some("x:2".to_owned());
                },
                "spec: Forbidden: pod updates may not change fields other than",
                "spec.containers[0].env[0].value, spec.hostname",
            ),
            (
                |_, spec| spec.termination_grace_period_seconds = Some(30),
                "spec: Forbidden: pod updates may not change fields other than",
                "spec.terminationGracePeriodSeconds",
            ),
            (
                |_, spec| spec.node_name = Some("other".to_owned()),
                "spec: Forbidden: pod updates may not change fields other than",
                "spec.nodeName",
            ),
            (
                |pod, _| pod.metadata.uid = Some("2".to_owned()),
                "metadata.uid: Invalid value: \"2\": field is immutable",
                "",
            ),
        ];
        for (change, expected, fields) in cases {
            let errors = check(change).expect_err(expected);
            assert!(errors.len() == 1 && errors[0].starts_with(expected), "{errors:?}");
            let named = errors[0].split_once(OTHERS).map_or("", |(_, named)| named);
            assert_eq!(named, fields);
        }
    }
}
