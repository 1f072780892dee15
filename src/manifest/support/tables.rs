//! The rows, structure by structure, in the order of Kubernetes' reference.

use super::Row;
use super::Support::{In, Inert, Kept, Refused, Yes};

/// A row; keeps the tables below one line each.
pub(super) const fn row(field: &'static str, support: super::Support) -> Row {
    Row { field, support }
}

pub(super) const fn yes(field: &'static str) -> Row {
    row(field, Yes(""))
}

pub(super) const fn inert(field: &'static str, why: &'static str) -> Row {
    row(field, Inert { quiet: &[], why })
}

pub(super) const fn refused(field: &'static str, why: &'static str) -> Row {
    row(field, Refused { quiet: &[], why })
}

const NO_USERS: &str = "modules have no user or group; files on volumes belong to the daemon's";
const NO_KERNEL: &str = "a module makes no system calls of its own, so there is nothing to confine";
const NO_VOLUME: &str = "volumes of this type are not offered here; emptyDir, hostPath, configMap, secret, downwardAPI and projected are";
const ONE_NODE: &str = "there is one node, and the pod runs on it";
const LATER_TLS: &str = "`HTTPS` comes with a later version";

pub const POD: &[Row] = &[
    yes("apiVersion"),
    yes("kind"),
    row("metadata", In(METADATA)),
    row("spec", In(SPEC)),
    inert("status", "the status is the node's to write; this one is dropped"),
];

pub(super) const METADATA: &[Row] = &[
    row(
        "annotations",
        Yes("those of podling are listed above; any other under `podling.dev` is an error"),
    ),
    row("creationTimestamp", Kept("set by the API; a file's is dropped")),
    row("deletionGracePeriodSeconds", Kept("set by deleting")),
    row("deletionTimestamp", Kept("set by deleting")),
    inert("finalizers", "nothing here waits for finalizers"),
    row("generateName", Yes("through the API; a manifest file must give `name`")),
    row("generation", Kept("counted by podling")),
    yes("labels"),
    row("managedFields", Kept("dropped")),
    row("name", Yes("a file's name gets no node suffix, unlike a static pod's in Kubernetes")),
    row("namespace", Yes("`default` if left out; namespaces exist by being named")),
    inert("ownerReferences", "nothing here owns other objects or collects garbage"),
    row("resourceVersion", Kept("set by the API; a file's is dropped")),
    row("selfLink", Kept("dropped")),
    row(
        "uid",
        Kept(
            "a file's pods get one from the file's path and content, the API's a random one; one in a file is replaced",
        ),
    ),
];

const PULL_SECRET: &[Row] =
    &[row("name", Yes("of type `kubernetes.io/dockerconfigjson` or `kubernetes.io/dockercfg`"))];

const SPEC: &[Row] = &[
    row("activeDeadlineSeconds", Yes("counted from the status' start time")),
    inert("affinity", ONE_NODE),
    inert("automountServiceAccountToken", "there is no cluster to talk to: no token is mounted"),
    row("containers", In(CONTAINER)),
    row("dnsConfig", In(DNS_CONFIG)),
    row(
        "dnsPolicy",
        Yes(
            "`ClusterFirst`: names of pods and Services are known, others are looked up by the node where policy lets them; `Default` and `None`: only the \
             latter",
        ),
    ),
    row(
        "enableServiceLinks",
        Yes("variables for the Services of the namespace that there are when a container starts"),
    ),
    refused(
        "ephemeralContainers",
        "ephemeral containers are added to a running pod, never written in a manifest; a later version takes them through the API",
    ),
    row("hostAliases", In(HOST_ALIAS)),
    refused("hostIPC", "modules share nothing with the host's processes"),
    refused("hostNetwork", "a pod has a network of its own; publish single ports with hostPort"),
    refused("hostPID", "modules share nothing with the host's processes"),
    row("hostUsers", Inert { quiet: &["true", "false"], why: NO_USERS }),
    row("hostname", Yes("else the pod's name, cut to 63 characters")),
    yes("hostnameOverride"),
    row("imagePullSecrets", In(PULL_SECRET)),
    row("initContainers", In(CONTAINER)),
    row("nodeName", Kept("this node's name, filled in")),
    inert("nodeSelector", ONE_NODE),
    row(
        "os",
        Refused {
            quiet: &["{\"name\":\"linux\"}"],
            why: "modules need no operating system: leave it out, or say linux",
        },
    ),
    inert("overhead", "podling accounts for what it uses by itself"),
    row(
        "preemptionPolicy",
        Inert { quiet: &["\"PreemptLowerPriority\"", "\"Never\""], why: ONE_NODE },
    ),
    row("priority", Yes("orders evictions")),
    row(
        "priorityClassName",
        Inert {
            quiet: &["\"system-node-critical\"", "\"system-cluster-critical\""],
            why: "there are no priority classes but Kubernetes' own two; set priority",
        },
    ),
    row("readinessGates", In(READINESS_GATE)),
    refused("resourceClaims", "there are no devices to claim"),
    row("resources", In(RESOURCES)),
    yes("restartPolicy"),
    row(
        "runtimeClassName",
        Inert { quiet: &["\"podling\""], why: "every pod here runs in podling" },
    ),
    row("schedulerName", Inert { quiet: &["\"default-scheduler\""], why: ONE_NODE }),
    refused(
        "schedulingGates",
        "nothing here would ever lift the gate; add the pod when it may start",
    ),
    inert("schedulingGroup", ONE_NODE),
    row("securityContext", In(POD_SECURITY)),
    row("serviceAccount", Kept("the old name of `serviceAccountName`; not read")),
    row(
        "serviceAccountName",
        Yes("a name only, for `fieldRef`; there are no accounts and no tokens"),
    ),
    refused("setHostnameAsFQDN", "there is no cluster domain to make a full name of; set hostname"),
    inert("shareProcessNamespace", "modules have no processes to show each other"),
    row("subdomain", Yes("")),
    row("terminationGracePeriodSeconds", Yes("a negative one is stored as 1, as in Kubernetes")),
    row("tolerations", Kept("the node has no taints")),
    inert("topologySpreadConstraints", ONE_NODE),
    row("volumes", In(VOLUME)),
];

