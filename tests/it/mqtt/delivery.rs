//! From a published intent to a running pod and its status, and back out.

use podling::mqtt::command::{Arguments, Verb};
use podling::mqtt::controller;
use podling::mqtt::intent::SealedSecret;

use super::rig::{NODE, Rig};
use crate::support::{container, is_ready, restarts, wait_for};

const STATUS: &str = "pods/v1/acme/s/gw-test";

#[test]
fn a_published_intent_runs_and_the_node_says_so() {
    let Some(rig) = Rig::start() else { return };
    let node = rig.node();
    let status = rig.deliver(&rig.intent("web", ""));
    assert_eq!((&status["phase"], &status["ready"]), (&"Running".into(), &true.into()));
    assert_eq!(status["containers"][0]["state"], "Running", "{status}");
    let pod = node.wait_ready("web");
    assert_eq!(pod["metadata"]["annotations"]["kubernetes.io/config.source"], "mqtt");
    assert_eq!(pod["metadata"]["uid"], "uid-of-web");
    let refused = node.fails(&["delete", "pod", "web"]);
    assert!(refused.contains("mqtt"), "{refused}");
    let online = rig.wait_topic(&format!("{STATUS}/online"), "online", |o| o["online"] == true);
    assert!(online["conn"].as_u64() >= Some(1), "{online}");
    let shown = node.ok(&["get", "node", NODE, "-o", "json"]);
    assert!(shown.contains("MqttConnected") && shown.contains("MQTT 5"), "{shown}");
    let metrics = super::rig::metrics(&node);
    assert!(metrics.contains("podling_mqtt_connected 1"), "{metrics}");
    for name in [
        "podling_mqtt_messages_total{direction=\"in\"}",
        "podling_mqtt_bytes_total",
        "podling_mqtt_reconnects_total{reason=\"taken_over\"} 0",
    ] {
        assert!(metrics.contains(name), "{name} in {metrics}");
    }
}

#[test]
fn a_new_generation_replaces_the_pod_and_keeps_its_volumes() {
    let Some(rig) = Rig::start() else { return };
    let node = rig.node();
    node.load("files");
    let volume = "    volumeMounts: [{name: data, mountPath: /data}]\n  volumes: [{name: data, emptyDir: {}}]\n";
    rig.deliver(&rig.intent("web", volume));
    let first = node.wait_ready("web");
    let file = node.path("state/volumes");
    let mark = wait_for("the volume's folder", || find(&file, "data")).join("mark");
    std::fs::write(&mark, "kept").unwrap();
    rig.deliver(&rig.intent("web", &format!("    env: [{{name: X, value: '2'}}]\n{volume}")));
    let second = node.wait_pod("web", "of the second generation", |pod| {
        is_ready(pod) && pod["metadata"]["generation"] != first["metadata"]["generation"]
    });
    assert_eq!(second["metadata"]["uid"], first["metadata"]["uid"]);
    assert_eq!(second["spec"]["containers"][0]["env"][0]["value"], "2");
    assert_eq!(std::fs::read_to_string(&mark).unwrap(), "kept");
    // Labels alone restart nothing.
    let started = container(&second, "c")["state"]["running"]["startedAt"].clone();
    let mut labelled = rig.intent("web", &format!("    env: [{{name: X, value: '2'}}]\n{volume}"));
    if let Some(podling::mqtt::intent::Manifest::Text(text)) = &mut labelled.intent.manifest {
        *text = text.replace("{name: web}", "{name: web, labels: {a: b}}");
    }
    rig.deliver(&labelled);
    let third = node.wait_pod("web", "labelled", |pod| pod["metadata"]["labels"]["a"] == "b");
    assert_eq!(container(&third, "c")["state"]["running"]["startedAt"], started);
    assert_eq!(restarts(&third, "c"), 0);
}

fn find(dir: &std::path::Path, name: &str) -> Option<std::path::PathBuf> {
    for entry in std::fs::read_dir(dir).ok()? {
        let path = entry.ok()?.path();
        if path.file_name().is_some_and(|found| found == name) {
            return Some(path);
        }
        if path.is_dir()
            && let Some(found) = find(&path, name)
        {
            return Some(found);
        }
    }
    None
}

