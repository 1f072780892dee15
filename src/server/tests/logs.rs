use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use futures_util::StreamExt;
use serde_json::json;

use super::{Api, pod};
use crate::server::handle;

const PODS: &str = "/api/v1/namespaces/default/pods";

async fn api_with_log() -> Api {
    let api = Api::new();
    api.create_pod("web").await;
    api.fake.log("web", "main", false).line(0, "one").line(10, "two").line(20, "three");
    api
}

#[tokio::test]
async fn options_choose_the_lines() {
    let api = api_with_log().await;
    let cases = [
        ("", "one\ntwo\nthree\n"),
        ("?container=main", "one\ntwo\nthree\n"),
        ("?tailLines=1", "three\n"),
        ("?tailLines=0", ""),
        ("?tailLines=99", "one\ntwo\nthree\n"),
        ("?sinceTime=2024-01-01T00:00:10Z", "two\nthree\n"),
        ("?sinceTime=2024-01-01T01:00:10%2B01:00&tailLines=1", "three\n"),
        ("?sinceTime=2024-01-01T00:00:20Z&tailLines=3", "three\n"),
        ("?sinceSeconds=1", ""),
        ("?limitBytes=5", "one\nt"),
        ("?follow=false", "one\ntwo\nthree\n"),
        (
            "?timestamps=true&tailLines=2",
            "2024-01-01T00:00:10.000000005Z two\n2024-01-01T00:00:20.000000005Z three\n",
        ),
    ];
    for (query, expected) in cases {
        let answer = api.get(&format!("{PODS}/web/log{query}")).await;
        assert_eq!((answer.code, answer.text()), (200, expected), "{query}");
        assert_eq!(answer.headers["content-type"], "text/plain");
    }
}

#[tokio::test]
async fn pieces_of_a_line_are_joined_and_counted_once() {
    let api = Api::new();
    api.create_pod("web").await;
    let log = api.fake.log("web", "main", false);
    log.line(0, "a").partial(1, "b1 ").partial(2, "b2 ").line(3, "b3").partial(4, "c");
    let get = |query: &'static str| {
        let api = &api;
        async move { api.get(&format!("{PODS}/web/log{query}")).await.text().to_owned() }
    };
    assert_eq!(get("").await, "a\nb1 b2 b3\nc");
    assert_eq!(get("?tailLines=2").await, "b1 b2 b3\nc");
    assert_eq!(get("?tailLines=1").await, "c");
    let stamped = "2024-01-01T00:00:01.000000005Z b1 b2 b3\n2024-01-01T00:00:04.000000005Z c";
    assert_eq!(get("?tailLines=2&timestamps=true").await, stamped);
}

#[tokio::test]
async fn refusals_are_the_kubelets_sentences() {
    let api = Api::new();
    let mut two = pod("two");
    two["spec"]["containers"] = json!([{"name": "a", "image": "x"}, {"name": "b", "image": "x"}]);
    two["spec"]["initContainers"] = json!([{"name": "i", "image": "x"}]);
    api.post(PODS, &two).await;
    let choose = "a container name must be specified for pod two, choose one of: [a b] or one of the init containers: [i]";
    let invalid =
        |field: &str, what: &str| format!("PodLogOptions \"two\" is invalid: {field}: {what}");
    let cases = [
        ("?", 400, choose.to_owned()),
        ("?container=c", 400, "container c is not valid for pod two".to_owned()),
        (
            "?container=a",
            400,
            "container \"a\" in pod \"two\" is waiting to start - no logs yet".to_owned(),
        ),
        (
            "?container=a&previous=true",
            400,
            "previous terminated container \"a\" in pod \"two\" not found".to_owned(),
        ),
        ("?limitBytes=0", 422, invalid("limitBytes", "Invalid value: 0: must be greater than 0")),
        (
            "?tailLines=-1",
            422,
            invalid("tailLines", "Invalid value: -1: must be greater than or equal to 0"),
        ),
        (
            "?sinceSeconds=0",
            422,
            invalid("sinceSeconds", "Invalid value: 0: must be greater than 0"),
        ),
        ("?stream=All", 422, invalid("stream", "Forbidden: may not be specified")),
        ("?tailLines=x", 400, "invalid value for tailLines: \"x\" is not an integer".to_owned()),
        (
            "?sinceTime=yesterday",
            400,
            "invalid value for sinceTime: \"yesterday\" is not an RFC 3339 time".to_owned(),
        ),
    ];
    for (query, code, message) in cases {
        let (got, _, said) = api.get(&format!("{PODS}/two/log{query}")).await.status();
        assert_eq!((got, said), (code, message), "{query}");
    }
    let both =
        api.get(&format!("{PODS}/two/log?sinceSeconds=1&sinceTime=2024-01-01T00:00:00Z")).await;
    assert!(
        both.status().2.contains("at most one of `sinceTime` or `sinceSeconds` may be specified")
    );
    assert_eq!(api.get(&format!("{PODS}/none/log")).await.status().2, "pods \"none\" not found");
}

#[tokio::test]
async fn the_reason_for_waiting_is_told() {
    let api = Api::new();
    let cases = [
        ("ContainerCreating", ": ContainerCreating"),
        ("ErrImagePull", ": image can't be pulled"),
        ("ImagePullBackOff", ": trying and failing to pull image"),
    ];
    for (reason, said) in cases {
        let mut waiting: k8s_openapi::api::core::v1::Pod =
            serde_json::from_value(pod("p")).unwrap();
        waiting.metadata.namespace = Some("default".to_owned());
        waiting.status = serde_json::from_value(json!({"containerStatuses": [{
            "name": "main", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"waiting": {"reason": reason}},
        }]}))
        .unwrap();
        crate::server::Backend::board(api.fake.as_ref()).upsert_pod(waiting);
        let (_, _, message) = api.get(&format!("{PODS}/p/log")).await.status();
        assert_eq!(message, format!("container \"main\" in pod \"p\" is waiting to start{said}"));
    }
}

#[tokio::test]
async fn following_goes_on_until_the_container_ends() {
    let api = api_with_log().await;
    let log = api.fake.log("web", "main", false);
    let request = Request::get(format!("{PODS}/web/log?follow=true&tailLines=1"))
        .body(Body::empty())
        .unwrap();
    let response = handle(Arc::clone(&api.app), request).await;
    let mut body = response.into_body().into_data_stream();
    let mut next = async || {
        let piece = tokio::time::timeout(Duration::from_secs(60), body.next()).await.unwrap();
        piece.map(|piece| String::from_utf8(piece.unwrap().to_vec()).unwrap())
    };
    assert_eq!(next().await.as_deref(), Some("three\n"));
    log.line(30, "four");
    assert_eq!(next().await.as_deref(), Some("four\n"));
    log.line(40, "five").end();
    assert_eq!(next().await.as_deref(), Some("five\n"));
    assert_eq!(next().await, None);
}

#[tokio::test]
async fn a_followed_log_ends_with_its_byte_limit_and_with_the_server() {
    let api = api_with_log().await;
    let limited = api.get(&format!("{PODS}/web/log?follow=true&limitBytes=6")).await;
    assert_eq!(limited.text(), "one\ntw");
    api.stop.cancel();
    let stopped = api.get(&format!("{PODS}/web/log?follow=true")).await;
    assert_eq!(stopped.text(), "one\ntwo\nthree\n");
}
