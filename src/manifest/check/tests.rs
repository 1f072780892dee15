#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;

fn check(text: &str) -> Report {
    let mut report = Report::default();
    check_text(Path::new("dir/a.yaml"), text.as_bytes(), &mut report);
    report
}

const GOOD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  containers:\n  - {name: c, image: x}\n";

#[test]
fn a_right_manifest_is_counted() {
    let report = check(GOOD);
    assert!(report.is_clean());
    assert_eq!(report.to_string(), "1 object, 0 errors");
}

#[test]
fn findings_name_file_line_and_column_in_the_order_of_the_text() {
    let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  nodeSelector: {a: b}\n  containers:\n  - name: C\n    image: x\n    bad: 1\n";
    let report = check(text);
    let lines: Vec<String> = report.to_string().lines().map(str::to_owned).collect();
    assert!(lines[0].starts_with("dir/a.yaml:7:5: error: Pod a: spec.containers[0].name: Invalid value: \"C\": a lowercase"), "{}", lines[0]);
    assert_eq!(lines[1], "dir/a.yaml:9:5: error: Pod a: unknown field \"spec.containers[0].bad\"");
    assert_eq!(lines[2], "0 objects, 2 errors");
}

#[test]
fn a_warning_is_no_error() {
    let report = check(&GOOD.replace("spec:\n", "spec:\n  nodeSelector: {a: b}\n"));
    assert!(report.is_clean());
    assert_eq!(
        report.to_string(),
        "dir/a.yaml:5:3: warning: Pod a: spec.nodeSelector: there is one node, and the pod runs on it\n1 object, 0 errors, 1 warning"
    );
}

#[test]
fn the_report_is_json_too() {
    let json = check("kind: Pod\n").to_json();
    assert_eq!(json["errors"], 1);
    assert_eq!(json["findings"][0]["severity"], "error");
    assert_eq!(json["findings"][0]["line"], 1);
    assert_eq!(json["findings"][0]["message"], "apiVersion must be set");
}

#[test]
fn a_file_that_cannot_be_read_is_a_finding_and_a_huge_one_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing.yaml");
    let huge = folder.path().join("huge.yaml");
    // A sparse file: 100 MB that take no room.
    std::fs::File::create(&huge).unwrap().set_len(100 << 20).unwrap();
    let good = folder.path().join("good.yaml");
    std::fs::write(&good, GOOD).unwrap();
    let report = check_files(&[missing, huge, good]);
    assert_eq!((report.objects, report.errors()), (1, 2));
    assert!(report.findings[0].message.starts_with("cannot read the file: "));
    assert_eq!(report.findings[1].message, "the manifest has more than 10485760 bytes");
}
