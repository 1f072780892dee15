//! The pump between a pod's connection and a pipe that stands for the kernel.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::future::Future as _;
use std::io::{self, IoSlice};
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use proptest::prelude::*;
use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadBuf,
};

use super::{CALLS_PER_TURN, CHUNK_BYTES, Ended, Pump};
use crate::net::{Ledger, Member, MemberLimits, NetConfig, NoLedger, PodNet, Stream};
use crate::outside::stats::Traffic;

/// The module's end, the pump's end, and those who must live as long.
fn connection(ledger: Arc<dyn Ledger>) -> (Stream, Stream, (Member, Member)) {
    let net = PodNet::new(NetConfig::new(Ipv4Addr::new(10, 88, 0, 5)));
    let module = net.join("module", MemberLimits::default(), Arc::new(NoLedger));
    let daemon = net.join("daemon", MemberLimits::default(), ledger);
    let mut listener = module.listen("127.0.0.1:80".parse().unwrap()).unwrap();
    let mut connecting = daemon.connect("127.0.0.1:80".parse().unwrap()).unwrap();
    let Poll::Ready(Ok(ours)) = connecting.try_finish() else { panic!("no connection") };
    let Poll::Ready(Ok(theirs)) = listener.try_accept() else { panic!("no connection") };
    (theirs, ours, (module, daemon))
}

