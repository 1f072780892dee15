//! Room on the node: who is let in, who has to go, and what is seen of what everyone uses.

use super::kubectl::Kubectl;
use super::support::{Node, PLENTY, http_get_socket, is_ready, podling, text, wait_for};

fn pod(name: &str, image: &str, args: &str, resources: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  containers:\n  \
         - {{name: c, image: '{image}:test', args: {args}, resources: {resources}}}\n"
    )
}

fn sleeper(name: &str, resources: &str) -> String {
    pod(name, "sleep", "['3600']", resources)
}

#[test]
fn a_pod_that_asks_for_more_than_there_is_fails_with_the_kubelets_words() {
    let node = Node::start_with("capacity: {cpu: '1', memory: 64Mi}\nreserved: {memory: 16Mi}\n");
    node.load("sleep");
    node.apply(&sleeper("first", "{requests: {cpu: 600m, memory: 32Mi}}"));
    node.wait_ready("first");
    node.apply(&sleeper("second", "{requests: {cpu: 600m}}"));
    let second = node.wait_pod("second", "Failed", |pod| pod["status"]["phase"] == "Failed");
    assert_eq!(second["status"]["reason"], "OutOfcpu");
    let why = "Node didn't have enough resource: cpu, requested: 600, used: 600, capacity: 1000";
    assert_eq!(second["status"]["message"], format!("Pod was rejected: {why}"));
    assert!(second["status"]["containerStatuses"].is_null(), "{second:#}");
    let table = node.ok(&["get", "pod", "second"]);
    let row: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row[1..3], ["0/1", "OutOfcpu"], "{table}");
    let events = node.ok(&["get", "events"]);
    assert!(events.contains("OutOfcpu") && events.contains(why), "{events}");
    node.apply(&sleeper("third", "{requests: {memory: 16777217}}"));
    let third = node.wait_pod("third", "Failed", |pod| pod["status"]["phase"] == "Failed");
    assert_eq!(third["status"]["reason"], "OutOfmemory");
    // What has ended takes no room, and a pod that is gone gives it back.
    node.ok(&["delete", "pod", "first", "second"]);
    node.wait_gone("first");
    node.apply(&sleeper("fourth", "{requests: {cpu: '1', memory: 48Mi}}"));
    node.wait_ready("fourth");
}

#[test]
fn a_rejected_pod_stays_rejected_over_a_power_cut_and_one_that_ran_runs_again() {
    let mut node = Node::start_with("capacity: {cpu: '1'}\n");
    node.load("sleep");
    node.apply(&sleeper("zfirst", "{requests: {cpu: 600m}}"));
    node.wait_ready("zfirst");
    node.apply(&sleeper("late", "{requests: {cpu: 600m}}"));
    node.wait_pod("late", "Failed", |pod| pod["status"]["phase"] == "Failed");
    // Restart counts and ends are written when convenient; an orderly end writes them for sure.
    node.terminate();
    node.boot();
    node.wait_ready("zfirst");
    let late = node.wait_pod("late", "Failed", |pod| pod["status"]["phase"] == "Failed");
    assert_eq!(late["status"]["reason"], "OutOfcpu");
}

#[test]
fn the_number_of_pods_is_a_limit_too() {
    let node = Node::start_with("maxPods: 1\n");
    node.load("sleep");
    node.apply(&sleeper("only", "{}"));
    node.wait_ready("only");
    node.apply(&sleeper("more", "{}"));
    let more = node.wait_pod("more", "Failed", |pod| pod["status"]["phase"] == "Failed");
    assert_eq!(more["status"]["reason"], "OutOfpods");
}

/// All at once, as from a folder: whoever was not let in has taken no room from those who come next.
#[test]
fn a_pod_that_is_not_let_in_keeps_nobody_else_out() {
    let node = Node::start_with("capacity: {cpu: '1', memory: 64Mi}\n");
    node.load("sleep");
    let mut all = sleeper("a-much", "{requests: {cpu: '64'}}");
    all += &format!("---\n{}", sleeper("b-little", "{requests: {cpu: 10m}}"));
    all += &format!("---\n{}", sleeper("c-much", "{requests: {memory: 1Gi}}"));
    all += &format!("---\n{}", sleeper("d-little", "{requests: {memory: 1Mi}}"));
    node.put_manifest("all.yaml", &all);
    for name in ["b-little", "d-little"] {
        node.wait_ready(name);
    }
    for (name, reason) in [("a-much", "OutOfcpu"), ("c-much", "OutOfmemory")] {
        let pod = node.wait_pod(name, "Failed", |pod| pod["status"]["phase"] == "Failed");
        assert_eq!(pod["status"]["reason"], reason);
    }
}

