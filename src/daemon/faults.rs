//! Faults between pods by order of a file: how a whole node is tested on a bad network. For tests; never for use.
//!
//! Owns: the file's words, and bringing the node's faults ([`crate::net::faults`]) in step with it and with the clock. Not: the
//! faults. Configured by `network.testFaults`, which a release build takes only with `network.allowTestNet: true`.
//!
//! ```yaml
//! everywhere: {loss: 100, reorder: 50, delayMs: 20, jitterMs: 5}   # loss, reorder, reset: of a thousand
//! between:
//!   - {pods: [default/a, default/b], partition: true}
//!   - {pods: [default/a, 192.0.2.1], reset: 10}
//!   - {pods: [default/a, default/c], break: 1}                     # breaks all connections now, each time the number changes
//! ```
//! A pod that is not there yet is looked for again. The file is looked at twenty times a second; without it there are no faults.
//! Limits: [`ORDERS_BYTES_MAX`].

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::net::faults::{Fault, Faults};
use crate::pod::NodeContext;
use crate::spec::PodKey;

/// Largest file of orders: some hundred lines.
const ORDERS_BYTES_MAX: usize = 64 * 1024;

/// How often the time is told to the faults: what is late comes at most so much later.
const TICK: Duration = Duration::from_millis(5);

/// Of these, how many until the file is looked at.
const LOOK_EVERY: u32 = 10;

/// The whole file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct Orders {
    everywhere: Bad,
    between: Vec<Between>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct Between {
    pods: [String; 2],
    partition: bool,
    #[serde(rename = "break")]
    breaks: u64,
    delay_ms: u64,
    jitter_ms: u64,
    loss: u16,
    reorder: u16,
    reset: u16,
}

