//! What may be changed in a pod that exists (`KUBELET.md` 20, "Update rules").
//!
//! Owns: telling allowed changes from others. Not: what an allowed change does to a running pod
//! (`reconciler`).

use k8s_openapi::api::core::v1 as corev1;

use super::error::{FieldError, FieldErrorKind};
use super::path::Path;

const SPEC: Path<'static> = Path::root("spec");

/// Kubernetes' sentence for a field that may not change.
const FIXED: &str = "pod updates may not change fields other than \
                     `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,\
                     `spec.tolerations` (only additions to existing tolerations),\
                     `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// Compares two defaulted pods of the same name: whether the spec is changed at all.
///
/// # Errors
/// Everything that changes though it may not.
pub fn pod(old: &corev1::Pod, new: &corev1::Pod) -> Result<bool, Vec<FieldError>> {
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
    if errors.is_empty() && with_allowed_changes(old, new) != *new {
        forbid(&SPEC, FIXED, &mut errors);
    }
    if errors.is_empty() { Ok(old != new) } else { Err(errors) }
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
    let kept = |toleration| new.contains(toleration);
    if !old.tolerations.iter().flatten().all(kept) {
        let detail = "existing toleration can not be modified except its tolerationSeconds";
        forbid(&SPEC.field("tolerations"), detail, errors);
    }
}

/// The old spec with everything from the new one that may change.
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
    // Filled in by the node; a client's file does not have it.
    if new.node_name.as_deref().unwrap_or_default().is_empty() {
        allowed.node_name.clone_from(&new.node_name);
    }
    allowed
}

fn forbid(path: &Path<'_>, detail: &str, errors: &mut Vec<FieldError>) {
    let kind = FieldErrorKind::Forbidden { detail: detail.to_owned() };
    errors.push(FieldError { path: path.to_string(), kind });
}

#[cfg(test)]
mod test {
    use super::*;

    fn sample() -> corev1::Pod {
        let text = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","uid":"1"},
            "spec":{"activeDeadlineSeconds":60,"containers":[{"name":"c","image":"x:1"}]}}"#;
        let mut pod = serde_json::from_str(text).expect("the sample is a pod");
        crate::manifest::default::pod(&mut pod);
        pod
    }

    type Change = fn(&mut corev1::Pod, &mut corev1::PodSpec);

    fn check(change: Change) -> Result<bool, Vec<String>> {
        let old = sample();
        let mut new = sample();
        let mut spec = new.spec.take().unwrap_or_default();
        change(&mut new, &mut spec);
        new.spec = Some(spec);
        pod(&old, &new).map_err(|errors| errors.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn only_what_kubernetes_lets_change_may_change() {
        assert_eq!(check(|_, _| {}), Ok(false));
        assert_eq!(
            check(|pod, _| pod.metadata.labels = Some([("a".into(), "b".into())].into())),
            Ok(false)
        );
        assert_eq!(check(|_, spec| spec.containers[0].image = Some("x:2".to_owned())), Ok(true));
        assert_eq!(check(|_, spec| spec.active_deadline_seconds = Some(30)), Ok(true));
        let cases: [(Change, &str); 6] = [
            (
                |_, spec| spec.active_deadline_seconds = Some(61),
                "spec.activeDeadlineSeconds: Invalid value: 61: must be less than or equal to previous value",
            ),
            (
                |_, spec| spec.active_deadline_seconds = None,
                "spec.activeDeadlineSeconds: Invalid value: null: must not update from a positive integer to nil value",
            ),
            (
                |_, spec| spec.containers.push(corev1::Container::default()),
                "spec.containers: Forbidden: pod updates may not add or remove containers",
            ),
            (
                |_, spec| spec.containers[0].name = "d".to_owned(),
                "spec: Forbidden: pod updates may not change fields other than",
            ),
            (
                |_, spec| spec.hostname = Some("h".to_owned()),
                "spec: Forbidden: pod updates may not change fields other than",
            ),
            (
                |pod, _| pod.metadata.uid = Some("2".to_owned()),
                "metadata.uid: Invalid value: \"2\": field is immutable",
            ),
        ];
        for (change, expected) in cases {
            let errors = check(change).expect_err(expected);
            assert!(errors.len() == 1 && errors[0].starts_with(expected), "{errors:?}");
        }
    }
}
