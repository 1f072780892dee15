//! `podling key`: keys of controllers, the node's own key, and encrypting secrets to a node.

mod trust;

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use crate::daemon::status_key::StatusKey;
use crate::limits::MANIFEST_BYTES_MAX;
use crate::mqtt::controller::SecretKey;
use crate::mqtt::intent::API_VERSION;
use crate::secret::{self, ENCRYPTION, NodeKey, Recipient, Zeroizing};

use super::args::{KeyCommand, NodeArgs, ReportFormat};
use super::{Out, controller, node, yaml};

pub(super) fn run(command: KeyCommand, out: &mut Out) -> anyhow::Result<ExitCode> {
    secret::leave_no_core_file();
    match command {
        KeyCommand::Generate { file } => generate(&file, out),
        KeyCommand::Show { file, output } => public(&file, output, out),
        KeyCommand::Anchor { files, root, threshold, tenant, namespace } => {
            anchor(&Anchor { files, root, threshold, tenant, namespace }, out)
        }
        KeyCommand::Trust(args) => trust::run(&args, out),
        KeyCommand::Node { status_key: true, node } => status_key(&node, out),
        KeyCommand::Node { status_key: false, node } => show(&node, out),
        KeyCommand::Seal { file, to } => seal(&file, &to, out),
    }
}

fn generate(file: &Path, out: &mut Out) -> anyhow::Result<ExitCode> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let shown = file.display();
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *seed)
        .map_err(|e| anyhow::anyhow!("the system has no randomness: {e}"))?;
    let key = SecretKey::from_seed(&seed);
    // Never over another key: there is no way back to it.
    let made = std::fs::File::options().write(true).create_new(true).mode(0o600).open(file);
    let mut made = made.with_context(|| match file.try_exists() {
        Ok(true) => {
            format!("{shown} is there, and a key is never written over: choose another name")
        }
        Ok(false) | Err(_) => format!("cannot make {shown}"),
    })?;
    let pem = Zeroizing::new(key.to_pem());
    made.write_all(pem.as_bytes())
        .and_then(|()| made.sync_all())
        .with_context(|| format!("cannot write {shown}"))?;
    tell(&key, ReportFormat::Text, out)
}

fn public(file: &Path, output: ReportFormat, out: &mut Out) -> anyhow::Result<ExitCode> {
    tell(&controller::read_key(file)?, output, out)
}

