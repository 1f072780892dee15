//! The demo's broker: on loopback, on any free port, with nothing on disk. Not for anything else.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context as _;
use mqtt5::broker::config::{BrokerConfig, StorageBackend, StorageConfig};
use mqtt5::broker::{BrokerShutdownHandle, MqttBroker};
use tokio::task::JoinHandle;

/// Clients: the node, and one command at a time.
const CLIENTS_MAX: usize = 16;

/// Largest packet, bytes: a node's, with room.
const PACKET_BYTES_MAX: usize = 1024 * 1024;

/// How long it may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(2);

pub(super) struct Broker {
    port: u16,
    stop: BrokerShutdownHandle,
    task: JoinHandle<()>,
}

impl Broker {
    pub(super) async fn start() -> anyhow::Result<Self> {
        let storage =
            StorageConfig::new().with_backend(StorageBackend::Memory).with_persistence(false);
        let config = BrokerConfig::new()
            .with_bind_addresses(vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))])
            .with_max_clients(CLIENTS_MAX)
            .with_max_packet_size(PACKET_BYTES_MAX)
            .with_sys_topics_enabled(false)
            .with_storage(storage);
        let mut broker = Box::pin(MqttBroker::with_config(config)).await?;
        let address = broker.local_addr().context("it listens nowhere")?;
        let (stop, mut ready) = (broker.shutdown_handle(), broker.ready_receiver());
        let task = tokio::spawn(Box::pin(async move {
            if let Err(error) = broker.run().await {
                tracing::error!(%error, "the demo's broker failed");
            }
        }));
        ready.wait_for(|ready| *ready).await.context("it did not come up")?;
        Ok(Self { port: address.port(), stop, task })
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    pub(super) async fn stop(self) {
        self.stop.shutdown();
        let mut task = self.task;
        if tokio::time::timeout(GOODBYE, &mut task).await.is_err() {
            task.abort();
        }
    }
}
