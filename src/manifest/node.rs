//! A document as it was written: a tree of values that know where they stand in the text.
//!
//! Owns: building the tree from YAML or JSON within bounds, with YAML 1.1 scalars as `kubectl`
//! reads them, `<<` merge keys, and a note of each duplicate key. Not: what the values mean
//! (`decode`), nor splitting a file into documents (`parse`).
//!
//! Why a tree of our own: `serde_yaml` reads YAML 1.2 (`0644` and `yes` are strings there) and
//! forgets positions; a visitor, however, is lent each single-line scalar *as a slice of the
//! input*, so its place, and whether it was quoted, can be had from the slice itself. With both
//! known, every later error has a line, and a value has the type it has for `kubectl`.
//!
//! Limits: [`NODES_MAX`] values and `TEXT_BYTES_MAX` bytes of text per document, after aliases
//! are expanded. `serde_yaml` bounds the depth (128) and its own alias jumps; the pre-scan in
//! `scan` bounds what it is given.

use std::cell::Cell;
use std::fmt;

use serde::de::{self, DeserializeSeed, EnumAccess, MapAccess, SeqAccess, Visitor};

use super::yaml11;

/// Values in one document, with aliases expanded. A pod has some hundred; a large ConfigMap some
/// thousand.
pub const NODES_MAX: usize = 100_000;

/// Bytes of text in one document, with aliases expanded: a document is at most a file, and a file
/// may repeat itself once.
const TEXT_BYTES_MAX: usize = 20 * 1024 * 1024;

/// No known place.
const NOWHERE: usize = usize::MAX;

/// One value and where it (or its first part) stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    at: usize,
    pub value: Value,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    Int(i64),
    UInt(u64),
    Float(f64),
    Str(String),
    Seq(Vec<Node>),
    Map(Map),
}

/// Fields in the order of the text; names are unique.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Map {
    pub fields: Vec<(Key, Node)>,
    /// Keys that were written again; the last value is the one that stands in `fields`.
    pub duplicates: Vec<Key>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    pub name: String,
    at: usize,
}

impl Node {
    /// The number 0, standing nowhere.
    #[must_use]
    pub const fn zero() -> Self {
        Self { at: NOWHERE, value: Value::Int(0) }
    }

    /// Byte offset in the text that was parsed, if known.
    #[must_use]
    pub fn offset(&self) -> Option<usize> {
        (self.at != NOWHERE).then_some(self.at)
    }

    /// The field of that name, if this is a map that has it.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Node> {
        let Value::Map(map) = &self.value else { return None };
        map.fields.iter().find(|(key, _)| key.name == name).map(|(_, node)| node)
    }

    /// The text, if this is one.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        if let Value::Str(text) = &self.value { Some(text) } else { None }
    }

    /// What it is, in the words of an error message.
    #[must_use]
    pub fn type_name(&self) -> &'static str {
        match self.value {
            Value::Null => "null",
            Value::Bool(_) => "a boolean",
            Value::Int(_) | Value::UInt(_) | Value::Float(_) => "a number",
            Value::Str(_) => "a string",
            Value::Seq(_) => "a list",
            Value::Map(_) => "an object",
        }
    }
}

impl Key {
    /// Byte offset in the text that was parsed, if known.
    #[must_use]
    pub fn offset(&self) -> Option<usize> {
        (self.at != NOWHERE).then_some(self.at)
    }
}

/// The language of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    Yaml,
    Json,
}

/// Reads one document into a [`Node`]; what it may still spend is shared by the whole tree.
#[derive(Debug)]
pub struct Builder<'t> {
    text: &'t str,
    language: Language,
    nodes_left: Cell<usize>,
    text_left: Cell<usize>,
}

impl<'t> Builder<'t> {
    /// A reader for one document within `text`.
    #[must_use]
    pub fn new(text: &'t str, language: Language) -> Self {
        Self {
            text,
            language,
            nodes_left: Cell::new(NODES_MAX),
            text_left: Cell::new(TEXT_BYTES_MAX),
        }
    }

    /// Reads the document.
    ///
    /// # Errors
    /// The parser's own error: broken syntax, too deep, too large.
    pub fn read<'de, D: de::Deserializer<'de>>(&self, deserializer: D) -> Result<Node, D::Error> {
        NodeSeed(self).deserialize(deserializer)
    }

    fn spend_node<E: de::Error>(&self) -> Result<(), E> {
        let left = self.nodes_left.get().checked_sub(1);
        let left = left.ok_or_else(|| {
            E::custom(format_args!(
                "more than {NODES_MAX} values in one document, aliases expanded"
            ))
        })?;
        self.nodes_left.set(left);
        Ok(())
    }

