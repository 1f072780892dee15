#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use k8s_openapi::api::core::v1 as corev1;
use proptest::prelude::*;

use super::*;

#[test]
fn only_the_node_reads_what_is_encrypted_to_it() {
    let (ours, theirs) = (NodeKey::generate(), NodeKey::generate());
    let recipient: Recipient = ours.recipient().to_string().parse().unwrap();
    assert_eq!(recipient, ours.recipient());
    let message = encrypt(&recipient, b"geheim").unwrap();
    assert!(
        message.starts_with("-----BEGIN AGE ENCRYPTED FILE-----") && !message.contains("geheim")
    );
    assert_eq!(ours.decryptor().open(message.as_bytes()).unwrap().as_slice(), b"geheim");
    assert_eq!(theirs.decryptor().open(message.as_bytes()), Err(OpenError::NotForUs));
    let binary = age::encrypt(&recipient.0, b"geheim").unwrap();
    assert_eq!(ours.decryptor().open(&binary).unwrap().as_slice(), b"geheim");
    // YAML's block scalars and people's editors leave space around it.
    let spaced = format!("\n{message}\n\n");
    assert_eq!(ours.decryptor().open(spaced.as_bytes()).unwrap().as_slice(), b"geheim");
}

#[test]
fn what_cannot_be_opened_is_told_apart() {
    let key = NodeKey::generate();
    let message = age::encrypt(&key.recipient().0, &[7; 100_000]).unwrap();
    let open = |bytes: &[u8]| key.decryptor().open(bytes).unwrap_err();
    assert_eq!(open(b""), OpenError::NotAge);
    assert_eq!(open(b"geheim"), OpenError::NotAge);
    assert_eq!(open(&message[..20]), OpenError::NotAge);
    assert_eq!(open(&message[..50_000]), OpenError::Damaged);
    let mut flipped = message.clone();
    flipped[90_000] ^= 1;
    assert_eq!(open(&flipped), OpenError::Damaged);
    assert_eq!(open(&vec![0; 2 << 20]), OpenError::TooLong);
    assert_eq!(encrypt(&key.recipient(), &vec![0; (1 << 20) + 1]), Err(EncryptError::TooLong));
    let largest = encrypt(&key.recipient(), &vec![7; 1 << 20]).unwrap();
    assert_eq!(key.decryptor().open(largest.as_bytes()).unwrap().len(), 1 << 20);
}

#[test]
fn a_key_is_made_once_and_is_its_owners() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node.key");
    assert!(matches!(NodeKey::open(&path), Err(NodeKeyError::Read { .. })));
    let made = NodeKey::open_or_make(&path).unwrap();
    let again = NodeKey::open_or_make(&path).unwrap();
    assert_eq!(made.recipient(), again.recipient());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(&format!("# public key: {}\n", made.recipient())));

    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let said = NodeKey::open_or_make(&path).unwrap_err().to_string();
    assert!(said.ends_with(&format!("chmod 600 {}", path.display())), "{said}");
    // A damaged one is not replaced: what was encrypted to it would be lost in silence.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&path, &text[..40]).unwrap();
    let error = NodeKey::open_or_make(&path).unwrap_err();
    assert!(matches!(error, NodeKeyError::NoKey { .. }), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), text[..40]);
}

#[test]
fn neither_keys_nor_mistakes_with_keys_are_shown() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node.key");
    let key = NodeKey::open_or_make(&path).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    let secret = text.lines().last().unwrap();
    assert!(secret.starts_with("AGE-SECRET-KEY-1"));
    let shown = format!("{key:?} {:?} {:?}", key.decryptor(), key.recipient());
    assert!(!shown.contains("SECRET"), "{shown}");
    let error = secret.parse::<Recipient>().unwrap_err().to_string();
    assert!(!error.contains(secret), "{error}");
}

fn secret(annotation: Option<&str>, values: &[(&str, &str)]) -> corev1::Secret {
    let values: serde_json::Map<String, serde_json::Value> =
        values.iter().map(|(key, value)| ((*key).to_owned(), (*value).into())).collect();
    let mut json = serde_json::json!({
        "metadata": {"namespace": "default", "name": "broker"}, "stringData": values,
    });
    if let Some(annotation) = annotation {
        json["metadata"]["annotations"] = serde_json::json!({ENCRYPTION: annotation});
    }
    serde_json::from_value(json).unwrap()
}

