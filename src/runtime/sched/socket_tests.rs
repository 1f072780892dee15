//! Connections of the kernel's on lanes, with real ones to ourselves.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashSet;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead as _, AsyncReadExt as _, AsyncWriteExt as _, ReadBuf};

use super::LaneSocket;
use super::tests::{Lab, PATIENCE, eventually, share};
use crate::clock::Clock;

/// A client, and the lanes' end.
fn connection(lab: &Lab) -> (TcpStream, LaneSocket) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.set_write_timeout(Some(PATIENCE)).unwrap();
    client.set_nodelay(true).unwrap();
    let (ours, _) = listener.accept().unwrap();
    ours.set_nonblocking(true).unwrap();
    (client, lab.spawner().adopt(ours).unwrap())
}

/// Says what it hears until the client is done.
async fn echo(mut socket: LaneSocket) {
    let mut buffer = vec![0; 4096];
    while let Ok(n) = socket.read(&mut buffer).await {
        if n == 0 || socket.write_all(&buffer[..n]).await.is_err() {
            return;
        }
    }
}

fn ask(client: &mut TcpStream, what: &[u8]) {
    client.write_all(what).unwrap();
    let mut answer = vec![0; what.len()];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(answer, what);
}

#[test]
fn what_comes_is_answered_on_the_lane_that_heard_of_it() {
    const ROUNDS: usize = 2000;
    let lab = Lab::new(2);
    let (mut client, mut socket) = connection(&lab);
    // One that is woken by the first, as a module is by its carrier.
    let (tell, mut told) = tokio::sync::mpsc::channel(1);
    let (answer, mut answered) = tokio::sync::mpsc::channel(1);
    let moved = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&moved);
    lab.spawn(&share(100), async move {
        while let Some(heard_by) = told.recv().await {
            let here = std::thread::current().id();
            count.fetch_add(usize::from(here != heard_by), Ordering::Relaxed);
            answer.send(()).await.unwrap();
        }
    });
    lab.spawn(&share(100), async move {
        let mut byte = [0; 1];
        while socket.read(&mut byte).await.unwrap() > 0 {
            tell.send(std::thread::current().id()).await.unwrap();
            answered.recv().await.unwrap();
            socket.write_all(&byte).await.unwrap();
        }
    });
    for n in 0..ROUNDS {
        ask(&mut client, &[u8::try_from(n % 256).unwrap()]);
    }
    // A machine that is busy with something else stops a thread now and then, and the ticker moves who waits behind it.
    let moved = moved.load(Ordering::Relaxed);
    assert!(moved < ROUNDS / 20, "{moved} of {ROUNDS} were told on another thread");
}

#[test]
fn what_comes_while_all_lanes_compute_is_answered_by_a_spare_one() {
    let lab = Lab::new(2);
    let over = Arc::new(AtomicBool::new(false));
    // In one turn each, so that none of them looks at its end.
    for _ in 0..2 {
        let over = Arc::clone(&over);
        lab.spawn(&share(100), async move {
            while !over.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        });
    }
    let (mut client, socket) = connection(&lab);
    lab.spawn(&share(100), echo(socket));
    for n in 0..20 {
        ask(&mut client, &[n; 100]);
    }
    over.store(true, Ordering::Relaxed);
}

/// Counts how often it is used.
#[derive(Default)]
struct Alarm(AtomicUsize);

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn what_comes_while_the_only_lane_computes_and_nobody_waits_for_it_is_heard_of_at_a_tick() {
    let lab = Lab::new(1);
    let (mut client, mut socket) = connection(&lab);
    let (over, begun) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (held, began) = (Arc::clone(&over), Arc::clone(&begun));
    lab.spawn(&share(100), async move {
        began.store(true, Ordering::SeqCst);
        while !held.load(Ordering::Relaxed) {
            std::hint::spin_loop();
        }
    });
    eventually("the lane computes", || begun.load(Ordering::SeqCst));
    let alarm = Arc::<Alarm>::default();
    let waker = Waker::from(Arc::clone(&alarm));
    let mut buffer = [0; 10];
    let mut read = || {
        let mut into = ReadBuf::new(&mut buffer);
        Pin::new(&mut socket).poll_read(&mut Context::from_waker(&waker), &mut into).is_ready()
    };
    assert!(!read());
    client.write_all(b"there").unwrap();
    let clock = Clock::start();
    let is_late = || clock.now().mono() > PATIENCE;
    while alarm.0.load(Ordering::SeqCst) == 0 && !is_late() {
        std::thread::yield_now();
    }
    // Whatever came of it, the lane is to end.
    over.store(true, Ordering::Relaxed);
    assert!(!is_late() && read(), "nobody has asked the kernel");
}

