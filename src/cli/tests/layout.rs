use proptest::prelude::*;
use serde_json::{Value, json};

use crate::cli::client::{PathBuilder, warning_text};
use crate::cli::columns::{self, Columns};
use crate::cli::jsonpath::JsonPath;
use crate::cli::{kinds, yaml};

#[test]
fn columns_last_as_long_as_consecutive_lines_have_them() {
    let text = "Name:\tweb\nNamespace:\tdefault\nLabels:\ta=b\n\tc=d\nBlock:\n  x:\ty\n  longer:\tz\t.\nend\n";
    let expected = "Name:       web\nNamespace:  default\nLabels:     a=b\n            c=d\nBlock:\n  x:       y\n  longer:  z  .\nend\n";
    assert_eq!(columns::align(text, 2), expected);
}

#[test]
fn a_table_remembers_its_widths() {
    let mut table = Columns::default();
    let row = |cells: [&str; 3]| vec![cells.map(str::to_owned).to_vec()];
    assert_eq!(table.set(&row(["NAME", "A", "AGE"])), "NAME   A     AGE\n");
    assert_eq!(table.set(&row(["a-long-name", "1/1", "5s"])), "a-long-name   1/1   5s\n");
    assert_eq!(table.set(&row(["x", "1", "5s"])), "x             1     5s\n");
}

#[test]
fn cells_are_one_line_without_control_characters() {
    for (text, shown) in [
        ("plain", "plain"),
        ("two\nlines", "two..."),
        ("\u{1b}[31mred", "^[[31mred"),
        ("bell\u{7}", "bell\\u{7}"),
    ] {
        assert_eq!(columns::cell(text), shown, "{text:?}");
    }
}

#[test]
fn yaml_reads_as_kubectl_prints_it() {
    let value = json!({
        "a": {"empty": {}, "list": [], "none": null, "yes": true},
        "ambiguous": ["true", "1", "1.5", "0x1f", "1:30", "2024-01-01", "null", "~", "", "y", "1e3", "-1", "=", "0644"],
        "plain": ["10.88.0.2", "web:1", "a b", "-f", "x: y", "a #b", "--flag", "v1", "sha256:12", "/data", "e3", "2h"],
        "nested": [[1, 2], [{"k": "v", "l": [1]}]],
        "text": "one\n  two\n",
        "chomped": "one\ntwo",
        "odd": "tab\there",
        "trailing": "space \n",
    });
    insta::assert_snapshot!(yaml::to_string(&value));
}

fn any_json() -> impl Strategy<Value = Value> {
    let words = prop_oneof![
        "[ -~]{0,12}",
        "[a-z0-9:. #'\"\\-\\n\\t]{0,24}",
        "([a-z]{1,9} {1,2}){8,24}",
        any::<String>(),
        Just("\u{85}\u{feff}\u{2028}".to_owned()),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        words.prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 48, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map("[ -~]{1,10}", inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn yaml_reads_back_as_the_same_value(value in any_json()) {
        let text = yaml::to_string(&value);
        let back: Value = serde_yaml::from_str(&text).map_err(|error| TestCaseError::fail(format!("{error}\n{text}")))?;
        prop_assert_eq!(back, value, "{}", text);
    }

    #[test]
    fn aligned_text_keeps_its_words(text in "[a-z\\t\\n ]{0,200}") {
        let bare = |text: &str| text.replace([' ', '\t'], "");
        prop_assert_eq!(bare(&columns::align(&text, 2)), bare(&text));
    }
}

#[test]
fn jsonpath_prints_what_scripts_ask_for() {
    let object = json!({
        "status": {"phase": "Running", "ready": true, "n": 3},
        "items": [
            {"name": "a", "image": "x:1", "labels": {"app.io/tier": "web"}},
            {"name": "b", "image": "y:2"},
        ],
    });
    let cases = [
        ("{.status.phase}", "Running"),
        ("phase={.status.phase}!", "phase=Running!"),
        ("{$.status.n}", "3"),
        ("{.items[*].name}", "a b"),
        ("{.items[0].name}{'-'}{.items[-1].name}", "a-b"),
        ("{.items[9].name}", ""),
        ("{.nothing.at.all}", ""),
        ("{range .items[*]}{.name}{\"\\t\"}{.image}{\"\\n\"}{end}", "a\tx:1\nb\ty:2\n"),
        ("{.items[?(@.name==\"b\")].image}", "y:2"),
        ("{.items[?(@.name!='b')].image}", "x:1"),
        ("{.items[?(@.labels)].name}", "a"),
        ("{.items[0].labels['app.io/tier']}", "web"),
        ("{.items[0].labels.app\\.io/tier}", "web"),
        ("{.status.ready}", "true"),
        ("{.items[1]}", r#"{"image":"y:2","name":"b"}"#),
        ("{\"}\"}", "}"),
    ];
    for (template, expected) in cases {
        let path = JsonPath::parse(template).unwrap_or_else(|error| panic!("{template}: {error}"));
        assert_eq!(path.evaluate(&object).unwrap(), expected, "{template}");
    }
    for wrong in [
        "{.a",
        "{end}",
        "{range .a}",
        "{a.b}",
        "{..a}",
        "{.a[}",
        "{.a[x]}",
        "{.a[?(@.b<1)]}",
        "{\"x}",
    ] {
        assert!(JsonPath::parse(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn kinds_go_by_many_names() {
    use crate::board::Kind;
    let words = |first: &str, rest: &[&str]| {
        let rest: Vec<String> = rest.iter().map(|word| (*word).to_owned()).collect();
        kinds::kind_and_names(first, &rest).map_err(|error| error.to_string())
    };
    for word in ["po", "pod", "pods", "Pod", "PODS"] {
        assert_eq!(words(word, &["a"]), Ok((Kind::Pod, vec!["a".to_owned()])), "{word}");
    }
    for word in ["netpol", "networkpolicy", "networkpolicies.networking.k8s.io"] {
        assert_eq!(words(word, &[]), Ok((Kind::NetworkPolicy, vec![])), "{word}");
    }
    assert!(words("networkpolicies.k8s.io", &[]).is_err());
    assert_eq!(
        words("cm/a", &["cm/b"]),
        Ok((Kind::ConfigMap, vec!["a".to_owned(), "b".to_owned()]))
    );
    let unknown = words("deploy", &[]).unwrap_err();
    assert!(unknown.starts_with("the server doesn't have a resource type \"deploy\": there are "));
    for (first, rest) in
        [("pod/a", &["b"][..]), ("pod/a", &["cm/b"]), ("pod", &["pod/a"]), ("pod/", &[])]
    {
        assert!(words(first, rest).is_err(), "{first} {rest:?}");
    }
}

#[test]
fn paths_are_escaped_and_warnings_unescaped() {
    let path = PathBuilder::new(&["namespaces", "a/b", "pods"]).with("labelSelector", "a in (b,c)");
    assert_eq!(path.as_str(), "/api/v1/namespaces/a%2Fb/pods?labelSelector=a%20in%20%28b%2Cc%29");
    let warning = "299 - \"unknown field \\\"spec.foo\\\"\" \"date\"";
    assert_eq!(warning_text(warning).as_deref(), Some("unknown field \"spec.foo\""));
    assert_eq!(warning_text("nonsense"), None);
}
