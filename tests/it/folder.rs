//! The watched folder: what is in it runs.

use super::support::{Node, container, guest, restarts};

fn pod(name: &str, image: &str, extra: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\n\
         spec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  - name: c\n    image: 'file:{}'\n{extra}",
        guest(image).display()
    )
}

#[test]
fn a_file_starts_a_pod_an_edit_replaces_it_and_removal_ends_it() {
    let node = Node::start();
    node.put_manifest("a.yaml", &pod("a", "counter", ""));
    let first = node.wait_ready("a");
    assert_eq!(first["spec"]["nodeName"], "gw-test");
    node.put_manifest("a.yaml", &pod("a", "counter", "    env: [{name: X, value: '1'}]\n"));
    let uid = &first["metadata"]["uid"];
    let second = node.wait_pod("a", "another incarnation", |pod| {
        pod["metadata"]["uid"] != *uid && super::support::is_ready(pod)
    });
    assert_eq!(restarts(&second, "c"), 0);
    node.remove_manifest("a.yaml");
    node.wait_gone("a");
}

#[test]
fn a_renamed_file_takes_its_pod_along() {
    let node = Node::start();
    node.put_manifest("a.yaml", &pod("a", "counter", ""));
    let first = node.wait_ready("a");
    let (from, to) = (node.path("manifests/a.yaml"), node.path("manifests/b.yaml"));
    std::fs::rename(from, to).unwrap();
    let uid = &first["metadata"]["uid"];
    node.wait_pod("a", "back from the other file", |pod| {
        pod["metadata"]["uid"] != *uid && super::support::is_ready(pod)
    });
    let error = node.fails(&["delete", "pod", "a"]);
    assert!(error.contains("b.yaml"), "{error}");
}

#[test]
fn a_file_that_becomes_bad_is_told_and_its_pod_goes_on() {
    let node = Node::start();
    node.put_manifest("good.yaml", &pod("good", "counter", ""));
    let before = node.wait_ready("good");
    node.put_manifest("good.yaml", "kind: Pod\napiVersion: v1\nspec: {containers: [}");
    node.put_manifest("worse.yaml", &pod("worse", "counter", "    comand: [x]\n"));
    node.put_manifest("other.yaml", &pod("other", "counter", ""));
    node.wait_ready("other");
    let events = super::support::wait_for("both complaints", || {
        let events = node.ok(&["get", "events", "-A"]);
        (events.contains("good.yaml") && events.contains("worse.yaml")).then_some(events)
    });
    assert!(events.contains("comand"), "{events}");
    assert!(node.pod("worse").is_none());
    assert_eq!(node.pod("good").unwrap()["metadata"]["uid"], before["metadata"]["uid"]);
}

#[test]
fn a_folders_pod_belongs_to_its_file() {
    let node = Node::start();
    node.put_manifest("a.yaml", &pod("a", "counter", ""));
    node.wait_ready("a");
    let error = node.fails(&["delete", "pod", "a"]);
    assert!(error.contains("a.yaml"), "{error}");
    node.load("counter");
    let path = node.path("b.yaml");
    let taken = pod("a", "counter", "")
        .replace(&format!("file:{}", guest("counter").display()), "counter:test");
    std::fs::write(&path, taken).unwrap();
    let error = node.fails(&["apply", "-f", path.to_str().unwrap()]);
    assert!(error.contains("a.yaml"), "{error}");
}

#[test]
fn config_maps_and_secrets_reach_the_module_as_the_manifest_says() {
    let node = Node::start();
    node.put_manifest("config.yaml", &super::support::manifest("config.yaml"));
    let names = node.ok(&["get", "pods", "-o", "name"]);
    super::support::wait_for("the pod of config.yaml", || {
        let pods = node.ok(&["get", "pods", "-o", "json"]);
        let pods: serde_json::Value = serde_json::from_str(&pods).unwrap();
        let item = pods["items"].as_array()?.first()?.clone();
        let phase = item["status"]["phase"].as_str()?.to_owned();
        assert_ne!(phase, "Failed", "{item:#?}\n{names}");
        (phase == "Succeeded").then_some(())
    });
}

#[test]
fn an_image_that_is_missing_or_no_module_is_told_in_the_pods_status() {
    let node = Node::start();
    let bad = node.path("random.wasm");
    std::fs::write(&bad, [7u8; 4096]).unwrap();
    let truncated = node.path("truncated.wasm");
    let whole = std::fs::read(guest("hello")).unwrap();
    std::fs::write(&truncated, &whole[..whole.len() / 2]).unwrap();
    let file = |path: &std::path::Path| format!("file:{}", path.display());
    let rows = [
        (
            "absent",
            "nowhere:1.0".to_owned(),
            "",
            &["ErrImagePull", "ImagePullBackOff"][..],
            "nowhere:1.0",
        ),
        (
            "never",
            "nowhere:1.0".to_owned(),
            "    imagePullPolicy: Never\n",
            &["ErrImageNeverPull"][..],
            "is not present with pull policy of Never",
        ),
        (
            "random",
            file(&bad),
            "",
            &["ErrImagePull", "ImagePullBackOff", "CreateContainerError"][..],
            "WebAssembly",
        ),
        (
            "truncated",
            file(&truncated),
            "",
            &["ErrImagePull", "ImagePullBackOff", "CreateContainerError"][..],
            "truncated",
        ),
        (
            "import",
            file(&guest("badimport")),
            "",
            &["CreateContainerError"][..],
            "podling does not offer",
        ),
    ];
    for (name, image, extra, _, _) in &rows {
        node.put_manifest(
            &format!("{name}.yaml"),
            &format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  containers:\n  - name: c\n    image: '{image}'\n{extra}"
            ),
        );
    }
    for (name, _, _, reasons, message) in &rows {
        let pod = node.wait_pod(name, &format!("waiting with {reasons:?}: {message}"), |pod| {
            let waiting = &container(pod, "c")["state"]["waiting"];
            let (reason, text) = (waiting["reason"].as_str(), waiting["message"].as_str());
            reason.is_some_and(|r| reasons.contains(&r))
                && text.is_some_and(|t| t.contains(message))
        });
        assert_eq!(pod["status"]["phase"], "Pending", "{name}");
    }
}

#[test]
fn a_changed_config_map_reaches_the_files_of_a_running_module() {
    let node = Node::start();
    let map = |text: &str| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: settings}}\ndata: {{greeting: '{text}'}}\n"
        )
    };
    node.put_manifest("map.yaml", &map("first"));
    node.put_manifest(
        "pod.yaml",
        &format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: reader}}\nspec:\n  containers:\n  - name: c\n    image: 'file:{}'\n    \
             args: [read, /etc/settings/greeting, then, read, /etc/settings/greeting]\n    \
             volumeMounts: [{{name: v, mountPath: /etc/settings}}]\n  volumes: [{{name: v, configMap: {{name: settings}}}}]\n",
            guest("files").display()
        ),
    );
    let says = |text: &str| {
        super::support::wait_for(&format!("{text:?} in the log"), || {
            node.cli(&["logs", "reader"])
                .stdout
                .windows(text.len())
                .any(|w| w == text.as_bytes())
                .then_some(())
        });
    };
    says("first");
    node.put_manifest("map.yaml", &map("second"));
    // The module is restarted with back-off and reads its files again; its volume was set up once.
    says("second");
}
