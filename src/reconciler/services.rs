//! Services and NetworkPolicies as they are taken in: addresses and host ports given, the fabric told.
//!
//! Owns: which cluster IP and which host ports a Service gets. Not: what stands behind it (`fabric`).
//!
//! An address is chosen by the Service's name, the next free one if that is taken. So a Service of a file, of which nothing is
//! written down, has the address after a restart that it had before; one of the API has it in its record.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1 as corev1;

use super::task::NodeTask;
use crate::board::{Kind, Object, ObjectKey, Query};
use crate::manifest::{self, FieldError, FieldErrorKind};
use crate::spec::{
    AddressRange, NODE_PORTS, NamespacedName, SERVICE_RANGE, Source, host_number, name_hash,
};

impl NodeTask {
    /// The object with everything that the node gives it.
    ///
    /// # Errors
    /// If it asks for what another one has, or for a change of what is fixed.
    pub(super) fn assigned(&self, object: Object) -> Result<Object, Vec<FieldError>> {
        let Object::Service(mut service) = object else { return Ok(object) };
        let key = ObjectKey::new(
            Kind::Service,
            service.metadata.namespace.as_deref().unwrap_or_default(),
            service.metadata.name.as_deref().unwrap_or_default(),
        );
        let mut old = None;
        let mut taken = Taken::default();
        for other in self.board().list(&Query::all(Kind::Service)).items {
            let is_it = other.key() == key;
            let Object::Service(other) = other else { continue };
            if is_it {
                old = Some(other);
            } else {
                taken.add(&other);
            }
        }
        let service_mut = std::sync::Arc::make_mut(&mut service);
        assign(service_mut, old.as_deref(), &taken)?;
        Ok(Object::Service(service))
    }

    /// A Service or NetworkPolicy is another now, or gone: the fabric is told. In force when this returns.
    pub(super) fn network_changed(&self, key: &ObjectKey) {
        let name = NamespacedName::new(&key.namespace, &key.name);
        let source = self.data_owners.get(key).cloned().unwrap_or(Source::Api);
        let fabric = &self.node.fabric;
        match (key.kind, self.board().get(key)) {
            (_, Some(Object::Service(service))) => match manifest::lower_service(&service, &source)
            {
                Ok((service, _)) => fabric.set_service(service),
                Err(errors) => broken(key, &errors),
            },
            (_, Some(Object::NetworkPolicy(policy))) => {
                match manifest::lower_policy(&policy, &source) {
                    Ok((policy, _)) => fabric.set_policy(policy),
                    Err(errors) => broken(key, &errors),
                }
            }
            (Kind::Service, _) => fabric.remove_service(&name),
            (_, _) => fabric.remove_policy(&name),
        }
    }
}

/// Every object on the board was validated when it was taken in, by the very same rules.
fn broken(key: &ObjectKey, errors: &[FieldError]) {
    let problems: Vec<String> = errors.iter().map(ToString::to_string).collect();
    tracing::error!(object = %key, ?problems, "an accepted object is not valid; it has no effect");
}

/// What other Services have.
#[derive(Debug, Default)]
struct Taken {
    addresses: BTreeSet<u16>,
    /// Protocol as the wire says it, and port.
    ports: BTreeSet<(String, u16)>,
}

impl Taken {
    fn add(&mut self, service: &corev1::Service) {
        let Some(spec) = &service.spec else { return };
        self.addresses.extend(address(spec).map(host_number));
        for port in spec.ports.iter().flatten() {
            self.ports.extend(node_port(port).map(|number| (protocol(port), number)));
        }
    }
}

