//! ConfigMaps, Secrets, Services and access reviews in Kubernetes' protobuf form, as JSON.
//!
//! Since 1.32 `kubectl create configmap`, `create secret` and `create service` send nothing else. Field numbers from `k8s.io/api/core/v1/generated.proto`. A
//! field that is not read here is refused, so that nothing is lost in silence; fields that only the server may set are skipped. Pure.
//!
//! Limits: the body's; no nesting is followed further than the messages named here.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use crate::board::Kind;

/// Begins every such body.
const MAGIC: &[u8] = b"k8s\0";

/// Why a body could not be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ProtobufError {
    #[error("the body is no Kubernetes protobuf object")]
    NoMagic,
    #[error("the body is cut short or damaged")]
    Damaged,
    #[error("{0} is read from JSON and YAML only, not from protobuf")]
    Kind(String),
    #[error("field {number} of {message} is read from JSON and YAML only, not from protobuf")]
    Field { message: &'static str, number: u64 },
}

/// A field's content.
#[derive(Clone, Copy, Debug)]
enum Content<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Content<'a> {
    fn bytes(self) -> Result<&'a [u8], ProtobufError> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            Self::Number(_) => Err(ProtobufError::Damaged),
        }
    }

    fn text(self) -> Result<&'a str, ProtobufError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| ProtobufError::Damaged)
    }

    fn number(self) -> Result<i32, ProtobufError> {
        match self {
            // An `int32`; a negative one is spelled in 64 bits.
            Self::Number(number) => {
                i32::try_from(number.cast_signed()).map_err(|_| ProtobufError::Damaged)
            }
            Self::Bytes(_) => Err(ProtobufError::Damaged),
        }
    }

    fn flag(self) -> Result<bool, ProtobufError> {
        match self {
            Self::Number(number) => Ok(number != 0),
            Self::Bytes(_) => Err(ProtobufError::Damaged),
        }
    }
}

/// The object of a body, as JSON.
pub(super) fn object(body: &[u8]) -> Result<Value, ProtobufError> {
    let envelope = body.strip_prefix(MAGIC).ok_or(ProtobufError::NoMagic)?;
    let (mut kind, mut version, mut raw) = ("", "", &[][..]);
    each(envelope, |number, content| {
        match number {
            1 => each(content.bytes()?, |number, content| {
                match number {
                    1 => version = content.text()?,
                    2 => kind = content.text()?,
                    _ => {}
                }
                Ok(())
            })?,
            2 => raw = content.bytes()?,
            _ => {}
        }
        Ok(())
    })?;
    let mut object = match kind {
        "SelfSubjectAccessReview" if version == "authorization.k8s.io/v1" => access_review(raw)?,
        _ if version != "v1" => return Err(ProtobufError::Kind(format!("{kind} of {version}"))),
        _ if kind == Kind::ConfigMap.as_str() => config_map(raw)?,
        _ if kind == Kind::Secret.as_str() => secret(raw)?,
        _ if kind == Kind::Service.as_str() => service(raw)?,
        _ => return Err(ProtobufError::Kind(kind.to_owned())),
    };
    object.insert("apiVersion".to_owned(), json!(version));
    object.insert("kind".to_owned(), json!(kind));
    Ok(Value::Object(object))
}

/// What `kubectl auth can-i` sends; of its status and metadata there is nothing in a question.
fn access_review(raw: &[u8]) -> Result<Map<String, Value>, ProtobufError> {
    const ATTRIBUTES: [&str; 7] =
        ["namespace", "verb", "group", "version", "resource", "subresource", "name"];
    let mut spec = Map::new();
    let mut fields = |raw: &[u8], into: &'static str, names: &[&'static str]| {
        let mut found = Map::new();
        each(raw, |number, content| {
            let name = usize::try_from(number).ok().and_then(|n| names.get(n.checked_sub(1)?));
            let name = name.ok_or(ProtobufError::Field { message: into, number })?;
            some_text(&mut found, name, content)
        })?;
        spec.insert(into.to_owned(), Value::Object(found));
        Ok(())
    };
    each(raw, |number, content| match number {
        2 => each(content.bytes()?, |number, content| match number {
            1 => fields(content.bytes()?, "resourceAttributes", &ATTRIBUTES),
            2 => fields(content.bytes()?, "nonResourceAttributes", &["path", "verb"]),
            number => Err(ProtobufError::Field { message: "SelfSubjectAccessReviewSpec", number }),
        }),
        _ => Ok(()),
    })?;
    Ok(Map::from_iter([("spec".to_owned(), Value::Object(spec))]))
}