impl Between {
    fn bad(&self) -> Bad {
        let Self { delay_ms, jitter_ms, loss, reorder, reset, .. } = *self;
        Bad { delay_ms, jitter_ms, loss, reorder, reset }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct Bad {
    delay_ms: u64,
    jitter_ms: u64,
    loss: u16,
    reorder: u16,
    reset: u16,
}

impl From<Bad> for Fault {
    fn from(bad: Bad) -> Self {
        let Bad { delay_ms, jitter_ms, loss, reorder, reset } = bad;
        let (delay, jitter) = (Duration::from_millis(delay_ms), Duration::from_millis(jitter_ms));
        Self { delay, jitter, loss, reorder, reset }
    }
}

/// What lies between two addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Order {
    fault: Fault,
    partition: bool,
    breaks: u64,
}

type Standing = BTreeMap<(IpAddr, IpAddr), Order>;

/// Follows the file until `stop`.
pub(super) async fn run(
    node: Arc<NodeContext>,
    faults: Faults,
    file: PathBuf,
    stop: CancellationToken,
) {
    let mut ticks = tokio::time::interval(TICK);
    let (mut standing, mut said) = (Standing::new(), String::new());
    let mut tick = 0_u32;
    loop {
        if stop.run_until_cancelled(ticks.tick()).await.is_none() {
            return;
        }
        faults.advance(node.clock.now());
        tick = (tick + 1) % LOOK_EVERY;
        if tick != 0 {
            continue;
        }
        match read(&file).await {
            Ok(orders) => {
                faults.everywhere(orders.everywhere.into());
                let wanted = resolve(&orders, |name| address(&node, name));
                bring_about(&faults, &mut standing, wanted);
                said.clear();
            }
            Err(error) if error != said => {
                warn!(file = %file.display(), %error, "the orders for faults are not understood");
                said = error;
            }
            Err(_) => {}
        }
    }
}

async fn read(file: &Path) -> Result<Orders, String> {
    let text = match tokio::fs::read_to_string(file).await {
        Ok(text) if text.len() <= ORDERS_BYTES_MAX => text,
        Ok(_) => return Err(format!("it has more than {ORDERS_BYTES_MAX} bytes")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Orders::default()),
        Err(error) => return Err(error.to_string()),
    };
    if text.trim().is_empty() {
        return Ok(Orders::default());
    }
    serde_yaml::from_str(&text).map_err(|error| error.to_string())
}

/// A pod by `NAMESPACE/NAME`, or an address.
fn address(node: &NodeContext, name: &str) -> Option<IpAddr> {
    match name.split_once('/') {
        Some((namespace, name)) => {
            let network = node.networks.get(&PodKey::new(namespace, name))?;
            Some(network.net.pod_ip().into())
        }
        None => name.parse().ok(),
    }
}

fn resolve(orders: &Orders, address: impl Fn(&str) -> Option<IpAddr>) -> Standing {
    let order = |one: &Between| {
        let (a, b) = (address(&one.pods[0])?, address(&one.pods[1])?);
        let order = Order { fault: one.bad().into(), partition: one.partition, breaks: one.breaks };
        Some(((a.min(b), a.max(b)), order))
    };
    orders.between.iter().filter_map(order).collect()
}

/// Gives the orders that are new, and takes back those that are gone.
fn bring_about(faults: &Faults, standing: &mut Standing, wanted: Standing) {
    for (a, b) in standing.keys().filter(|pair| !wanted.contains_key(pair)) {
        faults.between(*a, *b, Fault::default());
        faults.heal(*a, *b);
    }
    for ((a, b), order) in &wanted {
        let before = standing.get(&(*a, *b)).copied().unwrap_or_default();
        if before == *order {
            continue;
        }
        faults.between(*a, *b, order.fault);
        match order.partition {
            true => faults.part(*a, *b),
            false => faults.heal(*a, *b),
        }
        if order.breaks != before.breaks {
            faults.reset(*a, *b);
        }
    }
    *standing = wanted;
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::sync::Arc;

    use super::*;
    use crate::net::{Family, MemberLimits, NetConfig, NoLedger, PodNet};

    fn orders(text: &str) -> Standing {
        let orders: Orders = serde_yaml::from_str(text).unwrap();
        resolve(&orders, |name| match name {
            "lab/a" => Some("10.88.0.5".parse().unwrap()),
            name => name.parse().ok(),
        })
    }

    #[test]
    fn orders_are_read_with_pods_by_name_and_those_that_are_not_there_wait() {
        let read = orders(
            "between:\n- {pods: [lab/a, 10.88.0.6], partition: true}\n- {pods: [10.88.0.7, lab/a], loss: 100, delayMs: 20}\n- {pods: [lab/b, lab/a], loss: 1}",
        );
        assert_eq!(read.len(), 2, "{read:?}");
        let first = read.values().next().unwrap();
        assert!(first.partition && first.fault == Fault::default());
        let second = read.values().nth(1).unwrap();
        assert_eq!((second.fault.loss, second.fault.delay.as_millis()), (100, 20));
        for text in ["beyond: 1", "everywhere: {lost: 1}", "between: [{pods: [a, b], lost: 1}]"] {
            assert!(serde_yaml::from_str::<Orders>(text).is_err(), "a word that is none: {text}");
        }
    }

    #[test]
    fn the_manuals_orders_are_orders() {
        let manual = include_str!("../../docs/network.md");
        let (_, example) = manual.split_once("```yaml faults\n").expect("the manual has some");
        let (example, _) = example.split_once("```").expect("they end");
        let read: Orders = serde_yaml::from_str(example).expect("they are read");
        assert_eq!((read.between.len(), read.everywhere.loss), (3, 100));
    }

    #[test]
    fn what_is_ordered_happens_and_ends_with_its_order() {
        let faults = Faults::new(1);
        let mut config = NetConfig::new([10, 88, 0, 5].into());
        config.faults = Some(faults.clone());
        let net = PodNet::new(config);
        let member = net.join("m", MemberLimits::default(), Arc::new(NoLedger));
        let receiver = member.udp_socket(Family::V4).unwrap();
        receiver.bind("10.88.0.5:53".parse().unwrap()).unwrap();
        let sender = member.udp_socket(Family::V4).unwrap();
        let arrives = || {
            let to = "10.88.0.5:53".parse().unwrap();
            sender.send(bytes::Bytes::from_static(b"x"), Some(to)).unwrap();
            receiver.try_receive().is_ready()
        };
        let mut standing = Standing::new();
        assert!(arrives());
        bring_about(
            &faults,
            &mut standing,
            orders("between: [{pods: [lab/a, lab/a], partition: true}]"),
        );
        assert!(!arrives());
        bring_about(
            &faults,
            &mut standing,
            orders("between: [{pods: [lab/a, lab/a], loss: 1000}]"),
        );
        assert!(!arrives());
        bring_about(&faults, &mut standing, Standing::new());
        assert!(arrives());
    }
}
