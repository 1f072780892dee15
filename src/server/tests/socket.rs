use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::Api;
use crate::server::listen::{self, BindError};

/// Nothing here takes long; who waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(60);

fn mode(path: &std::path::Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

async fn ask(path: &std::path::Path, request: &str) -> String {
    let mut stream = UnixStream::connect(path).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer);
    tokio::time::timeout(PATIENCE, read).await.unwrap().unwrap();
    answer
}

#[tokio::test]
async fn the_socket_is_private_to_its_group_and_serves_http() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run/podling.sock");
    let listener = listen::bind(&path).unwrap();
    assert_eq!((mode(&path), mode(path.parent().unwrap()) & 0o027), (0o660, 0));
    let api = Api::new();
    let server = tokio::spawn(listen::serve(listener, Arc::clone(&api.app), api.stop.clone()));
    let close = "Host: x\r\nConnection: close\r\n\r\n";
    let answer = ask(&path, &format!("GET /healthz HTTP/1.1\r\n{close}")).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("ok"), "{answer}");
    let answer = ask(&path, "nonsense\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    api.stop.cancel();
    tokio::time::timeout(PATIENCE, server).await.unwrap().unwrap();
    assert!(!path.exists(), "the socket file goes with the server");
}

#[tokio::test]
async fn a_stale_socket_is_replaced_a_live_one_and_a_file_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("podling.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "a crashed daemon leaves this behind");
    let listener = listen::bind(&path).unwrap();
    assert!(matches!(listen::bind(&path), Err(BindError::InUse { .. })));
    drop(listener);
    std::fs::write(&path, "precious").unwrap();
    assert!(matches!(listen::bind(&path), Err(BindError::NotASocket { .. })));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

#[tokio::test]
async fn a_watch_does_not_keep_the_server_from_stopping() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("podling.sock");
    let listener = listen::bind(&path).unwrap();
    let api = Api::new();
    let server = tokio::spawn(listen::serve(listener, Arc::clone(&api.app), api.stop.clone()));
    let mut stream = UnixStream::connect(&path).await.unwrap();
    let request = "GET /api/v1/pods?watch=true HTTP/1.1\r\nHost: x\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = [0; 15];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200 OK");
    api.stop.cancel();
    // It comes to its end, in order; else the server would leave it behind when its time for that is over.
    let mut rest = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await.unwrap().unwrap();
    assert!(rest.ends_with(b"0\r\n\r\n"), "{}", String::from_utf8_lossy(&rest));
    tokio::time::timeout(PATIENCE, server).await.unwrap().unwrap();
}
