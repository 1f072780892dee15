//! JSON values as YAML, in the form that `kubectl -o yaml` prints.
//!
//! Sorted keys, lists at the level of their key, plain scalars where they mean the same, else double quotes; text of several lines as a
//! block. What is printed reads back as the same value (a property test says so).

use serde_json::Value;

/// Columns after which a long scalar is broken at the next space.
const WIDTH: usize = 80;

/// How a value is laid out. Empty mappings and lists stand on one line, as scalars do.
enum Shape<'a> {
    Mapping,
    Sequence(&'a [Value]),
    Scalar,
}

fn shape(value: &Value) -> Shape<'_> {
    match (value.as_object(), value.as_array()) {
        (Some(map), _) if !map.is_empty() => Shape::Mapping,
        (_, Some(list)) if !list.is_empty() => Shape::Sequence(list),
        _ => Shape::Scalar,
    }
}

/// The document with its line feed.
pub(super) fn to_string(value: &Value) -> String {
    let mut out = String::new();
    match shape(value) {
        Shape::Mapping => mapping(&mut out, value, 0, false),
        Shape::Sequence(list) => sequence(&mut out, list, 0),
        Shape::Scalar => {
            scalar(&mut out, value, 1);
            out.push('\n');
        }
    }
    out
}

fn indent(out: &mut String, depth: usize) {
    out.extend(std::iter::repeat_n(' ', depth * 2));
}

/// `inline`: the first key follows a dash on the same line.
fn mapping(out: &mut String, value: &Value, depth: usize, inline: bool) {
    let Value::Object(map) = value else { return };
    for (at, (key, value)) in map.iter().enumerate() {
        if at > 0 || !inline {
            indent(out, depth);
        }
        key_text(out, key);
        out.push(':');
        child(out, value, depth);
    }
}

fn key_text(out: &mut String, key: &str) {
    if is_plain(key) {
        out.push_str(key);
    } else {
        out.push_str(&quoted(key));
    }
}

/// A value after its key's colon.
fn child(out: &mut String, value: &Value, depth: usize) {
    match shape(value) {
        Shape::Mapping => {
            out.push('\n');
            mapping(out, value, depth + 1, false);
        }
        Shape::Sequence(list) => {
            out.push('\n');
            sequence(out, list, depth);
        }
        Shape::Scalar => {
            out.push(' ');
            scalar(out, value, depth + 1);
            out.push('\n');
        }
    }
}

fn sequence(out: &mut String, list: &[Value], depth: usize) {
    for item in list {
        indent(out, depth);
        out.push_str("- ");
        match shape(item) {
            Shape::Mapping => mapping(out, item, depth + 1, true),
            Shape::Sequence(inner) => {
                // A list in a list begins on the dash's own line.
                let mut nested = String::new();
                sequence(&mut nested, inner, depth + 1);
                out.push_str(nested.trim_start());
            }
            Shape::Scalar => {
                scalar(out, item, depth + 1);
                out.push('\n');
            }
        }
    }
}

fn scalar(out: &mut String, value: &Value, depth: usize) {
    match value {
        Value::String(text) if is_block(text) => block(out, text, depth),
        Value::String(text) if is_plain(text) => folded(out, text, depth, false),
        Value::String(text) => folded(out, &quoted(text), depth, true),
        Value::Object(_) => out.push_str("{}"),
        Value::Array(_) => out.push_str("[]"),
        Value::Null | Value::Bool(_) | Value::Number(_) => out.push_str(&value.to_string()),
    }
}

