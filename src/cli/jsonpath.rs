//! `-o jsonpath=TEMPLATE`: the part of kubectl's JSONPath that scripts use.
//!
//! Text outside braces is copied. Inside: paths (`.a.b`, `['a.b']`, `.a\.b`, `[0]`, `[-1]`, `[*]`, `.*`), filters (`[?(@.name=="x")]`, also
//! `!=` and bare existence), string literals (`{"\n"}`), and `{range PATH}…{end}`. Missing fields print nothing, several results are joined by
//! spaces, as kubectl prints them.

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;

/// A parsed template.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct JsonPath(Vec<Part>);

#[derive(Clone, Debug, PartialEq)]
enum Part {
    Text(String),
    Path(Vec<Step>),
    Range(Vec<Step>, Vec<Part>),
}

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(String),
    Index(i64),
    Every,
    Where { path: Vec<Step>, test: Option<(bool, Value)> },
}

impl JsonPath {
    /// # Errors
    /// If the template is not understood.
    pub(super) fn parse(template: &str) -> anyhow::Result<Self> {
        let mut rest = template;
        let mut stack: Vec<(Vec<Step>, Vec<Part>)> = Vec::new();
        let mut parts = Vec::new();
        while !rest.is_empty() {
            let Some(open) = rest.find('{') else {
                parts.push(Part::Text(rest.to_owned()));
                break;
            };
            if open > 0 {
                parts.push(Part::Text(rest[..open].to_owned()));
            }
            let close =
                closing_brace(&rest[open..]).context("unclosed action in the jsonpath template")?;
            let action = rest[open + 1..open + close].trim();
            rest = &rest[open + close + 1..];
            let range = action
                .strip_prefix("range")
                .filter(|path| path.starts_with([' ', '.', '[', '@', '$']));
            if let Some(path) = range {
                ensure!(stack.len() < 16, "ranges are nested too deeply");
                stack.push((path_of(path.trim())?, std::mem::take(&mut parts)));
            } else if action == "end" {
                let (path, outer) = stack.pop().context("{end} without {range}")?;
                let inner = std::mem::replace(&mut parts, outer);
                parts.push(Part::Range(path, inner));
            } else if action.starts_with(['"', '\'']) {
                parts.push(Part::Text(literal(action)?));
            } else {
                parts.push(Part::Path(path_of(action)?));
            }
        }
        ensure!(stack.is_empty(), "unclosed {{range}} in the jsonpath template");
        Ok(Self(parts))
    }

    /// What the template prints for this object.
    pub(super) fn evaluate(&self, object: &Value) -> anyhow::Result<String> {
        let mut out = String::new();
        print_parts(&self.0, object, &mut out);
        Ok(out)
    }
}

fn print_parts(parts: &[Part], at: &Value, out: &mut String) {
    for part in parts {
        match part {
            Part::Text(text) => out.push_str(text),
            Part::Path(path) => {
                let found: Vec<String> = select(path, at).into_iter().map(shown).collect();
                out.push_str(&found.join(" "));
            }
            Part::Range(path, inner) => {
                for item in select(path, at) {
                    print_parts(inner, item, out);
                }
            }
        }
    }
}

fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn select<'a>(path: &[Step], from: &'a Value) -> Vec<&'a Value> {
    let mut found = vec![from];
    for step in path {
        let mut next = Vec::new();
        for value in found {
            match (step, value) {
                (Step::Field(name), Value::Object(map)) => next.extend(map.get(name)),
                (Step::Index(index), Value::Array(list)) => {
                    let length = i64::try_from(list.len()).unwrap_or(i64::MAX);
                    let index = if *index < 0 { length.saturating_add(*index) } else { *index };
                    next.extend(usize::try_from(index).ok().and_then(|index| list.get(index)));
                }
                (Step::Every, Value::Array(list)) => next.extend(list),
                (Step::Every, Value::Object(map)) => next.extend(map.values()),
                (Step::Where { path, test }, Value::Array(list)) => {
                    next.extend(list.iter().filter(|item| passes(path, test.as_ref(), item)));
                }
                _ => {}
            }
        }
        found = next;
    }
    found
}

