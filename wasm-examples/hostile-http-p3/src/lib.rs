//! Makes the host hold as much as it can be made to through `wasi:http` 0.3: for the tests of what is on a module's account.
//!
//! args: ATTACK [NUMBER], as `hostile-p3`.

use guest_p3::wasip3::http::client;
use guest_p3::wasip3::http::types::{Fields, Request, Scheme};
use guest_p3::wasip3::wit_future;
use guest_p3::*;

use hoard_p3::{hold_all, told, wait_for_all};

struct Hostile;

export!(Hostile);

impl Guest for Hostile {
    async fn run() -> Result<(), ()> {
        let (attack, number) = told();
        match attack.as_str() {
            "fields" => fields().await,
            "requests" => requests().await,
            "sends" => sends(number).await,
            _ => return Err(()),
        }
        Ok(())
    }
}

/// Lists of header fields, each as long as it gets.
async fn fields() {
    hold_all(usize::MAX, || {
        let fields = Fields::new();
        while fields.append("name", &[b'v'; 1024]).is_ok() {}
        Some(fields)
    })
    .await;
}

fn request(authority: &str, path: &str) -> Request {
    let (trailers, no_trailers) = wit_future::new(|| Ok(None));
    drop(trailers);
    let (request, _) = Request::new(Fields::new(), None, no_trailers, None);
    let _ = request.set_scheme(Some(&Scheme::Http));
    let _ = request.set_authority(Some(authority));
    let _ = request.set_path_with_query(Some(path));
    request
}

/// Requests with long paths, that are never sent.
async fn requests() {
    let path = format!("/{}", "p".repeat(60_000));
    hold_all(usize::MAX, || Some(request("127.0.0.1:1", &path))).await;
}

/// Requests to somebody who takes the connection and never answers.
async fn sends(number: usize) {
    let (listener, _connections) = listen(at(kit::loopback(Family::Ipv4), 0));
    let authority = kit::tcp_local(&listener).to_string();
    wait_for_all(number, |_| client::send(request(&authority, "/"))).await;
}