fn config_map(raw: &[u8]) -> Result<Map<String, Value>, ProtobufError> {
    let mut object = Map::new();
    each(raw, |number, content| {
        match number {
            1 => metadata(&mut object, content.bytes()?)?,
            2 => entry(&mut object, "data", content, text_value)?,
            3 => entry(&mut object, "binaryData", content, base64_value)?,
            4 => drop(object.insert("immutable".to_owned(), json!(content.flag()?))),
            number => return Err(ProtobufError::Field { message: "ConfigMap", number }),
        }
        Ok(())
    })?;
    Ok(object)
}

fn secret(raw: &[u8]) -> Result<Map<String, Value>, ProtobufError> {
    let mut object = Map::new();
    each(raw, |number, content| {
        match number {
            1 => metadata(&mut object, content.bytes()?)?,
            2 => entry(&mut object, "data", content, base64_value)?,
            3 => some_text(&mut object, "type", content)?,
            4 => entry(&mut object, "stringData", content, text_value)?,
            5 => drop(object.insert("immutable".to_owned(), json!(content.flag()?))),
            number => return Err(ProtobufError::Field { message: "Secret", number }),
        }
        Ok(())
    })?;
    Ok(object)
}

fn service(raw: &[u8]) -> Result<Map<String, Value>, ProtobufError> {
    let mut object = Map::new();
    each(raw, |number, content| {
        match number {
            1 => metadata(&mut object, content.bytes()?)?,
            2 => {
                let spec = service_spec(content.bytes()?)?;
                object.insert("spec".to_owned(), Value::Object(spec));
            }
            // The status: the server's own.
            3 => {}
            number => return Err(ProtobufError::Field { message: "Service", number }),
        }
        Ok(())
    })?;
    Ok(object)
}

fn service_spec(raw: &[u8]) -> Result<Map<String, Value>, ProtobufError> {
    let mut spec = Map::new();
    let mut ports = Vec::new();
    each(raw, |number, content| {
        match number {
            1 => ports.push(Value::Object(service_port(content.bytes()?)?)),
            2 => entry(&mut spec, "selector", content, text_value)?,
            3 => some_text(&mut spec, "clusterIP", content)?,
            4 => some_text(&mut spec, "type", content)?,
            7 => some_text(&mut spec, "sessionAffinity", content)?,
            // What `kubectl` leaves empty, and its encoder writes all the same.
            8 => some_text(&mut spec, "loadBalancerIP", content)?,
            10 => some_text(&mut spec, "externalName", content)?,
            11 => some_text(&mut spec, "externalTrafficPolicy", content)?,
            12 => some_number(&mut spec, "healthCheckNodePort", content)?,
            13 => some_flag(&mut spec, "publishNotReadyAddresses", content)?,
            number => return Err(ProtobufError::Field { message: "ServiceSpec", number }),
        }
        Ok(())
    })?;
    if !ports.is_empty() {
        spec.insert("ports".to_owned(), Value::Array(ports));
    }
    Ok(spec)
}

fn service_port(raw: &[u8]) -> Result<Map<String, Value>, ProtobufError> {
    let mut port = Map::new();
    each(raw, |number, content| {
        match number {
            1 => some_text(&mut port, "name", content)?,
            2 => some_text(&mut port, "protocol", content)?,
            3 => some_number(&mut port, "port", content)?,
            4 => int_or_string(&mut port, "targetPort", content.bytes()?)?,
            5 => some_number(&mut port, "nodePort", content)?,
            6 => some_text(&mut port, "appProtocol", content)?,
            number => return Err(ProtobufError::Field { message: "ServicePort", number }),
        }
        Ok(())
    })?;
    Ok(port)
}

/// `intstr.IntOrString`: type (0 a number, 1 a text), number, text.
fn int_or_string(
    object: &mut Map<String, Value>,
    key: &str,
    raw: &[u8],
) -> Result<(), ProtobufError> {
    let (mut is_text, mut number, mut text) = (false, 0, "");
    each(raw, |field, content| {
        match field {
            1 => is_text = content.flag()?,
            2 => number = content.number()?,
            3 => text = content.text()?,
            number => return Err(ProtobufError::Field { message: "IntOrString", number }),
        }
        Ok(())
    })?;
    if is_text && !text.is_empty() {
        object.insert(key.to_owned(), json!(text));
    } else if !is_text && number != 0 {
        object.insert(key.to_owned(), json!(number));
    }
    Ok(())
}

