//! Every manifest that the repository shows to people is right, and every wrong one in the fixtures
//! is answered with exactly what its neighbour says.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::Command;

use podling::manifest::check::{Report, check_files, check_text};
use podling::spec::Exit;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files of a folder with one of these endings, sorted.
fn files(folder: &str, endings: &[&str]) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root().join(folder)).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|e| endings.contains(&e.to_str().unwrap())));
    files.sort();
    assert!(!files.is_empty(), "{folder} has no manifests");
    files
}

/// The YAML examples of a Markdown page, with the line each starts on.
fn examples(page: &str) -> Vec<(usize, String)> {
    let text = std::fs::read_to_string(root().join(page)).unwrap();
    let mut examples = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        if line.trim() == "```yaml" {
            let body = lines.by_ref().map(|(_, line)| line).take_while(|line| line.trim() != "```");
            examples.push((number + 2, body.collect::<Vec<_>>().join("\n")));
        }
    }
    examples
}

#[test]
fn every_example_is_right() {
    let report = check_files(&files("manifests", &["yaml", "json"]));
    assert!(report.findings.is_empty(), "{report}");
    assert!(report.objects >= 10, "{report}");
}

#[test]
fn every_example_of_the_manual_is_right() {
    let examples = examples("docs/manifest.md");
    assert!(examples.len() >= 3);
    for (line, text) in examples {
        let mut report = Report::default();
        check_text(Path::new("docs/manifest.md"), text.as_bytes(), &mut report);
        assert!(report.findings.is_empty() && report.objects > 0, "from line {line}: {report}");
    }
}

#[test]
fn the_manual_has_every_way_to_end() {
    let text = std::fs::read_to_string(root().join("docs/manifest.md")).unwrap();
    let message = String::new;
    for exit in [
        Exit::Code(0),
        Exit::Trapped { message: message() },
        Exit::OutOfMemory { message: message() },
        Exit::OutOfFuel,
        Exit::Killed,
        Exit::Terminated,
        Exit::Lost { message: message() },
    ] {
        let row = format!("| {} | `{}` |", exit.code(), exit.reason());
        assert!(text.contains(&row), "docs/manifest.md lacks {row}");
    }
    assert!(text.contains(&format!("| that code | `{}` |", Exit::Code(1).reason())));
}

/// `NAME.yaml` (or `.json`) holds something wrong, `NAME.txt` what `podling check` says of it.
#[test]
fn every_wrong_manifest_is_answered_with_all_that_is_wrong() {
    let update = std::env::var_os("PODLING_UPDATE_FIXTURES").is_some();
    for path in files("tests/fixtures/manifests", &["yaml", "json"]) {
        let name = PathBuf::from(path.file_name().unwrap());
        let mut report = Report::default();
        check_text(&name, &std::fs::read(&path).unwrap(), &mut report);
        assert!(!report.is_clean(), "{} has nothing wrong", name.display());
        let found = format!("{report}\n");
        let expected_path = path.with_extension("txt");
        if update {
            std::fs::write(&expected_path, &found).unwrap();
        }
        let expected = std::fs::read_to_string(&expected_path).unwrap();
        assert_eq!(found, expected, "{}", name.display());
    }
}

/// Reading a manifest as `kubectl` does is a promise; `kubectl` itself is asked, without a cluster.
#[test]
fn kubectl_accepts_every_example() {
    let Some(kubectl) = kubectl() else { return };
    for path in files("manifests", &["yaml", "json"]) {
        let text = std::fs::read_to_string(&path).unwrap();
        // `--local` is how kubectl works on files alone; it reads one kind at a time best.
        let folder = tempfile::tempdir().unwrap();
        for (index, part) in text.split("\n---\n").enumerate() {
            let file = folder.path().join(format!("{index}.yaml"));
            std::fs::write(&file, part).unwrap();
            let output = Command::new(&kubectl)
                .args(["annotate", "--local", "-o", "json", "-f"])
                .arg(&file)
                .arg("example.com/checked=yes")
                .output()
                .unwrap();
            assert!(
                output.status.success(),
                "{}: {}",
                path.display(),
                String::from_utf8_lossy(&output.stderr)
            );
        }
    }
}

/// What `kubectl` makes of a YAML file is what we make of it: its JSON read by us equals its YAML
/// read by us.
#[test]
fn kubectl_reads_yaml_as_we_do() {
    let Some(kubectl) = kubectl() else { return };
    let path = root().join("tests/fixtures/yaml11.yaml");
    let output = Command::new(kubectl)
        .args(["annotate", "--local", "-o", "json", "-f"])
        .arg(&path)
        .arg("example.com/checked=yes")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let read = |bytes: &[u8]| {
        use podling::manifest::{FieldValidation, Object, parse};
        let mut parsed = parse(bytes, FieldValidation::Strict);
        assert!(parsed.errors.is_empty(), "{:?}", parsed.errors);
        let mut object = parsed.documents.pop().unwrap().object;
        object.metadata_mut().annotations = None;
        let Object::Pod(pod) = object else { panic!() };
        serde_json::to_value(&*pod).unwrap()
    };
    assert_eq!(read(&std::fs::read(&path).unwrap()), read(&output.stdout));
}

/// Where `kubectl` is; without one the test is skipped, which under CI is a failure.
fn kubectl() -> Option<PathBuf> {
    let found = Command::new("kubectl").args(["version", "--client"]).output();
    if found.is_ok_and(|output| output.status.success()) {
        return Some(PathBuf::from("kubectl"));
    }
    println!("skipped: kubectl is not installed");
    assert!(std::env::var_os("CI").is_none(), "CI must have kubectl");
    None
}
