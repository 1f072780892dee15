//! `podling demo`, to its end.

use std::process::Command;

use crate::support::{cache_dir, podling, text};

#[test]
fn the_demo_comes_to_its_end_and_leaves_nothing_behind() {
    let tmp = tempfile::tempdir().unwrap();
    let mut command: Command = podling();
    // The modules are compiled once for all tests.
    command.env("TMPDIR", tmp.path()).env("PODLING_CACHE_DIR", cache_dir());
    let output = command.arg("demo").output().unwrap();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{out}{err}");
    let mut rest = &*out;
    // In this order.
    for told in [
        "$ podling key generate",
        "$ podling daemon",
        "$ podling publish -f manifests/greenhouse.yaml",
        "fetches file:../wasm-examples/built/",
        "pod/greenhouse: Ready",
        "Running",
        "4. The cable",
        " s  reading ",
        "5. The cable is back",
        "gw-demo",
        "pod/greenhouse: gone",
        "What to try next",
    ] {
        let at = rest.find(told).unwrap_or_else(|| panic!("no {told:?} in\n{rest}"));
        rest = &rest[at + told.len()..];
    }
    assert!(!out.contains('\u{1b}'), "a pipe gets plain lines");
    let left: Vec<_> = std::fs::read_dir(tmp.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}
