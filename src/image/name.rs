//! Reads image references.
//!
//! Owns: the grammar of `image:` (that of the distribution project, which Kubernetes uses) with our `file:` beside it. Not:
//! whether there is such an image. Pure.
//!
//! ```text
//!  [HOST[:PORT]/]PATH[:TAG][@sha256:HEX]      TAG is `latest` where neither tag nor digest is given
//!  sha256:HEX                                 exactly this content
//!  file:PATH                                  a module file, relative to the manifest's folder
//! ```
//!
//! Unlike Docker's, a short name stays as it is (`web`, not `docker.io/library/web`): it names an image of this node's
//! store, where the operator has put it under that very name.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;

use crate::spec::ImageRef;

use super::digest::Digest;

/// Longest name without tag, bytes (distribution's `NameTotalLengthMax`).
const NAME_BYTES_MAX: usize = 255;

/// Longest tag, bytes.
const TAG_BYTES_MAX: usize = 128;

/// The tag of a reference that has neither tag nor digest.
pub const DEFAULT_TAG: &str = "latest";

/// Text that refers to no image. The words are those of Kubernetes' own parser where it has some.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum InvalidReference {
    #[error("invalid reference format")]
    Format,
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    Uppercase(String),
    #[error("repository name must not be more than {NAME_BYTES_MAX} characters")]
    TooLong,
    #[error("invalid digest: only sha256 with 64 lower-case hexadecimal digits is supported")]
    Digest,
    #[error(
        "file: references are only allowed in manifests that are files of this machine (a folder or `podling play`); load the module (`podling image load FILE --name NAME:TAG`) and use its name"
    )]
    FileNotAllowed,
    #[error("file: must be followed by the path of a module file")]
    NoFile,
}

/// Reads a reference. `base`: the folder that a relative `file:` path starts from; `None` where files may not be named.
///
/// # Errors
///
/// Says what is wrong with the text; never whether the image exists.
pub fn parse_reference(text: &str, base: Option<&Path>) -> Result<ImageRef, InvalidReference> {
    if let Some(path) = text.strip_prefix("file:") {
        return parse_file(text, path, base);
    }
    if let Some(hex) = text.strip_prefix("sha256:")
        && let Ok(digest) = Digest::from_hex(hex)
    {
        return Ok(ImageRef::Digest { text: text.into(), hex: digest.hex().into() });
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => {
            let digest: Digest = digest.parse().map_err(|_| InvalidReference::Digest)?;
            (rest, Some(digest))
        }
        None => (text, None),
    };
    let (name, tag) = split_tag(rest);
    check_name(name)?;
    if !tag.is_none_or(is_tag) {
        return Err(InvalidReference::Format);
    }
    Ok(match digest {
        // As in Kubernetes, a digest wins over a tag beside it.
        Some(digest) => ImageRef::Digest { text: text.into(), hex: digest.hex().into() },
        None => ImageRef::Named {
            text: text.into(),
            name: name.into(),
            tag: tag.unwrap_or(DEFAULT_TAG).into(),
        },
    })
}

fn parse_file(text: &str, path: &str, base: Option<&Path>) -> Result<ImageRef, InvalidReference> {
    let base = base.ok_or(InvalidReference::FileNotAllowed)?;
    if path.is_empty() || path.contains('\0') || path.ends_with('/') {
        return Err(InvalidReference::NoFile);
    }
    Ok(ImageRef::File { text: text.into(), path: Arc::new(tidy(&base.join(path))) })
}

/// The repository of a reference by digest (`REPOSITORY[:TAG]@sha256:HEX`); `None` if it names content and nothing else.
#[must_use]
pub fn repository_of(text: &str) -> Option<&str> {
    text.split_once('@').map(|(rest, _)| split_tag(rest).0)
}

/// The registry that a name begins with; `None` for a name of this node's own store.
#[must_use]
pub fn registry_of(name: &str) -> Option<&str> {
    split_host(name).0
}

/// Drops `.` elements. `..` stays: before it there may be a symbolic link.
fn tidy(path: &Path) -> PathBuf {
    path.components().filter(|part| !matches!(part, Component::CurDir)).collect()
}

/// A colon after the last slash parts the tag; one before it belongs to a port.
fn split_tag(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        Some(_) | None => (text, None),
    }
}

fn check_name(name: &str) -> Result<(), InvalidReference> {
    let (host, path) = split_host(name);
    if host.is_some_and(|host| !is_host(host)) || path.is_empty() {
        return Err(InvalidReference::Format);
    }
    if !path.split('/').all(is_path_element) {
        let lower = path.to_ascii_lowercase();
        let only_case = lower != path && lower.split('/').all(is_path_element);
        return Err(if only_case {
            InvalidReference::Uppercase(path.to_owned())
        } else {
            InvalidReference::Format
        });
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(InvalidReference::TooLong);
    }
    Ok(())
}

/// The first element is a host if it could be no path element of a short name.
fn split_host(name: &str) -> (Option<&str>, &str) {
    match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.contains(|c: char| c.is_ascii_uppercase()) =>
        {
            (Some(first), rest)
        }
        Some(_) | None => (None, name),
    }
}

