//! An operator who stays connected: it publishes at once and hears what nodes say, without a process for each message.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use podling::clock::Clock;
use podling::mqtt::controller::Message;
use podling::mqtt::link::{Endpoint, Link, Settings};
use podling::mqtt::tls::{Identity, TlsSettings};
use podling::mqtt::transport::{Body, Event, NotTaken, Outgoing, Qos, Transport as _};
use serde_json::Value;
use tokio::sync::mpsc;

use crate::rig::Rig;

/// Messages on their way to the broker, and statuses nobody has looked at.
const WAITING_MAX: usize = 1024;

/// A word of a node, and when it was heard.
#[derive(Debug)]
pub(crate) struct Heard {
    pub(crate) at: Instant,
    pub(crate) topic: String,
    pub(crate) said: Value,
}

/// See the header. Dropping it ends the connection.
pub(crate) struct Operator {
    _runtime: tokio::runtime::Runtime,
    orders: mpsc::Sender<Outgoing>,
    heard: Receiver<Heard>,
}

impl Operator {
    pub(crate) fn connect(rig: &Rig) -> anyhow::Result<Self> {
        let file = |name: &str| rig.path(name);
        let endpoint = Endpoint::parse(&format!("mqtts://localhost:{}", rig.port))?;
        let mut settings = Settings::new("ctl-acme-bench", vec![endpoint]);
        let identity = Identity { certificate: file("ctl-acme.pem"), key: file("ctl-acme.key") };
        settings.tls = TlsSettings {
            ca: Some(file("ca.pem")),
            identity: Some(identity),
            ..TlsSettings::default()
        };
        let link = Link::new(settings, Clock::start())?;
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let (orders, taken) = mpsc::channel(WAITING_MAX);
        let (said, heard) = sync_channel(WAITING_MAX);
        runtime.spawn(serve(link, taken, said));
        Ok(Self { _runtime: runtime, orders, heard })
    }

    /// Publishes; when it was handed over.
    pub(crate) fn publish(&self, message: &Message) -> anyhow::Result<Instant> {
        let Message { topic, payload, retain, digest: _ } = message.clone();
        let payload = payload.into();
        let at = Instant::now();
        self.orders.blocking_send(Outgoing {
            topic,
            payload,
            qos: Qos::AtLeastOnce,
            retain,
            expiry: None,
        })?;
        Ok(at)
    }

    /// The first word that is as wanted.
    pub(crate) fn wait(&self, what: &str, is: impl Fn(&Heard) -> bool) -> anyhow::Result<Heard> {
        let deadline = crate::deadline();
        while let Some(left) = deadline.checked_duration_since(Instant::now()) {
            match self.heard.recv_timeout(left) {
                Ok(heard) if is(&heard) => return Ok(heard),
                Ok(_) => {}
                Err(_) => break,
            }
        }
        anyhow::bail!("nobody said {what}")
    }

    /// Forgets what was said so far.
    pub(crate) fn catch_up(&self) {
        while !matches!(
            self.heard.try_recv(),
            Err(TryRecvError::Empty | TryRecvError::Disconnected)
        ) {}
    }
}

async fn serve(mut link: Link, mut orders: mpsc::Receiver<Outgoing>, heard: SyncSender<Heard>) {
    let mut waiting: VecDeque<Outgoing> = VecDeque::new();
    link.connect(None);
    loop {
        while let Some(next) = waiting.front() {
            match link.publish(next) {
                Ok(_) => drop(waiting.pop_front()),
                Err(NotTaken::Busy | NotTaken::NotConnected) => break,
                Err(error) => {
                    eprintln!("delivery: {}: {error}", next.topic);
                    waiting.pop_front();
                }
            }
        }
        tokio::select! {
            (_, event) = link.next() => match event {
                Event::Connected(_) => {
                    if let Err(error) = link.subscribe(&["pods/v1/acme/s/#".to_owned()]) {
                        eprintln!("delivery: {error}");
                    }
                }
                Event::Message(message) => {
                    if let Body::Bytes(bytes) = &message.body
                        && let Ok(said) = serde_json::from_slice(bytes)
                    {
                        let word = Heard { at: Instant::now(), topic: message.topic, said };
                        // Who does not listen misses something; who has gone ends this.
                        if let Err(TrySendError::Disconnected(_)) = heard.try_send(word) {
                            return;
                        }
                    }
                }
                Event::Closed(_) => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    link.connect(None);
                }
                Event::Subscribed { .. } | Event::Unsubscribed(_) | Event::Acked { .. } | Event::Overrun => {}
            },
            order = orders.recv(), if waiting.len() < WAITING_MAX => match order {
                Some(order) => waiting.push_back(order),
                None => return,
            },
        }
    }
}
