#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use super::*;
use crate::manifest::{FieldValidation, parse};
use crate::spec::{
    NamePattern, NamePorts, Operator, PolicyPeer, PolicyPort, PortMatch, PortRef, ServiceAddress,
};

fn read(text: &str) -> Object {
    let mut parsed = parse(text.as_bytes(), FieldValidation::Strict);
    assert!(parsed.errors.is_empty(), "{:?}\n{text}", parsed.errors);
    parsed.documents.pop().unwrap().object
}

fn texts<T>(
    result: Result<(T, Vec<FieldWarning>), Vec<FieldError>>,
) -> Result<(T, Vec<String>), Vec<String>> {
    let said = |errors: Vec<FieldError>| errors.iter().map(ToString::to_string).collect();
    let warned = |(value, warnings): (T, Vec<FieldWarning>)| {
        (value, warnings.iter().map(ToString::to_string).collect())
    };
    result.map(warned).map_err(said)
}

fn service_of(metadata: &str, spec: &str) -> Result<(Service, Vec<String>), Vec<String>> {
    let text =
        format!("{{apiVersion: v1, kind: Service, metadata: {{{metadata}}}, spec: {{{spec}}}}}");
    let Object::Service(service) = read(&text) else { panic!("{text}") };
    texts(lower_service(&service, &Source::Api))
}

fn policy_of(metadata: &str, spec: &str) -> Result<(NetworkPolicy, Vec<String>), Vec<String>> {
    let text = format!(
        "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{{metadata}}}, spec: {{{spec}}}}}"
    );
    let Object::NetworkPolicy(policy) = read(&text) else { panic!("{text}") };
    texts(lower_policy(&policy, &Source::Api))
}

const WEB: &str = "selector: {app: web}, ports: [{port: 80}]";

#[test]
fn a_service_is_lowered_with_kubernetes_defaults() {
    let (service, warnings) = service_of("name: web", WEB).unwrap();
    assert_eq!(warnings, Vec::<String>::new());
    assert_eq!(service.key.to_string(), "default/web");
    assert_eq!(service.address, ServiceAddress::Unassigned);
    assert_eq!(service.affinity, None);
    assert!(!service.publish_not_ready);
    let [port] = service.ports.as_slice() else { panic!("{service:?}") };
    assert_eq!((port.port, &port.target), (80, &PortRef::Number(80)));
    assert_eq!((port.protocol, port.node_port), (Protocol::Tcp, None));
    let spec = "clusterIP: None, selector: {a: b}, sessionAffinity: ClientIP, publishNotReadyAddresses: true, \
                ports: [{name: dns, port: 53, protocol: UDP, targetPort: dns}]";
    let (service, _) = service_of("name: web, namespace: lab", spec).unwrap();
    assert_eq!(service.address, ServiceAddress::Headless);
    assert_eq!(service.affinity, Some(Duration::from_secs(10_800)));
    assert_eq!(service.ports[0].target, PortRef::Name("dns".to_owned()));
    let spec = "type: NodePort, clusterIP: 10.89.0.9, selector: {a: b}, ports: [{port: 1, nodePort: 30001}]";
    let (service, _) = service_of("name: web", spec).unwrap();
    assert_eq!(service.cluster_ip().unwrap().to_string(), "10.89.0.9");
    assert_eq!(service.ports[0].node_port, Some(30_001));
    let (service, _) = service_of("name: web", "clusterIP: None, selector: {a: b}").unwrap();
    assert!(service.ports.is_empty(), "a headless Service may have none");
}