const SHORT: &str = "MemTotal: 1000000 kB\nMemAvailable: 20000 kB\n";

#[test]
fn a_node_that_is_short_of_memory_evicts_who_takes_more_than_it_asked_for() {
    let mut node = Node::prepare("procDir: DIR/proc\n");
    std::fs::create_dir(node.path("proc")).unwrap();
    std::fs::write(node.path("proc/meminfo"), PLENTY).unwrap();
    node.boot();
    node.load("sleep");
    node.load("hog");
    node.apply(&sleeper("modest", "{requests: {memory: 64Mi}}"));
    node.apply(&pod("greedy", "hog", "['1', '20']", "{requests: {memory: 1Mi}}"));
    // Whoever looks late, and tells the node late that there is memory again, has lost some of these first.
    let others = ["next-1", "next-2", "next-3", "next-4"];
    for name in others {
        node.apply(&pod(name, "hog", "['1', '4']", "{requests: {memory: 1Mi}}"));
    }
    for name in ["modest", "greedy"].iter().chain(&others) {
        node.wait_ready(name);
    }
    wait_for("the hog to hold its memory", || {
        node.ok(&["logs", "greedy"]).contains("holding 20 MiB").then_some(())
    });
    std::fs::write(node.path("proc/meminfo"), SHORT).unwrap();
    let greedy = node.wait_pod("greedy", "Evicted", |pod| pod["status"]["reason"] == "Evicted");
    std::fs::write(node.path("proc/meminfo"), PLENTY).unwrap();
    let message = greedy["status"]["message"].as_str().unwrap();
    assert!(message.starts_with("The node was low on resource: memory. Threshold"), "{message}");
    assert!(message.contains("Container c was using 2"), "{message}");
    assert!(message.contains("request is 1024Ki, has larger consumption of memory."), "{message}");
    assert!(is_ready(&node.wait_ready("modest")));
    let nodes = node.ok(&["get", "nodes", "-o", "json"]);
    assert!(nodes.contains("KubeletHasInsufficientMemory"), "{nodes}");
    // An evicted pod stays to be looked at, and can be deleted.
    node.ok(&["delete", "pod", "greedy"]);
    node.wait_gone("greedy");
}

/// The next look at the memory may be ten seconds away, and pods would go one by one: whoever has no limit stops before.
#[test]
fn a_module_without_a_limit_takes_no_more_than_was_left_at_the_last_look() {
    let mut node = Node::prepare("procDir: DIR/proc\n");
    std::fs::create_dir(node.path("proc")).unwrap();
    // 48 MiB of it are where pods begin to go.
    let left = "MemTotal: 1000000 kB\nMemAvailable: 150000 kB\n";
    std::fs::write(node.path("proc/meminfo"), left).unwrap();
    node.boot();
    node.load("sleep");
    node.load("hog");
    node.apply(&sleeper("modest", "{}"));
    node.wait_ready("modest");
    node.apply(&pod("greedy", "hog", "['8']", "{}"));
    let ended = |pod: &serde_json::Value| {
        let status = &pod["status"]["containerStatuses"][0];
        let ends = [&status["state"], &status["lastState"]].map(|state| &state["terminated"]);
        ends.into_iter().find(|end| end["reason"] == "OOMKilled").cloned()
    };
    let greedy = node.wait_pod("greedy", "OOMKilled", |pod| ended(pod).is_some());
    let message = ended(&greedy).unwrap()["message"].to_string();
    assert!(message.contains("modules without a memory limit may bring that to "), "{message}");
    node.ok(&["delete", "pod", "greedy"]);
    node.wait_gone("greedy");
    // What has a limit may have it.
    node.apply(&pod("limited", "hog", "['8', '104']", "{limits: {memory: 128Mi}}"));
    wait_for("the limited one to hold its memory", || {
        node.ok(&["logs", "limited"]).contains("holding 104 MiB").then_some(())
    });
    let modest = node.wait_ready("modest");
    assert_eq!(modest["status"]["containerStatuses"][0]["restartCount"], 0);
}