fn opened(secret: &corev1::Secret, key: &NodeKey) -> Result<BTreeMap<String, String>, String> {
    let values = open(secret, Some(&key.decryptor())).map_err(|error| error.to_string())?;
    let text = |value: Zeroizing<Vec<u8>>| String::from_utf8(value.to_vec()).unwrap();
    Ok(values.into_iter().map(|(key, value)| (key, text(value))).collect())
}

#[test]
fn a_secret_of_encrypted_values_opens_value_by_value() {
    let (key, other) = (NodeKey::generate(), NodeKey::generate());
    let seal = |key: &NodeKey, text: &str| encrypt(&key.recipient(), text.as_bytes()).unwrap();
    let (user, password) = (seal(&key, "ana"), seal(&key, "geheim"));
    let expected = BTreeMap::from(
        [("user", "ana"), ("password", "geheim")].map(|(k, v)| (k.into(), v.into())),
    );
    let whole = secret(Some("age"), &[("user", &user), ("password", &password)]);
    assert_eq!(opened(&whole, &key).unwrap(), expected);
    // As it is after a way through the API: base64 of the message.
    let mut stored = whole.clone();
    stored.data = stored.string_data.take().map(|text| {
        text.into_iter().map(|(k, v)| (k, k8s_openapi::ByteString(v.into_bytes()))).collect()
    });
    assert_eq!(opened(&stored, &key).unwrap(), expected);

    let foreign = seal(&other, "geheim");
    let wrong = secret(Some("age"), &[("a", "plain"), ("b", &foreign), ("c", &user)]);
    assert_eq!(
        opened(&wrong, &key).unwrap_err(),
        "secret default/broker cannot be read on this node: data[a]: is not encrypted with age; \
         data[b]: is not encrypted to this node's key"
    );
    assert_eq!(check(&wrong, Some(&key.decryptor())).len(), 2);
    assert_eq!(check(&whole, Some(&key.decryptor())), []);
    assert_eq!(check(&whole, None)[0].message, "this node has no key");
}

#[test]
fn a_sealed_secret_hides_its_keys_and_keeps_its_name() {
    let key = NodeKey::generate();
    let seal = |json: serde_json::Value| {
        let sealed = encrypt(&key.recipient(), json.to_string().as_bytes()).unwrap();
        sealed_object("default", "broker", &sealed)
    };
    let inner = serde_json::json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "broker"},
        "data": {"user": "YW5h"}, "stringData": {"password": "geheim"},
    });
    let object = seal(inner);
    assert_eq!(Form::of(&object), Ok(Form::Whole));
    assert_eq!(opened(&object, &key).unwrap()["password"], "geheim");
    assert_eq!(opened(&object, &key).unwrap()["user"], "ana");
    for (json, fault) in [
        (serde_json::json!({"metadata": {"name": "other"}}), "holds a Secret of another name"),
        (serde_json::json!({"metadata": {"namespace": "other"}}), "holds a Secret of another name"),
        (serde_json::json!("geheim"), "holds no Secret as JSON"),
    ] {
        let said = opened(&seal(json), &key).unwrap_err();
        assert!(said.ends_with(fault), "{said}");
        assert!(!said.contains("geheim"));
    }
    let several = secret(Some("age-secret"), &[("sealed", "x"), ("more", "y")]);
    assert!(opened(&several, &key).unwrap_err().contains("must be the only value"));
    let none = secret(Some("age-secret"), &[]);
    assert!(opened(&none, &key).unwrap_err().ends_with("data[sealed]: is missing"));
}

#[test]
fn a_plain_secret_needs_no_key_and_an_unknown_form_is_an_error() {
    let plain = secret(None, &[("user", "ana")]);
    assert_eq!(open(&plain, None).unwrap()["user"].as_slice(), b"ana");
    let odd = secret(Some("rot13"), &[("user", "nan")]);
    assert_eq!(
        open(&odd, None).unwrap_err().to_string(),
        "secret default/broker cannot be read on this node: \
         metadata.annotations[podling.dev/encryption]: Unsupported value: \"rot13\": supported \
         values: \"age\", \"age-secret\""
    );
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes: Vec<u8>, at in 0usize..200, value: u8) {
        let key = NodeKey::generate();
        prop_assert!(key.decryptor().open(&bytes).is_err());
        let mut near = age::encrypt(&key.recipient().0, b"geheim").unwrap();
        if let Some(byte) = near.get_mut(at) {
            *byte = value;
        }
        // It opens only if it was hit where it does not matter, and then to the same.
        if let Ok(plain) = key.decryptor().open(&near) {
            prop_assert_eq!(plain.as_slice(), b"geheim");
        }
    }
}
