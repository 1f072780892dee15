//! Names of the outside.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hickory_resolver::proto::op::{Message, MessageType, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, AAAA, CNAME};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use tokio::net::UdpSocket;
use tokio::sync::Semaphore;

use super::kit::{NoNames, World, test_net};
use crate::net::ResolveError;
use crate::outside::names::{Finding, Found, NameServers, Names, SystemNames};
use crate::outside::{Asked, PodLimits};

fn found(addresses: &[&str]) -> Found {
    let addresses = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
    Found { addresses, ttl: Duration::from_secs(30) }
}

/// Answers everything alike.
#[derive(Debug)]
struct Always(Found);

impl Names for Always {
    fn find(&self, _name: String) -> Finding {
        Box::pin(std::future::ready(Ok(self.0.clone())))
    }
}

/// Answers only when let.
#[derive(Debug)]
struct Slow {
    gate: Arc<Semaphore>,
    asking: Arc<AtomicUsize>,
}

struct Asking(Arc<AtomicUsize>);

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Names for Slow {
    fn find(&self, _name: String) -> Finding {
        let (gate, asking) = (Arc::clone(&self.gate), Arc::clone(&self.asking));
        asking.fetch_add(1, Ordering::SeqCst);
        let asking = Asking(asking);
        Box::pin(async move {
            let _asking = asking;
            drop(gate.acquire().await);
            Ok(found(&["192.0.2.1"]))
        })
    }
}

async fn ask(world: &World, name: &str) -> Result<Found, ResolveError> {
    match world.gateway.lookup(&world.pod, name) {
        Asked::Now(found) => found,
        Asked::Later(finding) => finding.await,
    }
}

#[tokio::test]
async fn the_hosts_name_is_known_to_pods_with_a_grant() {
    let world = World::mapped(&[]);
    assert_eq!(ask(&world, "host.podling.internal").await, Err(ResolveError::NotFound));
    let world = World::granted(test_net(&[]), NoNames, PodLimits::default(), &["tcp/5432"]);
    let host = ask(&world, "Host.Podling.Internal").await.unwrap();
    assert_eq!(host.addresses, ["169.254.1.1".parse::<IpAddr>().unwrap()]);
}

#[tokio::test]
async fn a_name_that_leads_to_this_host_leads_nowhere() {
    let table: &[(&[&str], &[&str])] = &[
        (&["192.0.2.1", "2001:db8::1"], &["192.0.2.1", "2001:db8::1"]),
        (&["192.0.2.1", "127.0.0.1"], &["192.0.2.1"]),
        (&["127.0.0.1"], &[]),
        (&["0.0.0.0", "::1", "::", "169.254.169.254", "fe80::1"], &[]),
        (&["::ffff:127.0.0.1", "2002:7f00:1::", "64:ff9b::7f00:1"], &[]),
    ];
    for (answer, told) in table {
        let world = World::new(test_net(&[]), Always(found(answer)), PodLimits::default());
        let expected = (!told.is_empty()).then(|| found(told)).ok_or(ResolveError::NotFound);
        assert_eq!(ask(&world, "rebound.example").await, expected, "{answer:?}");
        let left_out = world.pod.traffic().answers_closed.get();
        assert_eq!(usize::try_from(left_out).unwrap(), answer.len() - told.len());
    }
}

#[tokio::test]
async fn lookups_come_at_a_bounded_rate() {
    let limits = PodLimits { lookup_rate: (1, 5), ..PodLimits::default() };
    let world = World::new(test_net(&[]), Always(found(&["192.0.2.1"])), limits);
    let began = crate::clock::Clock::start();
    let mut answered = 0;
    for _ in 0..20 {
        match ask(&world, "a.example").await {
            Ok(_) => answered += 1,
            Err(error) => assert_eq!(error, ResolveError::Temporary),
        }
    }
    // One more for each second that has passed, on whatever machine.
    let most = 5 + began.now().mono().as_secs() + 1;
    assert!((5..=most).contains(&answered), "{answered}, at most {most}");
    assert_eq!(world.pod.traffic().lookups_limited.get(), 20 - answered);
}

