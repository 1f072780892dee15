#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

//! The API, asked as a client asks it.

mod access;
mod changing;
pub(crate) mod fake;
mod kubectl;
mod logs;
mod network;
mod objects;
mod refused;
mod socket;
mod watch;

use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderMap, Request};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;

use super::{App, handle};
use fake::FakeBackend;

/// The API over a fake backend.
struct Api {
    fake: Arc<FakeBackend>,
    app: Arc<App>,
    stop: CancellationToken,
}

/// A whole answer.
#[derive(Debug)]
struct Answer {
    code: u16,
    headers: HeaderMap,
    bytes: Vec<u8>,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.bytes).unwrap()
    }

    /// The code, reason and message of a Status.
    fn status(&self) -> (u16, String, String) {
        let body = self.json();
        assert_eq!(body["kind"], "Status", "{body}");
        assert_eq!(body["code"], self.code, "{body}");
        let text = |key: &str| body[key].as_str().unwrap_or_default().to_owned();
        (self.code, text("reason"), text("message"))
    }

    fn warnings(&self) -> Vec<String> {
        let values = self.headers.get_all("warning").iter();
        values.map(|value| value.to_str().unwrap().to_owned()).collect()
    }
}

impl Api {
    fn new() -> Self {
        let fake = FakeBackend::new();
        let stop = CancellationToken::new();
        let app = App::new(Arc::<FakeBackend>::clone(&fake), Clock::start(), stop.clone());
        Self { fake, app, stop }
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from(body.to_vec())).unwrap();
        let response = handle(Arc::clone(&self.app), request).await;
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes().to_vec();
        Answer { code: parts.status.as_u16(), headers: parts.headers, bytes }
    }

    async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], b"").await
    }

    async fn table(&self, path: &str) -> Answer {
        let accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
        self.send("GET", path, &[("accept", accept)], b"").await
    }

    async fn post(&self, path: &str, body: &Value) -> Answer {
        let json = [("content-type", "application/json")];
        self.send("POST", path, &json, body.to_string().as_bytes()).await
    }

    async fn create_pod(&self, name: &str) -> Answer {
        let answer = self.post("/api/v1/namespaces/default/pods", &pod(name)).await;
        assert_eq!(answer.code, 201, "{answer:?}");
        answer
    }
}

fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"containers": [{"name": "main", "image": "web:1"}]},
    })
}

fn config_map(name: &str, value: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name},
        "data": {"key": value},
    })
}