const DNS_CONFIG: &[Row] = &[
    inert("nameservers", "names outside are looked up by the node's own resolver, for every pod"),
    row("options", In(DNS_OPTION)),
    yes("searches"),
];

const DNS_OPTION: &[Row] =
    &[row("name", Yes("`ndots`; others are accepted with a warning")), yes("value")];

const HOST_ALIAS: &[Row] = &[yes("hostnames"), yes("ip")];

const READINESS_GATE: &[Row] = &[yes("conditionType")];

const CONTAINER: &[Row] = &[
    yes("args"),
    row(
        "command",
        Yes(
            "its first word becomes `argv[0]` (else the container's name), the rest goes before `args`; the module is always `image`",
        ),
    ),
    row("env", In(ENV)),
    row("envFrom", In(ENV_FROM)),
    row(
        "image",
        Yes(
            "`NAME[:TAG]`, `NAME@sha256:HEX`, `sha256:HEX`, or `file:PATH`; see Images. A name that is none is an error here, not a status",
        ),
    ),
    yes("imagePullPolicy"),
    row("lifecycle", In(LIFECYCLE)),
    row("livenessProbe", In(PROBE)),
    yes("name"),
    row("ports", In(PORT)),
    row("readinessProbe", In(PROBE)),
    row("resizePolicy", Kept("pods are not resized in place yet")),
    row("resources", In(RESOURCES)),
    row("restartPolicy", Yes("`Always` on an init container makes it a sidecar")),
    row("restartPolicyRules", In(RESTART_RULE)),
    row("securityContext", In(SECURITY)),
    row("startupProbe", In(PROBE)),
    row("stdin", Yes("keeps standard input open; nothing can be written to it yet")),
    inert("stdinOnce", "nobody can attach to a module yet"),
    row("terminationMessagePath", Yes("as the module sees it; `/dev/termination-log` if left out")),
    yes("terminationMessagePolicy"),
    inert("tty", "modules have no terminal"),
    refused("volumeDevices", "modules have files, not block devices"),
    row("volumeMounts", In(MOUNT)),
    row(
        "workingDir",
        Yes(
            "told by WASI and as `PWD`; Go heeds it, the libraries of C and of Rust 1.95 begin at `/`",
        ),
    ),
];

const ENV: &[Row] = &[yes("name"), yes("value"), row("valueFrom", In(ENV_SOURCE))];

const ENV_SOURCE: &[Row] = &[
    row("configMapKeyRef", In(KEY_REF)),
    row("fieldRef", In(FIELD_REF)),
    refused("fileKeyRef", "variables are not read from files yet; use a ConfigMap or Secret"),
    row("resourceFieldRef", In(RESOURCE_FIELD_REF)),
    row("secretKeyRef", In(KEY_REF)),
];

const KEY_REF: &[Row] = &[yes("key"), yes("name"), yes("optional")];

