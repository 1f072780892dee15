//! Modules from a registry, and secrets for one node: what an operator does with them.

use std::path::Path;

use super::registry::{Fault, Registry};
use super::support::{Node, guest, podling, text, wait_for};

/// A registry on threads of its own.
pub(crate) struct Serving {
    pub(crate) registry: Registry,
    _threads: tokio::runtime::Runtime,
}

impl Serving {
    pub(crate) fn start() -> Self {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let threads = builder.worker_threads(1).enable_all().build().unwrap();
        Self { registry: threads.block_on(Registry::start()), _threads: threads }
    }

    pub(crate) fn name(&self, rest: &str) -> String {
        format!("{}/acme/{rest}", self.registry.host())
    }
}

fn hello(image: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: hello}}\n\
         spec: {{restartPolicy: Never, containers: [{{name: c, image: '{image}', args: [one, two]}}]}}\n"
    )
}

#[test]
fn a_module_is_pushed_pulled_and_run() {
    let (serving, node) = (Serving::start(), Node::start());
    let image = serving.name("hello:1");
    let state = node.path("state");
    let file = guest("hello");
    let run = |args: &[&str]| {
        let mut command = podling();
        command.args(args).arg("--state-dir").arg(&state);
        command.env("DOCKER_CONFIG", node.path("no-such-folder"));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
        text(&output.stdout)
    };
    let pushed = run(&["image", "push", file.to_str().unwrap(), &image]);
    let manifest = pushed.trim().rsplit(' ').next().unwrap().to_owned();
    assert!(manifest.starts_with("sha256:"), "{pushed}");

    // The daemon pulls what its pod needs, over a link that breaks.
    serving.registry.plan([Fault::CutAfter(1000), Fault::None]);
    node.apply(&hello(&image));
    let pod = node.wait_pod("hello", "Succeeded", |pod| pod["status"]["phase"] == "Succeeded");
    let id = &pod["status"]["containerStatuses"][0]["imageID"];
    assert_eq!(*id, format!("{}@{manifest}", serving.name("hello")).as_str());
    assert!(node.ok(&["logs", "hello"]).contains("two"));
    let events = node.ok(&["describe", "pod", "hello"]);
    for said in ["Pulling image", "Successfully pulled image"] {
        assert!(events.contains(&format!("{said} \"{image}\"")), "{events}");
    }
    let listed = run(&["image", "ls"]);
    assert!(listed.contains(&serving.name("hello")), "{listed}");
    // By digest, by hand: the content is here, and nothing of it is fetched again.
    serving.registry.log();
    let by_digest = serving.name(&format!("hello@{manifest}"));
    assert!(run(&["image", "pull", &by_digest]).starts_with("Pulled image: "));
    assert!(!serving.registry.log().iter().any(|line| line.contains("/blobs/")));
}

#[test]
fn an_image_that_nobody_has_is_reported_and_found_when_it_comes() {
    let (serving, node) = (Serving::start(), Node::start());
    node.apply(&hello(&serving.name("hello:1")));
    let waiting =
        |pod: &serde_json::Value| pod["status"]["containerStatuses"][0]["state"]["waiting"].clone();
    let pod = node.wait_pod("hello", "ErrImagePull", |pod| {
        waiting(pod)["reason"].as_str().is_some_and(|reason| reason.contains("ImagePull"))
    });
    let message = waiting(&pod)["message"].as_str().unwrap().to_owned();
    assert!(message.contains("repository name not known to registry"), "{message}");
    serving.registry.put_image("acme/hello", "1", &std::fs::read(guest("hello")).unwrap());
    node.wait_pod("hello", "Succeeded", |pod| pod["status"]["phase"] == "Succeeded");
}

/// A pod that writes its password into its log: from a variable, and from a volume.
const TELLS: &str = "apiVersion: v1
kind: Pod
metadata: {name: tells}
spec:
  restartPolicy: Never
  containers:
  - name: c
    image: hello:test
    args: [$(PASSWORD)]
    env: [{name: PASSWORD, valueFrom: {secretKeyRef: {name: broker, key: password}}}]
    volumeMounts: [{name: keys, mountPath: /keys}]
  volumes: [{name: keys, secret: {secretName: broker}}]
