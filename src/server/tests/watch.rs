use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::http::Request;
use futures_util::StreamExt;
use serde_json::{Value, json};

use super::{Api, config_map, pod};
use crate::server::backend::Backend;
use crate::server::{STREAMS_MAX, handle};

/// A watch in progress, read line by line.
struct Lines {
    body: BodyDataStream,
    buffer: Vec<u8>,
}

impl Lines {
    async fn start(api: &Api, path: &str, accept: &str) -> Result<Self, u16> {
        let request = Request::get(path).header("accept", accept).body(Body::empty()).unwrap();
        let response = handle(Arc::clone(&api.app), request).await;
        if response.status() != 200 {
            return Err(response.status().as_u16());
        }
        Ok(Self { body: response.into_body().into_data_stream(), buffer: Vec::new() })
    }

    /// The next line; `None` at the end of the stream.
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let piece = tokio::time::timeout(Duration::from_secs(60), self.body.next());
            match piece.await.expect("a line or the end within the deadline") {
                Some(piece) => self.buffer.extend(piece.unwrap()),
                None => return None,
            }
        }
    }

    /// Type and name of the next event.
    async fn event(&mut self) -> (String, String) {
        let line = self.next().await.expect("the watch goes on");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        (text(&line["type"]), text(&line["object"]["metadata"]["name"]))
    }
}

fn event(kind: &str, name: &str) -> (String, String) {
    (kind.to_owned(), name.to_owned())
}

async fn label(api: &Api, name: &str, label: Value) {
    let kind = [("content-type", "application/merge-patch+json")];
    let body = json!({"metadata": {"labels": {"app": label}}}).to_string();
    let path = format!("/api/v1/namespaces/default/pods/{name}");
    assert_eq!(api.send("PATCH", &path, &kind, body.as_bytes()).await.code, 200);
}

const WATCH: &str = "/api/v1/namespaces/default/pods?watch=true";
const JSON: &str = "application/json";

