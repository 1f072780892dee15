//! What is around the pod in which the cases run: everything that an error code needs.
//!
//! | Address | What becomes of a connect or a datagram |
//! |---|---|
//! | 192.0.2.0/24, and all not named here | denied |
//! | 198.51.100.0/24 | no way there |
//! | 203.0.113.1 | allowed, and nobody ever answers |
//! | 203.0.113.2 | allowed; connections are refused |
//! | 127.0.0.1:9, in the pod | a module that dies when it is spoken to |
//!
//! | Name | What a look-up gives |
//! |---|---|
//! | later.example | 192.0.2.7, after a second |
//! | denied.example, busy.example, broken.example | denied, a failure for now, a failure for good |
//! | any other | nobody has it |

use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::net::{
    Ask, ConnectError, Egress, Ledger, Listener, Lookup, OutboundCall, ResolveError, Route,
    SendError, UdpReply,
};

#[derive(Debug, Default)]
struct Outside {
    /// Those who wait for ever.
    waiting: Mutex<Vec<OutboundCall>>,
}

impl Egress for Outside {
    fn route(&self, ask: &Ask<'_>) -> Route {
        match ask.to.ip() {
            IpAddr::V4(ip) => match ip.octets() {
                [198, 51, 100, _] => Route::Unreachable,
                [203, 0, 113, _] => Route::Outside,
                _ => Route::Denied,
            },
            IpAddr::V6(_) => Route::Denied,
        }
    }

    fn connect(&self, ask: &Ask<'_>, call: OutboundCall) {
        if ask.to.ip() == IpAddr::from([203, 0, 113, 2]) {
            call.failed(ConnectError::Refused(ask.to));
        } else {
            self.waiting.lock().unwrap().push(call);
        }
    }

    fn send(&self, _: &Ask<'_>, _: Bytes, _: &UdpReply) -> Result<(), SendError> {
        Ok(())
    }

    fn lookup(&self, _member: &str, name: &str) -> Lookup {
        Lookup::Now(Err(match name {
            "later.example" => {
                let second = tokio::time::sleep(Duration::from_secs(1));
                return Lookup::Later(Box::pin(async {
                    second.await;
                    Ok(vec![Ipv4Addr::new(192, 0, 2, 7).into()])
                }));
            }
            "denied.example" => ResolveError::Denied,
            "busy.example" => ResolveError::Temporary,
            "broken.example" => ResolveError::Permanent,
            _ => ResolveError::NotFound,
        }))
    }
}

/// A module's memory, with what is left of it.
#[derive(Debug)]
pub(super) struct Purse(pub(super) AtomicUsize);

impl Ledger for Purse {
    fn try_charge(&self, bytes: usize) -> bool {
        let take = |left: usize| left.checked_sub(bytes);
        self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok()
    }

    fn release(&self, bytes: usize) {
        self.0.fetch_add(bytes, Ordering::SeqCst);
    }
}

/// A pod in its world.
pub(super) fn pod() -> PodNet {
    let mut config = NetConfig::new(Ipv4Addr::new(10, 88, 0, 5));
    config.egress = Arc::new(Outside::default());
    PodNet::new(config)
}

/// The member as which a case runs.
pub(super) fn member_for(case: &str, pod: &PodNet) -> Member {
    let mut limits = MemberLimits { max_sockets: 100, ..MemberLimits::default() };
    let mut ledger: Arc<dyn Ledger> = Arc::new(NoLedger);
    match case {
        "code_new_socket_limit" | "code_other" => limits.max_sockets = 10,
        "code_out_of_memory" => ledger = Arc::new(Purse(AtomicUsize::new(10_000))),
        _ => {}
    }
    pod.join("case", limits, ledger)
}

/// Who listens at 127.0.0.1:9.
pub(super) fn mortal(member: &Member) -> Listener {
    member.listen("127.0.0.1:9".parse().unwrap()).unwrap()
}

/// Resets each connection on its first bytes.
pub(super) async fn die(mut listener: Listener) {
    loop {
        let accepted = std::future::poll_fn(|cx| listener.poll_accept(cx)).await;
        let Ok(mut stream) = accepted else { return };
        let _ = std::future::poll_fn(|cx| stream.read.poll_read(cx, 100)).await;
        stream.abort();
    }
}
