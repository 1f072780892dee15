//! `podling publish`, end to end: a laptop with a key, a real broker, a real node.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Output;

use podling::mqtt::controller::SecretKey;
use serde_json::Value;

use crate::mqtt::rig::{NODE, Rig};
use crate::support::{Node, Running, guest, podling, text};

/// Settings as an operator has them, in the rig's folder; signed with that key.
pub(crate) fn controller(rig: &Rig, name: &str, key: &SecretKey) -> PathBuf {
    let (pem, path) = (rig.path(&format!("{name}-signing.pem")), rig.path(&format!("{name}.yaml")));
    std::fs::write(&pem, key.to_pem()).unwrap();
    std::fs::set_permissions(&pem, Permissions::from_mode(0o600)).unwrap();
    let settings = format!(
        "urls: ['mqtts://localhost:{}']\ntenant: acme\nsigningKey: {name}-signing.pem\n\
         tls: {{ca: ca.pem, certificate: ctl-acme.pem, key: ctl-acme.key}}\n",
        rig.port
    );
    std::fs::write(&path, settings).unwrap();
    path
}

/// Runs the command line with a controller's settings.
pub(crate) fn run(rig: &Rig, name: &str, args: &[&str]) -> Output {
    let mut command = podling();
    command.env("PODLING_CONTROLLER", rig.path(&format!("{name}.yaml")));
    command.env("PODLING_STATE_DIR", rig.path("laptop")).args(args).output().unwrap()
}

#[track_caller]
pub(crate) fn publish(rig: &Rig, args: &[&str], code: i32) -> (String, String) {
    publish_as(rig, "ana", args, code)
}

#[track_caller]
pub(crate) fn publish_as(rig: &Rig, who: &str, args: &[&str], code: i32) -> (String, String) {
    let words = [&["publish", "--node", NODE, "--timeout", "120s"], args].concat();
    let output = run(rig, who, &words);
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "publish {args:?}:\n{out}{err}");
    (out, err)
}

/// A manifest in the rig's folder: one container with a module file beside it, which is too large to come along inline.
pub(crate) fn manifest(rig: &Rig, name: &str, container: &str, more: &str) -> String {
    std::fs::copy(guest("sleep"), rig.path("sleep.wasm")).unwrap();
    let path = rig.path(&format!("{name}.pod.yaml"));
    let manifest = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n\
         \x20 - name: c\n    image: file:sleep.wasm\n{container}{more}"
    );
    std::fs::write(&path, manifest).unwrap();
    path.to_str().unwrap().to_owned()
}

pub(crate) const FOREVER: &str = "    args: [forever]\n";

pub(crate) fn prepared() -> Option<(Rig, Node)> {
    let rig = Rig::start()?;
    controller(&rig, "ana", &rig.key);
    let node = rig.node();
    Some((rig, node))
}

#[test]
fn a_pod_and_its_module_go_through_the_broker_and_it_becomes_ready() {
    let Some((rig, node)) = prepared() else { return };
    let file = manifest(&rig, "web", FOREVER, "");
    let (out, _) = publish(&rig, &["-f", &file, "--min-ready", "0s"], 0);
    assert!(out.contains("pod/web published to gw-test: generation 1 of epoch 1"), "{out}");
    assert!(out.contains("gw-test: fetches file:sleep.wasm from here (72431 bytes)"), "{out}");
    assert!(out.ends_with("gw-test: pod/web: Ready\n"), "{out}");
    let pod = node.wait_ready("web");
    let image = pod["spec"]["containers"][0]["image"].as_str().unwrap();
    assert!(image.starts_with("sleep@sha256:"), "{image}");
    // The same again changes nothing, and says the same.
    let (out, _) = publish(&rig, &["-f", &file, "--min-ready", "0s"], 0);
    assert!(
        out.contains("pod/web unchanged to gw-test: generation 1") && out.contains("Ready"),
        "{out}"
    );
    let json = ["-f", &file, "--min-ready", "0s", "--again", "-o", "json"];
    let (out, _) = publish(&rig, &json, 0);
    let told: Value = serde_json::from_str(&out).unwrap();
    let result = &told["results"][0];
    assert_eq!((&result["outcome"], &result["generation"]), (&"Ready".into(), &2.into()), "{told}");
    let (out, _) = publish(&rig, &["--delete", "web"], 0);
    assert!(out.contains("generation 3") && out.ends_with("gw-test: pod/web: gone\n"), "{out}");
    node.wait_gone("web");
}