async fn module_side(mut module: Stream, send: &[Vec<u8>]) -> Vec<u8> {
    let mut received = Vec::new();
    let (mut at, mut offset, mut open) = (0, 0, true);
    std::future::poll_fn(|cx| {
        while let Some(chunk) = send.get(at) {
            if offset == chunk.len() {
                (at, offset) = (at + 1, 0);
                continue;
            }
            match module.write.poll_write_slice(cx, &chunk[offset..]) {
                Poll::Ready(n) => offset += n.unwrap(),
                Poll::Pending => break,
            }
        }
        if at == send.len() && open {
            module.shutdown_write();
            open = false;
        }
        loop {
            match module.read.poll_read(cx, 50_000) {
                Poll::Ready(Ok(bytes)) if bytes.is_empty() && !open => return Poll::Ready(()),
                Poll::Ready(Ok(bytes)) if bytes.is_empty() => return Poll::Pending,
                Poll::Ready(Ok(bytes)) => received.extend_from_slice(&bytes),
                Poll::Ready(Err(error)) => panic!("{error}"),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await;
    received
}

async fn kernel_side(kernel: DuplexStream, send: &[Vec<u8>]) -> Vec<u8> {
    let (mut read, mut write) = tokio::io::split(kernel);
    let writing = async {
        for chunk in send {
            write.write_all(chunk).await.unwrap();
        }
        write.shutdown().await.unwrap();
    };
    let mut received = Vec::new();
    let (_, read) = tokio::join!(writing, read.read_to_end(&mut received));
    read.unwrap();
    received
}

fn chunks() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let length = prop_oneof![0_usize..100, 4_000_usize..5_000, 60_000_usize..200_000];
    prop::collection::vec((any::<u8>(), length), 0..6).prop_map(|chunks| {
        let chunk = |(seed, length): (u8, usize)| {
            (0..length).map(|n| seed.wrapping_add(u8::try_from(n % 239).unwrap())).collect()
        };
        chunks.into_iter().map(chunk).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Whatever the sizes of writes and of the kernel's buffer, every byte arrives once, in order,
    /// and both ends see the end.
    #[test]
    fn every_byte_arrives(
        out in chunks(),
        back in chunks(),
        buffer in prop_oneof![Just(1_usize), Just(1000), Just(CHUNK_BYTES), Just(1 << 20)],
    ) {
        // One byte at a time is a test of correctness, not of patience.
        let short = |chunks: Vec<Vec<u8>>| match buffer {
            1 => chunks.into_iter().map(|mut c| { c.truncate(500); c }).collect(),
            _ => chunks,
        };
        let (out, back) = (short(out), short(back));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (module, ours, _members) = connection(Arc::new(NoLedger));
            let (mut kernel, far) = tokio::io::duplex(buffer);
            let traffic = Traffic::default();
            let pump = Pump::new(&mut kernel, ours, &traffic);
            let (received, sent, ended) =
                tokio::join!(module_side(module, &out), kernel_side(far, &back), pump);
            assert!(matches!(ended, Ended::Orderly));
            assert!(received == back.concat());
            assert!(sent == out.concat());
            assert_eq!(traffic.bytes_in.get(), received.len() as u64);
            assert_eq!(traffic.bytes_out.get(), sent.len() as u64);
        });
    }
}

/// Pays for a few steps, and then only as much as was given back.
#[derive(Debug)]
struct Poor(AtomicUsize);

impl Ledger for Poor {
    fn try_charge(&self, bytes: usize) -> bool {
        self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(bytes)).is_ok()
    }

    fn release(&self, bytes: usize) {
        self.0.fetch_add(bytes, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn what_was_received_when_memory_ran_out_is_not_lost() {
    let (module, ours, _members) = connection(Arc::new(Poor(AtomicUsize::new(20_000))));
    let (mut kernel, far) = tokio::io::duplex(1 << 20);
    let sent: Vec<Vec<u8>> = (0_u8..40).map(|n| vec![n; 10_000]).collect();
    let traffic = Traffic::default();
    let pump = Pump::new(&mut kernel, ours, &traffic);
    let (received, _, ended) =
        tokio::join!(module_side(module, &[]), kernel_side(far, &sent), pump);
    assert!(matches!(ended, Ended::Orderly), "{ended:?}");
    assert!(received == sent.concat());
}

/// What most servers do: they answer, and close, while the client could still send.
#[tokio::test]
async fn what_a_module_said_before_it_closed_arrives_whole() {
    let (mut module, ours, _members) = connection(Arc::new(NoLedger));
    let (mut kernel, mut pumped) = tokio::io::duplex(1000);
    let said = vec![7; 50_000];
    let written = module.write.try_write_slice(&said);
    assert_eq!(written, Poll::Ready(Ok(said.len())));
    drop(module);
    let traffic = Traffic::default();
    let mut heard = Vec::new();
    let (ended, read) =
        tokio::join!(Pump::new(&mut pumped, ours, &traffic), kernel.read_to_end(&mut heard));
    read.unwrap();
    assert!(matches!(ended, Ended::Orderly), "{ended:?}");
    assert_eq!(heard, said);
}

/// A module that died says so, after what it said before.
#[tokio::test]
async fn a_reset_comes_after_what_was_said_before_it() {
    let (mut module, ours, _members) = connection(Arc::new(NoLedger));
    let (mut kernel, mut pumped) = tokio::io::duplex(1000);
    let said = vec![7; 50_000];
    let written = module.write.try_write_slice(&said);
    assert_eq!(written, Poll::Ready(Ok(said.len())));
    module.abort();
    let traffic = Traffic::default();
    let mut heard = vec![0; said.len()];
    let (ended, read) =
        tokio::join!(Pump::new(&mut pumped, ours, &traffic), kernel.read_exact(&mut heard));
    read.unwrap();
    assert!(matches!(ended, Ended::Pod), "{ended:?}");
    assert_eq!(heard, said);
}

/// A kernel that counts the calls, and takes no more than so many bytes in each.
struct Counting {
    calls: usize,
    most: usize,
    taken: Vec<u8>,
}

impl AsyncRead for Counting {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // The end: the client only listens.
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Counting {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(data)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.calls += 1;
        let before = self.taken.len();
        for part in parts {
            let room = self.most - (self.taken.len() - before);
            self.taken.extend(part.iter().take(room));
        }
        Poll::Ready(Ok(self.taken.len() - before))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A kernel that always has a little to give and room for a little.
#[derive(Default)]
struct Trickling {
    reads: usize,
    writes: usize,
}

impl AsyncRead for Trickling {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.reads += 1;
        buffer.put_slice(b"a little");
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Trickling {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.writes += 1;
        Poll::Ready(Ok(data.len().min(8)))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Counts how often it is used.
#[derive(Default)]
struct Alarm(AtomicUsize);

impl std::task::Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a_turn_ends_after_so_many_calls_in_each_direction_and_the_next_one_goes_on() {
    let (mut module, ours, _members) = connection(Arc::new(NoLedger));
    let said = module.write.try_write_slice(&[7; 10_000]);
    assert_eq!(said, Poll::Ready(Ok(10_000)));
    let mut kernel = Trickling::default();
    let traffic = Traffic::default();
    let alarm = Arc::new(Alarm::default());
    let waker = std::task::Waker::from(Arc::clone(&alarm));
    let mut pump = Pump::new(&mut kernel, ours, &traffic);
    for turn in 1..=3 {
        let before = alarm.0.load(Ordering::SeqCst);
        let polled = Pin::new(&mut pump).poll(&mut Context::from_waker(&waker));
        assert!(polled.is_pending());
        assert!(alarm.0.load(Ordering::SeqCst) > before, "it wants to go on");
        let due = (turn * CALLS_PER_TURN * 8) as u64;
        assert_eq!((traffic.bytes_in.get(), traffic.bytes_out.get()), (due, due));
    }
    drop(pump);
    assert_eq!((kernel.reads, kernel.writes), (3 * CALLS_PER_TURN, 3 * CALLS_PER_TURN));
}

#[tokio::test]
async fn what_waits_in_parts_goes_out_with_one_call() {
    for (most, calls) in [(usize::MAX, 1), (5_000, 4)] {
        let (mut module, ours, _members) = connection(Arc::new(NoLedger));
        let parts: [&[u8]; 3] = [b"4000\r\n", &[7; 16_384], b"\r\n"];
        for part in parts {
            assert_eq!(module.write.try_write_slice(part), Poll::Ready(Ok(part.len())));
        }
        drop(module);
        let mut kernel = Counting { calls: 0, most, taken: Vec::new() };
        let traffic = Traffic::default();
        let ended = Pump::new(&mut kernel, ours, &traffic).await;
        assert!(matches!(ended, Ended::Orderly), "{ended:?}");
        assert_eq!((kernel.calls, kernel.taken), (calls, parts.concat()));
    }
}

/// Counts the bills.
#[derive(Debug, Default)]
struct Purse(std::sync::Mutex<std::time::Duration>);

impl crate::outside::stats::Payer for Purse {
    fn pay(&self, time: std::time::Duration) {
        *self.0.lock().unwrap() += time;
    }
}

#[tokio::test]
async fn carrying_is_paid_for() {
    let purse = Arc::new(Purse::default());
    let traffic = Traffic::default();
    traffic.bill.paid_by(purse.clone());
    let (module, ours, _members) = connection(Arc::new(NoLedger));
    let (mut kernel, client) = tokio::io::duplex(CHUNK_BYTES);
    let sent = vec![vec![7; CHUNK_BYTES]; 256];
    let pump = traffic.bill.pays_for(Pump::new(&mut kernel, ours, &traffic));
    let client = async move {
        let (mut read, mut write) = tokio::io::split(client);
        write.shutdown().await.unwrap();
        let mut all = vec![];
        read.read_to_end(&mut all).await.unwrap();
        all.len()
    };
    let before = crate::clock::thread_cpu_time();
    let (_, _, received) = tokio::join!(module_side(module, &sent), pump, client);
    let took = crate::clock::thread_cpu_time() - before;
    assert_eq!(received, 256 * CHUNK_BYTES);
    let paid = *purse.0.lock().unwrap();
    assert!(!paid.is_zero() && paid < took, "{paid:?} of {took:?}");
}