#[test]
fn a_wrong_service_is_refused_in_kubernetes_words() {
    let cases: &[(&str, &[&str])] = &[
        ("selector: {a: b}", &["spec.ports: Required value"]),
        (
            "selector: {a: b}, ports: [{port: 80}, {name: B, port: 80, targetPort: 0}]",
            &[
                "spec.ports[0].name: Required value",
                "spec.ports[1].name: Invalid value: \"B\": a lowercase RFC 1123 label must",
                "spec.ports[1]: Duplicate value: \"TCP/80\"",
            ],
        ),
        (
            "selector: {a: b}, ports: [{port: 0, targetPort: 70000, protocol: SCTP}]",
            &[
                "spec.ports[0].protocol: Forbidden: SCTP is not offered",
                "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
                "spec.ports[0].targetPort: Invalid value: 70000: must be between",
            ],
        ),
        (
            "selector: {a: b}, ports: [{port: 1, targetPort: A_b, nodePort: 30000}]",
            &[
                "spec.ports[0].targetPort: Invalid value: \"A_b\": must contain only",
                "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
            ],
        ),
        (
            "type: NodePort, clusterIP: None, selector: {a: b}, ports: [{port: 1, nodePort: 80}]",
            &[
                "spec.clusterIP: Invalid value: \"None\": may not be set to 'None' for NodePort services",
                "spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid \
                 ports is 30000-32767",
            ],
        ),
        (
            "type: LoadBalancer, selector: {a: b}, ports: [{port: 1}]",
            &["spec.type: Forbidden: there is no load balancer"],
        ),
        (
            "type: Sometimes, selector: {a: b}, ports: [{port: 1}]",
            &[
                "spec.type: Unsupported value: \"Sometimes\": supported values: \"ClusterIP\", \"ExternalName\", \
               \"LoadBalancer\", \"NodePort\"",
            ],
        ),
        (
            "clusterIP: 10.0.0.1, selector: {a: b}, ports: [{port: 1}]",
            &[
                "spec.clusterIP: Invalid value: \"10.0.0.1\": failed to allocate IP 10.0.0.1: the provided IP",
            ],
        ),
        (
            "clusterIP: 10.89.0.1, clusterIPs: [10.89.0.2], selector: {a: b}, ports: [{port: 1}]",
            &[
                "spec.clusterIPs[0]: Invalid value: \"10.89.0.2\": first value must match `clusterIP`",
            ],
        ),
        (
            "sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 86401}}, selector: {a: b}, \
             ports: [{port: 1}]",
            &[
                "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 86401: must be greater than 0 and \
               less than 86400",
            ],
        ),
        (
            "sessionAffinityConfig: {clientIP: {timeoutSeconds: 1}}, selector: {a: b}, ports: [{port: 1}]",
            &[
                "spec.sessionAffinityConfig: Forbidden: must not be set when session affinity is None",
            ],
        ),
        (
            "ipFamilies: [IPv6], externalIPs: [192.0.2.1], selector: {a: b}, ports: [{port: 1}]",
            &[
                "spec.externalIPs: Forbidden: the host's",
                "spec.ipFamilies[0]: Forbidden: pods and Services",
            ],
        ),
    ];
    for (spec, expected) in cases {
        let errors = service_of("name: web", spec).expect_err(spec);
        assert_eq!(errors.len(), expected.len(), "{spec}: {errors:#?}");
        for (error, expected) in errors.iter().zip(*expected) {
            assert!(error.starts_with(expected), "{spec}: {error}");
        }
    }
    let errors = service_of("name: 1web", WEB).unwrap_err();
    assert!(errors[0].starts_with("metadata.name: Invalid value: \"1web\": a DNS-1035 label"));
    let metadata = "name: web, annotations: {podling.dev/egress-names: a}";
    let errors = service_of(metadata, WEB).unwrap_err();
    assert!(errors[0].starts_with("metadata.annotations[podling.dev/egress-names]: Forbidden"));
    let (_, warnings) = service_of("name: web", "ports: [{port: 1}]").unwrap();
    assert!(warnings[0].starts_with("spec.selector: without a selector"), "{warnings:?}");
}

#[test]
fn a_policy_speaks_of_what_kubernetes_says_it_speaks_of() {
    for (spec, ingress, egress) in [
        ("podSelector: {}", Some(0), None),
        ("podSelector: {}, policyTypes: [Ingress]", Some(0), None),
        ("podSelector: {}, policyTypes: [Egress]", None, Some(0)),
        ("podSelector: {}, policyTypes: [Ingress, Egress]", Some(0), Some(0)),
        ("podSelector: {}, ingress: [{}]", Some(1), None),
        ("podSelector: {}, egress: [{}]", Some(0), Some(1)),
        ("podSelector: {}, egress: []", Some(0), None),
        ("podSelector: {}, egress: [{}], policyTypes: [Ingress]", Some(0), None),
    ] {
        let (policy, _) = policy_of("name: p", spec).unwrap();
        let count = |rules: &Option<Vec<_>>| rules.as_ref().map(Vec::len);
        assert_eq!((count(&policy.ingress), count(&policy.egress)), (ingress, egress), "{spec}");
    }
}