#[test]
fn a_nodes_refusal_is_shown_with_every_error_at_its_place() {
    let Some((rig, _node)) = prepared() else { return };
    let volumes = "  volumes:\n  - name: a\n    hostPath: {path: /srv/a}\n  - name: b\n    hostPath: {path: /srv/b}\n";
    let file = manifest(&rig, "web", FOREVER, volumes);
    let (out, err) = publish(&rig, &["-f", &file], 3);
    assert!(out.contains("published") && !out.contains("Ready"), "{out}");
    assert!(err.contains("error: gw-test refuses pod/web: Invalid"), "{err}");
    for (line, at) in [(12, "spec.volumes[0].hostPath"), (14, "spec.volumes[1].hostPath")] {
        assert!(err.contains(&format!("{file}:{line}:")) && err.contains(at), "{at} in:\n{err}");
    }
    let (out, _) = publish(&rig, &["-f", &file, "-o", "json"], 3);
    let told: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(told["results"][0]["errors"].as_array().unwrap().len(), 2, "{told}");
    // What `check` finds is never published.
    let wrong = manifest(&rig, "bad", "    imagee: x\n", "");
    let (_, err) = publish(&rig, &["-f", &wrong], 1);
    assert!(err.contains("bad.pod.yaml:9:5: error: Pod bad") && err.contains("imagee"), "{err}");
}

#[test]
fn a_pod_that_is_not_good_is_told_with_its_reason() {
    let Some((rig, _node)) = prepared() else { return };
    let probe = "    readinessProbe: {tcpSocket: {port: 9}, periodSeconds: 1}\n";
    let file = manifest(&rig, "web", &format!("{FOREVER}{probe}"), "");
    let (out, _) =
        publish(&rig, &["-f", &file, "--progress-deadline", "2s", "--min-ready", "0s"], 5);
    assert!(out.contains("gw-test: pod/web: Failed: ProgressDeadlineExceeded"), "{out}");
}

#[test]
fn two_controllers_notice_each_other() {
    let Some((rig, _node)) = prepared() else { return };
    let ben = SecretKey::from_seed(&[8; 32]);
    controller(&rig, "ben", &ben);
    let file = manifest(&rig, "web", FOREVER, "");
    publish(&rig, &["-f", &file, "--min-ready", "0s"], 0);
    let (_, err) = publish_as(&rig, "ben", &["-f", &file], 6);
    assert!(err.contains(&format!("signed by key {}", rig.key.id())), "{err}");
    assert!(err.contains("--force-conflicts"), "{err}");
    // He insists; the node does not know him.
    let (_, err) = publish_as(&rig, "ben", &["-f", &file, "--force-conflicts"], 3);
    assert!(
        err.contains("refuses pod/web: UntrustedKey") && err.contains("podling key anchor"),
        "{err}"
    );
    // Now it is Ana who finds another's document.
    let (_, err) = publish(&rig, &["-f", &file], 6);
    assert!(err.contains(&ben.id()), "{err}");
    publish(&rig, &["-f", &file, "--min-ready", "0s", "--force-conflicts"], 0);
    let (_, err) = publish(&rig, &["-f", &file, "--generation", "2"], 6);
    assert!(err.contains("generation 2 is not above"), "{err}");
}

#[test]
fn a_broker_that_is_down_is_said_to_be_so() {
    let Some(mut rig) = Rig::start() else { return };
    controller(&rig, "ana", &rig.key);
    rig.kill_broker();
    let file = manifest(&rig, "web", FOREVER, "");
    let (out, err) = publish(&rig, &["-f", &file], 4);
    let broker = format!("cannot connect to mqtts://localhost:{}", rig.port);
    assert!(out.is_empty() && err.starts_with(&format!("error: {broker}")), "{out}{err}");
    assert!(err.contains("refused"), "{err}");
    // Signing needs nobody.
    let (out, err) = publish(&rig, &["-f", &file, "--dry-run=client"], 0);
    let envelope: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(envelope["signatures"][0]["keyid"], rig.key.id());
    assert!(err.contains("pods/v1/acme/n/gw-test/pod/default/web"), "{err}");
}

