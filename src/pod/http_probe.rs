//! One HTTP GET as kubelet's prober makes it (`pkg/probe/http`, `KUBELET.md` 8), over any connection.
//!
//! Owns: the request's headers, following redirects within the host, what counts as success. Not: opening the
//! connection (the caller dials the pod's own network), nor timeouts and thresholds.

use std::net::SocketAddr;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::header::{ACCEPT, CONNECTION, HOST, HeaderName, HeaderValue, LOCATION, USER_AGENT};
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::lifecycle::ProbeOutcome;
use crate::spec::HttpGet;

/// How much of an answer is read (`pkg/probe/http` `maxRespBodyLength`).
const BODY_BYTES_MAX: usize = 10 * 1024;

/// Redirects followed, as Go's client does.
const REDIRECTS_MAX: usize = 10;

/// Whose request it is: decides the user agent and what counts as success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    /// Success is 200 ≤ status < 400.
    Probe,
    /// Any answer is success (`pkg/kubelet/lifecycle`).
    Hook,
}

impl Asker {
    fn user_agent(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Probe => "kube-probe/1.36",
            Self::Hook => "kube-lifecycle/1.36",
        })
    }
}

/// Opens a connection to the probed address.
pub trait Dial: Send + Sync {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    type Error: std::error::Error + Send + Sync + 'static;
    /// Connects to the address.
    fn dial(
        &self,
        to: SocketAddr,
    ) -> impl Future<Output = Result<Self::Stream, Self::Error>> + Send;
}

/// Asks once, redirects within the host included. The caller bounds the time.
pub async fn get<D: Dial>(dial: &D, to: SocketAddr, get: &HttpGet, asker: Asker) -> ProbeOutcome {
    let host = get.host.clone().unwrap_or_else(|| to.to_string());
    let mut path = get.path.clone();
    for _ in 0..=REDIRECTS_MAX {
        let url = format!("http://{host}{path}");
        let answer = match ask(dial, to, &host, &path, get, asker).await {
            Ok(answer) => answer,
            Err(Failed::Request(why)) => return ProbeOutcome::Error(why),
            Err(Failed::Answer(why)) => {
                return ProbeOutcome::Failure(format!("Get \"{url}\": {why}"));
            }
        };
        if asker == Asker::Hook {
            return ProbeOutcome::Success;
        }
        match (answer.status, answer.location) {
            (301..=303 | 307 | 308, Some(location)) => match same_host(&location, &host) {
                Some(next) => path = next,
                None => {
                    return ProbeOutcome::Warning(format!(
                        "Probe terminated redirects, Response body: {}",
                        answer.body
                    ));
                }
            },
            (200..400, _) => return ProbeOutcome::Success,
            (status, _) => {
                let text = format!("HTTP probe failed with statuscode: {status}");
                return ProbeOutcome::Failure(text);
            }
        }
    }
    ProbeOutcome::Failure(format!("Get \"http://{host}{path}\": stopped after 10 redirects"))
}

struct Answer {
    status: u16,
    location: Option<String>,
    body: String,
}

enum Failed {
    /// The request cannot be made at all: says nothing about the module.
    Request(String),
    /// The module did not answer properly.
    Answer(String),
}

async fn ask<D: Dial>(
    dial: &D,
    to: SocketAddr,
    host: &str,
    path: &str,
    get: &HttpGet,
    asker: Asker,
) -> Result<Answer, Failed> {
    let request = request(host, path, get, asker)?;
    let answer = |e: &dyn std::fmt::Display| Failed::Answer(e.to_string());
    let stream = dial.dial(to).await.map_err(|e| {
        Failed::Answer(format!("dial tcp {to}: connect: {}", crate::error::chain(&e)))
    })?;
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(64 * 1024)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|e| answer(&e))?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|e| answer(&e))?;
        let status = response.status().as_u16();
        let location = response.headers().get(LOCATION).and_then(|l| l.to_str().ok());
        let location = location.map(str::to_owned);
        // A body that is too long or broken off does not make a good status bad.
        let body = Limited::new(response.into_body(), BODY_BYTES_MAX).collect().await;
        let body = body.map(|b| String::from_utf8_lossy(&b.to_bytes()).into_owned());
        Ok(Answer { status, location, body: body.unwrap_or_default() })
    };
    // The connection lives exactly as long as the exchange: dropping it closes the stream, so a probe that times out
    // leaves nothing behind.
    tokio::pin!(exchange, connection);
    tokio::select! {
        biased;
        result = &mut exchange => result,
        ended = &mut connection => match ended {
            Ok(()) => exchange.await,
            Err(error) => Err(answer(&error)),
        },
    }
}

