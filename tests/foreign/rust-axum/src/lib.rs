//! axum on wasi:http, by `wstd`: routes, queries, JSON, timers, and a request of its own.

use std::time::Duration;

use axum::extract::{Path, Query};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use wstd::http::{Body, Client, Request};

#[derive(Deserialize)]
struct Ask {
    url: String,
}

#[derive(Deserialize, Serialize)]
struct Reading {
    sensor: String,
    celsius: f64,
}

#[wstd_axum::http_server]
fn main() -> Router {
    Router::new()
        .route("/", get(|| async { format!("hello from axum, {}\n", std::env::var("NAME").unwrap_or_default()) }))
        .route("/sensors/{name}", get(|Path(name): Path<String>| async move { Json(Reading { sensor: name, celsius: 21.5 }) }))
        .route("/sensors", post(|Json(reading): Json<Reading>| async move { format!("{} has {}\n", reading.sensor, reading.celsius) }))
        .route("/sleep", get(|| async {
            wstd::task::sleep(wstd::time::Duration::from(Duration::from_millis(100))).await;
            "slept\n"
        }))
        .route("/crash", get(|| async { if true { panic!("asked to crash") }; "" }))
        .route("/ask", get(ask))
}

async fn ask(Query(Ask { url }): Query<Ask>) -> Result<String, String> {
    let request = Request::get(url).body(Body::empty()).map_err(|error| error.to_string())?;
    let response = Client::new().send(request).await.map_err(|error| error.to_string())?;
    let status = response.status();
    let mut body = response.into_body();
    let text = body.str_contents().await.map_err(|error| error.to_string())?;
    Ok(format!("they say {status}: {text}"))
}
