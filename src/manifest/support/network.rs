//! The rows of Services and NetworkPolicies.

use super::Row;
use super::Support::{In, Kept, Yes};
use super::tables::{METADATA, inert, refused, row, yes};

const NO_BALANCER: &str =
    "there is no load balancer outside of this node; use a Service of type NodePort";
const ONE_NODE: &str = "there is one node, and all pods of a Service are on it";

pub const SERVICE: &[Row] = &[
    yes("apiVersion"),
    yes("kind"),
    row("metadata", In(METADATA)),
    row("spec", In(SERVICE_SPEC)),
    inert("status", "the status is the node's to write; this one is dropped"),
];

const SERVICE_SPEC: &[Row] = &[
    inert("allocateLoadBalancerNodePorts", NO_BALANCER),
    row(
        "clusterIP",
        Yes(
            "one of 10.89.0.0/16, given by the node if left out; `None` makes the Service headless",
        ),
    ),
    row("clusterIPs", Yes("one, the same as `clusterIP`")),
    refused("externalIPs", "the host's addresses are the host's; use type NodePort"),
    refused("externalName", "names outside are looked up as they are; use them directly"),
    row("externalTrafficPolicy", Yes(ONE_NODE)),
    inert("healthCheckNodePort", NO_BALANCER),
    row("internalTrafficPolicy", Yes(ONE_NODE)),
    row("ipFamilies", Yes("`IPv4`")),
    row("ipFamilyPolicy", Yes("`SingleStack`, `PreferDualStack`")),
    refused("loadBalancerClass", NO_BALANCER),
    refused("loadBalancerIP", NO_BALANCER),
    refused("loadBalancerSourceRanges", NO_BALANCER),
    row("ports", In(SERVICE_PORT)),
    yes("publishNotReadyAddresses"),
    row("selector", Yes("of pods in the Service's namespace; without one there are no endpoints")),
    row("sessionAffinity", Yes("`None`, `ClientIP`")),
    row("sessionAffinityConfig", In(AFFINITY)),
    inert("trafficDistribution", ONE_NODE),
    row("type", Yes("`ClusterIP`, `NodePort`; `LoadBalancer` and `ExternalName` are refused")),
];

const SERVICE_PORT: &[Row] = &[
    row("appProtocol", Kept("a note for people and programs")),
    yes("name"),
    row(
        "nodePort",
        Yes("30000 to 32767, on every address of the host; given by the node if left out"),
    ),
    yes("port"),
    row("protocol", Yes("`TCP` or `UDP`; `SCTP` is refused")),
    row("targetPort", Yes("a number, or the name of a port of the pod")),
];

const AFFINITY: &[Row] = &[row("clientIP", In(CLIENT_IP))];

const CLIENT_IP: &[Row] = &[row("timeoutSeconds", Yes("10800 if left out"))];

pub const NETWORK_POLICY: &[Row] =
    &[yes("apiVersion"), yes("kind"), row("metadata", In(METADATA)), row("spec", In(POLICY_SPEC))];

const POLICY_SPEC: &[Row] = &[
    row("egress", In(EGRESS_RULE)),
    row("ingress", In(INGRESS_RULE)),
    row("podSelector", In(SELECTOR)),
    yes("policyTypes"),
];

const EGRESS_RULE: &[Row] = &[row("ports", In(POLICY_PORT)), row("to", In(PEER))];

const INGRESS_RULE: &[Row] = &[row("from", In(PEER)), row("ports", In(POLICY_PORT))];

const POLICY_PORT: &[Row] = &[
    yes("endPort"),
    row("port", Yes("a number, or the name of a port of the pod that is connected to")),
    row("protocol", Yes("`TCP`, `UDP`; an entry for `SCTP` matches nothing")),
];

const PEER: &[Row] = &[
    row("ipBlock", In(IP_BLOCK)),
    row("namespaceSelector", In(SELECTOR)),
    row("podSelector", In(SELECTOR)),
];

const IP_BLOCK: &[Row] = &[yes("cidr"), yes("except")];

const SELECTOR: &[Row] = &[row("matchExpressions", In(EXPRESSION)), yes("matchLabels")];

const EXPRESSION: &[Row] =
    &[yes("key"), row("operator", Yes("`In`, `NotIn`, `Exists`, `DoesNotExist`")), yes("values")];