const FIELD_REF: &[Row] = &[
    yes("apiVersion"),
    row("fieldPath", Yes("all that Kubernetes allows in variables and in downward API volumes")),
];

const RESOURCE_FIELD_REF: &[Row] = &[
    yes("containerName"),
    yes("divisor"),
    row("resource", Yes("cpu, memory, ephemeral-storage, of limits or requests")),
];

const ENV_FROM: &[Row] =
    &[row("configMapRef", In(OBJECT_REF)), yes("prefix"), row("secretRef", In(OBJECT_REF))];

const OBJECT_REF: &[Row] = &[yes("name"), yes("optional")];

const LIFECYCLE: &[Row] = &[
    row("postStart", In(HOOK)),
    row("preStop", In(HOOK)),
    refused(
        "stopSignal",
        "modules hear no signals; see the annotation stop-signal.podling.dev/CONTAINER",
    ),
];

const HOOK: &[Row] = &[
    row("exec", In(EXEC)),
    row("httpGet", In(HTTP_GET)),
    row("sleep", In(SLEEP)),
    refused(
        "tcpSocket",
        "Kubernetes accepts it and fails when it should run; use httpGet, exec or sleep",
    ),
];

const EXEC: &[Row] = &[row(
    "command",
    Yes(
        "a second instance of the module, with these words as its arguments, on the same network and volumes",
    ),
)];

const SLEEP: &[Row] = &[yes("seconds")];

const HTTP_GET: &[Row] = &[
    row("host", Yes("the pod itself if left out")),
    row("httpHeaders", In(HEADER)),
    yes("path"),
    yes("port"),
    row("scheme", Yes(LATER_TLS)),
];

const HEADER: &[Row] = &[yes("name"), yes("value")];

const TCP_SOCKET: &[Row] = &[row("host", Yes("the pod itself if left out")), yes("port")];

const PROBE: &[Row] = &[
    row("exec", In(EXEC)),
    yes("failureThreshold"),
    refused("grpc", "gRPC probes come with a later version; use httpGet, tcpSocket or exec"),
    row("httpGet", In(HTTP_GET)),
    yes("initialDelaySeconds"),
    yes("periodSeconds"),
    yes("successThreshold"),
    row("tcpSocket", In(TCP_SOCKET)),
    yes("terminationGracePeriodSeconds"),
    yes("timeoutSeconds"),
];

const PORT: &[Row] = &[
    row(
        "containerPort",
        Yes("a note for people and probes, as in Kubernetes: a module may listen on any port"),
    ),
    row("hostIP", Yes("all addresses of the host if left out")),
    row("hostPort", Yes("published by a listener of the daemon")),
    yes("name"),
    row("protocol", Yes("`TCP` or `UDP`; `SCTP` is refused")),
];

const RESOURCES: &[Row] = &[
    refused("claims", "there are no devices to claim"),
    row(
        "limits",
        Yes("`cpu`, `memory`, `ephemeral-storage`; for a container also those of podling above"),
    ),
    row("requests", Yes("filled in from `limits`, as in Kubernetes")),
];

const RESTART_RULE: &[Row] =
    &[row("action", Yes("`Restart`, `RestartAllContainers`")), row("exitCodes", In(EXIT_CODES))];

const EXIT_CODES: &[Row] = &[yes("operator"), yes("values")];

const MOUNT: &[Row] = &[
    row("mountPath", Yes("must not contain `..`")),
    row(
        "mountPropagation",
        Inert {
            quiet: &["\"None\""],
            why: "modules mount nothing, so there is nothing to pass on",
        },
    ),
    yes("name"),
    yes("readOnly"),
    row("recursiveReadOnly", Yes("holds by itself: there are no mounts within mounts")),
    yes("subPath"),
    yes("subPathExpr"),
];

const POD_SECURITY: &[Row] = &[
    inert("appArmorProfile", NO_KERNEL),
    inert("fsGroup", NO_USERS),
    inert("fsGroupChangePolicy", NO_USERS),
    inert("runAsGroup", NO_USERS),
    row("runAsNonRoot", Kept("a module is no user, so it is not root")),
    inert("runAsUser", NO_USERS),
    inert("seLinuxChangePolicy", NO_KERNEL),
    inert("seLinuxOptions", NO_KERNEL),
    row("seccompProfile", Kept(NO_KERNEL)),
    inert("supplementalGroups", NO_USERS),
    inert("supplementalGroupsPolicy", NO_USERS),
    refused("sysctls", "the pod's network is not the kernel's and has no sysctls"),
    refused("windowsOptions", "this is not Windows"),
];

