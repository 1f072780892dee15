//! Kubernetes' rules for names, labels and other words, with its messages.
//!
//! Each function answers with everything that is wrong with a text, empty if nothing is
//! (`apimachinery/pkg/util/validation`). Byte tests instead of regular expressions: the grammars
//! are tiny, the messages quote Kubernetes' expressions.

/// What is wrong with a value, in Kubernetes' words.
pub type Faults = Vec<String>;

const LABEL_FORM: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const QUALIFIED_FORM: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";

fn too_long(max: usize) -> String {
    format!("must be no more than {max} bytes")
}

/// `must be between LO and HI, inclusive`
#[must_use]
pub fn range(low: i64, high: i64) -> String {
    format!("must be between {low} and {high}, inclusive")
}

fn is_dns_label(text: &str) -> bool {
    let inside = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty() && text.bytes().all(inside) && !text.starts_with('-') && !text.ends_with('-')
}

/// Container, volume and host names.
#[must_use]
pub fn dns_label(text: &str) -> Faults {
    let mut faults = Faults::new();
    if text.len() > 63 {
        faults.push(too_long(63));
    }
    if !is_dns_label(text) {
        if text.split('.').all(is_dns_label) {
            faults.push("must not contain dots".to_owned());
        } else {
            faults.push(format!(
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must \
                 start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for \
                 validation is '{LABEL_FORM}')"
            ));
        }
    }
    faults
}

/// Names of Services: labels of the older kind, which begin with a letter.
#[must_use]
pub fn dns_1035_label(text: &str) -> Faults {
    let mut faults = Faults::new();
    if text.len() > 63 {
        faults.push(too_long(63));
    }
    if !is_dns_label(text) || !text.starts_with(|c: char| c.is_ascii_lowercase()) {
        faults.push(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic \
             character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for \
             validation is '[a-z]([-a-z0-9]*[a-z0-9])?')"
                .to_owned(),
        );
    }
    faults
}

/// Names of pods, ConfigMaps, Secrets.
#[must_use]
pub fn dns_subdomain(text: &str) -> Faults {
    let mut faults = Faults::new();
    if text.len() > 253 {
        faults.push(too_long(253));
    }
    if !text.split('.').all(is_dns_label) {
        faults.push(format!(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
             start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
             '{LABEL_FORM}(\\.{LABEL_FORM})*')"
        ));
    }
    faults
}

fn is_qualified(text: &str) -> bool {
    let inside = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.iter().copied().all(inside) && edge(bytes.first()) && edge(bytes.last())
}

/// Keys of labels and annotations, names of resources and conditions: `[PREFIX/]NAME`.
#[must_use]
pub fn qualified_name(text: &str) -> Faults {
    const MESSAGE: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
                           alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is";
    let mut faults = Faults::new();
    let name = match text.split_once('/') {
        None => text,
        Some((_, name)) if name.contains('/') => {
            faults.push(format!(
                "a qualified name {MESSAGE} '{QUALIFIED_FORM}') with an optional DNS subdomain prefix and '/' (e.g. \
                 'example.com/MyName')"
            ));
            return faults;
        }
        Some(("", name)) => {
            faults.push("prefix part must be non-empty".to_owned());
            name
        }
        Some((prefix, name)) => {
            faults.extend(
                dns_subdomain(prefix).into_iter().map(|fault| format!("prefix part {fault}")),
            );
            name
        }
    };
    if name.is_empty() {
        faults.push("name part must be non-empty".to_owned());
    } else if name.len() > 63 {
        faults.push(format!("name part {}", too_long(63)));
    }
    if !is_qualified(name) {
        faults.push(format!("name part {MESSAGE} '{QUALIFIED_FORM}')"));
    }
    faults
}

/// Values of labels.
#[must_use]
pub fn label_value(text: &str) -> Faults {
    let mut faults = Faults::new();
    if text.len() > 63 {
        faults.push(too_long(63));
    }
    if !text.is_empty() && !is_qualified(text) {
        faults.push(format!(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start \
             and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for \
             validation is '({QUALIFIED_FORM})?')"
        ));
    }
    faults
}

