//! Port-forward over a pipe, with a client that speaks frames by hand, in front of a network whose module is a test.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::Ipv4Addr;
use std::sync::Arc;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use super::session::{self, Wrapping};
use super::spdy::{self, Event};
use crate::net::{Listener, Member, MemberLimits, NetConfig, NoLedger, PodNet, Stream};
use crate::server::App;
use crate::server::tests::fake::FakeBackend;
use crate::spec::PodKey;

const DATA: u32 = 3;
const ERROR: u32 = 1;

/// A session under way.
struct World {
    _module: Member,
    listener: Listener,
    client: DuplexStream,
    said: BytesMut,
    reader: spdy::Reader,
    task: tokio::task::JoinHandle<()>,
}

impl World {
    fn new() -> Self {
        let net = PodNet::new(NetConfig::new(Ipv4Addr::new(10, 88, 0, 5)));
        let module = net.join("m", MemberLimits::default(), Arc::new(NoLedger));
        let listener = module.listen("127.0.0.1:80".parse().unwrap()).unwrap();
        let backend = FakeBackend::with_network(&net);
        let app = App::new(backend, crate::clock::Clock::start(), Default::default());
        let (client, server) = tokio::io::duplex(256 * 1024);
        let key = PodKey::new("default", "web");
        let task = tokio::spawn(session::run(server, Wrapping::Plain, app, key));
        let (said, reader) = (BytesMut::new(), spdy::Reader::default());
        Self { _module: module, listener, client, said, reader, task }
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.client.write_all(bytes).await.unwrap();
    }

    /// Opens both streams of a connection to the port.
    async fn open(&mut self, port: &str, first: bool) {
        let frame = syn_stream(ERROR, &[("streamType", "error"), ("port", port)], first);
        self.send(&frame).await;
        let frame = syn_stream(DATA, &[("streamType", "data"), ("port", port)], false);
        self.send(&frame).await;
    }

    async fn data(&mut self, data: &[u8], fin: bool) {
        let length = u32::try_from(data.len()).unwrap();
        self.send(&spdy::data_head(DATA, length, fin)).await;
        self.send(data).await;
    }

    /// The next thing the server says.
    async fn hear(&mut self) -> Event {
        loop {
            if let Some(event) = self.reader.next(&mut self.said).unwrap() {
                return event;
            }
            assert!(self.client.read_buf(&mut self.said).await.unwrap() > 0, "the server ended");
        }
    }

    /// All data of a stream until its end.
    async fn hear_all(&mut self, wanted: u32) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            match self.hear().await {
                Event::Data { stream, data, fin } if stream == wanted => {
                    all.extend(data);
                    if fin {
                        return all;
                    }
                }
                event @ (Event::Data { .. }
                | Event::Open { .. }
                | Event::Reset { .. }
                | Event::Ping { .. }
                | Event::GoAway) => assert!(is_an_end(&event), "{event:?}"),
            }
        }
    }

    async fn accept(&mut self) -> Stream {
        std::future::poll_fn(|cx| self.listener.poll_accept(cx)).await.unwrap()
    }
}

/// No more on some stream: which of the two ends first is nobody's business.
fn is_an_end(event: &Event) -> bool {
    matches!(event, Event::Data { data, .. } if data.is_empty())
}

fn syn_stream(stream: u32, headers: &[(&str, &str)], first: bool) -> Vec<u8> {
    let mut plain = u32::try_from(headers.len()).unwrap().to_be_bytes().to_vec();
    for text in headers.iter().flat_map(|(name, value)| [name, value]) {
        plain.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
        plain.extend(text.bytes());
    }
    let mut block = if first { vec![0x78, 0x01] } else { Vec::new() };
    let length = u16::try_from(plain.len()).unwrap();
    block.push(0);
    block.extend(length.to_le_bytes());
    block.extend((!length).to_le_bytes());
    block.extend(plain);
    block.extend([0, 0, 0, 0xff, 0xff]);
    let mut frame = vec![0x80, 3, 0, 1, 0, 0];
    frame.extend(u16::try_from(block.len() + 10).unwrap().to_be_bytes());
    frame.extend(stream.to_be_bytes());
    frame.extend([0; 6]);
    frame.extend(block);
    frame
}

async fn read(stream: &mut Stream) -> bytes::Bytes {
    std::future::poll_fn(|cx| stream.read.poll_read(cx, usize::MAX)).await.unwrap()
}

async fn write(stream: &mut Stream, data: &[u8]) {
    let mut data = bytes::Bytes::copy_from_slice(data);
    while !data.is_empty() {
        std::future::poll_fn(|cx| stream.write.poll_write(cx, &mut data)).await.unwrap();
    }
}

#[tokio::test]
async fn bytes_go_both_ways_until_both_are_done() {
    let mut world = World::new();
    world.open("80", true).await;
    let mut module = world.accept().await;
    world.data(b"question", true).await;
    assert_eq!(&read(&mut module).await[..], b"question");
    assert!(read(&mut module).await.is_empty(), "and the end of it");
    let answer: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    let expected = answer.clone();
    let writing = tokio::spawn(async move {
        write(&mut module, &answer).await;
        module.shutdown_write();
    });
    assert!(world.hear_all(DATA).await == expected);
    writing.await.unwrap();
    assert!(world.hear_all(ERROR).await.is_empty(), "no error, and the stream ends");
}

#[tokio::test]
async fn a_port_where_nobody_listens_is_told_on_the_error_stream() {
    let mut world = World::new();
    world.open("81", true).await;
    let text = String::from_utf8(world.hear_all(ERROR).await).unwrap();
    assert!(text.starts_with("error forwarding port 81 to pod default/web: connection refused"));
    assert_eq!(world.hear().await, Event::Data { stream: DATA, data: "".into(), fin: true });
}

#[tokio::test]
async fn a_reset_on_one_side_is_a_reset_on_the_other() {
    let mut world = World::new();
    world.open("80", true).await;
    let module = world.accept().await;
    module.abort();
    assert_eq!(world.hear().await, Event::Reset { stream: DATA });
    assert!(world.hear_all(ERROR).await.is_empty());

    let mut world = World::new();
    world.open("80", true).await;
    let mut module = world.accept().await;
    world.send(&spdy::reset(DATA, spdy::CANCEL)).await;
    let gone = std::future::poll_fn(|cx| module.read.poll_read(cx, 1)).await;
    assert_eq!(gone, Err(crate::net::ReadError::Reset));
}

#[tokio::test]
async fn pings_come_back_and_streams_of_no_use_are_refused() {
    let mut world = World::new();
    world.send(&spdy::pong(41)).await;
    assert_eq!(world.hear().await, Event::Ping { id: 41 });
    let mut first = true;
    for headers in [
        &[("streamType", "data"), ("port", "0")],
        &[("streamType", "data"), ("port", "http")],
        &[("streamType", "other"), ("port", "80")],
        &[("streamType", "data"), ("ports", "80")],
    ] {
        world.send(&syn_stream(7, headers, first)).await;
        first = false;
        assert_eq!(world.hear().await, Event::Reset { stream: 7 }, "{headers:?}");
    }
}

#[tokio::test]
async fn a_client_that_goes_takes_its_connections_with_it() {
    let mut world = World::new();
    world.open("80", true).await;
    let mut module = world.accept().await;
    drop(world.client);
    world.task.await.unwrap();
    assert!(read(&mut module).await.is_empty());
    let gone = std::future::poll_fn(|cx| module.write.poll_gone(cx));
    tokio::time::timeout(std::time::Duration::from_secs(60), gone).await.unwrap();
}
