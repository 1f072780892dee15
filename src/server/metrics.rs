//! `/metrics` in OpenMetrics' text form: what the server alone can tell, then what the rest of the daemon counts.

use std::fmt::Write as _;

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode};

use crate::board::Kind;

use super::{App, STREAMS_MAX, wire};

pub(super) fn response(app: &App) -> Response<Body> {
    let board = app.backend.board();
    let mut text = String::new();
    text.push_str("# HELP podling_objects Objects on this node.\n# TYPE podling_objects gauge\n");
    for kind in Kind::ALL {
        let count = board.count(kind);
        // Writing into a String cannot fail.
        let _ = writeln!(text, "podling_objects{{kind=\"{}\"}} {count}", kind.as_str());
    }
    let streams = STREAMS_MAX - app.streams.available_permits().min(STREAMS_MAX);
    text.push_str(
        "# HELP podling_api_streams Watches and followed logs in progress.\n# TYPE podling_api_streams gauge\n",
    );
    let _ = writeln!(text, "podling_api_streams {streams}");
    let _ = writeln!(
        text,
        "# HELP podling_build_info Version.\n# TYPE podling_build_info gauge\npodling_build_info{{version=\"{}\"}} 1",
        app.version.podling
    );
    let rest = app.backend.metrics();
    text.push_str(if rest.is_empty() { "# EOF\n" } else { &rest });
    let kind =
        HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    wire::bytes_response(StatusCode::OK, kind, Body::from(text))
}