#[tokio::test]
async fn lookups_under_way_are_bounded_and_end_with_whoever_asked() {
    let (gate, asking) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let names = Slow { gate: Arc::clone(&gate), asking: Arc::clone(&asking) };
    let limits = PodLimits { lookups: 2, ..PodLimits::default() };
    let world = World::new(test_net(&[]), names, limits);
    let first = world.gateway.lookup(&world.pod, "a.example");
    let second = world.gateway.lookup(&world.pod, "b.example");
    assert_eq!(ask(&world, "c.example").await, Err(ResolveError::Temporary));
    super::kit::until("both to be asked", || asking.load(Ordering::SeqCst) == 2).await;
    drop(first);
    super::kit::until("one to be taken back", || asking.load(Ordering::SeqCst) == 1).await;
    super::kit::until("room", || world.pod.lookups.available_permits() == 1).await;
    gate.add_permits(2);
    assert_eq!(ask(&world, "d.example").await, Ok(found(&["192.0.2.1"])));
    let Asked::Later(second) = second else { panic!("answered before it was let") };
    assert_eq!(second.await, Ok(found(&["192.0.2.1"])));
}

/// A name server on loopback: `both.test` has an address of each family, `alias.test` is another name
/// of it for a shorter time, `gone.test` does not exist, and of `mute.test` it says nothing. Returns its address and how often it was asked.
async fn server() -> (SocketAddr, Arc<AtomicUsize>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        loop {
            let (n, from) = socket.recv_from(&mut buffer).await.unwrap();
            let question = Message::from_vec(&buffer[..n]).unwrap();
            let Some(answer) = answer(&question) else { continue };
            count.fetch_add(1, Ordering::SeqCst);
            socket.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
        }
    });
    (address, asked)
}

fn answer(question: &Message) -> Option<Message> {
    let query = question.queries.first()?.clone();
    let name = query.name().to_string();
    if name == "mute.test." {
        return None;
    }
    let mut answer = question.clone();
    answer.metadata.message_type = MessageType::Response;
    answer.metadata.recursion_available = true;
    if name == "gone.test." {
        answer.metadata.response_code = ResponseCode::NXDomain;
        return Some(answer);
    }
    let data = if query.query_type() == RecordType::A {
        RData::A(A::new(192, 0, 2, 7))
    } else {
        RData::AAAA(AAAA::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7))
    };
    let mut owner = query.name().clone();
    if name == "alias.test." {
        let target = Name::from_ascii("both.test.").unwrap();
        let alias = RData::CNAME(CNAME(target.clone()));
        answer.add_answer(Record::from_rdata(std::mem::replace(&mut owner, target), 30, alias));
    }
    answer.add_answer(Record::from_rdata(owner, 45, data));
    Some(answer)
}

#[tokio::test]
async fn names_are_asked_of_the_server_and_answers_kept_for_their_time() {
    let (address, asked) = server().await;
    let names = SystemNames::new(NameServers::At(address));
    let began = crate::clock::Clock::start();
    let both = names.find("both.test".to_owned()).await.unwrap();
    let took = began.now().mono().as_secs();
    let expected: [IpAddr; 2] = ["192.0.2.7".parse().unwrap(), "2001:db8::7".parse().unwrap()];
    assert_eq!(both.addresses, expected, "IPv4 first");
    let ttl = both.ttl.as_secs();
    assert!(ttl <= 45 && ttl + took + 1 >= 45, "{both:?} after {took} s");
    assert_eq!(asked.load(Ordering::SeqCst), 2, "one question for each family");
    names.find("BOTH.test".to_owned()).await.unwrap();
    assert_eq!(asked.load(Ordering::SeqCst), 2, "the answer is kept");
    let alias = names.find("alias.test".to_owned()).await.unwrap();
    assert_eq!(alias.addresses, expected, "by way of another name");
    assert!(alias.ttl <= Duration::from_secs(30), "as long as both hold: {alias:?}");
    let gone = names.find("gone.test".to_owned()).await.unwrap_err();
    assert_eq!(gone, ResolveError::NotFound);
}

#[tokio::test]
async fn name_servers_are_read_again_when_their_file_changes() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("resolv.conf");
    let names = SystemNames::new(NameServers::File(file.clone()));
    let unknown = names.find("a.test".to_owned()).await;
    assert_eq!(unknown, Err(ResolveError::Temporary), "no file yet");
    std::fs::write(&file, "nameserver 127.0.0.1\n").unwrap();
    assert!(names.has_resolver());
    std::fs::write(&file, "# the link is down\n").unwrap();
    assert!(!names.has_resolver());
    let inode = file.with_extension("new");
    std::fs::write(&inode, "search example.com\nnameserver 192.0.2.53\n").unwrap();
    std::os::unix::fs::symlink(&inode, dir.path().join("link")).unwrap();
    assert!(SystemNames::new(NameServers::File(dir.path().join("link"))).has_resolver());
}