fn tell(key: &SecretKey, output: ReportFormat, out: &mut Out) -> anyhow::Result<ExitCode> {
    match output {
        ReportFormat::Text => {
            out.line(&format!("keyid:     {}", key.id()))?;
            out.line(&format!("publicKey: {}", key.public_text()))?;
        }
        ReportFormat::Json => {
            let shown = serde_json::json!({"keyid": key.id(), "publicKey": key.public_text()});
            out.line(&serde_json::to_string_pretty(&shown)?)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What `podling key anchor` was asked for.
struct Anchor {
    files: Vec<PathBuf>,
    root: Vec<PathBuf>,
    threshold: usize,
    tenant: Vec<String>,
    namespace: Vec<String>,
}

fn anchor(asked: &Anchor, out: &mut Out) -> anyhow::Result<ExitCode> {
    let mut keys = vec![];
    let entry = |file: &PathBuf, roles: &[&str]| -> anyhow::Result<Map<String, Value>> {
        let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let key = controller::read_key(file)?;
        let mut entry = Map::new();
        entry.insert("name".to_owned(), stem.into());
        entry.insert("publicKey".to_owned(), key.public_text().into());
        entry.insert("roles".to_owned(), roles.into());
        Ok(entry)
    };
    for file in &asked.files {
        let mut entry = entry(file, &["intent", "command"])?;
        for (field, names) in [("tenants", &asked.tenant), ("namespaces", &asked.namespace)] {
            if !names.is_empty() {
                entry.insert(field.to_owned(), names.clone().into());
            }
        }
        keys.push(Value::Object(entry));
    }
    for file in &asked.root {
        keys.push(Value::Object(entry(file, &["root"])?));
    }
    ensure!(
        asked.root.is_empty() || (1..=asked.root.len()).contains(&asked.threshold),
        "a threshold of {} can never be reached with {} roots",
        asked.threshold,
        asked.root.len()
    );
    let mut anchor =
        serde_json::json!({"apiVersion": API_VERSION, "kind": "TrustAnchor", "keys": keys});
    if !asked.root.is_empty() {
        anchor["threshold"] = asked.threshold.into();
    }
    out.text(&yaml::to_string(&anchor))?;
    Ok(ExitCode::SUCCESS)
}

/// The key is not made here: a person's own command would make it a person's own file.
fn show(args: &NodeArgs, out: &mut Out) -> anyhow::Result<ExitCode> {
    let config = node::config(args, None, None)?;
    let key = NodeKey::open(&config.node_key_file)
        .context("no key yet? The daemon makes it at its first start")?;
    out.line(&key.recipient().to_string())?;
    Ok(ExitCode::SUCCESS)
}

fn status_key(args: &NodeArgs, out: &mut Out) -> anyhow::Result<ExitCode> {
    let config = node::config(args, None, None)?;
    let key = StatusKey::open(&config.node_key_file)
        .context("no key yet? The daemon makes it at its first start with MQTT")?;
    out.line(&key.public_text())?;
    Ok(ExitCode::SUCCESS)
}

fn seal(file: &Path, to: &str, out: &mut Out) -> anyhow::Result<ExitCode> {
    let recipient: Recipient = to.parse()?;
    let text = read(file)?;
    let mut sealed = 0;
    for (at, document) in serde_yaml::Deserializer::from_str(&text).enumerate() {
        let parsed: Result<Value, _> = serde::Deserialize::deserialize(document);
        let mut object = parsed.with_context(|| format!("document {} is no YAML", at + 1))?;
        if object.is_null() {
            continue;
        }
        sealed += seal_all(&mut object, &recipient)
            .with_context(|| format!("document {}: cannot encrypt this Secret", at + 1))?;
        if at > 0 {
            out.line("---")?;
        }
        out.text(&yaml::to_string(&object))?;
    }
    ensure!(sealed > 0, "there is no Secret in {}", file.display());
    Ok(ExitCode::SUCCESS)
}

fn read(file: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    // One more than there may be: what is cut off in silence would be missing in silence.
    let most = MANIFEST_BYTES_MAX + 1;
    let reading = if file == Path::new("-") {
        std::io::stdin().take(most).read_to_string(&mut text)
    } else {
        let opened = std::fs::File::open(file);
        opened.and_then(|file| file.take(most).read_to_string(&mut text))
    };
    let shown = file.display();
    reading.with_context(|| format!("cannot read {shown}"))?;
    ensure!(
        text.len() as u64 <= MANIFEST_BYTES_MAX,
        "{shown} has more than {MANIFEST_BYTES_MAX} bytes: split it"
    );
    Ok(text)
}

/// Encrypts a Secret, or every Secret of a list (`kubectl get secrets -o yaml` prints one); how many there were.
fn seal_all(object: &mut Value, recipient: &Recipient) -> anyhow::Result<usize> {
    let kind = object.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
    if kind == "Secret" {
        return seal_object(object, recipient).map(|()| 1);
    }
    let items = object.get_mut("items").and_then(Value::as_array_mut);
    let Some(items) = items.filter(|_| kind.ends_with("List")) else { return Ok(0) };
    let mut sealed = 0;
    for item in items {
        // The items of a SecretList need not say what they are.
        if kind == "SecretList" && item.get("kind").is_none() {
            seal_object(item, recipient)?;
            sealed += 1;
        } else {
            sealed += seal_all(item, recipient)?;
        }
    }
    Ok(sealed)
}

/// What `kubectl apply` leaves on an object: the whole of it, in clear.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Replaces `data` and `stringData` by one `stringData` of armored messages.
fn seal_object(object: &mut Value, recipient: &Recipient) -> anyhow::Result<()> {
    let mut values = Map::new();
    for (field, is_base64) in [("data", true), ("stringData", false)] {
        let Some(fields) = object.as_object_mut().and_then(|object| object.remove(field)) else {
            continue;
        };
        let Value::Object(fields) = fields else { bail!("{field} is no mapping") };
        for (key, value) in fields {
            // What the value is must not be shown.
            let text = value.as_str().with_context(|| format!("{field}[{key}] is no text"))?;
            let plain = if is_base64 {
                let decoded = STANDARD.decode(text.trim());
                decoded.map_err(|_| anyhow::anyhow!("{field}[{key}] is no base64"))?
            } else {
                text.as_bytes().to_vec()
            };
            ensure!(!secret::is_age(&plain), "{field}[{key}] is encrypted already");
            values.insert(key, secret::encrypt(recipient, &plain)?.into());
        }
    }
    let Some(object) = object.as_object_mut() else { bail!("it is no mapping") };
    let metadata = object.entry("metadata").or_insert_with(|| Map::new().into());
    let metadata = metadata.as_object_mut().context("metadata is no mapping")?;
    let annotations = metadata.entry("annotations").or_insert_with(|| Map::new().into());
    let annotations = annotations.as_object_mut().context("annotations is no mapping")?;
    annotations.remove(LAST_APPLIED);
    annotations.insert(ENCRYPTION.to_owned(), "age".into());
    object.insert("stringData".to_owned(), values.into());
    Ok(())
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    const RECIPIENT: &str = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";

    #[test]
    fn what_kubectl_apply_left_on_a_secret_does_not_give_it_away() {
        let applied = r#"{"stringData":{"password":"hunter2"}}"#;
        let mut object = serde_json::json!({
            "kind": "Secret",
            "metadata": {"name": "login", "annotations": {LAST_APPLIED: applied, "team": "shop"}},
            "data": {"password": STANDARD.encode("hunter2")},
        });
        seal_object(&mut object, &RECIPIENT.parse().unwrap()).unwrap();
        let shown = yaml::to_string(&object);
        assert!(
            !shown.contains("hunter2") && !shown.contains(&STANDARD.encode("hunter2")),
            "{shown}"
        );
        assert!(shown.contains("team: shop") && shown.contains("BEGIN AGE"), "{shown}");
    }

    #[test]
    fn every_secret_of_a_list_is_encrypted_and_nothing_else_touched() {
        let secret =
            |value: &str| serde_json::json!({"kind": "Secret", "stringData": {"a": value}});
        let list = serde_json::json!({"kind": "List", "items": [
            secret("hunter2"),
            {"kind": "ConfigMap", "data": {"a": "plain"}},
            {"kind": "SecretList", "items": [{"stringData": {"a": "hunter3"}}, secret("hunter4")]},
        ]});
        let mut object = list;
        assert_eq!(seal_all(&mut object, &RECIPIENT.parse().unwrap()).unwrap(), 3);
        let shown = yaml::to_string(&object);
        assert!(!shown.contains("hunter") && shown.contains("plain"), "{shown}");
        let mut pod = serde_json::json!({"kind": "Pod", "items": [secret("x")]});
        assert_eq!(seal_all(&mut pod, &RECIPIENT.parse().unwrap()).unwrap(), 0);
    }

    #[test]
    fn a_file_that_is_too_large_is_not_cut() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secrets.yaml");
        std::fs::write(&path, vec![b' '; usize::try_from(MANIFEST_BYTES_MAX).unwrap() + 1])
            .unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("split it"), "{error}");
    }

    #[test]
    fn no_error_about_a_secret_quotes_it() {
        let rows = [
            serde_json::json!({"kind": "Secret", "data": {"a": "hunter2!"}}),
            serde_json::json!({"kind": "Secret", "stringData": {"a": {"b": "hunter2"}}}),
            serde_json::json!({"kind": "Secret", "stringData": "hunter2"}),
        ];
        for mut object in rows {
            let error = seal_object(&mut object, &RECIPIENT.parse().unwrap()).unwrap_err();
            assert!(!format!("{error:#}").contains("hunter2"), "{error:#}");
        }
    }
}
