//! While a module is compiled, which on a small machine takes minutes: everybody is told, and the clock of its rollout stands.

use std::process::Command;

use podling::mqtt::command::{Arguments, Verb};
use serde_json::Value;

use crate::mqtt::rig::{NODE, Rig};
use crate::publish_mqtt::controller;
use crate::support::{Node, Running, podling, wait_for};

/// A module that nobody has compiled before: the cache of compiled code is shared by all tests, and kept.
fn unheard_of() -> Vec<u8> {
    let word = uuid::Uuid::new_v4();
    wat::parse_str(format!(
        "(module (import \"wasi_snapshot_preview1\" \"poll_oneoff\" (func $poll (param i32 i32 i32 i32) (result i32)))
           (memory (export \"memory\") 1) (data (i32.const 0) \"{word}\")
           (func (export \"_start\")
             (i64.store (i32.const 88) (i64.const 1000000000))
             (loop $again (drop (call $poll (i32.const 64) (i32.const 128) (i32.const 1) (i32.const 192))) (br $again))))"
    ))
    .unwrap()
}

/// A node whose compiler waits until the file `go` is there; for five minutes, should the test be gone before it.
fn slow_compiler(rig: &Rig) -> Node {
    let program = podling().get_program().to_str().unwrap().to_owned();
    let go = rig.path("go").display().to_string();
    let script = format!(
        "n=0; until [ -e {go} ] || [ $n -ge 1500 ]; do sleep 0.2; n=$((n+1)); done; exec \"$@\""
    );
    let command = format!("compileCommand: ['/bin/sh', '-c', '{script}', 'sh', '{program}']\n");
    Node::start_with(&(rig.node_configuration("") + &command))
}

/// What is left of the try's time, and how long the node was up when it said so.
fn left_at(status: &Value) -> (u64, u64) {
    let number = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("{status}"));
    (number(&status["rollout"]["deadlineMs"]), number(&status["uptimeMs"]))
}

#[test]
fn a_module_that_is_being_compiled_is_told_of_everywhere_and_its_rollout_waits() {
    let Some(rig) = Rig::start() else { return };
    controller(&rig, "ana", &rig.key);
    let node = slow_compiler(&rig);
    let module = unheard_of();
    let digest = podling::mqtt::envelope::digest(&module).to_string();
    std::fs::write(rig.path("new.wasm"), module).unwrap();
    let file = rig.path("web.yaml");
    let manifest = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n\
                    \x20 - {name: c, image: 'file:new.wasm'}\n";
    std::fs::write(&file, manifest).unwrap();
    let mut publish: Command = podling();
    publish
        .env("PODLING_CONTROLLER", rig.path("ana.yaml"))
        .env("PODLING_STATE_DIR", rig.path("laptop"));
    publish.args(["publish", "--node", NODE, "--timeout", "10m", "--progress-deadline", "10m"]);
    publish.args(["--min-ready", "0s", "-f"]).arg(&file);
    let mut publish = Running::start(&mut publish);
    // Whoever published it sees it, with the digest.
    publish.wait_for("pod/web: Starting: c: Compiling the module of image");
    assert!(publish.output().contains(&digest), "{}", publish.output());
    let is_compiling = |status: &Value| status["containers"][0]["reason"] == "Compiling";
    let first = rig.wait_status("web", "compiling", is_compiling);
    assert_eq!(first["rollout"]["stage"], "Starting", "{first}");
    // Who looks at the node sees it, as kubectl would.
    let row = node.ok(&["get", "pods"]);
    assert!(row.contains("Compiling"), "{row}");

    // Some seconds later there is as much time left as before.
    let (left, up) = left_at(&first);
    let later = wait_for("a word some seconds later", || {
        rig.command(Verb::Resync, Arguments::default());
        let status = rig.read(&format!("pods/v1/acme/s/{NODE}/pod/default/web"))?;
        (left_at(&status).1 >= up + 2500).then_some(status)
    });
    assert!(is_compiling(&later), "{later}");
    assert_eq!(left_at(&later).0, left, "{first}\n{later}");

    std::fs::write(rig.path("go"), "").unwrap();
    publish.wait_for("gw-test: pod/web: Ready");
    assert_eq!(publish.exit_code(), 0);
    let events = wait_for("both events", || {
        let events = node.ok(&["describe", "pod", "web"]);
        events.contains("Successfully compiled").then_some(events)
    });
    assert!(events.contains(&format!("({digest}) for this machine")), "{events}");
    assert!(events.contains("including waiting"), "{events}");
}