/// Fills in the cluster IP and host ports that are missing: those it had before, else free ones.
fn assign(
    service: &mut corev1::Service,
    old: Option<&corev1::Service>,
    taken: &Taken,
) -> Result<(), Vec<FieldError>> {
    let name = format!(
        "{}/{}",
        service.metadata.namespace.as_deref().unwrap_or_default(),
        service.metadata.name.as_deref().unwrap_or_default()
    );
    let Some(spec) = &mut service.spec else { return Ok(()) };
    let old = old.and_then(|old| old.spec.as_ref());
    let mut errors = Vec::new();
    errors.extend(assign_address(spec, old, &name, taken).err());
    if spec.type_.as_deref() == Some("NodePort") {
        assign_ports(spec, old, &name, taken, &mut errors);
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

fn assign_address(
    spec: &mut corev1::ServiceSpec,
    old: Option<&corev1::ServiceSpec>,
    name: &str,
    taken: &Taken,
) -> Result<(), FieldError> {
    let asked = spec.cluster_ip.clone().unwrap_or_default();
    let before = old.and_then(|old| old.cluster_ip.clone()).unwrap_or_default();
    let chosen = if asked.is_empty() {
        if before.is_empty() { free_address(name, taken)? } else { before }
    } else if !before.is_empty() && before != asked {
        let detail = "may not change once set".to_owned();
        return Err(address_error(&asked, detail));
    } else {
        if let Some(ip) = asked.parse::<Ipv4Addr>().ok().map(host_number)
            && taken.addresses.contains(&ip)
        {
            let detail = format!("failed to allocate IP {asked}: provided IP is already allocated");
            return Err(address_error(&asked, detail));
        }
        asked
    };
    spec.cluster_ips = Some(vec![chosen.clone()]);
    spec.cluster_ip = Some(chosen);
    Ok(())
}

fn free_address(name: &str, taken: &Taken) -> Result<String, FieldError> {
    let first = u32::from(name_hash(name, AddressRange::HOSTS));
    let hosts = u32::from(AddressRange::HOSTS);
    let free = (0..hosts)
        .filter_map(|step| u16::try_from((first + step) % hosts + 1).ok())
        .find(|number| !taken.addresses.contains(number));
    let full = || address_error("", format!("range {SERVICE_RANGE} is full"));
    free.map(|number| SERVICE_RANGE.host(number).to_string()).ok_or_else(full)
}

fn address_error(asked: &str, detail: String) -> FieldError {
    let kind = FieldErrorKind::Invalid { value: format!("[{asked:?}]"), detail };
    FieldError { path: "spec.clusterIPs[0]".to_owned(), kind }
}

fn assign_ports(
    spec: &mut corev1::ServiceSpec,
    old: Option<&corev1::ServiceSpec>,
    name: &str,
    taken: &Taken,
    errors: &mut Vec<FieldError>,
) {
    let mut used = taken.ports.clone();
    for (index, port) in spec.ports.iter().flatten().enumerate() {
        let Some(number) = node_port(port) else { continue };
        if !used.insert((protocol(port), number)) {
            let detail = "provided port is already allocated".to_owned();
            let kind = FieldErrorKind::Invalid { value: number.to_string(), detail };
            errors.push(FieldError { path: format!("spec.ports[{index}].nodePort"), kind });
        }
    }
    for (index, port) in spec.ports.iter_mut().flatten().enumerate() {
        if node_port(port).is_some() {
            continue;
        }
        let before = old.and_then(|old| {
            let same = |other: &&corev1::ServicePort| {
                other.port == port.port && protocol(other) == protocol(port)
            };
            old.ports.iter().flatten().find(same).and_then(node_port)
        });
        let before = before.filter(|number| !used.contains(&(protocol(port), *number)));
        let number = before.or_else(|| free_port(name, port, &used));
        match number {
            Some(number) => {
                used.insert((protocol(port), number));
                port.node_port = Some(number.into());
            }
            None => {
                let detail = "no host port is free".to_owned();
                let kind = FieldErrorKind::Forbidden { detail };
                errors.push(FieldError { path: format!("spec.ports[{index}].nodePort"), kind });
            }
        }
    }
}

fn free_port(
    name: &str,
    port: &corev1::ServicePort,
    used: &BTreeSet<(String, u16)>,
) -> Option<u16> {
    let count = NODE_PORTS.end() - NODE_PORTS.start() + 1;
    let first = name_hash(&format!("{name}:{}", port.port), count);
    (0..count)
        .map(|step| NODE_PORTS.start() + (first + step) % count)
        .find(|number| !used.contains(&(protocol(port), *number)))
}

fn address(spec: &corev1::ServiceSpec) -> Option<Ipv4Addr> {
    spec.cluster_ip.as_deref().and_then(|ip| ip.parse().ok())
}

fn node_port(port: &corev1::ServicePort) -> Option<u16> {
    port.node_port.and_then(|number| u16::try_from(number).ok()).filter(|number| *number != 0)
}

fn protocol(port: &corev1::ServicePort) -> String {
    port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn service(name: &str, spec: &str) -> corev1::Service {
        let text = format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: default}}, spec: {{{spec}}}}}"
        );
        let mut service = serde_yaml::from_str(&text).unwrap();
        crate::manifest::default::service(&mut service);
        service
    }

    fn given(service: &corev1::Service) -> (String, Vec<i32>) {
        let spec = service.spec.as_ref().unwrap();
        let ports = spec.ports.iter().flatten().map(|port| port.node_port.unwrap_or(0));
        (spec.cluster_ip.clone().unwrap(), ports.collect())
    }

    fn errors(result: Result<(), Vec<FieldError>>) -> Vec<String> {
        result.unwrap_err().iter().map(ToString::to_string).collect()
    }

    const PORTS: &str = "ports: [{port: 80}]";

    #[test]
    fn an_address_goes_by_the_name_and_evades_what_is_taken() {
        let mut first = service("web", PORTS);
        assign(&mut first, None, &Taken::default()).unwrap();
        let mut again = service("web", PORTS);
        assign(&mut again, None, &Taken::default()).unwrap();
        assert_eq!(given(&first), given(&again), "nothing but the name decides");
        assert!(SERVICE_RANGE.has_host(given(&first).0.parse().unwrap()));
        let mut taken = Taken::default();
        taken.add(&first);
        let mut other = service("web", PORTS);
        assign(&mut other, None, &taken).unwrap();
        assert_ne!(given(&first).0, given(&other).0);
        taken.addresses = (1..=AddressRange::HOSTS).collect();
        let full = errors(assign(&mut service("web", PORTS), None, &taken));
        assert!(full[0].contains("range 10.89.0.0/16 is full"), "{full:?}");
    }

    #[test]
    fn what_was_given_once_is_kept_through_edits() {
        let mut first = service("web", "type: NodePort, ports: [{port: 80}, {name: b, port: 81}]");
        assign(&mut first, None, &Taken::default()).unwrap();
        let mut edited = service("web", "type: NodePort, ports: [{name: b, port: 81}]");
        // Another's arrival after the first decision changes nothing.
        let mut taken = Taken::default();
        taken.addresses.insert(1);
        assign(&mut edited, Some(&first), &taken).unwrap();
        let (ip, ports) = given(&first);
        assert_eq!(given(&edited), (ip.clone(), vec![ports[1]]));
        let asked = service("web", &format!("clusterIP: 10.89.9.9, {PORTS}"));
        let refused = errors(assign(&mut asked.clone(), Some(&first), &taken));
        assert_eq!(
            refused,
            ["spec.clusterIPs[0]: Invalid value: [\"10.89.9.9\"]: may not change once set"]
        );
        let mut fresh = asked;
        assign(&mut fresh, None, &taken).unwrap();
        assert_eq!(given(&fresh).0, "10.89.9.9");
    }

    #[test]
    fn what_another_has_is_refused() {
        let spec = "type: NodePort, clusterIP: 10.89.0.7, ports: [{port: 80, nodePort: 30080}]";
        let mut taken = Taken::default();
        taken.add(&service("other", spec));
        let refused = errors(assign(&mut service("web", spec), None, &taken));
        assert_eq!(
            refused,
            [
                "spec.clusterIPs[0]: Invalid value: [\"10.89.0.7\"]: failed to allocate IP 10.89.0.7: provided IP is \
                 already allocated",
                "spec.ports[0].nodePort: Invalid value: 30080: provided port is already allocated",
            ]
        );
        // The other protocol's ports are others.
        let udp = "type: NodePort, ports: [{port: 80, protocol: UDP, nodePort: 30080}]";
        assign(&mut service("web", udp), None, &taken).unwrap();
    }

    #[test]
    fn host_ports_are_given_from_their_range_and_never_twice() {
        let many: Vec<String> = (1..=60).map(|n| format!("{{name: p{n}, port: {n}}}")).collect();
        let mut many = service("web", &format!("type: NodePort, ports: [{}]", many.join(", ")));
        assign(&mut many, None, &Taken::default()).unwrap();
        let ports: BTreeSet<i32> = given(&many).1.into_iter().collect();
        assert_eq!(ports.len(), 60);
        assert!(ports.iter().all(|port| (30_000..=32_767).contains(port)), "{ports:?}");
        let mut headless = service("web", "clusterIP: None");
        assign(&mut headless, None, &Taken::default()).unwrap();
        assert_eq!(given(&headless), ("None".to_owned(), vec![]));
    }
}
