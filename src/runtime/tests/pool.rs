//! Handlers whose instances come from the pool: what clients and accounts see is what they would see without it.

use std::sync::Arc;

use hyper::StatusCode;

use super::super::ledger::Ledger;
use super::super::{CompileMode, HttpLimits, Runtime, RuntimeConfig};
use super::http::{PORT, at, client, connect, get, listening, peer, pod_net, whole};
use super::lab::{Trial, eventually, guest_path, module, over};
use crate::runtime::Network;
use crate::spec::Exit;

/// Each has a runtime, and so a pool, of its own.
#[tokio::test]
async fn a_request_that_finds_no_slot_is_answered_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = RuntimeConfig::new(dir.path().join("cache"));
    config.compile = CompileMode::InProcess;
    let runtime = Runtime::new(config).unwrap();
    let artifact = runtime.prepare(module(guest_path("handler")), false).await.unwrap();
    assert_eq!(artifact.0.work.pooled.is_some(), runtime.describe().pool.is_ok());
    let Some(pooled) = &artifact.0.work.pooled else { return };
    let net = pod_net();
    let mut trial = Trial::new(artifact.clone(), &[]).http(PORT, HttpLimits::default());
    trial.run.network = Network::Pod { net: net.clone(), member: "handler".to_owned() };
    let handle = runtime.start(trial.run).await.unwrap();
    let control = handle.control.clone();
    eventually("it listens", || listening(&net) == 1).await;
    let asker = peer(&net);
    let ask = async |path: &str, status, words: &str| {
        let mut client = client(connect(&asker, at(PORT)).await).await;
        let answer = whole(client.send_request(get(path)).await.unwrap()).await;
        assert_eq!(answer.0, status, "{path}");
        assert!(answer.1.contains(words), "{path}: {}", answer.1);
        // A handler may still be at its end when its answer is there.
        eventually("it is over", || control.http().under_way == 0).await;
    };
    let from_pool = || control.0.http.pooled.get();
    let ok = StatusCode::OK;
    // The first waited for its request, outside of the pool.
    ask("/count", ok, "1\n").await;
    assert_eq!(from_pool(), 0);
    for more in 1..=3 {
        ask("/count", ok, "1\n").await;
        assert_eq!(from_pool(), more);
    }
    // One that traps leaves its slot as new.
    ask("/trap", StatusCode::INTERNAL_SERVER_ERROR, "failed").await;
    ask("/count", ok, "1\n").await;
    assert_eq!(from_pool(), 5);
    let somebody = Arc::new(Ledger::new(None, None));
    let all: Vec<_> = std::iter::from_fn(|| pooled.pool.place(&somebody)).collect();
    assert!(!all.is_empty());
    for _ in 0..3 {
        ask("/count", ok, "1\n").await;
    }
    assert_eq!(from_pool(), 5, "there was no slot");
    drop(all);
    ask("/count", ok, "1\n").await;
    assert_eq!(from_pool(), 6);
    assert_eq!(control.http().failed, 0);
    handle.control.kill();
    assert_eq!(over(handle).await, Exit::Killed);
    assert_eq!(control.usage().memory_bytes, 0);
}

/// A handler of WASI 0.3 may have any number of stacks; and instances that stay would keep their slots.
#[tokio::test]
async fn only_brief_instances_of_0_2_come_from_the_pool() {
    let handler3 = super::lab::prepare("handler3", false).await;
    assert!(handler3.0.work.pooled.is_none());
    let limits = HttpLimits { requests_per_instance: Some(2), ..HttpLimits::default() };
    let site = super::http::Site::new(limits).await;
    for count in ["1\n", "2\n", "1\n"] {
        assert_eq!(site.get("/count").await.1, count);
        eventually("it is over", || site.handle.control.http().under_way == 0).await;
    }
    assert_eq!(site.handle.control.0.http.pooled.get(), 0);
    site.end().await;
}
