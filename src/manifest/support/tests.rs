#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fmt;

use k8s_openapi::api::core::v1 as corev1;
use k8s_openapi::api::networking::v1 as networkingv1;
use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeSeed, IntoDeserializer as _, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;

use super::*;

/// A structure that a type of Kubernetes can read: where it occurs, and its fields.
type Structure = (Vec<&'static str>, &'static [&'static str]);

/// Claims to have every field of everything, and notes what it is asked for.
struct Probe<'p> {
    /// `apiVersion` and `kind` of the object.
    of: (&'static str, &'static str),
    path: Vec<&'static str>,
    seen: &'p mut Vec<Structure>,
}

impl<'de> de::Deserializer<'de> for Probe<'_> {
    type Error = de::value::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        visitor.visit_str("1")
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        visitor.visit_bool(true)
    }

    fn deserialize_i32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        visitor.visit_i32(1)
    }

    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        visitor.visit_i64(1)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        // The one text whose form is checked while reading is a time; `kind` and `apiVersion` must
        // be the right ones.
        visitor.visit_str(match self.path.last() {
            Some(&"apiVersion") => self.of.0,
            Some(&"kind") => self.of.1,
            Some(_) | None => "2026-01-02T03:04:05Z",
        })
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        visitor.visit_seq(Once(Some(self)))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        visitor.visit_map(Fields { probe: self, fields: &["key"], next: 0 })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        self.seen.push((self.path.clone(), fields));
        visitor.visit_map(Fields { probe: self, fields, next: 0 })
    }

    forward_to_deserialize_any! {
        i8 i16 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct tuple tuple_struct enum identifier ignored_any
    }
}

struct Once<'p>(Option<Probe<'p>>);

impl<'de> SeqAccess<'de> for Once<'_> {
    type Error = de::value::Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Self::Error> {
        self.0.take().map(|probe| seed.deserialize(probe)).transpose()
    }
}

struct Fields<'p> {
    probe: Probe<'p>,
    fields: &'static [&'static str],
    next: usize,
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = de::value::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Self::Error> {
        let Some(field) = self.fields.get(self.next) else { return Ok(None) };
        self.next += 1;
        let field: StrDeserializer<'_, Self::Error> = (*field).into_deserializer();
        seed.deserialize(field).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(
        &mut self,
        seed: V,
    ) -> Result<V::Value, Self::Error> {
        let mut path = self.probe.path.clone();
        path.push(self.fields[self.next - 1]);
        seed.deserialize(Probe { of: self.probe.of, path, seen: self.probe.seen })
    }
}

/// Every structure within an object that Kubernetes knows.
fn structures_of<T: serde::de::DeserializeOwned + k8s_openapi::Resource>() -> Vec<Structure> {
    let mut seen = Vec::new();
    let of = (T::API_VERSION, T::KIND);
    T::deserialize(Probe { of, path: Vec::new(), seen: &mut seen }).unwrap();
    seen
}

/// The tables with the structures that each must cover.
fn tables() -> Vec<(&'static [Row], Vec<Structure>)> {
    let pod = structures_of::<corev1::Pod>();
    assert!(pod.len() > 150, "{}", pod.len());
    let service = structures_of::<corev1::Service>();
    let policy = structures_of::<networkingv1::NetworkPolicy>();
    assert!(service.len() > 5 && policy.len() > 8, "{} {}", service.len(), policy.len());
    vec![(POD, pod), (SERVICE, service), (NETWORK_POLICY, policy)]
}

