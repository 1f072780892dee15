//! `podling key`: the node's own key, and encrypting secrets to a node.

use std::io::Read as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use crate::limits::MANIFEST_BYTES_MAX;
use crate::secret::{self, ENCRYPTION, NodeKey, Recipient};

use super::args::{KeyCommand, NodeArgs};
use super::{Out, node, yaml};

pub(super) fn run(command: KeyCommand, out: &mut Out) -> anyhow::Result<ExitCode> {
    match command {
        KeyCommand::Node { node } => show(&node, out),
        KeyCommand::Seal { file, to } => seal(&file, &to, out),
    }
}

/// The key is not made here: a person's own command would make it a person's own file.
fn show(args: &NodeArgs, out: &mut Out) -> anyhow::Result<ExitCode> {
    let config = node::config(args, None, None)?;
    let key = NodeKey::open(&config.node_key_file)
        .context("no key yet? The daemon makes it at its first start")?;
    out.line(&key.recipient().to_string())?;
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
        if object.get("kind").and_then(Value::as_str) == Some("Secret") {
            seal_object(&mut object, &recipient)
                .with_context(|| format!("document {}: cannot encrypt this Secret", at + 1))?;
            sealed += 1;
        }
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
    let reading = if file == Path::new("-") {
        std::io::stdin().take(MANIFEST_BYTES_MAX).read_to_string(&mut text)
    } else {
        let opened = std::fs::File::open(file);
        opened.and_then(|file| file.take(MANIFEST_BYTES_MAX).read_to_string(&mut text))
    };
    reading.with_context(|| format!("cannot read {}", file.display()))?;
    Ok(text)
}

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
    annotations.insert(ENCRYPTION.to_owned(), "age".into());
    object.insert("stringData".to_owned(), values.into());
    Ok(())
}