#[tokio::test]
async fn a_watch_from_the_lists_version_misses_nothing_and_repeats_nothing() {
    let api = Api::new();
    api.create_pod("before").await;
    let version = api.get("/api/v1/pods").await.json()["metadata"]["resourceVersion"].clone();
    api.create_pod("between").await;
    let path = format!("{WATCH}&resourceVersion={}", version.as_str().unwrap());
    let mut lines = Lines::start(&api, &path, JSON).await.unwrap();
    assert_eq!(lines.event().await, event("ADDED", "between"));
    label(&api, "before", json!("x")).await;
    assert_eq!(lines.event().await, event("MODIFIED", "before"));
    api.send("DELETE", "/api/v1/namespaces/default/pods/before", &[], b"").await;
    assert_eq!(lines.event().await, event("MODIFIED", "before"), "the deletion timestamp");
    let deleted = lines.next().await.unwrap();
    assert_eq!(deleted["type"], "DELETED");
    let of = |value: &Value| {
        value["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap()
    };
    assert_eq!(of(&deleted["object"]), api.fake.board().version(), "the version of the deletion");
}

#[tokio::test]
async fn without_a_version_the_present_state_comes_first() {
    let api = Api::new();
    api.create_pod("a").await;
    api.create_pod("b").await;
    for path in [WATCH.to_owned(), format!("{WATCH}&resourceVersion=0")] {
        let mut lines = Lines::start(&api, &path, JSON).await.unwrap();
        assert_eq!(lines.event().await, event("ADDED", "a"));
        assert_eq!(lines.event().await, event("ADDED", "b"));
    }
}

#[tokio::test]
async fn a_selector_turns_stops_matching_into_deleted() {
    let api = Api::new();
    api.create_pod("web").await;
    let mut lines =
        Lines::start(&api, &format!("{WATCH}&labelSelector=app%3Dweb"), JSON).await.unwrap();
    assert_eq!(lines.event().await, event("ADDED", "web"));
    label(&api, "web", json!("other")).await;
    let gone = lines.next().await.unwrap();
    assert_eq!(
        (&gone["type"], &gone["object"]["metadata"]["labels"]["app"]),
        (&json!("DELETED"), &json!("web"))
    );
    label(&api, "web", json!("third")).await;
    label(&api, "web", json!("web")).await;
    assert_eq!(lines.event().await, event("ADDED", "web"), "a change among strangers is not seen");
}

#[tokio::test]
async fn a_table_watch_sends_its_columns_once() {
    let api = Api::new();
    api.create_pod("a").await;
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let mut lines = Lines::start(&api, WATCH, accept).await.unwrap();
    let first = lines.next().await.unwrap();
    assert_eq!(first["object"]["columnDefinitions"][0]["name"], "Name");
    api.create_pod("b").await;
    let second = lines.next().await.unwrap();
    assert_eq!(second["object"]["kind"], "Table");
    assert_eq!(second["object"]["columnDefinitions"], Value::Null);
    assert_eq!(second["object"]["rows"][0]["cells"][0], "b");
}

#[tokio::test]
async fn a_version_that_is_gone_or_never_was_is_expired() {
    let api = Api::new();
    for since in ["1", "99999999"] {
        let (code, reason, _) = api.get(&format!("{WATCH}&resourceVersion={since}")).await.status();
        assert_eq!((code, reason.as_str()), (410, "Expired"), "{since}");
    }
    assert_eq!(api.get(&format!("{WATCH}&resourceVersion=abc")).await.status().0, 400);
}

#[tokio::test]
async fn a_watcher_that_does_not_read_is_told_that_it_fell_behind() {
    let api = Api::new();
    api.create_pod("web").await;
    let mut lines = Lines::start(&api, WATCH, JSON).await.unwrap();
    assert_eq!(lines.event().await, event("ADDED", "web"));
    for n in 0..=crate::board::CHANGES_MAX {
        let mut pod = api
            .fake
            .board()
            .pod(&crate::spec::PodKey::new("default", "web"))
            .unwrap()
            .as_ref()
            .clone();
        pod.metadata.generation = Some(i64::try_from(n).unwrap() + 2);
        api.fake.board().upsert_pod(pod);
    }
    let line = lines.next().await.unwrap();
    assert_eq!(line["type"], "ERROR");
    assert_eq!(
        (&line["object"]["code"], &line["object"]["reason"]),
        (&json!(410), &json!("Expired"))
    );
    assert_eq!(lines.next().await, None, "and the stream ends");
}

#[tokio::test(start_paused = true)]
async fn a_watch_ends_cleanly_when_its_time_is_over() {
    let api = Api::new();
    let mut lines = Lines::start(&api, &format!("{WATCH}&timeoutSeconds=5"), JSON).await.unwrap();
    assert_eq!(lines.next().await, None);
}

#[tokio::test]
async fn bookmarks_carry_the_version_that_was_reached() {
    let api = Api::new();
    api.create_pod("web").await;
    let path = format!(
        "{WATCH}&allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan"
    );
    let mut lines = Lines::start(&api, &path, JSON).await.unwrap();
    assert_eq!(lines.event().await, event("ADDED", "web"));
    let mark = lines.next().await.unwrap();
    assert_eq!((&mark["type"], &mark["object"]["kind"]), (&json!("BOOKMARK"), &json!("Pod")));
    assert_eq!(mark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    let version = api.fake.board().version().to_string();
    assert_eq!(mark["object"]["metadata"]["resourceVersion"], version);
}

#[tokio::test]
async fn a_single_object_can_be_watched_by_its_path() {
    let api = Api::new();
    api.create_pod("a").await;
    api.create_pod("b").await;
    let path = "/api/v1/namespaces/default/pods/b?watch=1";
    let mut lines = Lines::start(&api, path, JSON).await.unwrap();
    assert_eq!(lines.event().await, event("ADDED", "b"));
    api.post("/api/v1/namespaces/default/configmaps", &config_map("b", "x")).await;
    label(&api, "b", json!("x")).await;
    assert_eq!(lines.event().await, event("MODIFIED", "b"));
    assert_eq!(api.get("/api/v1/namespaces/default/pods/none?watch=1").await.status().0, 404);
}

#[tokio::test]
async fn streams_are_bounded_and_free_their_place() {
    let api = Api::new();
    let mut open = Vec::new();
    for _ in 0..STREAMS_MAX {
        open.push(Lines::start(&api, WATCH, JSON).await.unwrap());
    }
    assert_eq!(Lines::start(&api, WATCH, JSON).await.err(), Some(429));
    open.pop();
    assert!(Lines::start(&api, WATCH, JSON).await.is_ok());
}

#[tokio::test]
async fn a_stopping_server_ends_its_watches() {
    let api = Api::new();
    let mut lines = Lines::start(&api, WATCH, JSON).await.unwrap();
    api.stop.cancel();
    assert_eq!(lines.next().await, None);
}

#[tokio::test]
async fn namespaces_appear_with_their_first_object_and_go_with_the_last() {
    let api = Api::new();
    let version = api.fake.board().version();
    let path = format!("/api/v1/namespaces?watch=true&resourceVersion={version}");
    let mut lines = Lines::start(&api, &path, JSON).await.unwrap();
    api.post("/api/v1/namespaces/far/pods", &pod("a")).await;
    assert_eq!(lines.event().await, event("ADDED", "far"));
    api.post("/api/v1/namespaces/far/configmaps", &config_map("cm", "x")).await;
    api.send("DELETE", "/api/v1/namespaces/far/pods/a", &[], b"").await;
    api.send("DELETE", "/api/v1/namespaces/far/configmaps/cm", &[], b"").await;
    assert_eq!(lines.event().await, event("DELETED", "far"));
}
