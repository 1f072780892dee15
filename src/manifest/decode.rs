//! From the tree to Kubernetes' types, with everything that does not fit.
//!
//! Owns: strict typing as the API server's JSON reader has it (a number is no string, whatever YAML
//! would allow), collecting *all* type errors of a document, unknown fields and duplicate fields
//! with their paths. Not: what values mean (`lower`).
//!
//! A type error does not end the reading: the offending value is taken for absent and the reading
//! starts over, so that the next error is found as well. `TYPE_ERRORS_MAX` bounds that.

use std::fmt;

use serde::Deserialize;
use serde::de::value::{BorrowedStrDeserializer, MapDeserializer, SeqDeserializer};
use serde::de::{self, IntoDeserializer, Visitor};
use serde_path_to_error::Segment;

use super::node::{Key, Node, Value};

/// Type errors looked for in one document. Each costs one more reading of it; a person mends the
/// first few anyway.
const TYPE_ERRORS_MAX: usize = 32;

/// One way in which a document does not fit its type; paths as Kubernetes spells them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Misfit {
    UnknownField { path: String },
    DuplicateField { path: String, at: Option<usize> },
    Type { path: String, message: String },
}

/// Reads `root` as a `T`. With type errors there is no `T`; unknown and duplicate fields alone
/// leave one.
pub fn decode<T: for<'de> Deserialize<'de>>(root: &Node) -> (Option<T>, Vec<Misfit>) {
    let mut misfits = Vec::new();
    duplicates(root, &mut String::new(), &mut misfits);
    match attempt::<T>(root) {
        Ok((object, unknown)) => {
            misfits.extend(unknown);
            (Some(object), misfits)
        }
        Err(first) => {
            let mut mended = root.clone();
            let mut error = first;
            let mut type_errors = 0;
            loop {
                let wrong_path = error.steps.clone();
                misfits.push(error.misfit());
                type_errors += 1;
                if type_errors == TYPE_ERRORS_MAX || !blank(&mut mended, &wrong_path) {
                    break;
                }
                match attempt::<T>(&mended) {
                    Ok((_, unknown)) => {
                        misfits.extend(unknown);
                        break;
                    }
                    Err(next) => error = next,
                }
            }
            (None, misfits)
        }
    }
}

/// A type error with the steps that lead to it.
struct TypeError {
    steps: Vec<OwnedStep>,
    message: String,
}

#[derive(Clone)]
enum OwnedStep {
    Field(String),
    Index(usize),
}

impl TypeError {
    fn misfit(self) -> Misfit {
        Misfit::Type { path: join(&self.steps), message: self.message }
    }
}

fn join(steps: &[OwnedStep]) -> String {
    let mut path = String::new();
    for step in steps {
        match step {
            OwnedStep::Field(name) => push_field(&mut path, name),
            OwnedStep::Index(index) => push_index(&mut path, *index),
        }
    }
    path
}

fn push_field(path: &mut String, name: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(name);
}

fn push_index(path: &mut String, index: usize) {
    path.push_str(&format!("[{index}]"));
}

fn attempt<T: for<'de> Deserialize<'de>>(root: &Node) -> Result<(T, Vec<Misfit>), TypeError> {
    let mut unknown = Vec::new();
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(Reader(root), &mut track);
    let read = serde_ignored::deserialize(tracked, |path| {
        let mut text = String::new();
        write_ignored(&path, &mut text);
        unknown.push(Misfit::UnknownField { path: text });
    });
    match read {
        Ok(object) => Ok((object, unknown)),
        Err(WrongType(message)) => {
            let path = track.path();
            let steps = path.iter().filter_map(|segment| match segment {
                Segment::Seq { index } => Some(OwnedStep::Index(*index)),
                Segment::Map { key } => Some(OwnedStep::Field(key.clone())),
                Segment::Enum { .. } | Segment::Unknown => None,
            });
            Err(TypeError { steps: steps.collect(), message })
        }
    }
}

