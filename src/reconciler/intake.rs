//! From a manifest's text to objects that the node can take: parsed, defaulted, validated, identified.
//!
//! Owns: what a source adds to an object (UID, node name, annotations). Not: the rules themselves (`manifest`), nor who owns a
//! name (`desired`). Pure but for nothing: it reads no clock and no disk.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1 as corev1;

use crate::board::{self, ObjectKey};
use crate::manifest::check::{Report, Severity, check_text};
use crate::manifest::{self, FieldError, FieldErrorKind, FieldValidation, Object};
use crate::reconciler::desired::Accepted;
use crate::source::folder::FolderFile;
use crate::spec::{PodUid, Source};

/// An object ready to be taken.
#[derive(Clone, Debug)]
pub enum Offer {
    Pod(Accepted),
    /// Anything that does not run: a ConfigMap, a Secret, a Service, a NetworkPolicy.
    Data(board::Object),
}

impl Offer {
    #[must_use]
    pub fn key(&self) -> ObjectKey {
        match self {
            Self::Pod(accepted) => {
                let key = &accepted.pod.key;
                ObjectKey::new(board::Kind::Pod, &key.namespace, &key.name)
            }
            Self::Data(object) => object.key(),
        }
    }
}

/// What one manifest file came to.
#[derive(Clone, Debug)]
pub struct Offered {
    pub path: PathBuf,
    /// Every object of the file, or everything that is wrong with it, each a line that names the file: one mistake keeps the whole file out, as a half-applied
    /// file would be harder to understand than an absent one.
    pub result: Result<Vec<Offer>, Vec<String>>,
    /// Things that were accepted and mean nothing here, each a line that names the file.
    pub warnings: Vec<String>,
}

/// Reads one file of the watched folder, or one given to `play`.
#[must_use]
pub fn read_file(file: &FolderFile, source: &Source, node_name: &str) -> Offered {
    let failed =
        |problems| Offered { path: file.path.clone(), result: Err(problems), warnings: vec![] };
    let text = match &file.content {
        Ok(text) => text,
        Err(error) => return failed(vec![crate::error::chain(&**error)]),
    };
    // The very check that `podling check` makes, so that both say the same with the same places.
    let mut report = Report::default();
    check_text(&file.path, text, &mut report);
    let said = |severity| {
        let of_it = report.findings.iter().filter(move |f| f.severity == severity);
        of_it.map(ToString::to_string).collect::<Vec<String>>()
    };
    if !report.is_clean() {
        return failed(said(Severity::Error));
    }
    let mut offers = vec![];
    for document in manifest::parse(text, FieldValidation::Strict).documents {
        let place = document.place.to_string();
        match offer(document.object, source, node_name) {
            Ok((offer, _warned)) => offers.push(offer),
            Err(errors) => {
                let path = file.path.display();
                return failed(errors.iter().map(|e| format!("{path}: {place}: {e}")).collect());
            }
        }
    }
    Offered { path: file.path.clone(), result: Ok(offers), warnings: said(Severity::Warning) }
}

/// Reads a manifest file by its path; for `play`.
#[must_use]
pub fn read_path(path: &Path, node_name: &str) -> Offered {
    let file = crate::source::folder::read(path);
    read_file(&file, &Source::Play(path.to_owned()), node_name)
}

/// Makes one object ready.
///
/// # Errors
/// With everything that is wrong with it.
pub fn offer(
    mut object: Object,
    source: &Source,
    node_name: &str,
) -> Result<(Offer, Vec<String>), Vec<FieldError>> {
    manifest::default::object(&mut object);
    match object {
        Object::Pod(pod) => {
            let uid = manifest::file_uid(source, &pod);
            pod_offer(*pod, uid, source, node_name).map(|(a, w)| (Offer::Pod(a), w))
        }
        data @ (Object::ConfigMap(_)
        | Object::Secret(_)
        | Object::Service(_)
        | Object::NetworkPolicy(_)) => {
            let warnings = manifest::validate(&data, source)?;
            Ok((Offer::Data(to_board(data)), warnings.iter().map(ToString::to_string).collect()))
        }
    }
}

/// Makes one pod, already defaulted, ready under the given identity.
///
/// # Errors
/// With everything that is wrong with it.
pub fn pod_offer(
    mut object: corev1::Pod,
    uid: PodUid,
    source: &Source,
    node_name: &str,
) -> Result<(Accepted, Vec<String>), Vec<FieldError>> {
    object.metadata.uid = Some(uid.to_string());
    object.metadata.generation = object.metadata.generation.or(Some(1));
    object.metadata.managed_fields = None;
    object.status = None;
    if let Some(spec) = &mut object.spec {
        let named = spec.node_name.get_or_insert_with(|| node_name.to_owned());
        if named != node_name {
            let (value, path) = (format!("{named:?}"), "spec.nodeName".to_owned());
            let detail = format!("this node is {node_name:?}");
            return Err(vec![FieldError { path, kind: FieldErrorKind::Invalid { value, detail } }]);
        }
    }
    let lowered = manifest::lower(&object, source, uid)?;
    if matches!(source, Source::Folder(_) | Source::Play(_)) {
        let annotations = object.metadata.annotations.get_or_insert_default();
        annotations.insert("kubernetes.io/config.source".into(), source.as_str().into());
    }
    let warnings = lowered.warnings.iter().map(ToString::to_string).collect();
    Ok((Accepted { object: Arc::new(object), pod: Arc::new(lowered.pod) }, warnings))
}

/// The form in which the board holds an object.
#[must_use]
pub fn to_board(object: Object) -> board::Object {
    match object {
        Object::Pod(pod) => board::Object::from(*pod),
        Object::ConfigMap(map) => board::Object::from(*map),
        Object::Secret(secret) => board::Object::from(*secret),
        Object::Service(mut service) => {
            service.status = None;
            board::Object::from(*service)
        }
        Object::NetworkPolicy(policy) => board::Object::from(*policy),
    }
}
