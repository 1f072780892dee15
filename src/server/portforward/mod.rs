//! `pods/NAME/portforward`: connections of the outside into a pod, over the API's own connection.
//!
//! ```text
//!  POST  Upgrade: SPDY/3.1      kubectl up to 1.30, and as a fallback     ─┐
//!  GET   Upgrade: websocket     kubectl from 1.31: SPDY inside WebSocket ─┴─► session (many connections)
//!  POST  Upgrade: tcp, ?port=N  podling port-forward ───────────────────────► one connection, bytes as they are
//! ```
//! Owns: choosing among the three. Is not: reaching the pod (the [`super::Backend`] does). No policy is asked, as in Kubernetes:
//! who may use the API may reach the pod.
//! Limits: [`SESSIONS_MAX`].

mod dictionary;
mod inflate;
mod session;
mod spdy;
mod websocket;

use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;

use super::App;
use super::backend::{Forward, ForwardError};
use super::read;
use super::request::{Params, Target};
use super::status::ApiError;
use crate::outside::pump::Pump;
use crate::spec::PodKey;
use session::Wrapping;

/// Forwards at one time; with `podling port-forward` each connection is one.
pub(super) const SESSIONS_MAX: usize = 256;

/// What kubectl and the kubelet call this protocol.
const PROTOCOL: &str = "portforward.k8s.io";
/// The same inside a WebSocket.
const TUNNELLED: &str = "SPDY/3.1+portforward.k8s.io";
const STREAM_PROTOCOL: &str = "x-stream-protocol-version";

/// Which of the three.
enum Kind {
    Spdy,
    WebSocket { key: String },
    Tcp { port: u16 },
}

/// Answers the request, and serves what comes of it.
pub(super) async fn serve(
    app: &Arc<App>,
    target: &Target,
    params: &Params,
    mut request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    read::find(app, target)?;
    let name = target.name.as_deref().unwrap_or_default();
    let key = PodKey::new(target.namespace.as_deref().unwrap_or_default(), name);
    let kind = kind(request.method(), request.headers(), params)?;
    let place = Arc::clone(&app.forwards).try_acquire_owned().map_err(|_| {
        ApiError::too_many_requests(format!("{SESSIONS_MAX} forwards are in progress"))
    })?;
    // A connection that cannot be had is told before the upgrade, where only one is asked for.
    let forward = match &kind {
        Kind::Tcp { port } => Some(app.backend.forward(&key, *port).await.map_err(refused)?),
        Kind::Spdy | Kind::WebSocket { .. } => None,
    };
    let response = accepted(&kind);
    let upgrade = hyper::upgrade::on(&mut request);
    let app = Arc::clone(app);
    tokio::spawn(async move {
        let _place = place;
        let upgraded = match upgrade.await {
            Ok(upgraded) => TokioIo::new(upgraded),
            Err(error) => return tracing::debug!(%error, "a client did not upgrade"),
        };
        match (kind, forward) {
            (Kind::Tcp { .. }, Some(forward)) => carry(upgraded, forward, &app).await,
            (Kind::Tcp { .. }, None) => {}
            (Kind::Spdy, _) => session::run(upgraded, Wrapping::Plain, app, key).await,
            (Kind::WebSocket { .. }, _) => {
                session::run(upgraded, Wrapping::WebSocket, app, key).await;
            }
        }
    });
    Ok(response)
}

/// One connection, bytes as they are.
async fn carry(mut client: TokioIo<hyper::upgrade::Upgraded>, forward: Forward, app: &App) {
    let traffic = &forward.traffic;
    traffic.connections.add(1);
    traffic.connections_open.rise(&traffic.connections_peak);
    app.stop.run_until_cancelled(Pump::new(&mut client, forward.stream, traffic)).await;
    traffic.connections_open.fall();
}

fn kind(method: &Method, headers: &HeaderMap, params: &Params) -> Result<Kind, ApiError> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let upgrade = text("upgrade").unwrap_or_default();
    let offers = |name: &str, wanted: &str| {
        let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|value| value.trim() == wanted)
    };
    if upgrade.eq_ignore_ascii_case("SPDY/3.1") && method == Method::POST {
        if !offers(STREAM_PROTOCOL, PROTOCOL) {
            let asked = text(STREAM_PROTOCOL).unwrap_or("none");
            let why = format!("unable to upgrade: protocol {PROTOCOL} is spoken, not {asked}");
            return Err(ApiError::bad_request(why));
        }
        return Ok(Kind::Spdy);
    }
    if upgrade.eq_ignore_ascii_case("websocket") && method == Method::GET {
        let key = text("sec-websocket-key").filter(|_| offers("sec-websocket-protocol", TUNNELLED));
        let why = || format!("unable to upgrade: subprotocol {TUNNELLED} is spoken");
        let key = key.ok_or_else(|| ApiError::bad_request(why()))?;
        return Ok(Kind::WebSocket { key: key.to_owned() });
    }
    if upgrade.eq_ignore_ascii_case("tcp") && method == Method::POST {
        let port = params.integer("port")?.and_then(|port| u16::try_from(port).ok());
        let port = port.filter(|port| *port > 0);
        let why = || ApiError::bad_request("port must be 1 to 65535");
        return Ok(Kind::Tcp { port: port.ok_or_else(why)? });
    }
    Err(ApiError::bad_request(
        "unable to upgrade: missing upgrade headers in request; SPDY/3.1, websocket and tcp are spoken",
    ))
}

/// 101.
fn accepted(kind: &Kind) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    let upgrade = match kind {
        Kind::Spdy => {
            headers.insert(STREAM_PROTOCOL, HeaderValue::from_static(PROTOCOL));
            "SPDY/3.1"
        }
        Kind::WebSocket { key } => {
            if let Ok(accept) = HeaderValue::from_str(&websocket::accept(key)) {
                headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
            }
            let protocol = HeaderValue::from_static(TUNNELLED);
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
            "websocket"
        }
        Kind::Tcp { .. } => "tcp",
    };
    headers.insert(header::UPGRADE, HeaderValue::from_static(upgrade));
    response
}

fn refused(error: ForwardError) -> ApiError {
    ApiError::bad_request(format!("unable to forward port: {error}"))
}

#[cfg(test)]
mod tests;