#[test]
fn absence_deletes_nothing_and_a_tombstone_does() {
    let Some(rig) = Rig::start() else { return };
    let node = rig.node();
    let intent = rig.intent("web", "");
    let message = rig.sign(&intent);
    rig.deliver(&intent);
    rig.publish(&message.topic, b"", true);
    // A later document shows that the empty one was taken in before.
    rig.deliver(&rig.intent("other", ""));
    assert!(is_ready(&node.pod("web").unwrap()));
    let mut tombstone = controller::tombstone(&intent.intent, "2026-01-02T00:00:00Z");
    tombstone.generation = rig.intent("web", "").intent.generation;
    rig.send(&controller::intent(&rig.tree(), &tombstone, &[&rig.key]).unwrap());
    node.wait_gone("web");
    rig.wait_status("web", "gone", |status| {
        status["documents"][0]["accepted"]["deleted"] == true && status["phase"] == "Absent"
    });
    // The old document is no way back.
    rig.send(&message);
    rig.wait_status("web", "refused", |status| {
        status["documents"][0]["refused"]["reason"] == "Stale"
    });
    assert!(node.pod("web").is_none());
}

#[test]
fn what_cannot_run_is_answered_with_everything_that_is_wrong() {
    let Some(rig) = Rig::start() else { return };
    let node = rig.node();
    let bad = rig.intent("web", "    comand: [x]\n    resources: {limits: {memory: 12XiB}}\n");
    rig.send(&rig.sign(&bad));
    let status = rig.wait_status("web", "refused", |s| s["documents"][0]["refused"].is_object());
    let refused = &status["documents"][0]["refused"];
    assert_eq!(refused["reason"], "Invalid", "{refused}");
    let errors = refused["errors"].to_string();
    assert!(errors.contains("comand") && errors.contains("\"line\":"), "{errors}");
    assert!(errors.contains("12XiB"), "{errors}");
    let forged = podling::mqtt::controller::SecretKey::from_seed(&[9; 32]);
    let intent = rig.intent("forged", "");
    rig.send(&controller::intent(&rig.tree(), &intent.intent, &[&forged]).unwrap());
    rig.wait_status("forged", "untrusted", |s| {
        s["documents"][0]["refused"]["reason"] == "UntrustedKey"
    });
    assert!(node.pod("forged").is_none() && node.pod("web").is_none());
}

#[test]
fn a_name_has_one_owner_and_comes_free() {
    let Some(rig) = Rig::start() else { return };
    let node = rig.node();
    node.load("counter");
    let image = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {terminationGracePeriodSeconds: 1, containers: [{name: c, image: 'counter:test'}]}\n";
    node.apply(image);
    node.wait_ready("web");
    rig.send(&rig.sign(&rig.intent("web", "")));
    rig.wait_status("web", "in conflict", |s| {
        s["documents"][0]["refused"]["reason"] == "SourceConflict"
    });
    node.ok(&["delete", "pod", "web"]);
    node.wait_pod("web", "the intent's", |pod| {
        pod["metadata"]["annotations"]["kubernetes.io/config.source"] == "mqtt" && is_ready(pod)
    });
}

#[test]
fn commands_are_answered() {
    let Some(rig) = Rig::start() else { return };
    let node = rig.node();
    rig.deliver(&rig.intent("web", ""));
    let pod = || Arguments {
        namespace: Some("default".into()),
        name: Some("web".into()),
        ..Arguments::default()
    };
    let (_, outcome) = rig.command(Verb::Ping, Arguments::default());
    assert_eq!(outcome["ok"], true, "{outcome}");
    let (text, outcome) = rig.command(Verb::Describe, pod());
    assert_eq!(outcome["ok"], true, "{outcome}");
    assert!(text.contains("\"uid-of-web\""), "{text}");
    let (_, outcome) = rig.command(Verb::Logs, pod());
    assert_eq!(outcome["ok"], true, "{outcome}");
    let missing = Arguments { name: Some("none".into()), ..pod() };
    let (_, outcome) = rig.command(Verb::Logs, missing);
    assert_eq!(outcome["reason"], "NotFound", "{outcome}");
    let exec = Arguments { command: vec!["x".into()], ..pod() };
    let (_, outcome) = rig.command(Verb::Exec, exec);
    assert_eq!(outcome["reason"], "NotSupported", "off by default: {outcome}");
    let before = node.wait_ready("web");
    let (_, outcome) = rig.command(Verb::Restart, pod());
    assert_eq!(outcome["ok"], true, "{outcome}");
    let started =
        |pod: &serde_json::Value| container(pod, "c")["state"]["running"]["startedAt"].clone();
    node.wait_pod("web", "started anew", |pod| is_ready(pod) && started(pod) != started(&before));
}

