//! Encrypted Kubernetes Secrets: valid objects whose values only one node can read.
//!
//! Owns: what they look like, and opening them. Not: age itself (`mod`).
//!
//! ```yaml
//! apiVersion: v1
//! kind: Secret
//! metadata:
//!   name: broker
//!   annotations: {podling.dev/encryption: age}         each value is an age message for the node
//! stringData:
//!   password: |
//!     -----BEGIN AGE ENCRYPTED FILE-----
//! ```
//!
//! With `podling.dev/encryption: age-secret`, the one value `sealed` is an age message that holds a whole Secret as JSON: the
//! keys are hidden, too, and its name is checked against the object's, so that nobody can pass one secret off as another.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1 as corev1;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use thiserror::Error;

use super::{Decryptor, Zeroizing};

/// The annotation that says how a Secret is encrypted.
pub const ENCRYPTION: &str = "podling.dev/encryption";

/// The one key of a Secret that is encrypted as a whole.
const SEALED: &str = "sealed";

/// How a Secret is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Not at all.
    Plain,
    /// Each value for itself.
    Values,
    /// As a whole.
    Whole,
}

impl Form {
    /// What the annotation says.
    ///
    /// # Errors
    ///
    /// It says something unknown.
    pub fn of(secret: &corev1::Secret) -> Result<Self, SecretFault> {
        let annotations = secret.metadata.annotations.as_ref();
        match annotations.and_then(|all| all.get(ENCRYPTION)).map(String::as_str) {
            None => Ok(Self::Plain),
            Some("age") => Ok(Self::Values),
            Some("age-secret") => Ok(Self::Whole),
            Some(other) => Err(SecretFault {
                field: format!("metadata.annotations[{ENCRYPTION}]"),
                message: format!(
                    "Unsupported value: {other:?}: supported values: \"age\", \"age-secret\""
                ),
            }),
        }
    }
}

/// Plain values by key.
pub type Values = BTreeMap<String, Zeroizing<Vec<u8>>>;

/// What keeps one value from being read; says nothing of what it holds.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{field}: {message}")]
pub struct SecretFault {
    /// Path in the object: `data[password]`.
    pub field: String,
    pub message: String,
}

/// A Secret that is there, and cannot be read on this node.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("secret {secret} cannot be read on this node: {}", faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct Unreadable {
    /// `NAMESPACE/NAME`
    pub secret: String,
    pub faults: Vec<SecretFault>,
}

/// The plain values of a Secret, encrypted or not.
///
/// # Errors
///
/// Names each value that cannot be read.
pub fn open(secret: &corev1::Secret, decryptor: Option<&Decryptor>) -> Result<Values, Unreadable> {
    let unreadable = |faults| Unreadable { secret: title(secret), faults };
    let form = Form::of(secret).map_err(|fault| unreadable(vec![fault]))?;
    let Some(decryptor) = decryptor.filter(|_| form != Form::Plain) else {
        return match form {
            Form::Plain => Ok(plain_values(secret)),
            Form::Values | Form::Whole => {
                let field = format!("metadata.annotations[{ENCRYPTION}]");
                let message = "this node has no key".to_owned();
                Err(unreadable(vec![SecretFault { field, message }]))
            }
        };
    };
    let opened =
        if form == Form::Whole { whole(secret, decryptor) } else { each_value(secret, decryptor) };
    opened.map_err(unreadable)
}

/// What keeps a Secret from being read, before anybody needs it: for the answer to whoever sent it.
#[must_use]
pub fn check(secret: &corev1::Secret, decryptor: Option<&Decryptor>) -> Vec<SecretFault> {
    open(secret, decryptor).err().map(|unreadable| unreadable.faults).unwrap_or_default()
}

/// The Secret that stands for an age message with a whole Secret in it.
#[must_use]
pub fn sealed_object(namespace: &str, name: &str, sealed: &str) -> corev1::Secret {
    let annotation = (ENCRYPTION.to_owned(), "age-secret".to_owned());
    corev1::Secret {
        metadata: ObjectMeta {
            namespace: Some(namespace.to_owned()),
            name: Some(name.to_owned()),
            annotations: Some(BTreeMap::from([annotation])),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([(SEALED.to_owned(), ByteString(sealed.as_bytes().to_vec()))])),
        ..corev1::Secret::default()
    }
}

/// `data` and `stringData`; the latter wins, as in Kubernetes.
fn plain_values(secret: &corev1::Secret) -> Values {
    let data = secret.data.iter().flatten();
    let data = data.map(|(key, value)| (key.clone(), Zeroizing::new(value.0.clone())));
    let text = secret.string_data.iter().flatten();
    let text = text.map(|(key, value)| (key.clone(), Zeroizing::new(value.clone().into_bytes())));
    data.chain(text).collect()
}

fn each_value(secret: &corev1::Secret, decryptor: &Decryptor) -> Result<Values, Vec<SecretFault>> {
    let (mut values, mut faults) = (Values::new(), Vec::new());
    for (key, message) in plain_values(secret) {
        match decryptor.open(&message) {
            Ok(value) => drop(values.insert(key, value)),
            Err(error) => faults.push(fault(&key, &error.to_string())),
        }
    }
    if faults.is_empty() { Ok(values) } else { Err(faults) }
}

fn whole(secret: &corev1::Secret, decryptor: &Decryptor) -> Result<Values, Vec<SecretFault>> {
    let one = |message: &str| vec![fault(SEALED, message)];
    let values = plain_values(secret);
    let message = values.get(SEALED).ok_or_else(|| one("is missing"))?;
    if values.len() > 1 {
        return Err(one("must be the only value of a Secret that is encrypted as a whole"));
    }
    let json = decryptor.open(message).map_err(|error| one(&error.to_string()))?;
    // Serde's words would quote what is inside.
    let inner: corev1::Secret =
        serde_json::from_slice(&json).map_err(|_| one("holds no Secret as JSON"))?;
    let is_ours =
        |inner: &Option<String>, outer: &Option<String>| inner.is_none() || inner == outer;
    let (theirs, ours) = (&inner.metadata, &secret.metadata);
    if !is_ours(&theirs.name, &ours.name) || !is_ours(&theirs.namespace, &ours.namespace) {
        return Err(one("holds a Secret of another name"));
    }
    Ok(plain_values(&Wiped(inner).0))
}

/// A plain Secret that is overwritten when it is dropped.
struct Wiped(corev1::Secret);

impl Drop for Wiped {
    fn drop(&mut self) {
        use super::wipe;
        for value in self.0.data.iter_mut().flat_map(BTreeMap::values_mut) {
            wipe(&mut value.0);
        }
        for text in self.0.string_data.iter_mut().flat_map(BTreeMap::values_mut) {
            let mut bytes = std::mem::take(text).into_bytes();
            wipe(&mut bytes);
        }
    }
}

fn fault(key: &str, message: &str) -> SecretFault {
    SecretFault { field: format!("data[{key}]"), message: message.to_owned() }
}

fn title(secret: &corev1::Secret) -> String {
    let part = |text: &Option<String>| text.clone().unwrap_or_default();
    format!("{}/{}", part(&secret.metadata.namespace), part(&secret.metadata.name))
}