fn write_ignored(path: &serde_ignored::Path<'_>, text: &mut String) {
    match path {
        serde_ignored::Path::Root => {}
        serde_ignored::Path::Seq { parent, index } => {
            write_ignored(parent, text);
            push_index(text, *index);
        }
        serde_ignored::Path::Map { parent, key } => {
            write_ignored(parent, text);
            push_field(text, key);
        }
        serde_ignored::Path::Some { parent }
        | serde_ignored::Path::NewtypeStruct { parent }
        | serde_ignored::Path::NewtypeVariant { parent } => write_ignored(parent, text),
    }
}

/// Makes the value at `steps` absent; false if there is none, or it is absent already.
fn blank(root: &mut Node, steps: &[OwnedStep]) -> bool {
    let mut node = root;
    for step in steps {
        let child = match (&mut node.value, step) {
            (Value::Seq(items), OwnedStep::Index(index)) => items.get_mut(*index),
            (Value::Map(map), OwnedStep::Field(name)) => {
                map.fields.iter_mut().find(|(key, _)| key.name == *name).map(|(_, node)| node)
            }
            _ => None,
        };
        let Some(child) = child else { return false };
        node = child;
    }
    let was_there = node.value != Value::Null;
    node.value = Value::Null;
    was_there
}

fn duplicates(node: &Node, path: &mut String, misfits: &mut Vec<Misfit>) {
    let length = path.len();
    match &node.value {
        Value::Seq(items) => {
            for (index, item) in items.iter().enumerate() {
                push_index(path, index);
                duplicates(item, path, misfits);
                path.truncate(length);
            }
        }
        Value::Map(map) => {
            for key in &map.duplicates {
                push_field(path, &key.name);
                misfits.push(Misfit::DuplicateField { path: path.clone(), at: key.offset() });
                path.truncate(length);
            }
            for (key, child) in &map.fields {
                push_field(path, &key.name);
                duplicates(child, path, misfits);
                path.truncate(length);
            }
        }
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::UInt(_) => {}
        Value::Float(_) | Value::Str(_) => {}
    }
}

/// The only error of reading a tree: a value of the wrong type, in words.
#[derive(Debug)]
struct WrongType(String);

impl fmt::Display for WrongType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for WrongType {}

impl de::Error for WrongType {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

/// Reads a node as Go's JSON reader would: strictly typed, but `null` is the zero value of whatever
/// is wanted.
#[derive(Clone, Copy)]
struct Reader<'n>(&'n Node);

static ZERO: Node = Node::zero();

impl<'n> Reader<'n> {
    fn mismatch<T>(self, wanted: &str) -> Result<T, WrongType> {
        Err(WrongType(format!("must be {wanted}, not {}", self.0.type_name())))
    }

    fn integer(self, min: i64, max: i64) -> Result<i64, WrongType> {
        match self.0.value {
            Value::Null => Ok(0),
            Value::Int(value) if (min..=max).contains(&value) => Ok(value),
            Value::Int(_) | Value::UInt(_) => {
                Err(WrongType(format!("must be a whole number between {min} and {max}")))
            }
            Value::Float(_) => Err(WrongType("must be a whole number".to_owned())),
            Value::Bool(_) | Value::Str(_) | Value::Seq(_) | Value::Map(_) => {
                self.mismatch("a whole number")
            }
        }
    }

    fn list<V: Visitor<'n>>(self, items: &'n [Node], visitor: V) -> Result<V::Value, WrongType> {
        visitor.visit_seq(SeqDeserializer::new(items.iter().map(Reader)))
    }

    fn object<V: Visitor<'n>>(
        self,
        fields: &'n [(Key, Node)],
        visitor: V,
    ) -> Result<V::Value, WrongType> {
        let fields = fields.iter().map(|(key, node)| (FieldName(&key.name), Reader(node)));
        visitor.visit_map(MapDeserializer::new(fields))
    }

    fn text<V: Visitor<'n>>(self, visitor: V) -> Result<V::Value, WrongType> {
        match &self.0.value {
            Value::Null => visitor.visit_borrowed_str(""),
            Value::Str(text) => visitor.visit_borrowed_str(text),
            // Most often a `yes`, an `on` or a version number without quotes.
            Value::Bool(_) | Value::Int(_) | Value::UInt(_) | Value::Float(_) => Err(WrongType(
                format!("must be a string, not {}: put it in quotes", self.0.type_name()),
            )),
            Value::Seq(_) | Value::Map(_) => self.mismatch("a string"),
        }
    }
}

