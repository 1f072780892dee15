//! Label and field selectors, as `kubectl -l` and `--field-selector` spell them.
//!
//! Owns: parsing (grammar of `apimachinery/pkg/labels` and `pkg/fields`), the fields each kind can be selected by
//! (`pkg/apis/core/v1/conversion.go`), and matching. Pure.

use std::collections::BTreeMap;

use super::{Kind, Object};

/// A selector that cannot be used; said to the client as 400.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    #[error("unable to parse requirement: {0}")]
    Label(String),
    #[error("invalid selector: '{selector}'; can't understand '{term}'")]
    Field { selector: String, term: String },
    #[error("field label not supported: {0}")]
    UnknownField(String),
    #[error("a selector may have at most {SELECTOR_BYTES_MAX} bytes")]
    TooLong,
}

/// Longest selector, bytes: it is matched against every object of a list, under the board's lock.
pub const SELECTOR_BYTES_MAX: usize = 4096;

/// Which objects are meant.
#[derive(Clone, Debug)]
pub struct Query {
    pub kind: Kind,
    /// Absent: all namespaces.
    pub namespace: Option<String>,
    pub labels: LabelSelector,
    pub fields: FieldSelector,
}

impl Query {
    /// All objects of a kind.
    #[must_use]
    pub fn all(kind: Kind) -> Self {
        Self {
            kind,
            namespace: None,
            labels: LabelSelector::default(),
            fields: FieldSelector::default(),
        }
    }

    /// The same, within one namespace.
    #[must_use]
    pub fn within(mut self, namespace: &str) -> Self {
        self.namespace = Some(namespace.to_owned());
        self
    }

    /// Whether the object is meant.
    #[must_use]
    pub fn matches(&self, object: &Object) -> bool {
        object.kind() == self.kind
            && self.namespace.as_deref().is_none_or(|namespace| object.namespace() == namespace)
            && self.labels.matches(object)
            && self.fields.matches(object)
    }
}

/// A conjunction of requirements on labels; empty: everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector(Vec<Requirement>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    operator: Operator,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Operator {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    DoesNotExist,
    GreaterThan(i64),
    LessThan(i64),
}

impl LabelSelector {
    /// Parses `app=web,tier!=db,env in (a,b),!old`.
    ///
    /// # Errors
    /// [`SelectorError::Label`] with what was found instead.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        if text.len() > SELECTOR_BYTES_MAX {
            return Err(SelectorError::TooLong);
        }
        let mut terms = Vec::new();
        for term in split_terms(text) {
            if !term.trim().is_empty() {
                terms.push(parse_requirement(term.trim())?);
            } else if text.trim() != term.trim() {
                return Err(SelectorError::Label("found ',', expected: identifier".to_owned()));
            }
        }
        Ok(Self(terms))
    }

    #[must_use]
    pub fn matches(&self, object: &Object) -> bool {
        self.matches_labels(object.metadata().labels.as_ref())
    }

    /// Whether labels are as required.
    #[must_use]
    pub fn matches_labels(&self, labels: Option<&BTreeMap<String, String>>) -> bool {
        self.0.iter().all(|requirement| {
            let value = labels.and_then(|labels| labels.get(&requirement.key));
            match (&requirement.operator, value) {
                (Operator::In(set), Some(value)) => set.contains(value),
                (Operator::NotIn(set), Some(value)) => !set.contains(value),
                (Operator::Exists, value) => value.is_some(),
                (Operator::DoesNotExist, value) => value.is_none(),
                (Operator::GreaterThan(bound), Some(value)) => {
                    value.parse::<i64>().is_ok_and(|value| value > *bound)
                }
                (Operator::LessThan(bound), Some(value)) => {
                    value.parse::<i64>().is_ok_and(|value| value < *bound)
                }
                // An object without the label has none of the values either.
                (Operator::NotIn(_), None) => true,
                (Operator::In(_) | Operator::GreaterThan(_) | Operator::LessThan(_), None) => false,
            }
        })
    }
}