fn is_host(host: &str) -> bool {
    let (name, port) = match host.rsplit_once(':') {
        // The last colon of a bracketed IPv6 address is no port's.
        Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
        Some(_) | None => (host, None),
    };
    let is_port = |port: &str| {
        !port.is_empty() && port.len() <= 5 && port.bytes().all(|b| b.is_ascii_digit())
    };
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    let is_ip6 = |text: &str| {
        text.strip_prefix('[')
            .and_then(|text| text.strip_suffix(']'))
            .is_some_and(|text| text.parse::<std::net::Ipv6Addr>().is_ok())
    };
    port.is_none_or(is_port) && (is_ip6(name) || name.split('.').all(is_label))
}

/// `[a-z0-9]+` groups, parted by `.`, `_`, `__` or any number of `-`.
fn is_path_element(element: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if !element.starts_with(alphanumeric) || !element.ends_with(alphanumeric) {
        return false;
    }
    element
        .split(alphanumeric)
        .filter(|separator| !separator.is_empty())
        .all(|s| matches!(s, "." | "_" | "__") || s.bytes().all(|b| b == b'-'))
}

fn is_tag(tag: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    tag.len() <= TAG_BYTES_MAX
        && tag.starts_with(word)
        && tag.chars().all(|c| word(c) || matches!(c, '.' | '-'))
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use proptest::prelude::*;

    use super::*;

    const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn names_get_their_tag_and_keep_their_words() {
        for (text, name, tag) in [
            ("web", "web", "latest"),
            ("web:1", "web", "1"),
            ("greenhouse/web:1.2-rc_3", "greenhouse/web", "1.2-rc_3"),
            ("localhost/web", "localhost/web", "latest"),
            ("registry:5000/web", "registry:5000/web", "latest"),
            ("registry:5000/web:2", "registry:5000/web", "2"),
            ("Registry.example/a__b/c---d.e:V", "Registry.example/a__b/c---d.e", "V"),
            ("[::1]:5000/web:2", "[::1]:5000/web", "2"),
            ("[::1]/web", "[::1]/web", "latest"),
        ] {
            match parse_reference(text, None) {
                Ok(ImageRef::Named { text: t, name: n, tag: g }) => {
                    assert_eq!((&*t, &*n, &*g), (text, name, tag));
                }
                other => panic!("{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_digest_wins_over_a_tag() {
        for text in [
            format!("sha256:{HEX}"),
            format!("web@sha256:{HEX}"),
            format!("host:1/web:3@sha256:{HEX}"),
        ] {
            match parse_reference(&text, None) {
                Ok(ImageRef::Digest { text: t, hex }) => {
                    assert_eq!((&*t, &*hex), (text.as_str(), HEX));
                }
                other => panic!("{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn files_are_named_only_where_that_is_allowed() {
        let base = Path::new("/etc/pods");
        for (text, path) in [
            ("file:./web.wasm", "/etc/pods/web.wasm"),
            ("file:web.wasm", "/etc/pods/web.wasm"),
            ("file:../lib/web.wasm", "/etc/pods/../lib/web.wasm"),
            ("file:/opt/Web 1.wasm", "/opt/Web 1.wasm"),
        ] {
            match parse_reference(text, Some(base)) {
                Ok(ImageRef::File { path: p, .. }) => assert_eq!(p.as_path(), Path::new(path)),
                other => panic!("{text}: {other:?}"),
            }
            assert_eq!(parse_reference(text, None), Err(InvalidReference::FileNotAllowed));
        }
        for text in ["file:", "file:dir/", "file:a\0b"] {
            assert_eq!(parse_reference(text, Some(base)), Err(InvalidReference::NoFile));
        }
    }

    #[test]
    fn wrong_references_say_what_is_wrong() {
        use InvalidReference as E;
        let long = "a".repeat(256);
        let long_tag = format!("web:{}", "t".repeat(129));
        for (text, error) in [
            ("", E::Format),
            (" web", E::Format),
            ("web:", E::Format),
            ("web:-1", E::Format),
            (long_tag.as_str(), E::Format),
            ("web:1:2", E::Format),
            ("/web", E::Format),
            ("web/", E::Format),
            ("a//b", E::Format),
            ("web_", E::Format),
            ("a___b", E::Format),
            ("a._b", E::Format),
            ("../web", E::Format),
            ("host:99x/web", E::Format),
            ("-host.x/web", E::Format),
            ("ümlaut", E::Format),
            ("Web", E::Uppercase("Web".to_owned())),
            ("shop.example/Web:1", E::Uppercase("Web".to_owned())),
            (long.as_str(), E::TooLong),
            ("web@sha256:12", E::Digest),
            ("web@md5:0123456789abcdef0123456789abcdef", E::Digest),
            ("web@", E::Digest),
        ] {
            assert_eq!(parse_reference(text, None), Err(error), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_gets_an_answer_and_keeps_its_words(text in ".{0,80}") {
            if let Ok(image) = parse_reference(&text, Some(Path::new("/base"))) {
                prop_assert_eq!(image.text(), text.as_str());
            }
        }
    }
}