fn passes(path: &[Step], test: Option<&(bool, Value)>, item: &Value) -> bool {
    let found = select(path, item);
    match test {
        None => !found.is_empty(),
        Some((equal, wanted)) => {
            let holds = found.iter().any(|found| *found == wanted || shown(found) == shown(wanted));
            !found.is_empty() && holds == *equal
        }
    }
}

/// The index of the brace that closes the first one; braces in string literals do not count.
fn closing_brace(text: &str) -> Option<usize> {
    let (mut quote, mut escaped) = (None, false);
    for (at, c) in text.char_indices() {
        match (quote, c) {
            _ if escaped => escaped = false,
            (_, '\\') => escaped = true,
            (Some(open), c) if c == open => quote = None,
            (None, '"' | '\'') => quote = Some(c),
            (None, '}') => return Some(at),
            _ => {}
        }
    }
    None
}

fn literal(text: &str) -> anyhow::Result<String> {
    let quote = text.chars().next().context("an empty literal")?;
    let inner = text[1..]
        .strip_suffix(quote)
        .context("unterminated quoted string in the jsonpath template")?;
    let mut out = String::new();
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('n') => out.push('\n'),
            Some('t') => out.push('\t'),
            Some('r') => out.push('\r'),
            Some(c) => out.push(c),
            None => bail!("a backslash at the end of a literal"),
        }
    }
    Ok(out)
}

fn path_of(text: &str) -> anyhow::Result<Vec<Step>> {
    let unknown = || format!("unrecognized jsonpath expression {text:?}");
    let mut rest = text.strip_prefix(['$', '@']).unwrap_or(text);
    let mut steps = Vec::new();
    while !rest.is_empty() {
        if let Some(inside) = rest.strip_prefix('[') {
            let close = closing_bracket(inside).with_context(unknown)?;
            steps.push(bracket(inside[..close].trim()).with_context(unknown)?);
            rest = &inside[close + 1..];
        } else {
            rest = rest.strip_prefix('.').with_context(unknown)?;
            ensure!(!rest.starts_with('.'), "{}: recursive descent is not offered", unknown());
            let (name, left) = field(rest);
            rest = left;
            match name.as_str() {
                "" => ensure!(rest.is_empty() || rest.starts_with('['), unknown()),
                "*" => steps.push(Step::Every),
                _ => steps.push(Step::Field(name)),
            }
        }
    }
    Ok(steps)
}

/// A field's name, up to the next dot or bracket that no backslash precedes.
fn field(text: &str) -> (String, &str) {
    let mut name = String::new();
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => {
                name.push(c);
                escaped = false;
            }
            '\\' => escaped = true,
            '.' | '[' => return (name, &text[at..]),
            _ => name.push(c),
        }
    }
    (name, "")
}

fn closing_bracket(text: &str) -> Option<usize> {
    let (mut quote, mut depth) = (None, 0_u32);
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '[') => depth += 1,
            (None, ']') if depth == 0 => return Some(at),
            (None, ']') => depth -= 1,
            _ => {}
        }
    }
    None
}

fn bracket(text: &str) -> anyhow::Result<Step> {
    if text == "*" {
        return Ok(Step::Every);
    }
    if text.starts_with(['"', '\'']) {
        return Ok(Step::Field(literal(text)?));
    }
    if let Some(filter) = text.strip_prefix("?(").and_then(|text| text.strip_suffix(')')) {
        for (operator, equal) in [("==", true), ("!=", false)] {
            if let Some((path, value)) = filter.split_once(operator) {
                let value = value.trim();
                let value = if value.starts_with(['"', '\'']) {
                    Value::String(literal(value)?)
                } else {
                    serde_json::from_str(value)
                        .context("a filter compares with a string, number or boolean")?
                };
                return Ok(Step::Where { path: path_of(path.trim())?, test: Some((equal, value)) });
            }
        }
        ensure!(!filter.contains(['<', '>', '&', '|']), "this filter is not offered");
        return Ok(Step::Where { path: path_of(filter.trim())?, test: None });
    }
    Ok(Step::Index(text.parse().context("a list is indexed by a number")?))
}
