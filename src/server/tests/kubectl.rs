//! The real `kubectl`, if this machine has one, against the server over a loopback port.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use super::Api;
use crate::server::listen;

/// `kubectl` of the search path. Without one the test is skipped with a printed reason, which CI takes for a failure.
fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join("kubectl")).find(|p| p.is_file());
    if found.is_none() {
        let reason = "skipped: kubectl is not installed";
        assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{reason}");
        println!("{reason}");
    }
    found
}

struct Kubectl {
    program: PathBuf,
    server: String,
    home: tempfile::TempDir,
}

impl Kubectl {
    async fn start(api: &Api, program: &Path) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let server = format!("http://{}", listener.local_addr().unwrap());
        let (app, stop) = (Arc::clone(&api.app), api.stop.clone());
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(listen::serve_connection(stream, Arc::clone(&app), stop.clone()));
            }
        });
        Self { program: program.to_owned(), server, home: tempfile::tempdir().unwrap() }
    }

    /// Standard output and standard error of one call.
    async fn run(&self, line: &str, input: &str) -> (String, String) {
        let mut child = tokio::process::Command::new(&self.program)
            .args(line.split_whitespace())
            .arg(format!("--server={}", self.server))
            .env_clear()
            .env("HOME", self.home.path())
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // A command that reads nothing may be over before this is written.
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
        let limit = std::time::Duration::from_secs(60);
        let output = tokio::time::timeout(limit, child.wait_with_output()).await.unwrap().unwrap();
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    }

    async fn says(&self, line: &str, input: &str, expected: &str) {
        let (out, error) = self.run(line, input).await;
        assert_eq!(format!("{out}{error}"), expected, "kubectl {line}");
    }
}

const WEB: &str = "apiVersion: v1
kind: Pod
metadata:
  name: web
spec:
  containers:
  - name: main
    image: web:1
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_creates_reads_changes_and_deletes() {
    let Some(program) = find() else { return };
    let api = Api::new();
    let kubectl = Kubectl::start(&api, &program).await;
    kubectl.says("get pods", "", "No resources found in default namespace.\n").await;
    // `--validate=false`: kubectl before 1.29 asks for an OpenAPI v2 document in protobuf.
    kubectl.says("apply --validate=false -f -", WEB, "pod/web created\n").await;
    kubectl.says("apply --validate=false -f -", WEB, "pod/web unchanged\n").await;
    let (table, _) = kubectl.run("get pods -o wide", "").await;
    assert!(table.starts_with("NAME   READY   STATUS    RESTARTS   AGE"), "{table}");
    assert!(table.contains("web    1/1     Running   0"), "{table}");
    kubectl.says("get po -A -o name", "", "pod/web\n").await;
    kubectl.says("label pod web tier=x", "", "pod/web labeled\n").await;
    kubectl.says("set image pod/web main=web:2", "", "pod/web image updated\n").await;
    kubectl.says("get pod web -o jsonpath={.spec.containers[0].image}", "", "web:2").await;
    kubectl
        .says("wait --for=condition=Ready pod/web --timeout=20s", "", "pod/web condition met\n")
        .await;
    kubectl.says("create configmap cm --from-literal=a=b", "", "configmap/cm created\n").await;
    kubectl.says("create secret generic s --from-literal=a=b", "", "secret/s created\n").await;
    kubectl.says("get secret s -o jsonpath={.data.a}", "", "Yg==").await;
    api.fake.log("web", "main", false).line(0, "hello").end();
    kubectl.says("logs web -f", "", "hello\n").await;
    let (page, _) = kubectl.run("describe pod web", "").await;
    assert!(page.starts_with("Name:         web\n") || page.starts_with("Name:  "), "{page}");
    assert!(page.contains("Image:          web:2"), "{page}");
    let missing = "Error from server (NotFound): pods \"none\" not found\n";
    kubectl.says("get pod none", "", missing).await;
    let (deleted, _) = kubectl.run("delete pod/web cm/cm secret/s", "").await;
    assert_eq!(deleted.matches("deleted").count(), 3, "{deleted}");
    kubectl.says("get pods,cm,secrets", "", "No resources found in default namespace.\n").await;
}