#[test]
fn a_command_runs_beside_a_module_where_the_node_allows_it() {
    let Some(rig) = Rig::start() else { return };
    let all = "  commands: [ping, exec]\n";
    let node = crate::support::Node::start_with(&rig.node_configuration(all));
    node.load("sleep");
    let intent = rig.intent_of("sleep", "web", "    args: [forever]\n");
    rig.deliver(&intent);
    let exec = |words: &[&str]| Arguments {
        namespace: Some("default".into()),
        name: Some("web".into()),
        command: words.iter().map(|&word| word.to_owned()).collect(),
        ..Arguments::default()
    };
    let (text, outcome) = rig.command(Verb::Exec, exec(&["sleep", "1"]));
    assert_eq!(
        (&outcome["ok"], &outcome["exitCode"]),
        (&true.into(), &0.into()),
        "{text} {outcome}"
    );
    let (text, outcome) = rig.command(Verb::Exec, exec(&["sleep", "nonsense"]));
    assert_eq!(outcome["exitCode"], 2, "{text} {outcome}");
    assert!(text.contains("usage: sleep"), "{text}");
    assert_eq!(restarts(&node.pod("web").unwrap(), "c"), 0);
    let (_, outcome) = rig.command(Verb::Logs, Arguments { command: vec![], ..exec(&[]) });
    assert_eq!(outcome["reason"], "NotSupported", "not in this node's list: {outcome}");
}

#[test]
fn a_sealed_secret_reaches_the_module_and_nothing_that_can_be_read() {
    let Some(rig) = Rig::start() else { return };
    let node = rig.node();
    node.load("exit");
    let status = rig.wait_topic(&format!("{STATUS}/node"), "there", |s| {
        s["capabilities"]["recipient"].is_string()
    });
    let recipient = status["capabilities"]["recipient"].as_str().unwrap().parse().unwrap();
    let secret = serde_json::json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "code", "namespace": "default"},
        "stringData": {"code": "42"}
    });
    let sealed = podling::secret::encrypt(&recipient, secret.to_string().as_bytes()).unwrap();
    let env = "    env: [{name: EXIT_CODE, valueFrom: {secretKeyRef: {name: code, key: code}}}]\n  restartPolicy: Never\n";
    let mut intent = rig.intent_of("exit", "web", env);
    intent.intent.secrets.push(SealedSecret { name: "code".into(), sealed: sealed.clone() });
    rig.send(&rig.sign(&intent));
    let pod = node.wait_pod("web", "at its end", |pod| pod["status"]["phase"] == "Failed");
    assert_eq!(container(&pod, "c")["state"]["terminated"]["exitCode"], 42, "{pod:#}");
    let shown = node.ok(&["get", "secret", "code", "-o", "yaml"]);
    assert!(!shown.contains("NDI=") && shown.contains("age-secret"), "{shown}");
    // For another node's key it is of no use, and whoever sent it hears so.
    let mut foreign = rig.intent_of("exit", "other", env);
    let stranger =
        "age1apxrejfawdg5pvqu4kfutzvqfp60qk5ptcd3r93skc7ud5lp9pkqvakx8n".parse().unwrap();
    let sealed = podling::secret::encrypt(&stranger, b"{}").unwrap();
    foreign.intent.secrets.push(SealedSecret { name: "code2".into(), sealed });
    rig.send(&rig.sign(&foreign));
    rig.wait_status("other", "refused", |status| {
        let refused = &status["documents"][0]["refused"];
        refused["reason"] == "Invalid"
            && refused["errors"].to_string().contains("not encrypted to this node's key")
    });
}

#[test]
fn another_nodes_certificate_reads_and_says_nothing_of_this_one() {
    let Some(rig) = Rig::start() else { return };
    let _node = rig.node();
    rig.deliver(&rig.intent("web", ""));
    rig.certificate("gw-18", "gw-18");
    assert!(rig.hears_nothing_as("gw-18", &format!("{STATUS}/pod/default/web")));
    assert!(rig.hears_nothing_as("gw-18", "pods/v1/acme/n/gw-test/pod/default/web"));
    assert!(rig.read_as("gw-test", "pods/v1/acme/n/gw-test/pod/default/web").is_some());
}