/// Names of container ports.
#[must_use]
pub fn port_name(text: &str) -> Faults {
    let mut faults = Faults::new();
    if text.len() > 15 {
        faults.push(too_long(15));
    }
    if !text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        || text.is_empty()
    {
        faults.push(
            "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned(),
        );
    }
    if !text.bytes().any(|b| b.is_ascii_lowercase()) {
        faults.push("must contain at least one letter (a-z)".to_owned());
    }
    if text.contains("--") {
        faults.push("must not contain consecutive hyphens".to_owned());
    }
    if text.starts_with('-') || text.ends_with('-') {
        faults.push("must not begin or end with a hyphen".to_owned());
    }
    faults
}

/// Names of environment variables, under the relaxed rule of Kubernetes 1.34.
#[must_use]
pub fn env_name(text: &str) -> Faults {
    if text.is_empty() {
        return vec!["environment variable name must be non-empty".to_owned()];
    }
    if text.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'=') {
        return Faults::new();
    }
    vec!["a valid environment variable name must consist only of printable ASCII characters other than '='".to_owned()]
}

/// Keys of ConfigMaps and Secrets.
#[must_use]
pub fn config_key(text: &str) -> Faults {
    let mut faults = Faults::new();
    if text.len() > 253 {
        faults.push(too_long(253));
    }
    let inside = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if text.is_empty() || !text.bytes().all(inside) {
        faults.push(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or \
             'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"
                .to_owned(),
        );
    }
    match text {
        "." => faults.push("must not be '.'".to_owned()),
        ".." => faults.push("must not be '..'".to_owned()),
        text if text.starts_with("..") => faults.push("must not start with '..'".to_owned()),
        _ => {}
    }
    faults
}

/// Names of HTTP headers.
#[must_use]
pub fn header_name(text: &str) -> Faults {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Faults::new();
    }
    vec![
        "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for \
         validation is '[-A-Za-z0-9]+')"
            .to_owned(),
    ]
}

/// A path inside a volume: relative, and never out of it.
#[must_use]
pub fn relative_path(text: &str) -> Faults {
    let mut faults = Faults::new();
    if text.starts_with('/') {
        faults.push("must be a relative path".to_owned());
    }
    faults.extend(no_back_steps(text));
    faults
}

/// A path without `..` elements.
#[must_use]
pub fn no_back_steps(text: &str) -> Faults {
    if text.split('/').any(|element| element == "..") {
        vec!["must not contain '..'".to_owned()]
    } else {
        Faults::new()
    }
}

/// The path of one file of a ConfigMap, Secret or downward API volume.
#[must_use]
pub fn file_path(text: &str) -> Faults {
    let mut faults = relative_path(text);
    if text.starts_with("..") && faults.is_empty() {
        faults.push("must not start with '..'".to_owned());
    }
    faults
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn names_are_judged_as_kubernetes_judges_them() {
        for (rule, text, wrong) in [
            (dns_label as fn(&str) -> Faults, "web", false),
            (dns_label, "", true),
            (dns_label, "a.b", true),
            (dns_label, "A", true),
            (dns_label, "-a", true),
            (dns_1035_label, "web-1", false),
            (dns_1035_label, "1web", true),
            (dns_1035_label, "a.b", true),
            (dns_subdomain, "a.b-c.1", false),
            (dns_subdomain, "a..b", true),
            (qualified_name, "podling.dev/fuel", false),
            (qualified_name, "Under_score.dot", false),
            (qualified_name, "a/b/c", true),
            (qualified_name, "/b", true),
            (qualified_name, "a/", true),
            (label_value, "", false),
            (label_value, "a b", true),
            (port_name, "http", false),
            (port_name, "8080", true),
            (port_name, "http--x", true),
            (port_name, "a-very-long-port-name", true),
            (env_name, "MY VAR.1", false),
            (env_name, "A=B", true),
            (env_name, "ü", true),
            (config_key, "schedule.txt", false),
            (config_key, "..data", true),
            (config_key, "a/b", true),
            (header_name, "X-Y", false),
            (header_name, "X Y", true),
            (relative_path, "a/b", false),
            (relative_path, "/a", true),
            (relative_path, "a/../b", true),
            (relative_path, "..a", false),
            (file_path, "..a", true),
        ] {
            assert_eq!(!rule(text).is_empty(), wrong, "{text:?}");
        }
        assert_eq!(dns_label("a.b"), ["must not contain dots"]);
    }

    #[test]
    fn the_messages_are_kubernetes_own() {
        assert_eq!(
            dns_label("A_b"),
            [
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start \
              and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
              '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
            ]
        );
    }
}