/// Splits at commas that are not inside parentheses.
fn split_terms(text: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let (mut depth, mut start) = (0_u32, 0);
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                terms.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

fn parse_requirement(term: &str) -> Result<Requirement, SelectorError> {
    let wrong = |what: &str| SelectorError::Label(format!("found '{term}', expected: {what}"));
    if let Some(key) = term.strip_prefix('!') {
        let key = label_key(key.trim()).ok_or_else(|| wrong("!KEY"))?;
        return Ok(Requirement { key, operator: Operator::DoesNotExist });
    }
    let end = term.find(|c: char| c.is_whitespace() || "=!<>(".contains(c)).unwrap_or(term.len());
    let key = label_key(&term[..end]).ok_or_else(|| wrong("identifier"))?;
    let rest = term[end..].trim();
    let one = |value: &str| {
        label_value(value.trim()).map(|value| vec![value]).ok_or_else(|| wrong("a label value"))
    };
    let number = |value: &str| value.trim().parse().map_err(|_| wrong("an integer"));
    let set = |text: &str| -> Result<Vec<String>, SelectorError> {
        let inside = text.trim().strip_prefix('(').and_then(|text| text.strip_suffix(')'));
        let inside = inside.ok_or_else(|| wrong("'(' and ')'"))?;
        inside
            .split(',')
            .map(|value| label_value(value.trim()).ok_or_else(|| wrong("label values")))
            .collect()
    };
    let operator = if rest.is_empty() {
        Operator::Exists
    } else if let Some(value) = rest.strip_prefix("!=") {
        Operator::NotIn(one(value)?)
    } else if let Some(value) = rest.strip_prefix("==").or_else(|| rest.strip_prefix('=')) {
        Operator::In(one(value)?)
    } else if let Some(value) = rest.strip_prefix('>') {
        Operator::GreaterThan(number(value)?)
    } else if let Some(value) = rest.strip_prefix('<') {
        Operator::LessThan(number(value)?)
    } else if let Some(values) = rest.strip_prefix("notin") {
        Operator::NotIn(set(values)?)
    } else if let Some(values) = rest.strip_prefix("in") {
        Operator::In(set(values)?)
    } else {
        return Err(wrong("in, notin, =, ==, !=, gt, lt"));
    };
    Ok(Requirement { key, operator })
}

/// A qualified name: `[PREFIX/]NAME`, loosely; what cannot be a key cannot match and is better said.
fn label_key(text: &str) -> Option<String> {
    let name = text.rsplit('/').next().unwrap_or_default();
    let well_formed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    (!name.is_empty()
        && name.len() <= 63
        && text.matches('/').count() <= 1
        && text.chars().all(|c| well_formed(c) || c == '/'))
    .then(|| text.to_owned())
}

fn label_value(text: &str) -> Option<String> {
    let well_formed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    (text.len() <= 63 && text.chars().all(well_formed)).then(|| text.to_owned())
}

/// A conjunction of `field=value` and `field!=value`; empty: everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector(Vec<FieldTerm>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct FieldTerm {
    field: String,
    value: String,
    equal: bool,
}

impl FieldSelector {
    /// Parses a selector and checks that each field can be selected by for this kind.
    ///
    /// # Errors
    /// [`SelectorError::Field`] for bad syntax, [`SelectorError::UnknownField`] for a field that is none.
    pub fn parse(kind: Kind, text: &str) -> Result<Self, SelectorError> {
        if text.len() > SELECTOR_BYTES_MAX {
            return Err(SelectorError::TooLong);
        }
        let mut terms = Vec::new();
        for term in split_escaped(text).into_iter().filter(|term| !term.is_empty()) {
            let wrong =
                || SelectorError::Field { selector: text.to_owned(), term: term.to_owned() };
            let (field, value, equal) = if let Some((field, value)) = term.split_once("!=") {
                (field, value, false)
            } else if let Some((field, value)) = term.split_once("==") {
                (field, value, true)
            } else {
                let (field, value) = term.split_once('=').ok_or_else(wrong)?;
                (field, value, true)
            };
            let value = unescape(value).ok_or_else(wrong)?;
            if !selectable(kind).contains(&field) {
                return Err(SelectorError::UnknownField(field.to_owned()));
            }
            terms.push(FieldTerm { field: field.to_owned(), value, equal });
        }
        Ok(Self(terms))
    }

    #[must_use]
    pub fn matches(&self, object: &Object) -> bool {
        self.0.iter().all(|term| {
            let value = field_value(object, &term.field);
            let holds = value.contains(&term.value);
            holds == term.equal
        })
    }

    /// The same selector with `metadata.name=NAME` added.
    #[must_use]
    pub fn and_name(mut self, name: &str) -> Self {
        let field = "metadata.name".to_owned();
        self.0.push(FieldTerm { field, value: name.to_owned(), equal: true });
        self
    }
}