fn find(table: &'static [Row], path: &[&str]) -> Option<&'static Support> {
    let (first, rest) = path.split_first()?;
    let mut row = table.iter().find(|row| row.field == *first)?;
    for field in rest {
        match &row.support {
            Support::In(rows) => row = rows.iter().find(|row| row.field == *field)?,
            // The whole structure is decided by the row above it.
            Support::Kept(_) | Support::Inert { .. } | Support::Refused { .. } => {
                return Some(&row.support);
            }
            // A map with the user's own keys, or a leaf.
            Support::Yes(_) => return None,
        }
    }
    Some(&row.support)
}

#[test]
fn every_field_that_kubernetes_knows_has_a_row() {
    let mut missing = BTreeSet::new();
    for (table, structures) in tables() {
        for (path, fields) in structures {
            for field in fields {
                let path = [&path[..], &[*field]].concat();
                if find(table, &path).is_none() {
                    missing.insert(path.join("."));
                }
            }
        }
    }
    assert_eq!(missing, BTreeSet::new());
}

#[test]
fn every_row_is_a_field_that_kubernetes_knows() {
    fn walk(
        rows: &'static [Row],
        path: &mut Vec<&'static str>,
        known: &[Structure],
        bad: &mut Vec<String>,
    ) {
        let fields: BTreeSet<&str> = known
            .iter()
            .filter(|(at, _)| at == path)
            .flat_map(|(_, fields)| fields.iter().copied())
            .collect();
        for row in rows {
            if !fields.contains(row.field) {
                bad.push(format!("{}.{}", path.join("."), row.field));
            }
            if let Support::In(inner) = &row.support {
                path.push(row.field);
                walk(inner, path, known, bad);
                path.pop();
            }
        }
    }
    let mut bad = Vec::new();
    for (table, structures) in tables() {
        walk(table, &mut Vec::new(), &structures, &mut bad);
    }
    assert_eq!(bad, Vec::<String>::new());
}

#[test]
fn quiet_values_are_json_and_reasons_are_sentences_without_a_full_stop() {
    fn walk(rows: &'static [Row]) {
        for row in rows {
            match &row.support {
                Support::In(inner) => walk(inner),
                Support::Inert { quiet, why } | Support::Refused { quiet, why } => {
                    assert!(!why.is_empty() && !why.ends_with('.'), "{}: {why}", row.field);
                    for value in *quiet {
                        serde_json::from_str::<Value>(value).unwrap();
                    }
                }
                Support::Yes(_) | Support::Kept(_) => {}
            }
        }
    }
    for (table, _) in tables() {
        walk(table);
    }
}

#[derive(Default)]
struct Found(Vec<String>);

impl Sink for Found {
    fn warn(&mut self, path: &Path<'_>, _: &str) {
        self.0.push(format!("warn {path}"));
    }

    fn refuse(&mut self, path: &Path<'_>, _: &str) {
        self.0.push(format!("refuse {path}"));
    }
}

impl fmt::Debug for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[test]
fn a_field_without_a_row_would_be_refused() {
    let mut found = Found::default();
    field_of(SMALL, "new", &Value::Bool(true), &Path::root("new"), &mut found);
    field_of(SMALL, "new", &Value::Bool(false), &Path::root("new"), &mut found);
    assert_eq!(found.0, ["refuse new"]);
}

const SMALL: &[Row] = &[];

/// The manual holds the table as the program has it. To renew it after a change of the table:
/// `PODLING_UPDATE_DOCS=1 cargo test the_manual`.
#[test]
fn the_manual_holds_this_very_table() {
    const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/manifest.md");
    let manual = std::fs::read_to_string(PATH).unwrap();
    let renewed = splice(&manual, "annotations", &annotations_markdown());
    let renewed = splice(&renewed, "fields", &markdown(POD));
    let renewed = splice(&renewed, "service", &markdown(SERVICE));
    let renewed = splice(&renewed, "policy", &markdown(NETWORK_POLICY));
    if std::env::var_os("PODLING_UPDATE_DOCS").is_some() {
        std::fs::write(PATH, &renewed).unwrap();
    }
    assert!(
        manual == renewed || std::env::var_os("PODLING_UPDATE_DOCS").is_some(),
        "docs/manifest.md is behind the table: run PODLING_UPDATE_DOCS=1 cargo test the_manual"
    );
}

/// Replaces what stands between the marks of that name.
fn splice(text: &str, name: &str, inner: &str) -> String {
    let (begin, end) = (format!("<!-- {name}: generated -->\n"), format!("<!-- {name}: end -->"));
    let start = text.find(&begin).expect("the opening mark") + begin.len();
    let stop = text.find(&end).expect("the closing mark");
    format!("{}{inner}{}", &text[..start], &text[stop..])
}