/// An absent number and zero are the same, as with texts.
fn some_number(
    object: &mut Map<String, Value>,
    key: &str,
    content: Content<'_>,
) -> Result<(), ProtobufError> {
    let number = content.number()?;
    if number != 0 {
        object.insert(key.to_owned(), json!(number));
    }
    Ok(())
}

fn some_flag(
    object: &mut Map<String, Value>,
    key: &str,
    content: Content<'_>,
) -> Result<(), ProtobufError> {
    if content.flag()? {
        object.insert(key.to_owned(), json!(true));
    }
    Ok(())
}

fn metadata(object: &mut Map<String, Value>, raw: &[u8]) -> Result<(), ProtobufError> {
    let mut meta = Map::new();
    each(raw, |number, content| {
        match number {
            1 => some_text(&mut meta, "name", content)?,
            2 => some_text(&mut meta, "generateName", content)?,
            3 => some_text(&mut meta, "namespace", content)?,
            5 => some_text(&mut meta, "uid", content)?,
            6 => some_text(&mut meta, "resourceVersion", content)?,
            11 => entry(&mut meta, "labels", content, text_value)?,
            12 => entry(&mut meta, "annotations", content, text_value)?,
            // selfLink, generation, the timestamps, managedFields: the server's own.
            4 | 7 | 8 | 9 | 10 | 17 => {}
            number => return Err(ProtobufError::Field { message: "ObjectMeta", number }),
        }
        Ok(())
    })?;
    object.insert("metadata".to_owned(), Value::Object(meta));
    Ok(())
}

/// An absent text and an empty one are the same in protobuf's form of Kubernetes' objects.
fn some_text(
    object: &mut Map<String, Value>,
    key: &str,
    content: Content<'_>,
) -> Result<(), ProtobufError> {
    let text = content.text()?;
    if !text.is_empty() {
        object.insert(key.to_owned(), json!(text));
    }
    Ok(())
}

/// One entry of a map: a message of key (1) and value (2), either of which may be left out if empty.
fn entry(
    object: &mut Map<String, Value>,
    map: &str,
    content: Content<'_>,
    value_of: fn(&[u8]) -> Result<Value, ProtobufError>,
) -> Result<(), ProtobufError> {
    let (mut key, mut value) = ("", &[][..]);
    each(content.bytes()?, |number, content| {
        match number {
            1 => key = content.text()?,
            2 => value = content.bytes()?,
            _ => {}
        }
        Ok(())
    })?;
    let value = value_of(value)?;
    let place = object.entry(map).or_insert_with(|| Value::Object(Map::new()));
    if let Value::Object(place) = place {
        place.insert(key.to_owned(), value);
    }
    Ok(())
}

fn text_value(bytes: &[u8]) -> Result<Value, ProtobufError> {
    std::str::from_utf8(bytes).map(|text| json!(text)).map_err(|_| ProtobufError::Damaged)
}

fn base64_value(bytes: &[u8]) -> Result<Value, ProtobufError> {
    Ok(json!(STANDARD.encode(bytes)))
}

/// Calls `take` with each field of a message.
fn each<'a>(
    mut bytes: &'a [u8],
    mut take: impl FnMut(u64, Content<'a>) -> Result<(), ProtobufError>,
) -> Result<(), ProtobufError> {
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        let content = match tag & 7 {
            0 => Content::Number(varint(&mut bytes)?),
            1 => Content::Bytes(split(&mut bytes, 8)?),
            2 => {
                let length = varint(&mut bytes)?;
                Content::Bytes(split(&mut bytes, length)?)
            }
            5 => Content::Bytes(split(&mut bytes, 4)?),
            _ => return Err(ProtobufError::Damaged),
        };
        take(tag >> 3, content)?;
    }
    Ok(())
}

fn split<'a>(bytes: &mut &'a [u8], length: u64) -> Result<&'a [u8], ProtobufError> {
    let length = usize::try_from(length).map_err(|_| ProtobufError::Damaged)?;
    let (head, rest) = bytes.split_at_checked(length).ok_or(ProtobufError::Damaged)?;
    *bytes = rest;
    Ok(head)
}