/// Splits at commas that no backslash precedes.
fn split_escaped(text: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                terms.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

/// `\\`, `\,` and `\=` stand for themselves; any other escape, or a bare `=`, is an error.
fn unescape(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next()? {
                c @ ('\\' | ',' | '=') => out.push(c),
                _ => return None,
            },
            '=' | ',' => return None,
            c => out.push(c),
        }
    }
    Some(out)
}

fn selectable(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Pod => &[
            "metadata.name",
            "metadata.namespace",
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.podIPs",
            "status.nominatedNodeName",
        ],
        Kind::Event => &[
            "metadata.name",
            "metadata.namespace",
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
        Kind::Secret => &["metadata.name", "metadata.namespace", "type"],
        Kind::Namespace => &["metadata.name", "status.phase"],
        Kind::Node => &["metadata.name", "spec.unschedulable"],
        Kind::Service => &["metadata.name", "metadata.namespace", "spec.clusterIP", "spec.type"],
        Kind::ConfigMap | Kind::Endpoints | Kind::EndpointSlice | Kind::NetworkPolicy => {
            &["metadata.name", "metadata.namespace"]
        }
    }
}

/// The field's values: one, or several for a list (`status.podIPs`). An absent one is "".
fn field_value(object: &Object, field: &str) -> Vec<String> {
    let text = |value: Option<&String>| vec![value.cloned().unwrap_or_default()];
    match field {
        "metadata.name" => return vec![object.name().to_owned()],
        "metadata.namespace" => return vec![object.namespace().to_owned()],
        _ => {}
    }
    match object {
        Object::Pod(pod) => {
            let (spec, status) = (pod.spec.as_ref(), pod.status.as_ref());
            match field {
                "spec.nodeName" => text(spec.and_then(|s| s.node_name.as_ref())),
                "spec.restartPolicy" => text(spec.and_then(|s| s.restart_policy.as_ref())),
                "spec.schedulerName" => text(spec.and_then(|s| s.scheduler_name.as_ref())),
                "spec.serviceAccountName" => {
                    text(spec.and_then(|s| s.service_account_name.as_ref()))
                }
                "spec.hostNetwork" => {
                    vec![spec.and_then(|s| s.host_network).unwrap_or_default().to_string()]
                }
                "status.phase" => text(status.and_then(|s| s.phase.as_ref())),
                "status.podIP" => text(status.and_then(|s| s.pod_ip.as_ref())),
                "status.podIPs" => {
                    let ips = status.and_then(|s| s.pod_ips.as_ref());
                    ips.into_iter().flatten().map(|ip| ip.ip.clone()).collect()
                }
                _ => text(status.and_then(|s| s.nominated_node_name.as_ref())),
            }
        }
        Object::Event(event) => {
            let involved = &event.involved_object;
            text(match field {
                "involvedObject.kind" => involved.kind.as_ref(),
                "involvedObject.namespace" => involved.namespace.as_ref(),
                "involvedObject.name" => involved.name.as_ref(),
                "involvedObject.uid" => involved.uid.as_ref(),
                "involvedObject.apiVersion" => involved.api_version.as_ref(),
                "involvedObject.resourceVersion" => involved.resource_version.as_ref(),
                "involvedObject.fieldPath" => involved.field_path.as_ref(),
                "reason" => event.reason.as_ref(),
                "type" => event.type_.as_ref(),
                // `source` falls back to the reporting component, as events of the newer API have only that.
                "source" => event
                    .source
                    .as_ref()
                    .and_then(|s| s.component.as_ref())
                    .or(event.reporting_component.as_ref()),
                _ => event.reporting_component.as_ref(),
            })
        }
        Object::Secret(secret) => text(secret.type_.as_ref()),
        Object::Namespace(ns) => text(ns.status.as_ref().and_then(|s| s.phase.as_ref())),
        Object::Node(node) => {
            let unschedulable = node.spec.as_ref().and_then(|s| s.unschedulable);
            vec![unschedulable.unwrap_or_default().to_string()]
        }
        Object::Service(service) => {
            let spec = service.spec.as_ref();
            match field {
                "spec.clusterIP" => text(spec.and_then(|s| s.cluster_ip.as_ref())),
                _ => text(spec.and_then(|s| s.type_.as_ref())),
            }
        }
        Object::ConfigMap(_)
        | Object::Endpoints(_)
        | Object::EndpointSlice(_)
        | Object::NetworkPolicy(_) => Vec::new(),
    }
}
