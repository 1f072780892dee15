//! No process that holds keys or opened Secrets leaves a core file, however many are wanted on the machine.

use std::net::TcpListener;
use std::process::{Command, Stdio};

use super::support::{Running, cache_dir, guest, podling, wait_for};

/// A program started where core files are wanted: with all that this machine allows.
fn where_cores_are_wanted(program: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    let script = "ulimit -S -c \"$(ulimit -H -c)\"; exec \"$0\" \"$@\"";
    command.args(["-c", script, program]).stdin(Stdio::piped());
    command
}

fn wanted() -> Command {
    let plain = podling();
    let mut command = where_cores_are_wanted(plain.get_program().to_str().unwrap());
    command.env_remove("PODLING_SOCKET").env("NO_COLOR", "1");
    command
}

/// Bytes of core that a process may leave, as its own limit says.
fn core_limit(process: u32) -> Option<String> {
    let limits = std::fs::read_to_string(format!("/proc/{process}/limits")).ok()?;
    let row = limits.lines().find_map(|line| line.strip_prefix("Max core file size"))?;
    row.split_whitespace().next().map(str::to_owned)
}

/// Whether a process could leave one here at all; else there is nothing to show.
fn machine_allows_cores() -> bool {
    let mut cat = where_cores_are_wanted("cat").stdout(Stdio::null()).spawn().unwrap();
    let is_cat = || std::fs::read_to_string(format!("/proc/{}/comm", cat.id())).ok();
    wait_for("cat", || is_cat().filter(|name| name.trim() == "cat"));
    let limit = core_limit(cat.id()).unwrap();
    drop(cat.stdin.take());
    cat.wait().unwrap();
    if limit == "0" {
        eprintln!("skipped: this machine's hard limit forbids core files to everybody");
    }
    limit != "0"
}

#[track_caller]
fn leaves_none(what: &str, command: &mut Command) {
    let mut running = Running::start(command);
    let process = running.child.id();
    // The shell before it has no such limit either, until it has raised it: only of the program itself it counts.
    let program = std::fs::canonicalize(podling().get_program()).unwrap();
    wait_for(&format!("{what} to forbid itself core files"), || {
        let ended = running.child.try_wait().unwrap();
        assert!(ended.is_none(), "{what} has ended: {}", running.output());
        let runs = std::fs::read_link(format!("/proc/{process}/exe")).ok()?;
        core_limit(process).filter(|limit| runs == program && limit == "0")
    });
}

#[test]
fn whoever_holds_keys_or_secrets_leaves_no_core_file() {
    if !machine_allows_cores() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    std::fs::create_dir(path("manifests")).unwrap();
    let mut daemon = wanted();
    daemon.arg("daemon").arg("--state-dir").arg(path("state")).arg("--cache-dir").arg(cache_dir());
    daemon.arg("--socket").arg(path("sock")).arg("--manifests").arg(path("manifests"));
    leaves_none("the daemon", &mut daemon);

    let module = guest("sleep");
    let pod = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: s}}\nspec: {{containers: [{{name: c, image: 'file:{}', args: [forever]}}]}}\n",
        module.display()
    );
    std::fs::write(path("pod.yaml"), pod).unwrap();
    let mut play = wanted();
    play.arg("play").arg(path("pod.yaml")).arg("--cache-dir").arg(cache_dir());
    play.arg("--state-dir").arg(path("played"));
    leaves_none("play", &mut play);

    // It waits for the rest of its input, with part of a Secret in its memory.
    let mut seal = wanted();
    let recipient = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";
    seal.args(["key", "seal", "-f", "-", "--to", recipient]);
    leaves_none("key seal", &mut seal);

    // It has read its key, and waits for a broker that never answers.
    let key = path("key.pem");
    assert!(podling().args(["key", "generate"]).arg(&key).output().unwrap().status.success());
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("mqtt://{}", silent.local_addr().unwrap());
    let mut publish = wanted();
    publish
        .args(["publish", "--delete", "web", "--node", "gw", "--tenant", "acme", "--broker", &url]);
    publish.arg("--signing-key").arg(&key);
    leaves_none("publish", &mut publish);
}
