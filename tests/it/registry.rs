//! A small OCI registry and file server on loopback, which misbehaves on request.
//!
//! Owns: manifests, blobs with ranges, plain files, the two ways to ask who is there, and faults. Pushing as
//! `oci_client` does it in one piece. Also compiled into the library's own tests, so it depends on nothing of ours.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// What goes wrong with the next download (of a blob or a file), each once.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// So many bytes of the body, then the connection ends.
    CutAfter(usize),
    /// So many bytes of the body, then nothing.
    HangAfter(usize),
    /// Another status, with a body.
    Status(u16, &'static str),
    /// All of it, whatever was asked for.
    IgnoreRange,
    /// The byte there is another one.
    Flip(usize),
    /// A web page in its place.
    Page,
    /// To this address.
    Redirect(String),
    /// The body's length is not told, and its end is the connection's.
    NoLength,
    /// No fault.
    None,
}

/// Who may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Door {
    Open,
    Basic,
    Token,
}

/// Serves until it is dropped.
#[derive(Debug)]
pub(crate) struct Registry {
    pub(crate) address: SocketAddr,
    shelves: Arc<Mutex<Shelves>>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shelves {
    scheme: &'static str,
    /// By `/v2/…` path or file path: media type and bytes.
    things: BTreeMap<String, (String, Vec<u8>)>,
    faults: VecDeque<Fault>,
    door: Door,
    log: Vec<String>,
}

/// Name and password that open the door.
pub(crate) const USER: (&str, &str) = ("ana", "geheim");

const TOKEN: &str = "token-of-ana";

impl Registry {
    pub(crate) async fn start() -> Self {
        Self::serve(None).await
    }

    /// With a certificate.
    pub(crate) async fn start_tls(acceptor: TlsAcceptor) -> Self {
        Self::serve(Some(acceptor)).await
    }

