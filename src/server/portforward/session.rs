//! One `kubectl port-forward`: SPDY streams on one side, connections into a pod on the other.
//!
//! ```text
//!  client ─► reader ─► [WebSocket] ─► SPDY ─┬─ data stream ─► queue ─► connection ─► pod
//!  client ◄─ writer ◄─ [WebSocket] ◄─ SPDY ◄┴────────────────────────── connection ◄─ pod
//! ```
//! Owns: pairing streams (for each connection one for data, one for an error), and carrying bytes. Follows
//! `k8s.io/kubelet/pkg/cri/streaming/portforward`. Is not: the frames (`spdy`, `websocket`).
//! SPDY's own flow control is not in use at the other end, so a connection whose module does not read stops its neighbours on the
//! same session, as it does with the kubelet. `podling port-forward` has a way of its own for each connection, and no such trouble.
//! Limits: [`STREAMS_MAX`], [`QUEUE_FRAMES`] of up to [`READ_BYTES`] for each connection.

use std::collections::{BTreeMap, HashMap};
use std::future::poll_fn;
use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::debug;

use super::spdy::{self, Event};
use super::websocket;
use crate::net::Stream;
use crate::outside::stats::Traffic;
use crate::server::App;
use crate::server::backend::Forward;
use crate::spec::PodKey;

/// Streams of one session: each connection has two.
const STREAMS_MAX: usize = 256;

/// Bytes read from the client at once.
const READ_BYTES: usize = 32 * 1024;

/// Pieces that wait for a module to read.
const QUEUE_FRAMES: usize = 8;

/// Frames that wait for the client to read.
const OUT_FRAMES: usize = 32;

/// Whether SPDY's frames are sent as they are, or in WebSocket frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wrapping {
    Plain,
    WebSocket,
}