/// A key, lent for as long as the tree lives.
struct FieldName<'n>(&'n str);

impl<'n> IntoDeserializer<'n, WrongType> for FieldName<'n> {
    type Deserializer = BorrowedStrDeserializer<'n, WrongType>;

    fn into_deserializer(self) -> Self::Deserializer {
        BorrowedStrDeserializer::new(self.0)
    }
}

impl<'n> IntoDeserializer<'n, WrongType> for Reader<'n> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

macro_rules! read_integer {
    ($($method:ident $int:ty),*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, WrongType> {
            visitor.visit_i64(self.integer(<$int>::MIN.into(), <$int>::MAX.into())?)
        }
    )*};
}

impl<'de> de::Deserializer<'de> for Reader<'de> {
    type Error = WrongType;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, WrongType> {
        match &self.0.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Int(value) => visitor.visit_i64(*value),
            Value::UInt(value) => visitor.visit_u64(*value),
            Value::Float(value) => visitor.visit_f64(*value),
            Value::Str(text) => visitor.visit_borrowed_str(text),
            Value::Seq(items) => self.list(items, visitor),
            Value::Map(map) => self.object(&map.fields, visitor),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, WrongType> {
        match self.0.value {
            Value::Null => visitor.visit_bool(false),
            Value::Bool(value) => visitor.visit_bool(value),
            Value::Int(_) | Value::UInt(_) | Value::Float(_) => self.mismatch("a boolean"),
            Value::Str(_) | Value::Seq(_) | Value::Map(_) => self.mismatch("a boolean"),
        }
    }

    read_integer!(
        deserialize_i8 i8, deserialize_i16 i16, deserialize_i32 i32, deserialize_i64 i64,
        deserialize_u8 u8, deserialize_u16 u16, deserialize_u32 u32
    );

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, WrongType> {
        if let Value::UInt(value) = self.0.value {
            return visitor.visit_u64(value);
        }
        visitor.visit_i64(self.integer(0, i64::MAX)?)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, WrongType> {
        self.text(visitor)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, WrongType> {
        self.text(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, WrongType> {
        if self.0.value == Value::Null { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, WrongType> {
        let is_quantity = name == "Quantity";
        let is_null = self.0.value == Value::Null;
        if is_quantity && is_null {
            return visitor.visit_newtype_struct(Reader(&ZERO));
        }
        if is_quantity && matches!(self.0.value, Value::Bool(_) | Value::Seq(_) | Value::Map(_)) {
            return self.mismatch("a quantity (a string or a number)");
        }
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, WrongType> {
        match &self.0.value {
            Value::Null => self.list(&[], visitor),
            Value::Seq(items) => self.list(items, visitor),
            Value::Bool(_) | Value::Int(_) | Value::UInt(_) => self.mismatch("a list"),
            Value::Float(_) | Value::Str(_) | Value::Map(_) => self.mismatch("a list"),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, WrongType> {
        match &self.0.value {
            Value::Null => self.object(&[], visitor),
            Value::Map(map) => self.object(&map.fields, visitor),
            Value::Bool(_) | Value::Int(_) | Value::UInt(_) => self.mismatch("an object"),
            Value::Float(_) | Value::Str(_) | Value::Seq(_) => self.mismatch("an object"),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, WrongType> {
        self.deserialize_map(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, WrongType> {
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! {
        i128 u128 f32 f64 char bytes byte_buf unit unit_struct tuple tuple_struct enum identifier
    }
}