#[test]
fn the_policy_of_kubernetes_own_page_is_understood() {
    let spec = "podSelector: {matchLabels: {role: db}}, policyTypes: [Ingress, Egress], \
        ingress: [{from: [{ipBlock: {cidr: 172.17.0.0/16, except: [172.17.1.0/24]}}, \
          {namespaceSelector: {matchLabels: {project: myproject}}}, {podSelector: {matchLabels: {role: frontend}}}], \
          ports: [{protocol: TCP, port: 6379}]}], \
        egress: [{to: [{ipBlock: {cidr: 10.0.0.0/24}}], ports: [{protocol: TCP, port: 5978, endPort: 5990}, \
          {protocol: UDP, port: dns}, {protocol: SCTP}, {}]}]";
    let metadata = "name: p, namespace: lab, annotations: {podling.dev/egress-names: 'b:1, *.a', podling.dev/network-audit: 'true'}";
    let (policy, warnings) = policy_of(metadata, spec).unwrap();
    assert_eq!(policy.key.to_string(), "lab/p");
    let db = [("role".to_owned(), "db".to_owned())].into();
    assert!(policy.pods.matches(&db));
    let ingress = &policy.ingress.unwrap()[0];
    let [PolicyPeer::Block(block), PolicyPeer::Pods { namespaces: Some(spaces), pods }, third] =
        ingress.peers.as_slice()
    else {
        panic!("{ingress:?}")
    };
    assert!(block.contains("172.17.0.1".parse().unwrap()));
    assert!(!block.contains("172.17.1.1".parse().unwrap()));
    assert_eq!(spaces.requirements[0].key, "project");
    assert!(matches!(&spaces.requirements[0].operator, Operator::In(values) if values.len() == 1));
    assert!(pods.requirements.is_empty(), "all pods of those namespaces");
    assert!(matches!(third, PolicyPeer::Pods { namespaces: None, .. }));
    let port = |protocol, ports| PolicyPort { protocol, ports };
    assert_eq!(ingress.ports, [port(Some(Protocol::Tcp), PortMatch::Range(6379, 6379))]);
    let named = PortMatch::Named("dns".to_owned());
    assert_eq!(
        policy.egress.unwrap()[0].ports,
        [
            port(Some(Protocol::Tcp), PortMatch::Range(5978, 5990)),
            port(Some(Protocol::Udp), named),
            port(None, PortMatch::All),
            port(Some(Protocol::Tcp), PortMatch::All),
        ]
    );
    assert!(warnings[0].contains("egress[0].ports[2].protocol: nothing here speaks SCTP"));
    assert!(policy.audit);
    assert_eq!(policy.egress_names[0].name, NamePattern::Exactly("b".to_owned()));
    assert_eq!(policy.egress_names[1].ports, NamePorts::All);
}

#[test]
fn a_wrong_policy_is_refused_in_kubernetes_words() {
    let cases: &[(&str, &[&str])] = &[
        (
            "podSelector: {matchExpressions: [{key: a, operator: Is}, {key: b, operator: In}, \
             {key: c, operator: Exists, values: [x]}]}",
            &[
                "spec.podSelector.matchExpressions[0].operator: Invalid value: \"Is\": not a valid selector operator",
                "spec.podSelector.matchExpressions[1].values: Required value: must be specified when `operator` is 'In' or \
                 'NotIn'",
                "spec.podSelector.matchExpressions[2].values: Forbidden: may not be specified when `operator` is 'Exists' or \
                 'DoesNotExist'",
            ],
        ),
        (
            "podSelector: {}, ingress: [{from: [{}, {podSelector: {}, ipBlock: {cidr: 10.0.0.0/8}}]}]",
            &[
                "spec.ingress[0].from[0]: Required value: must specify a peer",
                "spec.ingress[0].from[1]: Forbidden: may not specify both ipBlock and another peer",
            ],
        ),
        (
            "podSelector: {}, egress: [{to: [{ipBlock: {cidr: ''}}, {ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/8, x]}}]}]",
            &[
                "spec.egress[0].to[0].ipBlock.cidr: Required value",
                "spec.egress[0].to[1].ipBlock.except[0]: Invalid value: \"10.0.0.0/8\": must be a strict subset of `cidr`",
                "spec.egress[0].to[1].ipBlock.except[1]: Invalid value: \"x\": must be a valid CIDR value",
            ],
        ),
        (
            "podSelector: {}, ingress: [{ports: [{endPort: 5}, {port: http, endPort: 5}, {port: 10, endPort: 5}, {port: 0}]}]",
            &[
                "spec.ingress[0].ports[0].endPort: Forbidden: may not be specified when `port` is not specified",
                "spec.ingress[0].ports[1].endPort: Forbidden: may not be specified when `port` is non-numeric",
                "spec.ingress[0].ports[2].endPort: Invalid value: 5: must be greater than or equal to `port`",
                "spec.ingress[0].ports[3].port: Invalid value: 0: must be between 1 and 65535, inclusive",
            ],
        ),
        (
            "podSelector: {}, policyTypes: [Ingress, Egress, Ingress]",
            &[
                "spec.policyTypes: Invalid value: [\"Ingress\",\"Egress\",\"Ingress\"]: may not specify more than two policyTypes",
            ],
        ),
        (
            "podSelector: {}, policyTypes: [Both]",
            &[
                "spec.policyTypes[0]: Unsupported value: \"Both\": supported values: \"Egress\", \"Ingress\"",
            ],
        ),
    ];
    for (spec, expected) in cases {
        let errors = policy_of("name: p", spec).expect_err(spec);
        assert_eq!(errors.len(), expected.len(), "{spec}: {errors:#?}");
        for (error, expected) in errors.iter().zip(*expected) {
            assert!(error.starts_with(expected), "{spec}: {error}");
        }
    }
    let bad = "name: p, annotations: {podling.dev/nonsense: a, podling.dev/network-audit: maybe, stop-signal.podling.dev/c: x}";
    let errors = policy_of(bad, "podSelector: {}").unwrap_err();
    assert_eq!(errors.len(), 3, "{errors:#?}");
    assert!(errors[0].contains("supported values: \"false\", \"true\""), "{errors:#?}");
    assert!(errors[1].contains("known: podling.dev/egress-names, podling.dev/network-audit"));
}