    fn spend_text<E: de::Error>(&self, text: &str) -> Result<(), E> {
        let left = self.text_left.get().checked_sub(text.len());
        let left =
            left.ok_or_else(|| E::custom("too much text in one document, aliases expanded"))?;
        self.text_left.set(left);
        Ok(())
    }

    /// Where a slice lent by the parser lies within the text.
    fn offset_of(&self, slice: &str) -> usize {
        let (base, start) = (self.text.as_ptr().addr(), slice.as_ptr().addr());
        match start.checked_sub(base) {
            Some(offset) if offset + slice.len() <= self.text.len() => offset,
            _ => NOWHERE,
        }
    }

    /// What stands immediately before a scalar: decides whether it is plain, and whether a tag
    /// governs it.
    fn scalar<E: de::Error>(&self, slice: &str) -> Result<(usize, Value), E> {
        let at = self.offset_of(slice);
        if self.language == Language::Json || at == NOWHERE {
            return Ok((at, Value::Str(slice.to_owned())));
        }
        let before = &self.text.as_bytes()[..at];
        let quoted = matches!(before.last(), Some(b'"' | b'\''));
        let start = if quoted { at - 1 } else { at };
        match tag_before(&self.text[..start]) {
            Some("!!str" | "!") => Ok((start, Value::Str(slice.to_owned()))),
            Some(tag) => Err(E::custom(format_args!("the YAML tag {tag} has no meaning here"))),
            None if quoted => Ok((start, Value::Str(slice.to_owned()))),
            None => Ok((start, yaml11::resolve(slice))),
        }
    }
}

/// The YAML tag that stands before a scalar on its line, across an anchor.
fn tag_before(text: &str) -> Option<&str> {
    let mut rest = text.trim_end_matches([' ', '\t']);
    if rest.len() == text.len() {
        return None;
    }
    loop {
        let word_at = rest.rfind([' ', '\t', '\n', '\r', ',', '[', '{']).map_or(0, |i| i + 1);
        let word = &rest[word_at..];
        if word.starts_with('!') {
            return Some(word);
        }
        if !word.starts_with('&') {
            return None;
        }
        rest = rest[..word_at].trim_end_matches([' ', '\t']);
    }
}

struct NodeSeed<'b, 't>(&'b Builder<'t>);

impl<'de> DeserializeSeed<'de> for NodeSeed<'_, '_> {
    type Value = Node;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        self.0.spend_node()?;
        deserializer.deserialize_any(self)
    }
}

fn unplaced(value: Value) -> Node {
    Node { at: NOWHERE, value }
}