#[test]
fn a_publisher_sees_its_pod_through_a_broker_that_forgets_and_a_node_that_comes_late() {
    let Some(mut rig) = Rig::start() else { return };
    let settings = controller(&rig, "ana", &rig.key);
    let file = manifest(&rig, "web", FOREVER, "");
    let mut command = podling();
    command.env("PODLING_CONTROLLER", settings).env("PODLING_STATE_DIR", rig.path("laptop"));
    command.args(["publish", "--node", NODE, "--min-ready", "0s", "-f", &file]);
    let mut publisher = Running::start(&mut command);
    publisher.wait_for("the broker knows no node gw-test yet");
    publisher.wait_for("pod/web published");
    rig.wipe_broker();
    publisher.wait_for("is lost");
    rig.start_broker("");
    publisher.wait_for("connected again");
    let node = rig.node();
    assert_eq!(publisher.exit_code(), 0, "{}", publisher.output());
    assert!(publisher.output().contains("gw-test: pod/web: Ready"), "{}", publisher.output());
    node.wait_ready("web");
}

#[test]
fn secrets_in_clear_are_sealed_on_the_way() {
    let Some((rig, node)) = prepared() else { return };
    let secret = "---\napiVersion: v1\nkind: Secret\nmetadata: {name: login}\nstringData: {password: hunter2}\n";
    let env =
        "    env: [{name: PASSWORD, valueFrom: {secretKeyRef: {name: login, key: password}}}]\n";
    let file = manifest(&rig, "web", &format!("{FOREVER}{env}"), secret);
    let (_, err) = publish(&rig, &["-f", &file, "--min-ready", "0s"], 0);
    assert!(err.contains("secrets are encrypted to age1"), "{err}");
    node.wait_ready("web");
    let sent = rig.read_as("ctl-acme", "pods/v1/acme/n/gw-test/pod/default/web").unwrap();
    let envelope: Value = serde_json::from_slice(&sent).unwrap();
    let payload = envelope["payload"].as_str().unwrap();
    let payload =
        base64::Engine::decode(&base64::engine::general_purpose::STANDARD, payload).unwrap();
    let payload = text(&payload);
    assert!(
        payload.contains("BEGIN AGE ENCRYPTED FILE") && !payload.contains("hunter2"),
        "{payload}"
    );
    // Whoever trusts no broker names the recipient.
    let (out, _) =
        publish(&rig, &["-f", &file, "--dry-run", "-o", "json", "--recipient", RECIPIENT], 0);
    let told: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(told["intent"]["generation"], 2, "what is sealed is never the same twice");
}

const RECIPIENT: &str = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";

#[test]
fn a_group_is_waited_for_as_far_as_it_is_there() {
    let Some((rig, node)) = prepared() else { return };
    let file = manifest(&rig, "web", FOREVER, "");
    let group = |more: &[&str]| {
        let words = ["publish", "--group", "line-a", "--timeout", "120s", "--min-ready", "0s"];
        let output = run(&rig, "ana", &[&words, more].concat());
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (code, out, err) = group(&["-f", &file]);
    assert_eq!(code, Some(0), "{out}{err}");
    assert!(out.contains("pod/web published to group/line-a: generation 1"), "{out}");
    assert!(out.ends_with("gw-test: pod/web: Ready\n"), "{out}");
    node.wait_ready("web");
    // The node has no such label: it accepts, and there is nobody to wait for.
    let (code, out, err) = group(&["-f", &file, "--node-selector", "site=north"]);
    assert_eq!(code, Some(0), "{out}{err}");
    assert!(err.contains("no node that is known is in it"), "{out}{err}");
    node.wait_gone("web");
    let (code, _, err) = group(&["--delete", "web"]);
    assert_eq!(code, Some(0), "{err}");
}

#[cfg(feature = "compiler")]
#[test]
fn a_node_that_has_the_old_module_fetches_the_difference() {
    let Some((rig, node)) = prepared() else { return };
    let file = manifest(&rig, "web", FOREVER, "");
    publish(&rig, &["-f", &file, "--min-ready", "0s"], 0);
    let old = rig.path("old.wasm");
    std::fs::copy(rig.path("sleep.wasm"), &old).unwrap();
    // The same module with one more custom section.
    let mut module = std::fs::read(&old).unwrap();
    module.extend([0, 5, 4, b't', b'e', b's', b't']);
    std::fs::write(rig.path("sleep.wasm"), module).unwrap();
    let delta = ["-f", &file, "--min-ready", "0s", "--delta-from", old.to_str().unwrap()];
    let (out, _) = publish(&rig, &delta, 0);
    assert!(out.contains("fetches the difference to file:sleep.wasm from here ("), "{out}");
    assert!(!out.contains("fetches file:sleep.wasm"), "{out}");
    assert!(out.ends_with("gw-test: pod/web: Ready\n"), "{out}");
    node.wait_ready("web");
}