fn request(
    host: &str,
    path: &str,
    get: &HttpGet,
    asker: Asker,
) -> Result<Request<Empty<Bytes>>, Failed> {
    let bad = |what: &str| Failed::Request(format!("cannot make the request: {what}"));
    let mut request = Request::get(path)
        .body(Empty::new())
        .map_err(|_| bad(&format!("path {path:?} is not valid")))?;
    let headers = request.headers_mut();
    headers.insert(HOST, HeaderValue::from_str(host).map_err(|_| bad("bad host"))?);
    headers.insert(USER_AGENT, asker.user_agent());
    headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    for (name, value) in &get.headers {
        let name = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| bad(&format!("header name {name:?} is not valid")))?;
        // An empty Accept means "send none".
        if name == ACCEPT && value.is_empty() {
            headers.remove(ACCEPT);
            continue;
        }
        let value = HeaderValue::from_str(value)
            .map_err(|_| bad(&format!("the value of header {name} is not valid")))?;
        headers.insert(name, value);
    }
    Ok(request)
}

/// The path of a redirect that stays on this host; `None` if it leads elsewhere.
fn same_host(location: &str, host: &str) -> Option<String> {
    let uri: Uri = location.parse().ok()?;
    let path = uri.path_and_query().map_or("/", |p| p.as_str());
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    match uri.authority() {
        None => Some(path),
        Some(authority) if authority.as_str() == host => Some(path),
        Some(_) => None,
    }
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::io;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::*;
    use crate::spec::{HttpScheme, PortRef};

    /// Answers each connection with the next of these texts.
    struct Server(std::sync::Mutex<Vec<&'static str>>);

    impl Dial for Server {
        type Stream = DuplexStream;
        type Error = io::Error;

        async fn dial(&self, _to: SocketAddr) -> Result<DuplexStream, io::Error> {
            let Some(answer) = self.0.lock().unwrap().pop() else {
                return Err(io::ErrorKind::ConnectionRefused.into());
            };
            let (near, mut far) = tokio::io::duplex(64 * 1024);
            tokio::spawn(async move {
                let mut seen = vec![];
                while !seen.ends_with(b"\r\n\r\n") {
                    seen.push(far.read_u8().await.unwrap());
                }
                assert!(seen.starts_with(b"GET /"));
                far.write_all(answer.as_bytes()).await.unwrap();
            });
            Ok(near)
        }
    }

    async fn check(mut answers: Vec<&'static str>, asker: Asker) -> ProbeOutcome {
        answers.reverse();
        let http_get = HttpGet {
            scheme: HttpScheme::Http,
            host: None,
            port: PortRef::Number(80),
            path: "/healthz".into(),
            headers: vec![("X-Test".into(), "1".into())],
        };
        let server = Server(std::sync::Mutex::new(answers));
        get(&server, "10.0.0.1:80".parse().unwrap(), &http_get, asker).await
    }

    fn failure(text: &str) -> ProbeOutcome {
        ProbeOutcome::Failure(text.into())
    }

    #[tokio::test]
    async fn statuses_decide_as_kubernetes_has_it() {
        let rows = [
            ("HTTP/1.1 200 OK\r\n\r\n", ProbeOutcome::Success),
            ("HTTP/1.1 399 Odd\r\n\r\n", ProbeOutcome::Success),
            ("HTTP/1.1 404 No\r\n\r\n", failure("HTTP probe failed with statuscode: 404")),
            ("HTTP/1.1 500 No\r\n\r\n", failure("HTTP probe failed with statuscode: 500")),
            ("HTTP/1.1 304 Same\r\n\r\n", ProbeOutcome::Success),
        ];
        for (answer, expected) in rows {
            assert_eq!(check(vec![answer], Asker::Probe).await, expected, "{answer}");
        }
        assert_eq!(
            check(vec!["HTTP/1.1 500 No\r\n\r\n"], Asker::Hook).await,
            ProbeOutcome::Success
        );
    }

    #[tokio::test]
    async fn a_refused_connection_is_a_failure_in_kubernetes_words() {
        let outcome = check(vec![], Asker::Probe).await;
        let expected =
            "Get \"http://10.0.0.1:80/healthz\": dial tcp 10.0.0.1:80: connect: connection refused";
        assert_eq!(outcome, failure(expected));
    }

    #[tokio::test]
    async fn redirects_are_followed_within_the_host_only() {
        let near = "HTTP/1.1 302 F\r\nLocation: /ok\r\n\r\n";
        let far = "HTTP/1.1 302 F\r\nLocation: http://elsewhere/\r\nContent-Length: 3\r\n\r\nbye";
        let ok = "HTTP/1.1 200 OK\r\n\r\n";
        assert_eq!(check(vec![near, ok], Asker::Probe).await, ProbeOutcome::Success);
        let warning = "Probe terminated redirects, Response body: bye";
        assert_eq!(check(vec![far], Asker::Probe).await, ProbeOutcome::Warning(warning.into()));
        let ever = failure("Get \"http://10.0.0.1:80/ok\": stopped after 10 redirects");
        assert_eq!(check(vec![near; 12], Asker::Probe).await, ever);
    }

    #[tokio::test]
    async fn an_answer_that_is_no_http_is_a_failure() {
        let outcome = check(vec!["SSH-2.0-x\r\n\r\n"], Asker::Probe).await;
        assert!(matches!(outcome, ProbeOutcome::Failure(_)), "{outcome:?}");
    }
}
