//! `podling play`: the README's first command.

use rustix::process::Signal;

use super::support::{Running, cache_dir, free_port, http_get, manifest, podling, wait_for};

fn play(dir: &std::path::Path, text: &str) -> Running {
    let path = dir.join("pod.yaml");
    std::fs::write(&path, text).unwrap();
    let mut command = podling();
    command.arg("play").arg(path);
    command.arg("--state-dir").arg(dir.join("state")).arg("--cache-dir").arg(cache_dir());
    Running::start(&mut command)
}

#[test]
fn the_greenhouse_serves_changing_readings_and_survives_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    let text = manifest("greenhouse.yaml").replace("hostPort: 8080", &format!("hostPort: {port}"));
    let mut play = play(dir.path(), &text);
    play.wait_for(&format!("published 127.0.0.1:{port} -> greenhouse/web:8080"));
    play.wait_for("pod/greenhouse Ready");

    let readings = || {
        let (status, body) = http_get(port, "/readings.json")?;
        (status == 200).then_some(body)
    };
    let first = wait_for("the first readings", readings);
    wait_for("other readings", || readings().filter(|now| *now != first));
    let page = wait_for("the page", || http_get(port, "/").filter(|(status, _)| *status == 200));
    assert!(page.1.contains("<html"), "{}", page.1);

    // The trap takes the connection with it, so there may be no answer at all.
    let _ = http_get(port, "/crash");
    play.wait_for("restarts 1");
    let after = wait_for("the page after the crash", || {
        http_get(port, "/readings.json").filter(|(status, _)| *status == 200)
    });
    assert!(!after.1.is_empty());
    let output = play.output();
    assert!(
        output.contains("pod/greenhouse web: Running, ready, restarts 1") || {
            play.wait_for("pod/greenhouse web: Running, ready, restarts 1");
            true
        }
    );
    for other in ["sensor", "refresher"] {
        assert!(!output.contains(&format!("{other}: Running, ready, restarts")), "{output}");
        assert!(output.contains(&format!("[greenhouse/{other}]")), "{output}");
    }
    // What only the pod can reach is not on the host.
    let listeners = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let sensor = format!(":{:04X} 00000000:0000 0A", 9000);
    assert!(!listeners.contains(&sensor), "something listens on 9000:\n{listeners}");

    play.signal(Signal::INT);
    assert_eq!(play.exit_code(), 0, "{}", play.output());
    assert!(play.output().trim_end().ends_with("stopped"), "{}", play.output());
}

#[test]
fn play_ends_by_itself_with_its_pods_result() {
    let dir = tempfile::tempdir().unwrap();
    let mut succeeding = play(dir.path(), &manifest("init.yaml"));
    assert_eq!(succeeding.exit_code(), 0, "{}", succeeding.output());
    succeeding.wait_for("pod/init Succeeded");
    assert!(succeeding.output().contains("[init/page] "), "{}", succeeding.output());
    assert!(succeeding.output().contains("<h1>prepared</h1>"), "{}", succeeding.output());

    let failing = manifest("init.yaml").replace("\"/data/site/index.html\"]", "\"/data/absent\"]");
    let dir = tempfile::tempdir().unwrap();
    let mut failing = play(dir.path(), &failing);
    assert_eq!(failing.exit_code(), 1, "{}", failing.output());
}

#[test]
fn every_way_to_hear_a_stop_ends_as_documented() {
    let dir = tempfile::tempdir().unwrap();
    let mut play = play(dir.path(), &manifest("graceful.yaml"));
    for name in ["graceful", "stubborn", "stdin", "unaware"] {
        play.wait_for(&format!("pod/graceful {name}: Running"));
    }
    play.signal(Signal::INT);
    assert_eq!(play.exit_code(), 0, "{}", play.output());
    let rows = [
        "pod/graceful graceful: Completed, exit code 0",
        "pod/graceful stdin: Completed, exit code 0",
        "pod/graceful unaware: Error, exit code 143",
        "pod/graceful stubborn: Error, exit code 137",
    ];
    for row in rows {
        assert!(play.output().contains(row), "no {row:?} in:\n{}", play.output());
    }
}

#[test]
fn a_mistake_in_the_manifest_is_told_and_nothing_starts() {
    let dir = tempfile::tempdir().unwrap();
    let mut play = play(dir.path(), "apiVersion: v1\nkind: Pod\nmetadata: {name: A_b}\nspec: {}\n");
    assert_eq!(play.exit_code(), 1);
    assert!(play.output().contains("metadata.name: Invalid value"), "{}", play.output());
    assert!(play.output().contains("spec.containers: Required value"), "{}", play.output());
}

#[test]
fn play_ends_when_nobody_reads_it_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pod.yaml");
    std::fs::write(&path, manifest("logs.yaml")).unwrap();
    let mut command = podling();
    command.arg("play").arg(path).arg("--state-dir").arg(dir.path().join("state"));
    command.arg("--cache-dir").arg(cache_dir()).stderr(std::process::Stdio::null());
    let mut play = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    // The reader goes away at once, as `head` does after its lines.
    drop(play.stdout.take());
    let status = wait_for("play to end", || play.try_wait().unwrap());
    assert!(status.success(), "{status:?}");
}

#[test]
fn a_published_port_that_is_taken_is_told_and_not_claimed() {
    let dir = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let text = manifest("greenhouse.yaml").replace("hostPort: 8080", &format!("hostPort: {port}"));
    let mut play = play(dir.path(), &text);
    play.wait_for("warning FailedCreatePodSandBox");
    let output = play.output();
    assert!(output.contains("in use") && output.contains(&port.to_string()), "{output}");
    assert!(!output.contains("published"), "{output}");
    drop(taken);
    play.wait_for(&format!("published 127.0.0.1:{port} -> greenhouse/web:8080"));
    play.signal(Signal::INT);
    assert_eq!(play.exit_code(), 0, "{}", play.output());
}
