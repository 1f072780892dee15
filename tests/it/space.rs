//! Room in volumes: who has filled one is told at once, and nobody else notices.

use super::support::{Node, wait_for};

/// A pod of modules that do to files what they are told; each in its own volume `NAME`, mounted at `/v`.
fn pod(name: &str, volumes: &str, containers: &[(&str, &str, &str, &str)]) -> String {
    let mut text = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  restartPolicy: Never\n  \
         volumes: {volumes}\n  containers:\n"
    );
    for (container, image, volume, args) in containers {
        text += &format!(
            "  - {{name: {container}, image: '{image}:test', args: [{args}], \
             volumeMounts: [{{name: {volume}, mountPath: /v}}]}}\n"
        );
    }
    text
}

fn log(node: &Node, pod: &str, container: &str) -> String {
    node.ok(&["logs", pod, "-c", container])
}

const ONE_EACH: &str = "[{name: small, emptyDir: {sizeLimit: 1Mi}}, {name: other, emptyDir: {}}]";

#[test]
fn a_full_volume_refuses_at_once_and_neither_module_nor_neighbour_is_the_worse_for_it() {
    let node = Node::start();
    for image in ["files", "files-p1"] {
        node.load(image);
        let name = format!("filler-{image}");
        // Full; what is removed may be written again at once; the module goes on.
        let filler = "fill, /v/big, '4194304', then, delete, /v/big, then, fill, /v/fits, '900000', \
                      then, mkdir, /v/d, then, fill, /v/d/more, '200000', then, wait, /v/go, '60'";
        let neighbour = "fill, /v/big, '4194304', then, list, /v";
        let text = pod(
            &name,
            ONE_EACH,
            &[("filler", image, "small", filler), ("neighbour", image, "other", neighbour)],
        );
        node.apply(&text);
        let lines = wait_for("the filler to have met its limit", || {
            let lines = log(&node, &name, "filler");
            (lines.lines().count() == 5).then_some(lines)
        });
        let lines: Vec<&str> = lines.lines().collect();
        // The C library of WASI 0.2 keeps nothing of a stream's error but that there was one (EIO).
        let full = if image == "files" { "error Uncategorized" } else { "error StorageFull" };
        assert_eq!(lines[0], format!("{full} fill /v/big 4194304"), "{lines:?}");
        assert_eq!(
            lines[1..4],
            ["ok deleted /v/big", "ok filled /v/fits with 900000", "ok made /v/d"]
        );
        assert_eq!(lines[4], format!("{full} fill /v/d/more 200000"));
        let ended = node.wait_pod(&name, "the neighbour's end", |pod| {
            let all = pod["status"]["containerStatuses"].as_array();
            all.is_some_and(|all| {
                all.iter()
                    .any(|c| c["name"] == "neighbour" && c["state"]["terminated"]["exitCode"] == 0)
            })
        });
        assert_eq!(ended["status"]["phase"], "Running", "the one that met its limit still runs");
        assert!(log(&node, &name, "neighbour").contains("ok filled /v/big with 4194304"));
    }
}

#[test]
fn a_memory_volume_is_the_pods_memory() {
    let node = Node::start();
    node.load("files");
    let volumes = "[{name: memory, emptyDir: {medium: Memory}}]";
    let args = "fill, /v/fits, '4194304', then, fill, /v/big, '16777216', then, wait, /v/go, '60'";
    let text = pod("memory", volumes, &[("c", "files", "memory", args)]);
    node.apply(&text.replace("args:", "resources: {limits: {memory: 12Mi}}, args:"));
    let lines = wait_for("the volume to be full", || {
        let lines = log(&node, "memory", "c");
        (lines.lines().count() == 2).then_some(lines)
    });
    assert!(lines.starts_with("ok filled /v/fits with 4194304\nerror"), "{lines}");
    let memory = node.wait_ready("memory");
    assert_eq!(memory["status"]["containerStatuses"][0]["restartCount"], 0, "nobody was killed");
}

#[test]
fn what_was_written_past_us_evicts_the_pod_in_the_kubelets_words() {
    let node = Node::start();
    node.load("files");
    let waits = "wait, /v/never, '600'";
    node.apply(&pod("over", ONE_EACH, &[("c", "files", "small", waits)]));
    let uid = node.wait_ready("over")["metadata"]["uid"].as_str().unwrap().to_owned();
    let volume = node.path("state/volumes/pods").join(uid).join("volumes/small");
    std::fs::write(volume.join("from-outside"), vec![7; 2 << 20]).unwrap();
    let over = node.wait_pod("over", "Evicted", |pod| pod["status"]["reason"] == "Evicted");
    let words = "Usage of EmptyDir volume \"small\" exceeds the limit \"1Mi\". ";
    assert_eq!(over["status"]["message"], words);
    assert_eq!(over["status"]["phase"], "Failed");
    let events = node.ok(&["get", "events"]);
    assert!(events.contains("Evicted") && events.contains(words.trim_end()), "{events}");
}
