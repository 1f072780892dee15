//! What the fabric saw of a pod, as the API shows it.

use crate::fabric::{Audit, egress};
use crate::manifest::raise;
use crate::server::network::Names;
use crate::server::network_audit::{AuditReport, SeenRow};

pub(super) fn report(audit: &Audit) -> AuditReport {
    let row = |(used, seen): (&crate::fabric::Use, &crate::fabric::Seen)| SeenRow {
        what: egress::describe(used),
        denied: seen.denied,
    };
    AuditReport {
        kind: "PodNetworkAudit".to_owned(),
        api_version: "podling.dev/v1".to_owned(),
        metadata: Names {
            namespace: audit.pod.namespace.to_string(),
            name: audit.pod.name.to_string(),
            uid: audit.uid.to_string(),
        },
        audited: audit.on,
        seen: audit.log.iter().map(row).collect(),
        lost: audit.log.lost(),
        policy: audit.on.then(|| raise::policy(&audit.log.policy(&audit.pod, &audit.labels))),
    }
}