/// Two modules print the same 120 kB; one may print 1 KiB a second, and 64 KiB at once.
#[test]
fn what_a_module_prints_beyond_its_log_rate_is_dropped_and_counted() {
    let node = Node::start();
    node.load("log");
    for (name, annotations) in [("free", "{}"), ("bound", "{log-rate.podling.dev/c: 1Ki}")] {
        node.apply(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, annotations: {annotations}}}\n\
             spec:\n  restartPolicy: Never\n  containers:\n  \
             - {{name: c, image: 'log:test', args: ['lines=3000', 'length=40']}}\n"
        ));
        node.wait_pod(name, "Succeeded", |pod| pod["status"]["phase"] == "Succeeded");
    }
    let said = "dropped: more than 1 KiB of log a second";
    let log = wait_for("the line about it", || {
        Some(node.ok(&["logs", "bound"])).filter(|log| log.contains(said))
    });
    let about = log.lines().filter(|line| line.contains("dropped: ")).count();
    let lines = log.lines().count() - about;
    // Each takes some 100 bytes of the 64 KiB, the time it was printed at included.
    assert!((300..3000).contains(&lines), "64 KiB and a little more: {lines} lines");
    assert!(!node.ok(&["logs", "free"]).contains("dropped: "));
    let metrics = http_get_socket(&node.path("podling.sock"), "/metrics").unwrap();
    let dropped = |pod: &str| -> usize {
        let of = format!(
            "podling_container_log_dropped_lines_total{{namespace=\"default\",pod=\"{pod}\""
        );
        let line = metrics.lines().find(|line| line.starts_with(&of));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
    };
    assert_eq!(dropped("free"), 0, "{metrics}");
    // All that is not there.
    assert_eq!(dropped("bound"), 3000 - lines, "{metrics}");
}

/// Less than twice the 5 % where pods begin to go.
const TIGHT: &str = "MemTotal: 1000000 kB\nMemAvailable: 70000 kB\n";

#[test]
fn a_pod_whose_module_is_not_compiled_because_memory_is_tight_says_so_and_can_be_deleted() {
    let mut node = Node::prepare("procDir: DIR/proc\n");
    std::fs::create_dir(node.path("proc")).unwrap();
    std::fs::write(node.path("proc/meminfo"), TIGHT).unwrap();
    node.boot();
    wait_for("the node to have looked", || {
        node.ok(&["get", "nodes", "-o", "json"]).contains("MemoryIsTight").then_some(())
    });
    // Nobody has compiled it before: the folder is this test's own.
    let file = node.path("new.wasm");
    let (new, state) = (file.to_str().unwrap(), node.path("state"));
    let text = format!("(module (func (export \"_start\")) (func (export \"{new}\")))");
    std::fs::write(&file, wat::parse_str(text).unwrap()).unwrap();
    let state = state.to_str().unwrap();
    node.ok(&["image", "load", new, "--name", "new:test", "--state-dir", state]);
    node.apply(&pod("late", "new", "[]", "{}"));
    let waiting =
        |pod: &serde_json::Value| pod["status"]["containerStatuses"][0]["state"]["waiting"].clone();
    let late = node.wait_pod("late", "why it waits", |pod| {
        waiting(pod)["message"].as_str().is_some_and(|why| why.contains("memory is tight"))
    });
    assert_eq!(waiting(&late)["reason"], "Compiling");
    wait_for("the event", || {
        let page = node.ok(&["describe", "pod", "late"]);
        (page.contains("MemoryIsTight") && page.contains("waits to be compiled")).then_some(())
    });
    node.ok(&["delete", "pod", "late"]);
    node.wait_gone("late");
}

#[test]
fn metrics_name_what_each_module_uses_as_cadvisor_does() {
    let node = Node::start();
    node.load("hog");
    node.apply(&pod("busy", "hog", "['1', '8']", "{limits: {memory: 64Mi}}"));
    node.wait_ready("busy");
    let text = wait_for("eight megabytes", || {
        let text = http_get_socket(&node.path("podling.sock"), "/metrics")?;
        let is_ours = |l: &&str| l.starts_with("container_memory_working_set_bytes{");
        let held = text.lines().find(is_ours)?.rsplit(' ').next()?.parse::<u64>().ok()?;
        (held > 8 << 20).then_some(text)
    });
    let labels = "{namespace=\"default\",pod=\"busy\",container=\"c\"";
    for name in ["container_cpu_usage_seconds_total", "container_memory_max_usage_bytes"] {
        assert!(text.contains(&format!("{name}{labels}")), "{name}: {text}");
    }
    assert!(text.contains("podling_store_written_bytes_total "), "{text}");
    assert!(text.ends_with("# EOF\n"), "{text}");
}

