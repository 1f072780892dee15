//! Core modules and their sockets: those they are given, those they open, and what they wait for.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::super::{Network, RunHandle, StartError, Stdin, StdinPipe, TcpPort};
use super::lab::{PATIENCE, Paper, RUNTIME, Trial, eventually, over, prepare_text};
use crate::net::{Member, MemberLimits, NetConfig, NoLedger, PodNet, SocketState};
use crate::spec::{Exit, OnMemoryLimit};
use crate::wasi::http::io::NetIo;

fn pod_net() -> PodNet {
    PodNet::new(NetConfig::new(Ipv4Addr::new(10, 1, 0, 9)))
}

fn peer(net: &PodNet) -> Member {
    net.join("peer", MemberLimits::default(), Arc::new(NoLedger))
}

fn at(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

async fn start(net: &PodNet, mut trial: Trial, ports: &[u16]) -> (RunHandle, Arc<Paper>) {
    trial.run.network = Network::Pod { net: net.clone(), member: trial.run.argv.join(" ") };
    trial.run.tcp_ports =
        ports.iter().map(|&port| TcpPort { port, name: Some(format!("p{port}")) }).collect();
    trial.start().await
}

async fn connect(member: &Member, port: u16) -> NetIo {
    let stream = tokio::time::timeout(PATIENCE, member.connect(at(port)).unwrap()).await.unwrap();
    NetIo::new(stream.unwrap(), PATIENCE)
}

async fn echoes(member: &Member, port: u16, text: &[u8]) {
    let mut io = connect(member, port).await;
    let mut answer = vec![0; text.len()];
    let exchange = async {
        let (mut read, mut write) = tokio::io::split(&mut io);
        let (sent, got) = tokio::join!(write.write_all(text), read.read_exact(&mut answer));
        (sent.unwrap(), got.unwrap())
    };
    tokio::time::timeout(PATIENCE, exchange).await.unwrap();
    assert!(answer == text);
}

#[tokio::test]
async fn a_module_is_given_a_listening_socket_for_each_declared_port() {
    let net = pod_net();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("motto"), "still found").unwrap();
    let trial = Trial::of("listen-p1", &["/data/motto"]).await.mount(dir.path(), "/data", true);
    let (handle, paper) = start(&net, trial, &[7000, 7001, 7000]).await;
    paper.says("listen: 2 sockets (p7000:p7001)").await;
    paper.says(r#"/data/motto says "still found""#).await;
    let peer = peer(&net);
    let big: Vec<u8> = (0..500_000u32).map(|n| n.to_be_bytes()[3]).collect();
    echoes(&peer, 7000, &big).await;
    echoes(&peer, 7001, b"and the second").await;
    let mut quit = connect(&peer, 7001).await;
    quit.write_all(b"quit").await.unwrap();
    assert_eq!(over(handle).await, Exit::Code(0));
    assert_eq!(net.open_sockets(), peer.open_sockets());
}

#[tokio::test]
async fn a_clock_and_sockets_are_waited_for_together() {
    let net = pod_net();
    let trial = Trial::of("listen-p1", &[]).await.env("TICK_MS", "30");
    let (handle, paper) = start(&net, trial, &[7002]).await;
    let peer = peer(&net);
    for round in 0..5 {
        let mut io = connect(&peer, 7002).await;
        io.write_all(b"between ticks").await.unwrap();
        let mut answer = [0; 13];
        let read = io.read_exact(&mut answer).await;
        assert!(read.is_ok(), "{round}: {read:?}: {}{}", paper.stdout(), paper.stderr());
    }
    paper.says("listen: tick\nlisten: tick\n").await;
    handle.control.kill();
    assert_eq!(over(handle).await, Exit::Killed);
    assert_eq!(net.bound_ports().0, peer.open_sockets());
}

#[tokio::test]
async fn what_the_manifest_says_of_the_variables_stays_and_without_ports_there_are_none() {
    let net = pod_net();
    let trial = Trial::of("listen-p1", &[]).await.env("LISTEN_FDNAMES", "mine");
    let (handle, paper) = start(&net, trial, &[7003]).await;
    paper.says("listen: 1 sockets (mine)").await;
    let taken = Trial::of("listen-p1", &[]).await;
    let mut taken = taken.run;
    taken.network = Network::Pod { net: net.clone(), member: "second".to_owned() };
    taken.tcp_ports = vec![TcpPort { port: 7003, name: None }];
    let error = RUNTIME.start(taken).await.unwrap_err();
    assert!(matches!(error, StartError::Listen { port: 7003, .. }), "{error}");
    handle.control.kill();
    over(handle).await;
    let (handle, paper) = start(&net, Trial::of("listen-p1", &[]).await, &[]).await;
    assert_eq!(over(handle).await, Exit::Code(1));
    assert!(paper.stdout().contains("listen: 0 sockets"));
    // A module that accepts nothing is given nothing, and keeps its descriptors where they were.
    let (handle, paper) = start(&net, Trial::of("hello-p1", &[]).await, &[7003]).await;
    assert_eq!(over(handle).await, Exit::Code(0), "{}", paper.stderr());
    assert!(!paper.stdout().contains("LISTEN_FDS"), "{}", paper.stdout());
}

#[tokio::test]
async fn every_rule_of_the_added_functions_holds() {
    let net = pod_net();
    let (handle, paper) = start(&net, Trial::of("wasmedge-p1", &["rules"]).await, &[]).await;
    let exit = over(handle).await;
    assert_eq!(exit, Exit::Code(0), "{}{}", paper.stdout(), paper.stderr());
    assert_eq!(net.open_sockets(), 0);
}

#[tokio::test]
async fn modules_serve_and_call_each_other_by_the_added_functions() {
    let net = pod_net();
    for (mode, port) in [("serve", "7004"), ("loop", "7005")] {
        let server = Trial::of("wasmedge-p1", &[mode, port]).await;
        let (server, paper) = start(&net, server, &[7004, 7005]).await;
        paper.says("wasmedge: listens on 0.0.0.0:").await;
        for text in ["short", &"long ".repeat(4000)] {
            let args = ["call", "localhost", port, text];
            let (client, said) = start(&net, Trial::of("wasmedge-p1", &args).await, &[]).await;
            assert_eq!(over(client).await, Exit::Code(0), "{mode}: {}", said.stderr());
            assert!(said.stdout().contains(text.trim_end()), "{mode}");
        }
        // A component reaches it as well, over the same network.
        let args = ["tcp", "127.0.0.1", port, "across generations"];
        let (client, said) = start(&net, Trial::of("client", &args).await, &[]).await;
        assert_eq!(over(client).await, Exit::Code(0), "{}", said.stdout());
        server.control.kill();
        over(server).await;
    }
    let (server, paper) =
        start(&net, Trial::of("wasmedge-p1", &["datagrams", "7006"]).await, &[]).await;
    paper.says("wasmedge: hears on").await;
    let args = ["datagram", "127.0.0.1", "7006", "cut short"];
    let (client, said) = start(&net, Trial::of("wasmedge-p1", &args).await, &[]).await;
    assert_eq!(over(client).await, Exit::Code(0), "{}", said.stderr());
    assert!(said.stdout().starts_with("cut \n"), "{}", said.stdout());
    server.control.kill();
    over(server).await;
}

#[tokio::test]
async fn a_module_that_waits_in_any_call_is_killed_at_once() {
    let net = pod_net();
    for args in [&["serve", "7007"][..], &["loop", "7008"], &["datagrams", "7009"]] {
        let (handle, paper) = start(&net, Trial::of("wasmedge-p1", args).await, &[]).await;
        paper.says("wasmedge: ").await;
        handle.control.kill();
        assert_eq!(over(handle).await, Exit::Killed, "{args:?}");
    }
    assert_eq!(net.open_sockets(), 0);
}

/// wasmtime-wasi sleeps on the thread it is called on, where file work may be done there too: a guest's thread, and out of reach of a kill.
#[tokio::test]
async fn a_core_module_that_sleeps_holds_no_thread() {
    let dir = tempfile::tempdir().unwrap();
    let mut sleepers = Vec::new();
    // More than there are threads.
    for _ in 0..4 {
        let trial = Trial::of("sleep-p1", &["forever"]).await.mount(dir.path(), "/data", false);
        let (handle, paper) = trial.start().await;
        paper.says("sleep: for").await;
        sleepers.push(handle);
    }
    let (exit, paper) = Trial::of("sleep-p1", &["0.02"]).await.finish().await;
    assert_eq!(exit, Exit::Code(0));
    assert!(paper.stdout().contains("awake"));
    for sleeper in sleepers {
        sleeper.control.kill();
        assert_eq!(over(sleeper).await, Exit::Killed);
    }
}

/// The Rust crate for WasmEdge imports some functions with other parameters.
#[tokio::test]
async fn the_first_generation_of_the_added_functions_is_served_too() {
    let text = include_str!("preview1.wat");
    let net = pod_net();
    let artifact = prepare_text(text, false).await.unwrap();
    let (handle, _) = start(&net, Trial::new(artifact, &[]), &[]).await;
    let peer = peer(&net);
    // Bound is not yet listening.
    let listens = || net.sockets().iter().any(|row| row.state == SocketState::Listen);
    eventually("it listens", listens).await;
    echoes(&peer, 7010, b"first").await;
    assert_eq!(over(handle).await, Exit::Code(7));
}

#[tokio::test]
async fn a_directory_can_be_listed_and_its_files_opened_under_the_lowest_numbers() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a"), "one").unwrap();
    let mount = |trial: Trial, dir: &Path| trial.mount(dir, "/data", false);
    let trial = mount(Trial::of("files-p1", &["read", "/data/a"]).await, dir.path());
    let (exit, paper) = trial.finish().await;
    assert_eq!(exit, Exit::Code(0), "{}{}", paper.stdout(), paper.stderr());
    assert!(paper.stdout().contains("one"), "{}", paper.stdout());
}