/// What ends a session before its client does.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error("the connection broke")]
    Broken(#[from] io::Error),
    #[error("the client speaks no SPDY/3.1")]
    Spdy(#[from] spdy::FrameError),
    #[error("the client speaks no WebSocket")]
    WebSocket(#[from] websocket::WebSocketError),
}

/// Serves until the client is done.
pub(super) async fn run<S>(io: S, wrapping: Wrapping, app: Arc<App>, key: PodKey)
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (read, write) = tokio::io::split(io);
    let (out, frames) = mpsc::channel(OUT_FRAMES);
    let writer = tokio::spawn(write_all(write, wrapping, frames));
    let session = Session {
        app: Arc::clone(&app),
        key: key.clone(),
        out: out.clone(),
        streams: HashMap::new(),
        waiting: BTreeMap::new(),
        connections: JoinSet::new(),
    };
    let ended = app.stop.run_until_cancelled(session.read_all(read, wrapping)).await;
    if let Some(Err(error)) = ended {
        debug!(pod = %key, error = %crate::error::Chain(&error), "port-forward ended");
    }
    // A client that has gone hears nothing any more.
    let _ = out.send(Out::Close).await;
    drop(out);
    let _ = writer.await;
}

/// Something for the client.
#[derive(Debug)]
enum Out {
    Accept(u32),
    Data { stream: u32, data: Bytes, fin: bool },
    Reset(u32, u32),
    Pong(u32),
    WebSocketPong(Bytes),
    Close,
}

async fn write_all<W: AsyncWrite + Unpin>(
    mut to: W,
    wrapping: Wrapping,
    mut frames: mpsc::Receiver<Out>,
) {
    let mut spdy = spdy::Writer::default();
    while let Some(frame) = frames.recv().await {
        let (head, data) = match frame {
            Out::Accept(stream) => (spdy.accept(stream), Bytes::new()),
            Out::Reset(stream, status) => (spdy::reset(stream, status), Bytes::new()),
            Out::Pong(id) => (spdy::pong(id), Bytes::new()),
            Out::Data { stream, data, fin } => {
                let length = u32::try_from(data.len()).unwrap_or(0);
                (Bytes::copy_from_slice(&spdy::data_head(stream, length, fin)), data)
            }
            Out::WebSocketPong(data) => {
                if to.write_all(&websocket::pong(&data)).await.is_err() {
                    return;
                }
                continue;
            }
            Out::Close => break,
        };
        let mut start = BytesMut::new();
        if wrapping == Wrapping::WebSocket {
            start.extend_from_slice(&websocket::data_head(head.len() + data.len()));
        }
        start.extend_from_slice(&head);
        let sent = async {
            to.write_all(&start).await?;
            to.write_all(&data).await?;
            to.flush().await
        };
        if sent.await.is_err() {
            // The reader sees that the client has gone.
            return;
        }
    }
    if wrapping == Wrapping::WebSocket {
        // Courtesy only.
        let _ = to.write_all(&websocket::close()).await;
    }
    let _ = to.shutdown().await;
}

/// What a data stream brings to its connection.
#[derive(Debug)]
enum In {
    Data(Bytes),
    Fin,
}

/// What is known of an open stream.
#[derive(Debug)]
enum Role {
    Error,
    /// `None` once there is nothing more to come.
    Data(Option<mpsc::Sender<In>>),
}

/// The streams of a connection that is not complete yet.
#[derive(Debug, Default)]
struct Pair {
    error: Option<u32>,
    data: Option<(u32, mpsc::Receiver<In>)>,
}

struct Session {
    app: Arc<App>,
    key: PodKey,
    out: mpsc::Sender<Out>,
    streams: HashMap<u32, Role>,
    /// By request.
    waiting: BTreeMap<String, Pair>,
    /// Each ends with the session.
    connections: JoinSet<()>,
}

impl Session {
    async fn read_all<R: AsyncRead + Unpin>(
        mut self,
        mut from: R,
        wrapping: Wrapping,
    ) -> Result<(), SessionError> {
        let mut spdy = spdy::Reader::default();
        let mut tunnel = websocket::Reader::default();
        let (mut raw, mut plain) = (BytesMut::new(), BytesMut::new());
        loop {
            raw.reserve(READ_BYTES);
            let mut limited = bytes::BufMut::limit(&mut raw, READ_BYTES);
            if from.read_buf(&mut limited).await? == 0 {
                return Ok(());
            }
            match wrapping {
                Wrapping::Plain => plain.unsplit(raw.split()),
                Wrapping::WebSocket => {
                    while let Some(event) = tunnel.next(&mut raw)? {
                        match event {
                            websocket::Event::Data(data) => plain.extend_from_slice(&data),
                            websocket::Event::Ping(data) => {
                                self.send(Out::WebSocketPong(data)).await;
                            }
                            websocket::Event::Close => return Ok(()),
                        }
                    }
                }
            }
            while let Some(event) = spdy.next(&mut plain)? {
                if event == Event::GoAway {
                    return Ok(());
                }
                self.take(event).await;
            }
            while self.connections.try_join_next().is_some() {}
        }
    }

    async fn send(&self, frame: Out) {
        // Nobody writes any more: the reader is about to see the same.
        let _ = self.out.send(frame).await;
    }

    async fn take(&mut self, event: Event) {
        match event {
            Event::Open { stream, headers, fin } => self.open(stream, &headers, fin).await,
            Event::Data { stream, data, fin } => self.data(stream, data, fin).await,
            Event::Reset { stream } => {
                // Without its sender, a connection that has not heard of an end is aborted.
                self.streams.remove(&stream);
            }
            Event::Ping { id } => self.send(Out::Pong(id)).await,
            Event::GoAway => {}
        }
    }

    async fn open(&mut self, stream: u32, headers: &[(String, String)], fin: bool) {
        let header = |name: &str| {
            let found = headers.iter().find(|(header, _)| header == name);
            found.map(|(_, value)| value.as_str())
        };
        let port = header("port").and_then(|port| port.parse().ok()).filter(|port: &u16| *port > 0);
        let kind = header("streamtype");
        let known = matches!(kind, Some("error" | "data"));
        let (Some(port), true, true) = (port, known, self.streams.len() < STREAMS_MAX) else {
            return self.send(Out::Reset(stream, spdy::REFUSED_STREAM)).await;
        };
        self.send(Out::Accept(stream)).await;
        // Clients before `requestID` opened the error stream, and then the data stream.
        let own = if kind == Some("error") { stream } else { stream.saturating_sub(2) };
        let request = header("requestid").map_or_else(|| format!("stream {own}"), str::to_owned);
        let pair = self.waiting.entry(request.clone()).or_default();
        if kind == Some("error") {
            pair.error = Some(stream);
            self.streams.insert(stream, Role::Error);
        } else {
            let (sender, receiver) = mpsc::channel(QUEUE_FRAMES);
            pair.data = Some((stream, receiver));
            self.streams.insert(stream, Role::Data(Some(sender)));
        }
        if pair.error.is_some()
            && pair.data.is_some()
            && let Some(Pair { error: Some(error), data: Some((data, from_client)) }) =
                self.waiting.remove(&request)
        {
            let (key, out) = (self.key.clone(), self.out.clone());
            let ends = Ends { key, port, data, error, out };
            self.connections.spawn(ends.connect(Arc::clone(&self.app), from_client));
        }
        if fin {
            self.data(stream, Bytes::new(), true).await;
        }
    }

    async fn data(&mut self, stream: u32, data: Bytes, fin: bool) {
        let Some(Role::Data(sender)) = self.streams.get_mut(&stream) else { return };
        if let Some(to) = sender {
            // A connection that is over wants nothing any more.
            if !data.is_empty() {
                let _ = to.send(In::Data(data)).await;
            }
            if fin {
                let _ = to.send(In::Fin).await;
                *sender = None;
            }
        }
    }
}

/// One connection's streams.
#[derive(Debug)]
struct Ends {
    key: PodKey,
    port: u16,
    data: u32,
    error: u32,
    out: mpsc::Sender<Out>,
}

impl Ends {
    async fn connect(self, app: Arc<App>, from_client: mpsc::Receiver<In>) {
        match app.backend.forward(&self.key, self.port).await {
            Ok(Forward { stream, traffic }) => {
                traffic.connections.add(1);
                traffic.connections_open.rise(&traffic.connections_peak);
                self.carry(stream, from_client, &traffic).await;
                traffic.connections_open.fall();
            }
            Err(error) => {
                let Self { key, port, .. } = &self;
                let text = format!("error forwarding port {port} to pod {key}: {error}");
                self.send(self.error, text.into(), true).await;
                self.send(self.data, Bytes::new(), true).await;
                return;
            }
        }
        self.send(self.error, Bytes::new(), true).await;
    }

    async fn send(&self, stream: u32, data: Bytes, fin: bool) {
        // A client that has gone: the session ends, and this with it.
        let _ = self.out.send(Out::Data { stream, data, fin }).await;
    }

    async fn carry(&self, pod: Stream, mut from_client: mpsc::Receiver<In>, traffic: &Traffic) {
        let (mut read, mut write) = pod.into_split();
        let inwards = async {
            while let Some(piece) = from_client.recv().await {
                let In::Data(mut data) = piece else { return true };
                traffic.bytes_in.add(data.len());
                while !data.is_empty() {
                    if poll_fn(|cx| write.poll_write(cx, &mut data)).await.is_err() {
                        // The module reads no more. What it still says is passed on.
                        return true;
                    }
                }
            }
            false
        };
        let outwards = async {
            loop {
                match poll_fn(|cx| read.poll_read(cx, READ_BYTES)).await {
                    Ok(data) if data.is_empty() => return self.send(self.data, data, true).await,
                    Ok(data) => {
                        traffic.bytes_out.add(data.len());
                        self.send(self.data, data, false).await;
                    }
                    Err(_) => {
                        traffic.resets.add(1);
                        let _ = self.out.send(Out::Reset(self.data, spdy::CANCEL)).await;
                        return;
                    }
                }
            }
        };
        let mut outwards = std::pin::pin!(outwards);
        tokio::select! {
            orderly = inwards => {
                if orderly {
                    drop(write);
                    outwards.await;
                } else {
                    // The client reset its stream.
                    write.abort();
                }
            }
            () = &mut outwards => {}
        }
    }
}
