//! How a new generation takes over, and what becomes of one that is no good.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::rig::Rig;
use crate::support::{free_port, is_ready, restarts};

/// What comes back for a line over a published port; `None` if the connection is refused or broken.
fn echoed(port: u16) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(60))).ok()?;
    stream.write_all(b"hello").ok()?;
    stream.shutdown(std::net::Shutdown::Write).ok()?;
    let mut answer = vec![];
    stream.read_to_end(&mut answer).ok()?;
    Some(answer)
}

#[test]
fn a_published_port_stays_while_its_pod_is_replaced() {
    let Some(rig) = Rig::start() else { return };
    let node = rig.node();
    node.load("echo");
    let port = free_port();
    let pod = |version: u32| {
        rig.intent_of(
            "echo",
            "web",
            &format!(
                "    env: [{{name: PORT, value: '7'}}, {{name: V, value: 'v{version}'}}]\n\
                 \x20   ports: [{{containerPort: 7, hostPort: {port}, hostIP: 127.0.0.1}}]\n\
                 \x20   readinessProbe: {{tcpSocket: {{port: 7}}, periodSeconds: 1}}\n"
            ),
        )
    };
    rig.deliver(&pod(1));
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // One client after the other, all the time. A connection that comes between the two waits for the new one.
        let clients = scope.spawn(|| {
            let (mut count, mut cut) = (0, 0);
            while !over.load(Ordering::SeqCst) {
                count += 1;
                match TcpStream::connect(("127.0.0.1", port)) {
                    Ok(_) => {}
                    Err(error) => panic!("connection {count} was refused: {error}"),
                }
                // One that the old pod had taken may end with it.
                cut += u32::from(echoed(port).as_deref() != Some(b"hello"));
            }
            (count, cut)
        });
        for version in 2..=4 {
            rig.deliver(&pod(version));
        }
        over.store(true, Ordering::SeqCst);
        let (count, cut) = clients.join().unwrap();
        assert!(count > 3 && cut <= 3, "{cut} of {count} were cut, of 3 replacements");
    });
    assert_eq!(echoed(port).as_deref(), Some(&b"hello"[..]));
}

#[test]
fn what_is_not_ready_in_its_time_gives_way_to_the_last_good_one_and_says_so() {
    let Some(rig) = Rig::start() else { return };
    let mut node = rig.node();
    rig.deliver(&rig.intent("web", ""));
    let never = "    readinessProbe: {tcpSocket: {port: 1}, periodSeconds: 1}\n";
    let mut bad = rig.intent("web", never);
    bad.intent.rollout.progress_deadline_seconds = Some(2);
    rig.send(&rig.sign(&bad));
    let is_back = |status: &serde_json::Value| {
        status["rollout"]["stage"] == "RolledBack" && status["ready"] == true
    };
    let status = rig.wait_status("web", "rolled back", is_back);
    assert_eq!(status["rollout"]["reason"], "ProgressDeadlineExceeded", "{status}");
    assert_eq!(
        status["documents"][0]["accepted"]["generation"], 2,
        "what was accepted only moves forward"
    );
    assert_eq!(
        (&status["active"]["generation"], &status["lastGood"]["generation"]),
        (&1.into(), &1.into())
    );
    let pod = node.wait_ready("web");
    assert_eq!(pod["metadata"]["generation"], 1);
    // It is not tried again, also not by the next life of the daemon.
    assert_eq!(node.terminate(), 0);
    node.boot();
    let status =
        rig.wait_status("web", "said again", |s| is_back(s) && s["conn"] != status["conn"]);
    assert_eq!(status["rollout"]["attempts"], 1, "{status}");
    assert_eq!(node.wait_ready("web")["metadata"]["generation"], 1);
}

#[test]
fn a_pod_that_takes_the_gateway_down_does_so_a_few_times_and_no_more() {
    let Some(rig) = Rig::start() else { return };
    let mut node = rig.node();
    rig.deliver(&rig.intent("web", ""));
    // It never gets further than being tried: an hour of readiness is wanted.
    let mut killer = rig.intent("web", "    env: [{name: X, value: 'killer'}]\n");
    killer.intent.rollout.min_ready_seconds = Some(3600);
    killer.intent.rollout.progress_deadline_seconds = Some(7200);
    rig.send(&rig.sign(&killer));
    for attempts in 1..=3 {
        let status = rig.wait_status("web", &format!("tried for the {attempts}. time"), |s| {
            s["rollout"]["stage"] == "Probing" && s["rollout"]["attempts"] == attempts
        });
        assert_eq!(status["active"]["generation"], 2);
        node.power_cut();
        node.boot();
    }
    let status = rig.wait_status("web", "taken back", |s| s["rollout"]["stage"] == "RolledBack");
    let reason = status["rollout"]["reason"].as_str().unwrap();
    assert!(["TooManyAttempts", "SuspectedBootLoop"].contains(&reason), "{status}");
    assert_eq!(node.wait_ready("web")["metadata"]["generation"], 1);
    // After three starts that ended badly the node is careful with whatever was being tried, and says so.
    rig.wait_topic("pods/v1/acme/s/gw-test/node", "in safe mode", |node| {
        let conditions = node["conditions"].as_array().unwrap();
        conditions.iter().any(|c| c["type"] == "SafeMode" && c["status"] == "True")
    });
    // New documents are tried all the same.
    rig.deliver(&rig.intent("other", ""));
    assert!(is_ready(&node.wait_ready("other")));
}

#[test]
fn a_pod_that_fails_gives_way_at_once() {
    let Some(rig) = Rig::start() else { return };
    let node = rig.node();
    node.load("exit");
    rig.deliver(&rig.intent("web", ""));
    let mut bad = rig.intent_of("exit", "web", "    args: ['3']\n  restartPolicy: Never\n");
    // It is ready for a moment before it ends, as every program is: that is no proof.
    bad.intent.rollout.min_ready_seconds = Some(30);
    rig.send(&rig.sign(&bad));
    let status = rig.wait_status("web", "rolled back", |s| {
        s["rollout"]["stage"] == "RolledBack" && s["ready"] == true
    });
    assert_eq!(status["rollout"]["reason"], "PodFailed", "{status}");
    let pod = node.wait_ready("web");
    assert_eq!((restarts(&pod, "c"), pod["metadata"]["generation"].as_u64()), (0, Some(1)));
}

#[test]
fn a_pod_change_costs_at_most_six_syncs_and_idling_costs_no_byte() {
    let Some(rig) = Rig::start() else { return };
    let node = rig.node();
    rig.deliver(&rig.intent("web", ""));
    let counter = |name: &str| super::rig::metric(&node, name);
    for version in 0..3 {
        let before = counter("podling_store_fsync_total");
        rig.deliver(&rig.intent("web", &format!("    env: [{{name: V, value: 'v{version}'}}]\n")));
        let cost = counter("podling_store_fsync_total") - before;
        assert!((1..=6).contains(&cost), "{cost}");
    }
    let pod = node.wait_ready("web");
    let before = counter("podling_store_written_bytes_total");
    // A keep-alive of the link at least, and fifteen of the module's own seconds.
    crate::support::wait_for("a while of idling", || {
        let logs = node.ok(&["logs", "web", "--tail", "1"]);
        let count: u64 = logs.trim().rsplit(' ').next()?.parse().ok()?;
        (count >= 15).then_some(())
    });
    assert_eq!(counter("podling_store_written_bytes_total"), before);
    assert_eq!(restarts(&pod, "c"), 0);
}
