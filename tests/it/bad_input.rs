//! Bad input is answered, never fatal.

use std::fmt::Write as _;

use super::support::{DEADLINE, Node, guest, podling, text, wait_for};

/// `podling check` on a text: its exit code and everything it printed.
fn check(content: &[u8]) -> (i32, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pod.yaml");
    std::fs::write(&path, content).unwrap();
    let output = podling().arg("check").arg(path).output().unwrap();
    let printed = text(&output.stdout) + &text(&output.stderr);
    (output.status.code().unwrap_or(-1), printed)
}

#[test]
fn every_mistake_is_told_at_once_with_its_place() {
    let (code, printed) = check(
        b"apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  restartPolicy: Sometimes\n  containers:\n  \
          - name: A_b\n    image: x\n    ports: [{containerPort: 70000}]\n  - name: b\n    comand: [x]\n",
    );
    assert_eq!(code, 1, "{printed}");
    for expected in [
        "spec.restartPolicy: Unsupported value: \"Sometimes\"",
        "spec.containers[0].name: Invalid value: \"A_b\"",
        "spec.containers[0].ports[0].containerPort: Invalid value: 70000",
        "spec.containers[1].image: Required value",
        "unknown field \"spec.containers[1].comand\"",
    ] {
        assert!(printed.contains(expected), "no {expected:?} in:\n{printed}");
    }
}

#[test]
fn bombs_and_rubbish_are_refused_quickly() {
    let mut laughs = String::from("a: &a [x,x,x,x,x,x,x,x,x]\n");
    for (this, before) in ('b'..='j').zip('a'..='i') {
        let list = vec![format!("*{before}"); 9].join(",");
        writeln!(laughs, "{this}: &{this} [{list}]").unwrap();
    }
    let deep = "[".repeat(200_000);
    let rows: [(&str, Vec<u8>); 5] = [
        ("anchors that multiply", laughs.into_bytes()),
        ("deep nesting", deep.into_bytes()),
        (
            "random bytes",
            (0..65_536u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[1]).collect(),
        ),
        ("no YAML", b"kind: Pod\n\tapiVersion: v1".to_vec()),
        ("another kind", b"apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: a}".to_vec()),
    ];
    for (what, content) in rows {
        let start = std::time::Instant::now();
        let (code, printed) = check(&content);
        assert_eq!(code, 1, "{what}: {printed}");
        assert!(!printed.trim().is_empty(), "{what}");
        assert!(start.elapsed() < DEADLINE, "{what} took {:?}", start.elapsed());
    }
}

#[test]
fn a_huge_or_unreadable_manifest_touches_no_neighbour() {
    let node = Node::start();
    let pod = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: fine}}\nspec: {{containers: [{{name: c, image: 'file:{}'}}]}}\n",
        guest("counter").display()
    );
    let huge = std::fs::File::create(node.path("manifests").join("huge.yaml")).unwrap();
    huge.set_len(100 * 1024 * 1024).unwrap();
    std::fs::create_dir(node.path("manifests").join("folder.yaml")).unwrap();
    node.put_manifest("fine.yaml", &pod);
    node.put_manifest("twin.yaml", &pod);
    node.wait_ready("fine");
    wait_for("the complaints", || {
        let events = node.ok(&["get", "events", "-A"]);
        ["huge.yaml", "folder.yaml", "twin.yaml"].iter().all(|f| events.contains(f)).then_some(())
    });
    // The folder goes away and comes back: nothing stops.
    let before = node.pod("fine").unwrap();
    std::fs::rename(node.path("manifests"), node.path("away")).unwrap();
    wait_for("the daemon to notice", || {
        node.output().contains("cannot list manifest folder").then_some(())
    });
    let now = node.pod("fine").unwrap();
    assert_eq!(now["metadata"]["uid"], before["metadata"]["uid"]);
    assert!(now["metadata"]["deletionTimestamp"].is_null());
}

#[test]
fn a_connection_refused_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("absent.sock");
    let output = podling().env("PODLING_SOCKET", socket).args(["get", "pods"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("podling daemon"), "{}", text(&output.stderr));
}

#[test]
fn of_a_file_with_a_mistake_nothing_is_applied() {
    let node = Node::start();
    let file = node.path("two.yaml");
    let good = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: good}\ndata: {a: b}\n---\n";
    let bad =
        "apiVersion: v1\nkind: Pod\nmetadata: {name: bad}\nspec: {containers: [{name: C_c}]}\n";
    std::fs::write(&file, format!("{good}{bad}")).unwrap();
    let error = node.fails(&["apply", "-f", file.to_str().unwrap()]);
    for expected in
        ["two.yaml is not applied", "spec.containers[0].name", "spec.containers[0].image"]
    {
        assert!(error.contains(expected), "no {expected:?} in {error}");
    }
    assert!(node.fails(&["get", "configmap", "good"]).contains("NotFound"));
}
