//! The real kubectl against the real daemon: what works, and what is said where something does not.
//!
//! Owns: [`Kubectl`], which other files use too. kubectl knows no Unix sockets, so a loopback port leads to the daemon's.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::support::{Node, program, text};

/// kubectl with a node to talk to.
pub(super) struct Kubectl {
    program: PathBuf,
    server: SocketAddr,
    home: PathBuf,
}

impl Kubectl {
    /// `None` where kubectl is not installed; the reason has been printed.
    pub(super) fn of(node: &Node) -> Option<Self> {
        let program = program("kubectl")?;
        Some(Self { program, server: door(&node.socket()), home: node.path("kubectl-home") })
    }

    pub(super) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg(format!("--server=http://{}", self.server)).stdin(Stdio::null());
        command.env("HOME", &self.home).env_remove("KUBECONFIG");
        command
    }

    fn run(&self, args: &[&str], input: &str) -> Output {
        let mut command = self.command();
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // A command that reads nothing may be over before this is written.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    }

    /// What it prints; it must succeed.
    #[track_caller]
    pub(super) fn ok(&self, args: &[&str]) -> String {
        self.fed(args, "")
    }

    /// The same with something on its standard input.
    #[track_caller]
    fn fed(&self, args: &[&str], input: &str) -> String {
        let output = self.run(args, input);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "kubectl {args:?}: {out}{err}");
        out
    }

    /// Its complaint; it must fail with exit code 1.
    #[track_caller]
    fn fails(&self, args: &[&str], input: &str) -> String {
        let output = self.run(args, input);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(1), "kubectl {args:?}: {out}{err}");
        err
    }
}

/// A loopback port in front of the socket. Ends with the test's process.
fn door(socket: &Path) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let socket = socket.to_owned();
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let Ok(api) = UnixStream::connect(&socket) else { return };
            let (there, back) = (client.try_clone().unwrap(), api.try_clone().unwrap());
            let (end_api, end_client) = (api.try_clone().unwrap(), client.try_clone().unwrap());
            copy(there, api, move || end_api.shutdown(Shutdown::Write));
            copy(back, client, move || end_client.shutdown(Shutdown::Write));
        }
    });
    address
}

/// Carries one direction until its end, and passes the end on.
fn copy(
    mut from: impl Read + Send + 'static,
    mut to: impl Write + Send + 'static,
    end: impl FnOnce() -> std::io::Result<()> + Send + 'static,
) {
    std::thread::spawn(move || {
        // Whoever is gone has no more to say, and none to be told.
        let _ = std::io::copy(&mut from, &mut to);
        let _ = end();
    });
}

const WEB: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, labels: {app: web}}\nspec:\n  \
     terminationGracePeriodSeconds: 1\n  containers: [{name: main, image: 'web:test', ports: [{name: http, containerPort: 8080}]}]\n";

