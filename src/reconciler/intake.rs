//! From a manifest's text to objects that the node can take: parsed, defaulted, validated, identified.
//!
//! Owns: what a source adds to an object (UID, node name, annotations). Not: the rules themselves (`manifest`), nor who owns a
//! name (`desired`). Pure but for nothing: it reads no clock and no disk.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1 as corev1;

use crate::board::{self, ObjectKey};
use crate::manifest::{self, FieldError, FieldValidation, Object};
use crate::reconciler::desired::Accepted;
use crate::source::folder::FolderFile;
use crate::spec::{PodUid, Source};

/// An object ready to be taken.
#[derive(Clone, Debug)]
pub enum Offer {
    Pod(Accepted),
    /// A ConfigMap or a Secret.
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
    /// Every object of the file, or everything that is wrong with it: one mistake keeps the whole file out, as a half-applied
    /// file would be harder to understand than an absent one.
    pub result: Result<Vec<Offer>, Vec<String>>,
    /// Things that were accepted and mean nothing here.
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
    let parsed = manifest::parse(text, FieldValidation::Strict);
    let mut problems: Vec<String> = parsed.errors.iter().map(ToString::to_string).collect();
    let mut warnings: Vec<String> = parsed.warnings.iter().map(ToString::to_string).collect();
    let mut offers = vec![];
    for document in parsed.documents {
        let place = document.place.to_string();
        match offer(document.object, source, node_name) {
            Ok((offer, warned)) => {
                offers.push(offer);
                warnings.extend(warned.into_iter().map(|w| format!("{place}: {w}")));
            }
            Err(errors) => problems.extend(errors.iter().map(|e| format!("{place}: {e}"))),
        }
    }
    let mut keys: Vec<ObjectKey> = offers.iter().map(Offer::key).collect();
    keys.sort();
    let twice = keys.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| &pair[0]);
    problems.extend(
        twice.map(|k| format!("{} {}/{} is named twice", k.kind.as_str(), k.namespace, k.name)),
    );
    if problems.is_empty() {
        Offered { path: file.path.clone(), result: Ok(offers), warnings }
    } else {
        failed(problems)
    }
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
        data @ (Object::ConfigMap(_) | Object::Secret(_)) => {
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
        spec.node_name.get_or_insert_with(|| node_name.to_owned());
    }
    let lowered = manifest::lower(&object, source, uid)?;
    if matches!(source, Source::Folder(_) | Source::Play(_)) {
        let annotations = object.metadata.annotations.get_or_insert_default();
        annotations.insert("kubernetes.io/config.source".into(), source.as_str().into());
    }
    let warnings = lowered.warnings.iter().map(ToString::to_string).collect();
    Ok((Accepted { object: Arc::new(object), pod: Arc::new(lowered.pod) }, warnings))
}

/// The form in which the board holds a ConfigMap or Secret.
#[must_use]
pub fn to_board(object: Object) -> board::Object {
    match object {
        Object::Pod(pod) => board::Object::from(*pod),
        Object::ConfigMap(map) => board::Object::from(*map),
        Object::Secret(secret) => board::Object::from(*secret),
    }
}
