#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use proptest::prelude::*;
use serde::Deserialize as _;

use super::*;

fn kind(text: &str) -> Option<Excess> {
    check(text).err().map(|excess| excess.kind)
}

const DEEP: Option<Excess> = Some(Excess::Depth { max: DEPTH_MAX });
const LONG: Option<Excess> = Some(Excess::Tokens { max: TOKENS_MAX });

#[test]
fn what_stands_in_quotes_comments_and_block_scalars_does_not_count() {
    let brackets = "{a: [".repeat(1000);
    for text in [
        format!("a: \"{brackets}\"\n"),
        format!("a: '{brackets}'\n"),
        format!("a: 'it''s {brackets}'\n"),
        format!("a: \"\\\" {brackets}\"\n"),
        format!("# {brackets}\na: b\n"),
        format!("a: b # {brackets}\n"),
        format!("a: b {brackets}\n"),
        format!("a: |\n  {brackets}\nb: c\n"),
        format!("a: |2-\n   {brackets}\nb: c\n"),
        format!("a:\n- >\n {brackets}\n {brackets}\n\n {brackets}\n"),
        format!("a: |\n\n\n  {brackets}\n  # {brackets}\n"),
    ] {
        assert_eq!(kind(&text), None, "{}", &text[..40]);
    }
}

#[test]
fn brackets_hide_behind_nothing() {
    let brackets = "{a: ".repeat(200);
    for text in [
        brackets.clone(),
        format!("a: {brackets}"),
        format!("- {brackets}"),
        format!("a: \"x\" # y\nb: {brackets}"),
        format!("a: 'x'\nb: {brackets}"),
        // A quote inside a plain scalar quotes nothing.
        format!("a: it's\nb: {brackets}"),
        format!("a: x\"y\nb: {brackets}"),
        // Nor does a bar that is no block scalar.
        format!("a: b |\nc: {brackets}"),
        format!("a: [b, c]\nd: {brackets}"),
        // A block scalar ends where the indentation does.
        format!("a: |\n  text\nb: {brackets}"),
        format!("a:\n  b: |\n    text\n  c: {brackets}"),
        // A comment ends at every kind of line break.
        format!("# x\u{85}{brackets}"),
        format!("# x\u{2028}{brackets}"),
        format!("# x\r{brackets}"),
        // Quotes that span lines.
        format!("        k: \"x\n a: |\n  \"\n        j: {brackets}"),
        // Closing brackets that close nothing.
        format!("a: \"]]]]\"\nb: {brackets}"),
        format!("&anchor {brackets}"),
        format!("!tag {brackets}"),
        format!("? {brackets}"),
        format!("%YAML 1.1\n--- {brackets}"),
        format!("--- \n{brackets}"),
        // Found by comparing with the parser's own scanner on random texts.
        format!("{{a: b}}: c\nd: {brackets}"),
        format!("[? ]: c\nd: {brackets}"),
        format!("%YAML 1.1\n\t{brackets}"),
        format!("*x , : {brackets}"),
        format!("a\n: {brackets}"),
    ] {
        assert_eq!(kind(&text), DEEP, "{}", text.chars().take(30).collect::<String>());
    }
}

#[test]
fn tokens_are_counted_for_each_document() {
    let half = "- a\n".repeat(TOKENS_MAX / 4);
    assert_eq!(kind(&half), None);
    assert_eq!(kind(&half.repeat(3)), LONG);
    assert_eq!(kind(&format!("{half}---\n{half}---\n{half}")), None);
}

#[test]
fn depth_is_measured_to_the_level() {
    let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    assert_eq!(kind(&nested(DEPTH_MAX)), None);
    assert_eq!(kind(&nested(DEPTH_MAX + 1)), DEEP);
    let blocks =
        |levels: usize| (0..levels).map(|i| format!("{}a:\n", " ".repeat(i))).collect::<String>();
    assert_eq!(kind(&blocks(DEPTH_MAX)), None);
    assert_eq!(kind(&blocks(DEPTH_MAX + 1)), DEEP);
}

/// How deep a document really is, as the parser sees it.
fn real_depth(value: &serde_yaml::Value) -> usize {
    match value {
        serde_yaml::Value::Sequence(items) => 1 + items.iter().map(real_depth).max().unwrap_or(0),
        serde_yaml::Value::Mapping(map) => {
            let parts = map.iter().flat_map(|(key, value)| [real_depth(key), real_depth(value)]);
            1 + parts.max().unwrap_or(0)
        }
        serde_yaml::Value::Tagged(tagged) => real_depth(&tagged.value),
        serde_yaml::Value::Null | serde_yaml::Value::Bool(_) => 0,
        serde_yaml::Value::Number(_) | serde_yaml::Value::String(_) => 0,
    }
}

/// The most that was open at once: brackets, indented blocks.
fn scanned(text: &str) -> (usize, usize) {
    let mut scan = Scan::new(text.as_bytes());
    let mut deepest = (0, 0);
    while scan.next_token() {
        deepest = (deepest.0.max(scan.flow), deepest.1.max(scan.indents.len()));
    }
    deepest
}

/// The first document, if it is one.
fn first(text: &str) -> Option<serde_yaml::Value> {
    serde_yaml::Value::deserialize(serde_yaml::Deserializer::from_str(text).next()?).ok()
}

fn soup() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("["),
        Just("]"),
        Just("{"),
        Just("}"),
        Just(","),
        Just("\""),
        Just("'"),
        Just("#"),
        Just("|\n"),
        Just(">\n"),
        Just("\n"),
        Just("  "),
        Just(" "),
        Just("a"),
        Just("b: "),
        Just(": "),
        Just("- "),
        Just("? "),
        Just("&x "),
        Just("!!str "),
        Just("\\"),
        Just("\n  "),
        Just("\n- "),
        Just("\nk: "),
        Just("\u{85}"),
        Just("\t"),
        Just("x:y"),
        Just("-"),
        Just("\r\n"),
    ];
    proptest::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

fn brackets() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("["),
        Just("["),
        Just("["),
        Just("]"),
        Just("]"),
        Just(","),
        Just("\""),
        Just("'"),
        Just(" #"),
        Just("\n"),
        Just(" "),
        Just("a"),
        Just("it's"),
        Just("&x "),
        Just("!!str "),
        Just("!"),
        Just("\\"),
        Just("\"]\""),
        Just("']'"),
        Just("|"),
        Just("\u{85}"),
        Just("\t"),
        Just("%"),
    ];
    proptest::collection::vec(piece, 0..24).prop_map(|pieces| format!("[{}]", pieces.concat()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Each bracket and each block may hold one more level that has no sign of its own: `[a: b]`,
    /// and lists that are not indented.
    #[test]
    fn the_scan_sees_at_least_what_the_parser_sees(text in soup()) {
        if let Some(value) = first(&text) {
            let (flow, blocks) = scanned(&text);
            prop_assert!(2 * (flow + blocks) >= real_depth(&value), "{text:?}: {value:?}");
        }
    }

    /// Brackets, which are what costs time, are counted exactly.
    #[test]
    fn no_bracket_is_missed(text in brackets()) {
        if let Some(value) = first(&text) {
            prop_assert!(scanned(&text).0 >= real_depth(&value), "{text:?}: {value:?}");
        }
    }

    #[test]
    fn the_scan_ends_on_any_text(text in "\\PC{0,200}") {
        let _ = check(&text);
    }
}