/// Lists a folder into a buffer that has room for a part, twice.
const LISTS: &str = r#"(module
  (import "wasi_snapshot_preview1" "fd_readdir"
    (func $list (param i32 i32 i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (drop (call $list (i32.const 3) (i32.const 0) (i32.const 4096) (i64.const 0) (i32.const 8192)))
    (call $exit (call $list
      (i32.const 3) (i32.const 0) (i32.const 4096) (i64.const 9) (i32.const 8192)))))"#;

/// wasmtime-wasi reads a folder whole; the size that a folder has for itself says nothing of that.
#[tokio::test]
async fn what_is_held_for_a_list_is_on_the_account() {
    const ENTRIES: u64 = 3000;
    let artifact = prepare_text(LISTS, false).await.unwrap();
    let full = tempfile::tempdir().unwrap();
    for n in 0..ENTRIES {
        std::fs::write(full.path().join(n.to_string()), "").unwrap();
    }
    let empty = tempfile::tempdir().unwrap();
    let mut peaks = Vec::new();
    for dir in [&empty, &full] {
        let trial = Trial::new(artifact.clone(), &[]).mount(dir.path(), "/data", false);
        let (handle, _) = trial.start().await;
        let control = handle.control.clone();
        assert_eq!(over(handle).await, Exit::Code(0));
        peaks.push(control.usage().memory_peak_bytes);
    }
    assert!(peaks[1] - peaks[0] >= ENTRIES * 256, "{peaks:?}");
    // One that has no memory for it is told so, if it is to be told.
    const NOMEM: i32 = 48;
    let mut trial = Trial::new(artifact, &[]).mount(full.path(), "/data", false);
    trial.run.limits.memory_bytes = Some(peaks[0] + ENTRIES * 128);
    trial.run.limits.on_memory_limit = OnMemoryLimit::Fail;
    assert_eq!(trial.finish().await.0, Exit::Code(NOMEM));
}

/// Accepts one connection on the socket that it is given, and ends with the errno.
const ACCEPTS: &str = r#"(module
  {}
  (import "wasi_snapshot_preview1" "sock_accept" (func $accept (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (call $exit (call $accept (i32.const 3) (i32.const 0) (i32.const 64)))))"#;

/// A Go program that waited in `sock_accept` would stop all its goroutines: the connections that it has accepted among them.
#[tokio::test]
async fn listening_sockets_wait_except_for_programs_made_by_go() {
    const AGAIN: i32 = 6;
    let net = pod_net();
    let go = ACCEPTS.replace("{}", r#"(@custom "go:buildid" "a/b/c/d")"#);
    let artifact = prepare_text(&go, false).await.unwrap();
    let (handle, _) = start(&net, Trial::new(artifact, &[]), &[7011]).await;
    assert_eq!(over(handle).await, Exit::Code(AGAIN));
    let artifact = prepare_text(&ACCEPTS.replace("{}", ""), false).await.unwrap();
    let (handle, _) = start(&net, Trial::new(artifact, &[]), &[7011]).await;
    let _connection = connect(&peer(&net), 7011).await;
    assert_eq!(over(handle).await, Exit::Code(0));
}

#[tokio::test]
async fn standard_input_can_be_read_without_waiting() {
    let artifact = prepare_text(include_str!("stdin.wat"), false).await.unwrap();
    let pipe = StdinPipe::new();
    let mut trial = Trial::new(artifact.clone(), &[]);
    trial.run.stdin = Stdin::Pipe(pipe.clone());
    let (handle, paper) = trial.start().await;
    for (written, says) in [("one", "wonew"), (" and two", "wonew and twow")] {
        paper.says("w").await;
        pipe.write(written.as_bytes()).await.unwrap();
        paper.says(says).await;
    }
    pipe.close();
    assert_eq!(over(handle).await, Exit::Code(0), "{}", paper.stdout());
    // There is none: its end is there at once.
    let (exit, paper) = Trial::new(artifact, &[]).finish().await;
    assert_eq!((exit, paper.stdout().as_str()), (Exit::Code(0), "[flushed]"));
}

/// It is the only word of it that a core module has.
#[tokio::test]
async fn the_working_directory_is_told_as_a_variable_unless_the_manifest_has_one() {
    for (module, dir, given, says) in [
        ("hello-p1", None, None, Some("PWD=/\n")),
        ("hello-p1", Some("/data"), None, Some("PWD=/data\n")),
        ("hello-p1", Some("/data"), Some("/else"), Some("PWD=/else\n")),
        ("hello", Some("/data"), None, Some("PWD=/data\n")),
        ("hello", None, None, None),
    ] {
        let mut trial = Trial::of(module, &[]).await;
        trial.run.working_dir = dir.map(str::to_owned);
        if let Some(given) = given {
            trial = trial.env("PWD", given);
        }
        let (exit, paper) = trial.finish().await;
        assert_eq!(exit, Exit::Code(0));
        let said = paper.stdout();
        assert_eq!(said.matches("PWD=").count(), usize::from(says.is_some()), "{said}");
        assert!(said.contains(says.unwrap_or_default()), "{said}");
    }
}
