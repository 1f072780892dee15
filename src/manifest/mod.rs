//! What pods look like in YAML and JSON, and the way from there to what they *are* (`spec`), and
//! back out as status.
//!
//! Owns: reading manifests, Kubernetes' defaults, validation in Kubernetes' words, the table of
//! what is supported, quantities, the wire form of the status. Not: keeping objects (`store`),
//! deciding what runs (`reconciler`). Knows the wire types of `k8s-openapi`; nobody further inside
//! does.
//!
//! ```text
//!  bytes ── parse ──► Object ── default ──► Object ── lower ──► spec::Pod
//!             │                                         │
//!             └─ ManifestError (text, structure)        └─ FieldError (all), FieldWarning   …   status ◄── lifecycle::PodStatus
//! ```
//!
//! Everything a user can hand in ends here: every input is answered, in bounded time and memory,
//! with all its errors at once.

pub mod check;
pub mod decode;
pub mod default;
pub mod error;
pub mod layout;
pub mod lower;
pub mod node;
pub mod object;
pub mod objects;
pub mod parse;
pub mod path;
pub mod qos;
pub mod quantity;
pub mod raise;
pub mod retype;
pub mod rules;
pub mod scan;
pub mod status;
pub mod support;
pub mod update;
pub mod yaml11;

pub use error::{
    Excess, FieldError, FieldErrorKind, FieldWarning, ManifestError, ManifestErrorKind, Place,
    Position, invalid,
};
pub use lower::{Lowered, file_uid, lower, lower_policy, lower_service, validate};
pub use object::{DEFAULT_NAMESPACE, Document, Object};
pub use objects::{NoObjects, ObjectMap, Objects};
pub use parse::{FieldValidation, Parsed, parse};
pub use quantity::Quantity;