const SECURITY: &[Row] = &[
    inert("allowPrivilegeEscalation", "a module has no privileges that could grow"),
    inert("appArmorProfile", NO_KERNEL),
    row("capabilities", In(CAPABILITIES)),
    inert("privileged", "a module has no privileges, whatever the manifest grants"),
    row("procMount", Inert { quiet: &["\"Default\""], why: "modules have no /proc" }),
    row("readOnlyRootFilesystem", Kept("a module has no root file system, only its mounts")),
    inert("runAsGroup", NO_USERS),
    row("runAsNonRoot", Kept("a module is no user, so it is not root")),
    inert("runAsUser", NO_USERS),
    inert("seLinuxOptions", NO_KERNEL),
    row("seccompProfile", Kept(NO_KERNEL)),
    refused("windowsOptions", "this is not Windows"),
];

const CAPABILITIES: &[Row] = &[
    inert("add", "a module has no capabilities, whatever the manifest grants"),
    row("drop", Kept("a module has none to lose")),
];

const VOLUME: &[Row] = &[
    refused("awsElasticBlockStore", NO_VOLUME),
    refused("azureDisk", NO_VOLUME),
    refused("azureFile", NO_VOLUME),
    refused("cephfs", NO_VOLUME),
    refused("cinder", NO_VOLUME),
    row("configMap", In(CONFIG_MAP_VOLUME)),
    refused("csi", NO_VOLUME),
    row("downwardAPI", In(DOWNWARD_VOLUME)),
    row("emptyDir", In(EMPTY_DIR)),
    refused("ephemeral", NO_VOLUME),
    refused("fc", NO_VOLUME),
    refused("flexVolume", NO_VOLUME),
    refused("flocker", NO_VOLUME),
    refused("gcePersistentDisk", NO_VOLUME),
    refused("gitRepo", NO_VOLUME),
    refused("glusterfs", NO_VOLUME),
    row("hostPath", In(HOST_PATH)),
    refused("image", NO_VOLUME),
    refused("iscsi", NO_VOLUME),
    yes("name"),
    refused("nfs", NO_VOLUME),
    refused("persistentVolumeClaim", NO_VOLUME),
    refused("photonPersistentDisk", NO_VOLUME),
    refused("portworxVolume", NO_VOLUME),
    row("projected", In(PROJECTED_VOLUME)),
    refused("quobyte", NO_VOLUME),
    refused("rbd", NO_VOLUME),
    refused("scaleIO", NO_VOLUME),
    row("secret", In(SECRET_VOLUME)),
    refused("storageos", NO_VOLUME),
    refused("vsphereVolume", NO_VOLUME),
];

const CONFIG_MAP_VOLUME: &[Row] =
    &[yes("defaultMode"), row("items", In(ITEM)), yes("name"), yes("optional")];

const SECRET_VOLUME: &[Row] =
    &[yes("defaultMode"), row("items", In(ITEM)), yes("optional"), yes("secretName")];

const ITEM: &[Row] = &[yes("key"), yes("mode"), yes("path")];

const DOWNWARD_VOLUME: &[Row] = &[yes("defaultMode"), row("items", In(DOWNWARD_FILE))];

const DOWNWARD_FILE: &[Row] = &[
    row("fieldRef", In(FIELD_REF)),
    yes("mode"),
    yes("path"),
    row("resourceFieldRef", In(RESOURCE_FIELD_REF)),
];

const EMPTY_DIR: &[Row] = &[
    row("medium", Yes("`Memory` counts as the pod's memory")),
    row("sizeLimit", Yes("who fills it is told at once (`ENOSPC`): `docs/limits.md`")),
];

const HOST_PATH: &[Row] = &[
    row(
        "path",
        Yes(
            "absolute; never the kernel's file systems or the daemon's own folders; from the API and MQTT only below what the node's configuration allows",
        ),
    ),
    yes("type"),
];

const PROJECTED_VOLUME: &[Row] = &[yes("defaultMode"), row("sources", In(PROJECTION))];

const PROJECTION: &[Row] = &[
    refused("clusterTrustBundle", "there is no cluster to trust"),
    row("configMap", In(PROJECTED_OBJECT)),
    row("downwardAPI", In(PROJECTED_DOWNWARD)),
    refused("podCertificate", "there is no cluster that would sign it"),
    row("secret", In(PROJECTED_OBJECT)),
    refused("serviceAccountToken", "there are no service accounts and no cluster to talk to"),
];

const PROJECTED_OBJECT: &[Row] = &[row("items", In(ITEM)), yes("name"), yes("optional")];

const PROJECTED_DOWNWARD: &[Row] = &[row("items", In(DOWNWARD_FILE))];