    async fn serve(tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let shelves = Arc::new(Mutex::new(Shelves {
            scheme,
            things: BTreeMap::new(),
            faults: VecDeque::new(),
            door: Door::Open,
            log: Vec::new(),
        }));
        let theirs = Arc::clone(&shelves);
        let task = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { return };
                let (shelves, tls) = (Arc::clone(&theirs), tls.clone());
                tokio::spawn(async move {
                    // A client that hangs up is no matter.
                    let _ = match tls {
                        None => answer(stream, address, &shelves).await,
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => answer(stream, address, &shelves).await,
                            Err(error) => Err(error),
                        },
                    };
                });
            }
        });
        Self { address, shelves, task }
    }

    fn shelves(&self) -> MutexGuard<'_, Shelves> {
        self.shelves.lock().unwrap()
    }

    /// `HOST:PORT`
    pub(crate) fn host(&self) -> String {
        self.address.to_string()
    }

    pub(crate) fn put_file(&self, path: &str, bytes: &[u8]) -> String {
        let thing = ("application/octet-stream".to_owned(), bytes.to_vec());
        self.shelves().things.insert(path.to_owned(), thing);
        format!("{}://{}{path}", self.shelves().scheme, self.address)
    }

    /// A blob; its digest.
    pub(crate) fn put_blob(&self, repository: &str, bytes: &[u8]) -> String {
        let digest = digest(bytes);
        self.put_file(&format!("/v2/{repository}/blobs/{digest}"), bytes);
        digest
    }

    /// A manifest under its digest and a tag; its digest.
    pub(crate) fn put_manifest(
        &self,
        repository: &str,
        tag: &str,
        kind: &str,
        json: &str,
    ) -> String {
        let digest = digest(json.as_bytes());
        for reference in [tag, &digest] {
            let path = format!("/v2/{repository}/manifests/{reference}");
            let thing = (kind.to_owned(), json.as_bytes().to_vec());
            self.shelves().things.insert(path, thing);
        }
        digest
    }

    /// A module as an image; its manifest's digest.
    pub(crate) fn put_image(&self, repository: &str, tag: &str, module: &[u8]) -> String {
        let config = self.put_blob(repository, b"{}");
        let layer = self.put_blob(repository, module);
        const KIND: &str = "application/vnd.oci.image.manifest.v1+json";
        let json = format!(
            r#"{{"schemaVersion":2,"mediaType":"{KIND}",
                "config":{{"mediaType":"application/vnd.wasm.config.v0+json","digest":"{config}","size":2}},
                "layers":[{{"mediaType":"application/wasm","digest":"{layer}","size":{}}}]}}"#,
            module.len()
        );
        self.put_manifest(repository, tag, KIND, &json)
    }

    pub(crate) fn lock(&self, door: Door) {
        self.shelves().door = door;
    }

    pub(crate) fn plan(&self, faults: impl IntoIterator<Item = Fault>) {
        self.shelves().faults = faults.into_iter().collect();
    }

    /// What was asked since the last call: `GET PATH [range]`, in order.
    pub(crate) fn log(&self) -> Vec<String> {
        std::mem::take(&mut self.shelves().log)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(crate) fn digest(bytes: &[u8]) -> String {
    let mut text = String::from("sha256:");
    for byte in Sha256::digest(bytes) {
        write!(text, "{byte:02x}").unwrap();
    }
    text
}

async fn answer(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    address: SocketAddr,
    shelves: &Mutex<Shelves>,
) -> io::Result<()> {
    let head = read_head(&mut stream).await?;
    let mut lines = head.lines();
    let first = lines.next().unwrap_or_default();
    let method = first.split(' ').next().unwrap_or_default();
    let target = first.split(' ').nth(1).unwrap_or("/").to_owned();
    let header = |name: &str| {
        lines.clone().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    };
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let (range, authorization) = (header("range"), header("authorization"));
    let length: usize = header("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut given = vec![0; length];
    stream.read_exact(&mut given).await?;
    let kind = header("content-type").unwrap_or_default();
    let (reply, fault) = {
        let mut shelves = shelves.lock().unwrap();
        let shown = range.as_ref().map(|range| format!(" {range}")).unwrap_or_default();
        shelves.log.push(format!("{method} {path}{shown}"));
        let asker = authorization.unwrap_or_default();
        match refuse(&shelves, path, query, &asker, address) {
            Some(reply) => (reply, Fault::None),
            None if matches!(method, "POST" | "PUT") => {
                (take_in(&mut shelves, path, query, &kind, given), Fault::None)
            }
            None => find(&mut shelves, path, range.as_deref()),
        }
    };
    let mut body = reply.body;
    let mut head = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", reply.status);
    if !matches!(fault, Fault::NoLength) {
        write!(head, "Content-Length: {}\r\n", body.len()).unwrap();
    }
    for (name, value) in reply.headers {
        write!(head, "{name}: {value}\r\n").unwrap();
    }
    stream.write_all(format!("{head}\r\n").as_bytes()).await?;
    if let Fault::CutAfter(bytes) | Fault::HangAfter(bytes) = fault {
        body.truncate(bytes);
    }
    if method != "HEAD" {
        stream.write_all(&body).await?;
    }
    stream.flush().await?;
    if matches!(fault, Fault::HangAfter(_)) {
        // Until the other side hangs up.
        let _ = stream.read(&mut [0]).await;
    }
    stream.shutdown().await
}

async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

struct Reply {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

/// The answer to one who may not come in; and the token service, which is behind the same door.
fn refuse(
    shelves: &Shelves,
    path: &str,
    query: &str,
    asker: &str,
    address: SocketAddr,
) -> Option<Reply> {
    let json = |status, body: &str| {
        let headers = vec![("Content-Type", "application/json".to_owned())];
        Some(Reply { status, headers, body: body.as_bytes().to_vec() })
    };
    let is_ana = asker == format!("Basic {}", STANDARD.encode(format!("{}:{}", USER.0, USER.1)));
    if path == "/token" {
        let is_pull = query.contains("pull") && query.contains("service=test");
        return match (is_ana, is_pull) {
            (true, true) => json(200, &format!(r#"{{"token":"{TOKEN}","expires_in":300}}"#)),
            (true, false) => json(400, r#"{"details":"no scope"}"#),
            (false, _) => json(401, r#"{"details":"incorrect username or password"}"#),
        };
    }
    let (may_come_in, challenge) = match shelves.door {
        Door::Open => return None,
        Door::Basic => (is_ana, "Basic realm=\"test\"".to_owned()),
        Door::Token => {
            let scheme = shelves.scheme;
            let challenge = format!("Bearer realm=\"{scheme}://{address}/token\",service=\"test\"");
            (asker == format!("Bearer {TOKEN}"), challenge)
        }
    };
    if may_come_in {
        return None;
    }
    let mut reply = json(401, r#"{"errors":[{"code":"UNAUTHORIZED","message":"who are you?"}]}"#)?;
    reply.headers.push(("WWW-Authenticate", challenge));
    Some(reply)
}

/// A blob in one piece, or a manifest.
fn take_in(shelves: &mut Shelves, path: &str, query: &str, kind: &str, bytes: Vec<u8>) -> Reply {
    let (status, location) = match path.strip_suffix("/blobs/uploads/") {
        Some(repository) => (202, format!("{repository}/blobs/uploads/1")),
        None => {
            let named = query.split('&').find_map(|pair| pair.strip_prefix("digest="));
            let named = named.map(|digest| digest.replace("%3A", ":"));
            let path = match path.split_once("/blobs/uploads/") {
                Some((repository, _)) => {
                    assert_eq!(named.as_deref(), Some(digest(&bytes).as_str()));
                    format!("{repository}/blobs/{}", digest(&bytes))
                }
                None => path.to_owned(),
            };
            if let Some((repository, _)) = path.split_once("/manifests/") {
                let by_digest = format!("{repository}/manifests/{}", digest(&bytes));
                shelves.things.insert(by_digest, (kind.to_owned(), bytes.clone()));
            }
            shelves.things.insert(path.clone(), (kind.to_owned(), bytes));
            (201, path)
        }
    };
    Reply { status, headers: vec![("Location", location)], body: Vec::new() }
}

fn find(shelves: &mut Shelves, path: &str, range: Option<&str>) -> (Reply, Fault) {
    let is_download = !path.contains("/manifests/");
    let fault =
        if is_download { shelves.faults.pop_front().unwrap_or(Fault::None) } else { Fault::None };
    let plain = |status, kind: &str, body: &[u8]| Reply {
        status,
        headers: vec![("Content-Type", kind.to_owned())],
        body: body.to_vec(),
    };
    match &fault {
        Fault::Status(status, body) => {
            return (plain(*status, "text/plain", body.as_bytes()), fault);
        }
        Fault::Page => {
            return (plain(200, "text/html", b"<html><body>Log in</body></html>"), fault);
        }
        Fault::Redirect(to) => {
            let mut reply = plain(307, "text/plain", b"");
            reply.headers.push(("Location", to.clone()));
            return (reply, fault);
        }
        Fault::CutAfter(_)
        | Fault::HangAfter(_)
        | Fault::IgnoreRange
        | Fault::Flip(_)
        | Fault::NoLength
        | Fault::None => {}
    }
    let Some((kind, bytes)) = shelves.things.get(path) else {
        let body = r#"{"errors":[{"code":"NAME_UNKNOWN","message":"repository name not known to registry"}]}"#;
        return (plain(404, "application/json", body.as_bytes()), fault);
    };
    let mut bytes = bytes.clone();
    if let Fault::Flip(at) = fault {
        bytes[at] ^= 1;
    }
    let start: Option<usize> = range
        .filter(|_| !matches!(fault, Fault::IgnoreRange))
        .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    let reply = match start {
        None => {
            let mut reply = plain(200, kind, &bytes);
            reply.headers.push(("Docker-Content-Digest", digest(&bytes)));
            reply
        }
        Some(start) if start >= bytes.len() => plain(416, "text/plain", b"no such range"),
        Some(start) => {
            let mut reply = plain(206, kind, &bytes[start..]);
            let (end, size) = (bytes.len() - 1, bytes.len());
            reply.headers.push(("Content-Range", format!("bytes {start}-{end}/{size}")));
            reply
        }
    };
    (reply, fault)
}
