//! A Service that becomes one of another kind: what its new form has no use for, and nobody has asked for, goes.
//!
//! Owns: the fields that the node or a default has filled in and that a change of `type` or `sessionAffinity` leaves behind
//! (`dropTypeDependentFields` of Kubernetes' Service strategy, and what `SetDefaults_Service` does with the affinity). Whoever
//! changes a Service by `apply` or `patch` never wrote them, and so cannot take them away. Not: what somebody did ask for in the
//! same change: that stays, and is refused by validation.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1 as corev1;

/// Takes from `new`, a changed form of `old`, what only the old form had a use for.
pub fn service(old: &corev1::Service, new: &mut corev1::Service) {
    let (Some(old), Some(new)) = (&old.spec, &mut new.spec) else { return };
    if has_node_ports(old) && !has_node_ports(new) {
        // Ports may go, come or change, as long as no host port is a new one.
        if node_ports(old).is_superset(&node_ports(new)) {
            new.ports.iter_mut().flatten().for_each(|port| port.node_port = None);
        }
        if new.external_traffic_policy == old.external_traffic_policy {
            new.external_traffic_policy = None;
        }
    }
    let is_sticky = new.session_affinity.as_deref().is_some_and(|word| word != "None");
    if !is_sticky && new.session_affinity_config == old.session_affinity_config {
        new.session_affinity_config = None;
    }
}

fn has_node_ports(spec: &corev1::ServiceSpec) -> bool {
    spec.type_.as_deref() == Some("NodePort")
}

fn node_ports(spec: &corev1::ServiceSpec) -> BTreeSet<i32> {
    let all = spec.ports.iter().flatten().filter_map(|port| port.node_port);
    all.filter(|port| *port != 0).collect()
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn of(spec: &str) -> corev1::Service {
        serde_yaml::from_str(&format!("{{metadata: {{name: web}}, spec: {{{spec}}}}}")).unwrap()
    }

    #[test]
    fn what_a_service_has_no_use_for_any_more_goes_unless_it_is_asked_for() {
        let open = "type: NodePort, externalTrafficPolicy: Cluster, ports: [{port: 80, nodePort: 30080}, {port: 81, nodePort: 30081}]";
        let sticky =
            "sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 10800}}";
        let left = "sessionAffinityConfig: {clientIP: {timeoutSeconds: 10800}}";
        let rows = [
            // The type is changed, and the rest is as it was.
            (
                open,
                "type: ClusterIP, externalTrafficPolicy: Cluster, ports: [{port: 80, nodePort: 30080}, {port: 81, nodePort: 30081}]",
                "type: ClusterIP, ports: [{port: 80}, {port: 81}]",
            ),
            // No type is one, too; a port goes and another comes in the same change.
            (
                open,
                "ports: [{port: 80, nodePort: 30080}, {port: 82}]",
                "ports: [{port: 80}, {port: 82}]",
            ),
            // A host port that was not there before is asked for; so is another policy.
            (
                open,
                "type: ClusterIP, externalTrafficPolicy: Local, ports: [{port: 80, nodePort: 30099}]",
                "type: ClusterIP, externalTrafficPolicy: Local, ports: [{port: 80, nodePort: 30099}]",
            ),
            (open, open, open),
            ("ports: [{port: 80}]", open, open),
            (sticky, &format!("sessionAffinity: None, {left}"), "sessionAffinity: None"),
            (sticky, left, ""),
            (sticky, sticky, sticky),
            (
                sticky,
                "sessionAffinity: None, sessionAffinityConfig: {clientIP: {timeoutSeconds: 9}}",
                "sessionAffinity: None, sessionAffinityConfig: {clientIP: {timeoutSeconds: 9}}",
            ),
        ];
        for (old, changed, expected) in rows {
            let mut new = of(changed);
            service(&of(old), &mut new);
            assert_eq!(new, of(expected), "{old} to {changed}");
        }
    }
}