#[test]
fn a_lane_that_waits_in_the_kernel_is_there_for_others_at_once() {
    // One lane: nobody else could.
    let lab = Lab::new(1);
    let (mut client, socket) = connection(&lab);
    lab.spawn(&share(100), echo(socket));
    for n in 0..500_u16 {
        eventually("the lane watches", || lab.inner().reactor.watcher().is_some());
        let (done, is_done) = mpsc::sync_channel(1);
        lab.spawn(&share(100), async move { done.send(()).unwrap() });
        is_done.recv_timeout(PATIENCE).unwrap();
        ask(&mut client, &n.to_le_bytes());
    }
}

#[test]
fn an_idle_lane_watches_when_the_one_that_watched_has_long_work() {
    let lab = Lab::new(2);
    let (mut first, socket) = connection(&lab);
    lab.spawn(&share(100), echo(socket));
    let (mut second, mut socket) = connection(&lab);
    let over = Arc::new(AtomicBool::new(false));
    let held = Arc::clone(&over);
    // The lane that hears of it is not back until all has been answered.
    lab.spawn(&share(100), async move {
        let _ = socket.read_u8().await;
        while !held.load(Ordering::Relaxed) {
            std::hint::spin_loop();
        }
    });
    let inner = lab.inner();
    eventually("one watches, and the other has nothing to do either", || {
        inner.reactor.watcher().is_some() && inner.idle.load(Ordering::SeqCst) == 2
    });
    second.write_all(&[1]).unwrap();
    for n in 0..100 {
        ask(&mut first, &[n]);
    }
    over.store(true, Ordering::Relaxed);
}

#[test]
fn more_than_the_kernel_takes_goes_out_when_it_takes_more() {
    const BYTES: usize = 32 << 20;
    let lab = Lab::new(2);
    let (mut client, mut socket) = connection(&lab);
    let sent: Vec<u8> = (0..BYTES).map(|n| u8::try_from(n % 251).unwrap()).collect();
    let expected = sent.clone();
    lab.spawn(&share(100), async move {
        socket.write_all(&sent).await.unwrap();
        socket.shutdown().await.unwrap();
    });
    let mut got = Vec::new();
    client.read_to_end(&mut got).unwrap();
    assert!(got == expected, "{} bytes of {BYTES}", got.len());
}

#[test]
fn both_ends_of_a_connection_are_heard_of() {
    let lab = Lab::new(2);
    let (client, mut socket) = connection(&lab);
    let (tell, told) = mpsc::sync_channel(1);
    lab.spawn(&share(100), async move {
        let end = socket.read(&mut [0; 10]).await;
        // Half-closed: what it says is still heard.
        socket.write_all(b"all").await.unwrap();
        tell.send(end.unwrap()).unwrap();
    });
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(told.recv_timeout(PATIENCE).unwrap(), 0);
    let mut rest = String::new();
    { &client }.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "all");

    let (client, mut socket) = connection(&lab);
    let (tell, told) = mpsc::sync_channel(1);
    lab.spawn(&share(100), async move {
        tell.send(socket.read(&mut [0; 10]).await.map_err(|error| error.kind())).unwrap();
    });
    crate::outside::reset(&client);
    drop(client);
    assert_eq!(told.recv_timeout(PATIENCE).unwrap(), Err(ErrorKind::ConnectionReset));
}

#[test]
fn connections_that_come_and_go_are_all_answered_and_leave_nothing() {
    const CLIENTS: usize = 8;
    const CONNECTIONS: usize = 50;
    let lab = Lab::new(2);
    let lanes = Arc::new(Mutex::new(HashSet::new()));
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (lab, lanes) = (&lab, &lanes);
            scope.spawn(move || {
                for n in 0..CONNECTIONS {
                    let (mut asking, socket) = connection(lab);
                    let lanes = Arc::clone(lanes);
                    lab.spawn(&share(100), async move {
                        lanes.lock().unwrap().insert(std::thread::current().id());
                        echo(socket).await;
                    });
                    for size in [1, 10, 1000, 10_000] {
                        ask(&mut asking, &vec![u8::try_from(client * n % 256).unwrap(); size]);
                    }
                }
            });
        }
    });
    eventually("all have gone", || !lab.inner().reactor.is_in_use());
    assert_eq!(lanes.lock().unwrap().len(), 2, "both lanes did their part");
    // And whoever waits is reached without them.
    let (done, is_done) = mpsc::sync_channel(1);
    lab.spawn(&share(100), async move { done.send(()).unwrap() });
    is_done.recv_timeout(Duration::from_secs(10)).unwrap();
}

#[test]
fn the_end_of_the_scheduler_closes_connections() {
    let mut lab = Lab::new(2);
    let (mut client, socket) = connection(&lab);
    lab.spawn(&share(100), echo(socket));
    ask(&mut client, b"there");
    lab.stop(Duration::ZERO);
    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
}