fn pod_of(metadata: &str, spec: &str) -> Result<(Pod, Vec<String>), Vec<String>> {
    let text = format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: p, {metadata}}}, spec: {{containers: [{{name: c, image: x}}], {spec}}}}}"
    );
    let Object::Pod(pod) = read(&text) else { panic!("{text}") };
    texts(
        lower(&pod, &Source::Api, PodUid::new("u")).map(|lowered| (lowered.pod, lowered.warnings)),
    )
}

#[test]
fn a_pods_look_ups_follow_its_dns_policy() {
    let dns = |spec: &str| pod_of("", spec).unwrap().0.network.dns;
    let plain = dns("");
    assert_eq!((plain.cluster, plain.ndots, plain.searches.len()), (true, 5, 0));
    assert_eq!((dns("dnsPolicy: Default").cluster, dns("dnsPolicy: Default").ndots), (false, 1));
    let custom =
        dns("dnsPolicy: None, dnsConfig: {nameservers: [192.0.2.1], searches: [a.example., .], \
                      options: [{name: ndots, value: '2'}]}");
    assert_eq!((custom.cluster, custom.ndots), (false, 2));
    assert_eq!(custom.searches, ["a.example"]);
    let spec = "dnsConfig: {nameservers: [192.0.2.1], options: [{name: timeout, value: '3'}]}";
    let (_, warnings) = pod_of("", spec).unwrap();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    let wrong =
        "dnsPolicy: None, dnsConfig: {searches: [A_b], options: [{name: ndots, value: x}, {}]}";
    let errors = pod_of("", wrong).unwrap_err();
    assert_eq!(errors.len(), 4, "{errors:#?}");
    assert!(errors[0].starts_with("spec.dnsConfig.nameservers: Required value: must provide"));
}

#[test]
fn a_pod_names_what_it_may_reach_outside() {
    let (pod, _) = pod_of(
        "annotations: {podling.dev/egress-names: 'api.example.com:443,*.ntp.org:123/udp', podling.dev/network-audit: 'true'}",
        "",
    )
    .unwrap();
    let names: Vec<String> = pod.network.egress_names.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["api.example.com:443", "*.ntp.org:123/udp"]);
    assert!(pod.network.audit && pod.network.service_links);
    let errors = pod_of("annotations: {podling.dev/egress-names: 'ok, 10.0.0.1'}", "").unwrap_err();
    assert_eq!(
        errors,
        [
            "metadata.annotations[podling.dev/egress-names]: Invalid value: \"10.0.0.1\": is an address, not a name: use an \
             egress rule with ipBlock"
        ]
    );
    let (pod, _) = pod_of("", "enableServiceLinks: false").unwrap();
    assert!(!pod.network.service_links);
}

#[test]
fn lists_of_the_new_kinds_are_read() {
    let text = "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicyList, items: [{metadata: {name: a}, spec: {}}]}";
    assert!(matches!(read(text), Object::NetworkPolicy(_)));
    let text = "{apiVersion: v1, kind: ServiceList, items: [{metadata: {name: a}}]}";
    assert!(matches!(read(text), Object::Service(_)));
    let old = "{apiVersion: extensions/v1beta1, kind: NetworkPolicy, metadata: {name: a}}";
    let parsed = parse(old.as_bytes(), FieldValidation::Strict);
    assert!(parsed.errors[0].message().contains("NetworkPolicy (networking.k8s.io/v1)"));
}
