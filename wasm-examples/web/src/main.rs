//! A static file server, as small as one can be and still be trusted with a browser.
//!
//! GET /PATH answers a file below the root (a folder: its `index.html`), 404 otherwise; `/healthz` answers 200;
//! `/crash` makes the module trap, to show what a restart does and does not touch. One log line a request.
//!
//! env: `PORT` (default 8080); `WEB_ROOT` (default /srv), best a mount of its own: the runtime's sandbox is what
//! a symbolic link cannot leave.
//! exit codes: 1 when the port cannot be had; a trap after `/crash`.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::{env, io};

use guest_net::{Body, Reply, Request, number_from_env, serve};

fn main() -> io::Result<()> {
    let root = PathBuf::from(env::var("WEB_ROOT").unwrap_or_else(|_| "/srv".to_owned()));
    let port = number_from_env("PORT", 8080) as u16;
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?;
    println!("web: serving {} on port {port}", root.display());
    let never = serve(&listener, |request| {
        let reply = answer(&root, request);
        println!("{} {} {}", request.method, request.path, reply.status);
        reply
    })?;
    match never {}
}

fn answer(root: &Path, request: &Request) -> Reply {
    match request.path.as_str() {
        "/healthz" => Reply::text(200, "ok\n"),
        "/crash" => crash(),
        path => file_below(root, path).unwrap_or_else(|| Reply::text(404, "not found\n")),
    }
}

#[inline(never)]
fn crash() -> Reply {
    panic!("asked to crash by GET /crash");
}

fn file_below(root: &Path, path: &str) -> Option<Reply> {
    let mut file_path = root.to_owned();
    for segment in decode(path)?.split('/').filter(|segment| !segment.is_empty()) {
        // A leading dot covers `.`, `..` and what is not meant to be served (`.git`, half-written files).
        if segment.starts_with('.') || segment.contains(['\\', '\0']) {
            return None;
        }
        file_path.push(segment);
    }
    if file_path.is_dir() {
        file_path.push("index.html");
    }
    let file = File::open(&file_path).ok()?;
    let metadata = file.metadata().ok().filter(std::fs::Metadata::is_file)?;
    let body = Body::File(file, metadata.len());
    Some(Reply { status: 200, content_type: content_type(&file_path), body })
}

/// Undoes percent-encoding; none when it is malformed or hides a byte that is no text.
fn decode(path: &str) -> Option<String> {
    let mut bytes = path.bytes();
    let mut plain = Vec::with_capacity(path.len());
    while let Some(byte) = bytes.next() {
        plain.push(match byte {
            b'%' => hex(bytes.next()?)? << 4 | hex(bytes.next()?)?,
            other => other,
        });
    }
    String::from_utf8(plain).ok()
}

fn hex(digit: u8) -> Option<u8> {
    (digit as char).to_digit(16).map(|value| value as u8)
}

fn content_type(path: &Path) -> &'static str {
    match path.extension().and_then(|extension| extension.to_str()).unwrap_or_default() {
        "html" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "json" => "application/json",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "ico" => "image/x-icon",
        "txt" | "log" => "text/plain; charset=utf-8",
        "wasm" => "application/wasm",
        _ => "application/octet-stream",
    }
}