/// Every refusal says what was asked, why it is refused and, where there is one, the other way.
#[test]
fn what_kubectl_asks_in_vain_is_refused_with_words_that_help() {
    let node = Node::start();
    let Some(kubectl) = Kubectl::of(&node) else { return };
    node.load("web");
    node.put_manifest("folder.yaml", &WEB.replace("name: web,", "name: folder,"));
    node.apply(WEB);
    node.wait_ready("web");
    node.wait_ready("folder");
    let image = r#"{"spec":{"containers":[{"name":"main","image":"web:2"}]}}"#;
    let rows: [(&[&str], &str); 22] = [
        (
            &["exec", "web", "--", "ls"],
            "pods/exec is not offered by podling: a module has no shell",
        ),
        (&["attach", "web"], "pods/attach is not offered by podling"),
        (&["cp", "web:/srv/x", "x"], "kubectl cp needs one too"),
        (&["debug", "web", "--image=x"], "a container cannot be added to a pod that runs"),
        (&["patch", "pod", "web", "-p", image], "kubectl replace --force -f FILE"),
        (&["set", "image", "pod/web", "main=web:2"], "delete it and create it anew"),
        (&["patch", "pod", "web", "-p", "words"], "a strategic merge patch is an object"),
        (
            &["patch", "pod", "web", "--type=json", "-p", r#"[{"op":"remove","path":"/x"}]"#],
            "there is nothing at \"/x\"",
        ),
        (
            &["scale", "deployment", "web", "--replicas=2"],
            "doesn't have a resource type \"deployment\"",
        ),
        (&["rollout", "restart", "pod/web"], "restarting is not supported"),
        (&["label", "pod", "web", "a b=c"], "name part must consist of alphanumeric characters"),
        (
            &["annotate", "pod", "web", "podling.dev/network-audit=x"],
            "supported values: \"false\", \"true\"",
        ),
        (&["annotate", "pod", "folder", "a=b"], "folder.yaml; change or remove it there"),
        (&["delete", "pod", "folder"], "folder.yaml; change or remove it there"),
        (&["delete", "namespace", "default"], "a namespace exists as long as an object is in it"),
        (&["logs", "web", "-p"], "previous terminated container \"main\" in pod \"web\" not found"),
        (&["logs", "web", "-c", "nope"], "container nope is not valid for pod web"),
        (&["get", "pods", "-l", "a in (b"], "unable to parse requirement"),
        (&["get", "pods", "--field-selector=spec.x=1"], "field label not supported: spec.x"),
        (&["get", "pod", "nope"], "pods \"nope\" not found"),
        (&["top", "pod", "nope"], "pods \"nope\" not found"),
        (&["port-forward", "web", ":nope"], "does not have a named port 'nope'"),
    ];
    for (args, expected) in rows {
        let error = kubectl.fails(args, "");
        assert!(error.contains(expected), "kubectl {args:?}: {error}");
    }
    let file = "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {containers: [{name: c, image: 'file:./x.wasm'}]}\n";
    let error = kubectl.fails(&["create", "--validate=false", "-f", "-"], file);
    assert!(error.contains("podling image load FILE --name NAME:TAG"), "{error}");
    // All of that has touched nothing.
    assert!(super::support::is_ready(&node.pod("web").unwrap()));
    assert!(super::support::is_ready(&node.pod("folder").unwrap()));
}

#[test]
fn kubectl_asks_waits_replaces_and_prints_as_it_likes() {
    let node = Node::start();
    let Some(kubectl) = Kubectl::of(&node) else { return };
    node.load("web");
    kubectl.fed(&["apply", "--validate=false", "-f", "-"], WEB);
    let ready = ["wait", "--for=condition=Ready", "pod/web", "--timeout=100s"];
    assert_eq!(kubectl.ok(&ready), "pod/web condition met\n");
    assert_eq!(kubectl.ok(&["auth", "can-i", "create", "pods"]).trim(), "yes");
    let no = kubectl.run(&["auth", "can-i", "create", "pods", "--subresource=exec"], "");
    assert_eq!(
        (no.status.code(), text(&no.stdout).trim()),
        (Some(1), "no - the node does not offer this")
    );
    let uid =
        |kubectl: &Kubectl| kubectl.ok(&["get", "pod", "web", "-o", "jsonpath={.metadata.uid}"]);
    let before = uid(&kubectl);
    let columns = "custom-columns=NAME:.metadata.name,PHASE:.status.phase";
    assert_eq!(kubectl.ok(&["get", "pod", "web", "-o", columns]), "NAME   PHASE\nweb    Running\n");
    assert_eq!(
        kubectl.ok(&["get", "pod", "web", "-o", "go-template={{.status.phase}}"]),
        "Running"
    );
    kubectl.ok(&["annotate", "pod", "web", "example.com/a=b"]);
    kubectl.ok(&[
        "patch",
        "pod",
        "web",
        "--type=merge",
        "-p",
        r#"{"metadata":{"labels":{"z":"1"}}}"#,
    ]);
    assert!(kubectl.ok(&["get", "pods", "-l", "z=1", "--show-labels"]).contains("app=web,z=1"));
    assert_eq!(uid(&kubectl), before, "labels and annotations change nothing else");
    let replaced = kubectl.fed(&["replace", "--force", "--validate=false", "-f", "-"], WEB);
    assert!(replaced.contains("pod/web replaced"), "{replaced}");
    assert_ne!(uid(&kubectl), before);
    assert_eq!(kubectl.ok(&ready), "pod/web condition met\n");
    assert!(kubectl.ok(&["events", "--for", "pod/web"]).contains("Started"));
    assert!(kubectl.ok(&["describe", "node", "gw-test"]).contains("KubeletReady"));
    assert!(kubectl.ok(&["expose", "pod", "web", "--port=80"]).contains("service/web exposed"));
    assert_eq!(
        kubectl.ok(&["delete", "pod/web", "svc/web", "--timeout=100s"]).matches("deleted").count(),
        2
    );
}