impl<'de> Visitor<'de> for NodeSeed<'_, '_> {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Node, E> {
        Ok(unplaced(Value::Bool(value)))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Node, E> {
        Ok(unplaced(Value::Int(value)))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Node, E> {
        Ok(unplaced(i64::try_from(value).map_or(Value::UInt(value), Value::Int)))
    }

    fn visit_i128<E: de::Error>(self, value: i128) -> Result<Node, E> {
        Ok(unplaced(Value::Float(value as f64)))
    }

    fn visit_u128<E: de::Error>(self, value: u128) -> Result<Node, E> {
        Ok(unplaced(Value::Float(value as f64)))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Node, E> {
        Ok(unplaced(match self.0.language {
            Language::Yaml => yaml11::float(value),
            Language::Json => Value::Float(value),
        }))
    }

    fn visit_unit<E: de::Error>(self) -> Result<Node, E> {
        Ok(unplaced(Value::Null))
    }

    fn visit_none<E: de::Error>(self) -> Result<Node, E> {
        Ok(unplaced(Value::Null))
    }

    fn visit_some<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Node, E> {
        self.0.spend_text(text)?;
        Ok(unplaced(Value::Str(text.to_owned())))
    }

    fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Node, E> {
        self.0.spend_text(text)?;
        let (at, value) = self.0.scalar(text)?;
        Ok(Node { at, value })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element_seed(NodeSeed(self.0))? {
            items.push(item);
        }
        let at = items.first().map_or(NOWHERE, |item: &Node| item.at);
        Ok(Node { at, value: Value::Seq(items) })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some(read) = access.next_key_seed(KeySeed(self.0))? {
            let mut node = access.next_value_seed(NodeSeed(self.0))?;
            if read.is_merge {
                merge(node, &mut entries).map_err(de::Error::custom)?;
                continue;
            }
            // A value is where its key is: that is what a person looks for.
            if read.key.at != NOWHERE {
                node.at = read.key.at;
            }
            entries.push(Entry { key: read.key, node, merged: false });
        }
        let at = entries.first().map_or(NOWHERE, |entry| entry.key.at);
        Ok(Node { at, value: Value::Map(unique(entries)) })
    }

    fn visit_enum<A: EnumAccess<'de>>(self, access: A) -> Result<Node, A::Error> {
        let (tag, _) = access.variant::<String>()?;
        Err(de::Error::custom(format_args!("the YAML tag !{tag} has no meaning here")))
    }
}

/// One `key: value` of a mapping, before duplicates are settled.
struct Entry {
    key: Key,
    node: Node,
    /// It came through `<<`.
    merged: bool,
}

/// Adds what `<<: value` brings. As for `kubectl`, whatever comes later in the text wins; in a list
/// of maps the earlier ones win.
fn merge(value: Node, entries: &mut Vec<Entry>) -> Result<(), &'static str> {
    let sources = if let Value::Seq(items) = value.value { items } else { vec![value] };
    let maps = sources.into_iter().rev().map(|source| match source.value {
        Value::Map(map) => Some(map),
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::UInt(_) => None,
        Value::Float(_) | Value::Str(_) | Value::Seq(_) => None,
    });
    let maps: Vec<Map> = maps
        .collect::<Option<_>>()
        .ok_or("map merge requires a map or a list of maps as the value")?;
    let fields = maps.into_iter().flat_map(|map| map.fields);
    entries.extend(fields.map(|(key, node)| Entry { key, node, merged: true }));
    Ok(())
}

/// Settles repeated keys: the last value stands, in the place of the first; two that were both
/// written out are duplicates.
fn unique(entries: Vec<Entry>) -> Map {
    let mut order: Vec<usize> = (0..entries.len()).collect();
    order.sort_by(|a, b| entries[*a].key.name.cmp(&entries[*b].key.name));
    let mut winner_of: Vec<Option<usize>> = (0..entries.len()).map(Some).collect();
    let mut duplicates = Vec::new();
    for group in order.chunk_by(|a, b| entries[*a].key.name == entries[*b].key.name) {
        let (Some(first), Some(last)) = (group.first(), group.last()) else { continue };
        for index in group {
            winner_of[*index] = None;
        }
        winner_of[*first] = Some(*last);
        let written = group.iter().filter(|index| !entries[**index].merged);
        duplicates.extend(written.skip(1).map(|index| entries[*index].key.clone()));
    }
    let mut slots: Vec<Option<(Key, Node)>> =
        entries.into_iter().map(|entry| Some((entry.key, entry.node))).collect();
    let fields = winner_of.into_iter().flatten().filter_map(|winner| slots[winner].take());
    Map { fields: fields.collect(), duplicates }
}

/// Reads a mapping key; numbers and booleans become their text, as JSON demands.
struct KeySeed<'b, 't>(&'b Builder<'t>);

struct ReadKey {
    key: Key,
    is_merge: bool,
}

impl<'de> DeserializeSeed<'de> for KeySeed<'_, '_> {
    type Value = ReadKey;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<ReadKey, D::Error> {
        deserializer.deserialize_any(self)
    }
}

fn named(name: String) -> ReadKey {
    ReadKey { key: Key { name, at: NOWHERE }, is_merge: false }
}

impl<'de> Visitor<'de> for KeySeed<'_, '_> {
    type Value = ReadKey;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key that is a string, a number or a boolean")
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<ReadKey, E> {
        Ok(named(value.to_string()))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<ReadKey, E> {
        Ok(named(value.to_string()))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<ReadKey, E> {
        Ok(named(value.to_string()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<ReadKey, E> {
        Ok(named(value.to_string()))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<ReadKey, E> {
        self.0.spend_text(text)?;
        Ok(named(text.to_owned()))
    }

    fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<ReadKey, E> {
        self.0.spend_text(text)?;
        let (at, value) = self.0.scalar(text)?;
        let quoted = at != self.0.offset_of(text);
        let is_merge = text == "<<" && self.0.language == Language::Yaml && !quoted;
        let name = match value {
            Value::Str(text) => text,
            Value::Bool(value) => value.to_string(),
            Value::Int(value) => value.to_string(),
            Value::UInt(value) => value.to_string(),
            Value::Float(value) => value.to_string(),
            Value::Null | Value::Seq(_) | Value::Map(_) => text.to_owned(),
        };
        Ok(ReadKey { key: Key { name, at }, is_merge })
    }
}
