//! The API server's door to the node.
//!
//! Owns: translating between the server's words and the node's. Decides nothing.

use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Pod;
use prometheus_client::registry::Registry;

use crate::board::logs::LogSource;
use crate::board::{Board, Object, ObjectKey};
use crate::daemon::{metrics, network_audit, network_report};
use crate::pod::NodeContext;
use crate::pod::usage::{ContainerUsage, PodUsage};
use crate::reconciler::handle::{Deletion, Preconditions, Write, Written};
use crate::reconciler::{NodeHandle, Refusal};
use crate::server::backend::{
    Accepted, Backend, DeleteOptions, FieldCause, Forward, ForwardError, LogError, WriteError,
    WriteOptions,
};
use crate::server::network::NetworkReport;
use crate::server::network_audit::AuditReport;
use crate::server::usage::{ContainerUse, NodeUse, PodUse};
use crate::spec::{ContainerName, PodKey};

/// See the header.
#[derive(Debug)]
pub struct NodeBackend {
    node: NodeHandle,
    context: Arc<NodeContext>,
    registry: Registry,
}

impl NodeBackend {
    #[must_use]
    pub fn new(node: NodeHandle, context: Arc<NodeContext>, registry: Registry) -> Self {
        Self { node, context, registry }
    }
}

fn write(options: WriteOptions) -> Write {
    let only_if = Preconditions { uid: None, resource_version: options.resource_version };
    Write { only_if, dry_run: options.dry_run }
}

fn only_if(options: &DeleteOptions) -> Preconditions {
    Preconditions { uid: options.uid.clone(), resource_version: options.resource_version.clone() }
}

fn refused(refusal: Refusal) -> WriteError {
    match refusal {
        Refusal::NotFound => WriteError::NotFound,
        Refusal::AlreadyExists => WriteError::AlreadyExists,
        Refusal::SourceConflict(conflict) => WriteError::SourceConflict(conflict.to_string()),
        Refusal::Conflict(why) => WriteError::Conflict(why),
        Refusal::Invalid(errors) => WriteError::Invalid(
            errors
                .iter()
                .map(|e| FieldCause {
                    field: e.path.clone(),
                    reason: e.cause_reason().to_owned(),
                    message: e.cause_message(),
                })
                .collect(),
        ),
        Refusal::Forbidden(why) => WriteError::Forbidden(why),
        Refusal::NotSupported(why) => WriteError::NotSupported(why),
        Refusal::Storage(why) => WriteError::Storage(why),
        Refusal::ShuttingDown => WriteError::Unavailable(Refusal::ShuttingDown.to_string()),
    }
}

fn accepted<T>(written: Written<T>) -> Accepted<T> {
    Accepted { object: written.object, warnings: written.warnings }
}

#[async_trait]
impl Backend for NodeBackend {
    fn board(&self) -> &Board {
        self.node.board()
    }

    fn metrics(&self) -> String {
        metrics::text(&self.registry).unwrap_or_default()
    }

    async fn forward(&self, key: &PodKey, port: u16) -> Result<Forward, ForwardError> {
        let network = self.context.networks.get(key).ok_or(ForwardError::NotRunning)?;
        network_report::forward(&network, port).await
    }

    fn network(&self, key: &PodKey) -> Option<NetworkReport> {
        self.context.networks.get(key).map(|network| network_report::report(&network))
    }

    fn network_audit(&self, key: &PodKey) -> Option<AuditReport> {
        self.context.fabric.audit(key).map(|audit| network_audit::report(&audit))
    }

    fn pods_use(&self) -> Vec<PodUse> {
        let container = |c: ContainerUsage| ContainerUse {
            name: c.name.to_string(),
            cpu_nanocores: c.cpu_nanocores,
            memory_bytes: c.total.memory_bytes,
            window: c.window,
            throttled: c.total.throttled,
            memory_peak_bytes: c.total.memory_peak_bytes,
            fuel: c.total.fuel_used,
            memory_kinds: c.total.memory.rows(),
        };
        let now = self.context.clock.now();
        let pods = self.context.usage.read(now).into_iter();
        let pod = |pod: PodUsage| PodUse {
            namespace: pod.key.namespace.to_string(),
            name: pod.key.name.to_string(),
            containers: pod.containers.into_iter().filter(|c| c.running).map(container).collect(),
        };
        pods.map(pod).collect()
    }

    fn node_use(&self) -> Option<NodeUse> {
        let pods = self.pods_use();
        let containers = || pods.iter().flat_map(|pod| &pod.containers);
        Some(NodeUse {
            name: self.context.node.name.clone(),
            cpu_nanocores: containers().map(|c| c.cpu_nanocores).sum(),
            memory_bytes: containers().map(|c| c.memory_bytes).sum(),
            window: containers().map(|c| c.window).max().unwrap_or_default(),
        })
    }

    async fn create_pod(
        &self,
        object: Pod,
        options: WriteOptions,
    ) -> Result<Accepted<Arc<Pod>>, WriteError> {
        self.node.create_pod(object, write(options)).await.map(accepted).map_err(refused)
    }

    async fn update_pod(
        &self,
        object: Pod,
        options: WriteOptions,
    ) -> Result<Accepted<Arc<Pod>>, WriteError> {
        self.node.update_pod(object, write(options)).await.map(accepted).map_err(refused)
    }

    async fn delete_pod(
        &self,
        key: &PodKey,
        options: DeleteOptions,
    ) -> Result<Arc<Pod>, WriteError> {
        let how =
            Deletion { grace: options.grace, only_if: only_if(&options), dry_run: options.dry_run };
        self.node.delete_pod(key.clone(), how).await.map_err(refused)
    }

    async fn put_object(
        &self,
        object: Object,
        replace: bool,
        options: WriteOptions,
    ) -> Result<Accepted<Object>, WriteError> {
        let written = self.node.put_object(object, replace, write(options)).await;
        written.map(accepted).map_err(refused)
    }

    async fn delete_object(
        &self,
        key: &ObjectKey,
        options: DeleteOptions,
    ) -> Result<Object, WriteError> {
        let how = Write { only_if: only_if(&options), dry_run: options.dry_run };
        self.node.delete_object(key.clone(), how).await.map_err(refused)
    }

    fn logs(
        &self,
        key: &PodKey,
        container: &str,
        previous: bool,
    ) -> Result<Arc<dyn LogSource>, LogError> {
        let logs = self.node.logs(key).ok_or(LogError::NoPod)?;
        let missing = if previous { LogError::NoPrevious } else { LogError::Waiting };
        let ring = logs.get(&ContainerName::new(container), previous).ok_or(missing)?;
        Ok(ring)
    }
}