#[test]
fn top_tells_what_pods_and_the_node_use_and_so_does_kubectls() {
    let node = Node::start_with("capacity: {cpu: '2', memory: 1Gi}\n");
    node.load("hog");
    node.apply(&pod("busy", "hog", "['1', '8']", "{limits: {memory: 64Mi}}"));
    node.wait_ready("busy");
    let held = |table: &str| {
        let row = table.lines().find(|line| line.contains("busy"))?;
        row.split_whitespace().last()?.trim_end_matches("Mi").parse::<u64>().ok()
    };
    let table = wait_for("eight megabytes in the table", || {
        let table = node.ok(&["top", "pods"]);
        held(&table).is_some_and(|mib| mib >= 8).then_some(table)
    });
    assert!(table.starts_with("NAMESPACE"), "{table}");
    let containers = node.ok(&["top", "pods", "--containers", "-A"]);
    assert!(containers.contains("busy") && containers.contains(" c "), "{containers}");
    let row = node.ok(&["top", "node"]);
    assert!(row.lines().nth(1).unwrap().starts_with("gw-test"), "{row}");
    let error = node.fails(&["top", "node", "elsewhere"]);
    assert!(error.contains("node elsewhere is not there"), "{error}");
    let page = node.ok(&["describe", "pod", "busy"]);
    assert!(page.contains("    Usage: ") && page.contains("m CPU, "), "{page}");
    let Some(kubectl) = Kubectl::of(&node) else { return };
    for args in [&["top", "pods"][..], &["top", "pods", "--containers"], &["top", "nodes"]] {
        let shown = kubectl.ok(args);
        assert!(shown.contains("CPU(cores)") && shown.lines().count() == 2, "{shown}");
    }
}

#[test]
fn the_doctor_tells_what_was_found_chosen_and_why() {
    let node = Node::start();
    node.load("hog");
    node.apply(&pod("busy", "hog", "['1', '2']", "{}"));
    node.wait_ready("busy");
    let report = node.cli(&["doctor", "--state-dir", node.path("state").to_str().unwrap()]);
    let report = text(&report.stdout);
    for what in
        ["machine", "linear memories", "instances", "modules' code", "memory pressure", "busy"]
    {
        assert!(report.contains(what), "{what}: {report}");
    }
    let mut json = podling();
    json.args(["doctor", "-o", "json", "--socket", "/nonexistent/podling.sock"]);
    let json: serde_json::Value = serde_json::from_slice(&json.output().unwrap().stdout).unwrap();
    assert!(json["findings"].as_array().unwrap().len() >= 8, "{json}");
    assert!(json["pods"].is_null(), "no daemon, no pods: {json}");
}

#[test]
fn half_a_gigabyte_of_addresses_is_enough_for_the_classic_pod() {
    let dir = tempfile::tempdir().unwrap();
    let greenhouse = super::support::manifest("greenhouse.yaml");
    let port = super::support::free_port();
    let modules = concat!("file:", env!("CARGO_MANIFEST_DIR"), "/wasm-examples");
    let text = greenhouse
        .replace("hostPort: 8080", &format!("hostPort: {port}"))
        .replace("file:../wasm-examples", modules);
    std::fs::write(dir.path().join("pod.yaml"), text).unwrap();
    let mut command = std::process::Command::new("sh");
    // Few of our allocations are glibc's own, but it reserves 64 MiB of addresses for each thread that makes one (its library
    // functions do); the static builds for gateways do not.
    command.env("MALLOC_ARENA_MAX", "1");
    command.args(["-c", "ulimit -v 524288; exec \"$0\" \"$@\""]);
    command.arg(podling().get_program()).arg("play");
    command.arg("--state-dir").arg(dir.path().join("state"));
    command.arg("--cache-dir").arg(super::support::cache_dir()).arg(dir.path().join("pod.yaml"));
    let mut play = super::support::Running::start(&mut command);
    wait_for("readings", || {
        let (code, body) = super::support::http_get(port, "/")?;
        (code == 200 && body.contains("html")).then_some(())
    });
    play.signal(rustix::process::Signal::INT);
    assert_eq!(play.exit_code(), 0, "{}", play.output());
}

#[test]
fn an_idle_daemon_reserves_few_addresses_and_has_access_to_what_it_uses_only() {
    let mut node = Node::start();
    let process = node.daemon().child.id();
    let maps = std::fs::read_to_string(format!("/proc/{process}/maps")).unwrap();
    let (mut reserved, mut accessible) = (0, 0);
    for line in maps.lines() {
        // Addresses, rights, offset, device and inode; a file or a stack has a sixth word.
        let words: Vec<&str> = line.split_whitespace().collect();
        let [addresses, rights, _, _, _] = words[..] else { continue };
        let (from, to) = addresses.split_once('-').unwrap();
        let size = u64::from_str_radix(to, 16).unwrap() - u64::from_str_radix(from, 16).unwrap();
        reserved = reserved.max(size);
        accessible = accessible.max(if rights.starts_with("rw") { size } else { 0 });
    }
    // A child that compiles has a gigabyte in all, and a kernel that gives huge pages to everybody gives them to what is accessible.
    assert!(reserved <= 128 << 20, "{reserved} bytes at once:\n{maps}");
    assert!(accessible <= 16 << 20, "{accessible} bytes at once:\n{maps}");
}
