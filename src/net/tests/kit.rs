//! What the network's tests share: a pod, a waker that counts, a ledger that can say no.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;

use crate::net::{
    Egress, Family, Ledger, Listener, Member, MemberLimits, NetConfig, NoLedger, PodNet, ReadError,
    Route, Stream, TcpSocket,
};

pub(crate) const POD_IP: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 5);

pub(crate) fn pod() -> PodNet {
    let mut config = NetConfig::new(POD_IP);
    config.host_names = vec!["greenhouse".to_owned()];
    PodNet::new(config)
}

/// Who waits in `pod` for somebody to listen.
pub(crate) fn parked_in(
    pod: &PodNet,
) -> std::sync::MutexGuard<'_, crate::net::tcp::parked::Parked> {
    pod.0.parked.lock().unwrap()
}

pub(crate) fn join(pod: &PodNet, name: &str) -> Member {
    pod.join(name, MemberLimits::default(), Arc::new(NoLedger))
}

pub(crate) fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[track_caller]
pub(crate) fn ready<T>(poll: Poll<T>) -> T {
    match poll {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("should be ready"),
    }
}

/// A listener of `server` and a connection of `client` to it, accepted.
#[track_caller]
pub(crate) fn connected(server: &Member, client: &Member) -> (Listener, Stream, Stream) {
    let mut listener = server.listen(at("127.0.0.1:0")).unwrap();
    let near = ready(client.connect(listener.local_address()).unwrap().try_finish()).unwrap();
    let far = ready(listener.try_accept()).unwrap();
    (listener, near, far)
}

#[track_caller]
pub(crate) fn bound(member: &Member, address: &str) -> TcpSocket {
    let address = at(address);
    let mut socket = member.tcp_socket(Family::of(address.ip())).unwrap();
    socket.bind(address).unwrap();
    socket
}

#[track_caller]
pub(crate) fn send(stream: &mut Stream, data: &[u8]) {
    let mut bytes = Bytes::copy_from_slice(data);
    assert_eq!(ready(stream.write.try_write(&mut bytes)), Ok(data.len()));
}

/// How a stream's bytes came to an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// More may come.
    Open,
    End,
    Reset,
}

/// Reads until there is nothing more for now.
pub(crate) fn read_all(stream: &mut Stream) -> (Vec<u8>, Ending) {
    let mut all = Vec::new();
    let ending = loop {
        match stream.read.try_read(usize::MAX) {
            Poll::Ready(Ok(bytes)) if bytes.is_empty() => break Ending::End,
            Poll::Ready(Ok(bytes)) => all.extend_from_slice(&bytes),
            Poll::Ready(Err(ReadError::Reset)) => break Ending::Reset,
            Poll::Pending => break Ending::Open,
        }
    };
    (all, ending)
}

/// The same, where more may come.
#[track_caller]
pub(crate) fn drain(stream: &mut Stream) -> Vec<u8> {
    let (all, ending) = read_all(stream);
    assert_ne!(ending, Ending::Reset);
    all
}

/// Counts how often it was woken.
#[derive(Debug, Default)]
pub(crate) struct Bell(AtomicUsize);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Bell {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// How often it rang since the last look.
    pub(crate) fn rang(&self) -> usize {
        self.0.swap(0, Ordering::SeqCst)
    }

    pub(crate) fn with<T>(self: &Arc<Self>, f: impl FnOnce(&mut Context<'_>) -> T) -> T {
        let waker = Waker::from(Arc::clone(self));
        f(&mut Context::from_waker(&waker))
    }
}

/// Pays up to a limit, and knows what is owed.
#[derive(Debug)]
pub(crate) struct Purse {
    owed: Mutex<usize>,
    limit: usize,
    /// Of the limit, what is not for others.
    kept_back: usize,
    missed: AtomicUsize,
}

impl Purse {
    pub(crate) fn of(limit: usize) -> Arc<Self> {
        Self::keeping(limit, 0)
    }

    /// One whose last `kept_back` bytes are for its owner's own calls.
    pub(crate) fn keeping(limit: usize, kept_back: usize) -> Arc<Self> {
        Arc::new(Self { owed: Mutex::new(0), limit, kept_back, missed: AtomicUsize::new(0) })
    }

    fn take(&self, bytes: usize, most: usize) -> bool {
        let mut owed = self.owed.lock().unwrap();
        let ok = *owed + bytes <= most;
        if ok {
            *owed += bytes;
        }
        ok
    }

    pub(crate) fn owed(&self) -> usize {
        *self.owed.lock().unwrap()
    }

    pub(crate) fn left(&self) -> usize {
        self.limit - self.owed()
    }

    /// How many of the owner's own calls have failed for want of memory.
    pub(crate) fn missed(&self) -> usize {
        self.missed.load(Ordering::SeqCst)
    }
}

impl Ledger for Purse {
    fn try_charge(&self, bytes: usize) -> bool {
        self.take(bytes, self.limit)
    }

    fn try_charge_for_others(&self, bytes: usize) -> bool {
        self.take(bytes, self.limit - self.kept_back)
    }

    fn release(&self, bytes: usize) {
        let mut owed = self.owed.lock().unwrap();
        *owed = owed.checked_sub(bytes).expect("gave back more than was taken");
    }

    fn missed(&self, _bytes: usize) {
        self.missed.fetch_add(1, Ordering::SeqCst);
    }
}

/// Sends everything for outside to one other pod.
#[derive(Debug)]
pub(crate) struct NextDoor(pub(crate) PodNet);

impl Egress for NextDoor {
    fn route(&self, ask: &crate::net::Ask<'_>) -> Route {
        if self.0.is_local(ask.to.ip()) {
            Route::Pod { net: self.0.clone(), to: ask.to }
        } else {
            Route::Unreachable
        }
    }
}

/// Runs a future on this thread, which sleeps while there is nothing to do.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = std::pin::pin!(future);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return value;
        }
        std::thread::park();
    }
}

/// `n` bytes that count upwards from `start`.
pub(crate) fn pattern(start: u8, n: usize) -> Vec<u8> {
    (0..=u8::MAX).cycle().skip(usize::from(start)).take(n).collect()
}

/// Where the pattern goes on after `n` bytes.
pub(crate) fn after(start: u8, n: usize) -> u8 {
    start.wrapping_add(u8::try_from(n % 256).unwrap())
}