/// A long scalar goes on in the next line at the first single space beyond [`WIDTH`], as libyaml's emitter breaks it.
fn folded(out: &mut String, text: &str, depth: usize, quoted: bool) {
    let line_start = out.rfind('\n').map_or(0, |at| at + 1);
    let mut column = out[line_start..].chars().count();
    let chars: Vec<char> = text.chars().collect();
    for (at, c) in chars.iter().enumerate() {
        let beside_space = |other: Option<&char>| other.is_none_or(|other| *other == ' ');
        // In quotes a space may be the text's own edge, which a line break would swallow.
        let edge = quoted && (at <= 1 || at + 2 >= chars.len());
        let alone = at > 0 && !beside_space(chars.get(at - 1)) && !beside_space(chars.get(at + 1));
        if *c == ' ' && column > WIDTH && alone && !edge {
            out.push('\n');
            indent(out, depth);
            column = depth * 2;
        } else {
            out.push(*c);
            column += 1;
        }
    }
}

/// Whether the text is better read as lines: it has several, and nothing a block cannot hold.
fn is_block(text: &str) -> bool {
    let first = text.trim_start_matches('\n');
    text.contains('\n')
        && !first.is_empty()
        && !first.starts_with([' ', '\t'])
        && !text.starts_with('\n')
        && !text.contains(" \n")
        && !text.ends_with(' ')
        && !text.contains(['\u{feff}', '\u{85}', '\u{2028}', '\u{2029}', '\u{7f}'])
        && !text.chars().any(|c| c.is_control() && c != '\n')
}

fn block(out: &mut String, text: &str, depth: usize) {
    let end = text.len() - text.trim_end_matches('\n').len();
    out.push('|');
    out.push_str(match end {
        0 => "-",
        1 => "",
        _ => "+",
    });
    let body = text.strip_suffix('\n').unwrap_or(text);
    for line in body.split('\n') {
        out.push('\n');
        if !line.is_empty() {
            indent(out, depth);
            out.push_str(line);
        }
    }
}

/// Whether the text means itself without quotes, in YAML 1.1 and 1.2 alike.
fn is_plain(text: &str) -> bool {
    let Some(first) = text.chars().next() else { return false };
    let indicator = match first {
        '-' | '?' | ':' => text[1..].is_empty() || text[1..].starts_with([' ', '-', ':', '?']),
        first => ",[]{}#&*!|>'\"%@` \t".contains(first),
    };
    let ambiguous = text.ends_with([' ', ':', '\t']) || text.contains(": ") || text.contains(" #");
    let odd =
        |c: char| c.is_control() || matches!(c, '\u{feff}' | '\u{85}' | '\u{2028}' | '\u{2029}');
    !indicator && !ambiguous && !text.contains(odd) && !is_word(text) && !is_number_or_date(text)
}

/// Words that stand for something else.
fn is_word(text: &str) -> bool {
    const WORDS: [&str; 15] = [
        "null", "~", "true", "false", "yes", "no", "on", "off", "y", "n", ".nan", ".inf", "=",
        "<<", "---",
    ];
    let bare = text.trim_start_matches(['+', '-']).to_ascii_lowercase();
    WORDS.contains(&bare.as_str()) || WORDS.contains(&text)
}

/// Anything a parser of either version might take for a number, a time or a date.
fn is_number_or_date(text: &str) -> bool {
    let bare = text.strip_prefix(['+', '-']).unwrap_or(text).replace('_', "");
    if !bare.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return false;
    }
    let radix = ["0x", "0o", "0b", "0X", "0O", "0B"].iter().any(|prefix| bare.starts_with(prefix));
    let sixties =
        bare.contains(':') && bare.chars().all(|c| c.is_ascii_digit() || ":.".contains(c));
    let date = bare.len() >= 8
        && bare.as_bytes()[..4].iter().all(u8::is_ascii_digit)
        && bare.as_bytes()[4] == b'-';
    radix || sixties || date || bare.parse::<f64>().is_ok()
}

fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if c.is_control() || matches!(c, '\u{feff}' | '\u{2028}' | '\u{2029}') => {
                let code = u32::from(c);
                out.push_str(&if code < 0x100 {
                    format!("\\x{code:02x}")
                } else {
                    format!("\\u{code:04x}")
                });
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