fn varint(bytes: &mut &[u8]) -> Result<u64, ProtobufError> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first().ok_or(ProtobufError::Damaged)?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(ProtobufError::Damaged)
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use proptest::prelude::*;

    use super::*;

    /// A field of wire type 2.
    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2, u8::try_from(content.len()).unwrap()];
        out.extend(content);
        out
    }

    fn body(kind: &str, raw: &[u8]) -> Vec<u8> {
        let meta = [field(1, b"v1"), field(2, kind.as_bytes())].concat();
        [MAGIC.to_vec(), field(1, &meta), field(2, raw), field(3, b""), field(4, b"")].concat()
    }

    fn pair(number: u8, key: &str, value: &[u8]) -> Vec<u8> {
        field(number, &[field(1, key.as_bytes()), field(2, value)].concat())
    }

    #[test]
    fn config_maps_and_secrets_are_read() {
        let meta = [
            field(1, b"cm"),
            field(2, b""),
            field(3, b"default"),
            field(8, b""),
            pair(11, "a", b"b"),
        ]
        .concat();
        let raw = [
            field(1, &meta),
            pair(2, "k", b"v"),
            pair(2, "empty", b""),
            pair(3, "bin", &[0, 255]),
            vec![4 << 3, 1],
        ]
        .concat();
        let expected = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "cm", "namespace": "default", "labels": {"a": "b"}},
            "data": {"k": "v", "empty": ""}, "binaryData": {"bin": "AP8="}, "immutable": true,
        });
        assert_eq!(object(&body("ConfigMap", &raw)), Ok(expected));
        let raw = [field(1, &field(1, b"s")), pair(2, "p", b"q"), field(3, b"Opaque")].concat();
        let expected = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"p": "cQ=="}, "type": "Opaque",
        });
        assert_eq!(object(&body("Secret", &raw)), Ok(expected));
    }

    #[test]
    fn services_are_read() {
        let varint = |number: u8, value: u8| vec![number << 3, value];
        let by_number = [
            field(1, b"80-8080"),
            field(2, b"TCP"),
            varint(3, 80),
            field(4, &[8, 0, 16, 82, 26, 0]),
            varint(5, 0),
        ];
        let by_name = [field(2, b"UDP"), varint(3, 53), field(4, &[8, 1, 26, 3, b'd', b'n', b's'])];
        let spec = [
            field(1, &by_number.concat()),
            field(1, &by_name.concat()),
            pair(2, "app", b"web"),
            field(3, b""),
            field(4, b"ClusterIP"),
            field(7, b""),
            varint(12, 0),
            varint(13, 0),
        ];
        let raw = [field(1, &field(1, b"web")), field(2, &spec.concat()), field(3, b"")].concat();
        let expected = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {
                "ports": [
                    {"name": "80-8080", "protocol": "TCP", "port": 80, "targetPort": 82},
                    {"protocol": "UDP", "port": 53, "targetPort": "dns"},
                ],
                "selector": {"app": "web"}, "type": "ClusterIP",
            },
        });
        assert_eq!(object(&body("Service", &raw)), Ok(expected));
        let session = field(2, &field(14, b""));
        let error = Err(ProtobufError::Field { message: "ServiceSpec", number: 14 });
        assert_eq!(object(&body("Service", &session)), error);
    }

    #[test]
    fn what_is_not_read_is_refused() {
        assert_eq!(object(b"{}"), Err(ProtobufError::NoMagic));
        assert_eq!(object(&body("Pod", b"")), Err(ProtobufError::Kind("Pod".to_owned())));
        let owners = field(1, &field(13, b""));
        let error = Err(ProtobufError::Field { message: "ObjectMeta", number: 13 });
        assert_eq!(object(&body("ConfigMap", &owners)), error);
        let whole = body("ConfigMap", &pair(2, "k", b"v"));
        // The last four bytes are two empty fields.
        for cut in 0..whole.len() - 4 {
            assert_ne!(object(&whole[..cut]), object(&whole), "cut at {cut}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_do_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = object(&[MAGIC, &bytes[..]].concat());
            let _ = object(&body("Secret", &bytes[..bytes.len().min(100)]));
        }
    }
}