";

const SECRET: &str = "apiVersion: v1\nkind: Secret\nmetadata: {name: broker}\n\
     stringData: {password: correct-horse-battery}\n";

#[test]
fn a_secret_is_readable_in_the_module_and_nowhere_else() {
    let node = Node::start();
    node.load("hello");
    let sealed = seal(&node, &node.recipient());
    assert!(!sealed.contains("correct-horse"), "{sealed}");
    node.apply(&sealed);
    node.apply(TELLS);
    node.wait_pod("tells", "Succeeded", |pod| pod["status"]["phase"] == "Succeeded");
    assert!(node.ok(&["logs", "tells"]).contains("correct-horse-battery"));
    // Neither in what the API says, nor in any file that survives.
    for kind in ["secret/broker", "pod/tells"] {
        let (kind, name) = kind.split_once('/').unwrap();
        let shown = node.ok(&["get", kind, name, "-o", "yaml"]);
        assert!(!shown.contains("correct-horse") && !shown.contains("Y29ycmVjdC1ob3Jz"), "{shown}");
    }
    let described = node.ok(&["describe", "pod", "tells"]);
    assert!(!described.contains("correct-horse"), "{described}");
    assert_nowhere_below(&node.path("state"), b"correct-horse");
    assert!(!node.output().contains("correct-horse"));
}

#[test]
fn a_secret_for_another_node_is_named_and_costs_one_pod() {
    let (node, other) = (Node::start(), Node::start());
    node.load("hello");
    node.apply(&seal(&node, &other.recipient()));
    node.apply(TELLS);
    let message = wait_for("the reason", || {
        let events = node.ok(&["describe", "pod", "tells"]);
        events.contains("is not encrypted to this node's key").then_some(events)
    });
    assert!(message.contains("data[password]"), "{message}");
    node.apply(&seal(&node, &node.recipient()));
    node.wait_pod("tells", "Succeeded", |pod| pod["status"]["phase"] == "Succeeded");
}

#[test]
fn a_secret_that_was_forgotten_to_be_encrypted_is_refused_unseen() {
    let node = Node::start();
    let forgotten = SECRET
        .replace("{name: broker}", "{name: broker, annotations: {podling.dev/encryption: age}}");
    let said = node.refuses(&forgotten);
    assert!(
        said.contains("is not encrypted with age") && !said.contains("correct-horse"),
        "{said}"
    );
    let misspelt = forgotten.replace("encryption", "encrypted");
    assert!(node.refuses(&misspelt).contains("podling knows podling.dev/encryption"));
}

fn seal(node: &Node, recipient: &str) -> String {
    let plain = node.path("plain.yaml");
    std::fs::write(&plain, SECRET).unwrap();
    let sealed = node.ok(&["key", "seal", "-f", plain.to_str().unwrap(), "--to", recipient]);
    std::fs::remove_file(plain).unwrap();
    sealed
}

impl Node {
    fn recipient(&self) -> String {
        let state = self.path("state");
        let shown = self.ok(&["key", "node", "--state-dir", state.to_str().unwrap()]);
        shown.trim().to_owned()
    }

    /// What `apply` says of a manifest that it does not take.
    fn refuses(&self, manifest: &str) -> String {
        let file = self.path("refused.yaml");
        std::fs::write(&file, manifest).unwrap();
        self.fails(&["apply", "-f", file.to_str().unwrap()])
    }
}

#[track_caller]
fn assert_nowhere_below(dir: &Path, secret: &[u8]) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            assert_nowhere_below(&path, secret);
        } else if path.is_file() {
            let bytes = std::fs::read(&path).unwrap();
            let found = bytes.windows(secret.len()).any(|window| window == secret);
            assert!(!found, "{} holds it", path.display());
        }
    }
}
