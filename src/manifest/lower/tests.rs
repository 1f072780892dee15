#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::PathBuf;

use super::*;
use crate::manifest::{FieldValidation, parse};
use crate::spec::{
    ContainerKind, ContainerRestartPolicy, EnvSource, FieldPath, Handler, Hook, HttpLimits,
    ImageRef, OnMemoryLimit, PortRef, QosClass, RuleAction, StopSignal, SubPath, VolumeSource,
};

fn read(text: &str) -> corev1::Pod {
    let mut parsed = parse(text.as_bytes(), FieldValidation::Strict);
    assert!(parsed.errors.is_empty(), "{:?}\n{text}", parsed.errors);
    match parsed.documents.pop().unwrap().object {
        Object::Pod(pod) => *pod,
        other @ (Object::ConfigMap(_)
        | Object::Secret(_)
        | Object::Service(_)
        | Object::NetworkPolicy(_)) => panic!("{other:?}"),
    }
}

/// A pod with this metadata and spec, in YAML flow style.
fn pod_of(metadata: &str, spec: &str) -> corev1::Pod {
    read(&format!("{{apiVersion: v1, kind: Pod, metadata: {{{metadata}}}, spec: {{{spec}}}}}"))
}

fn try_lower(pod: &corev1::Pod, source: &Source) -> Result<Lowered, Vec<String>> {
    let uid = PodUid::new("u");
    lower(pod, source, uid).map_err(|errors| errors.iter().map(ToString::to_string).collect())
}

fn good(metadata: &str, spec: &str) -> Lowered {
    try_lower(&pod_of(metadata, spec), &Source::Api).unwrap()
}

/// A pod with one container that has these fields beside its name and image.
fn container(fields: &str) -> crate::spec::Container {
    let spec = format!("containers: [{{name: c, image: x, {fields}}}]");
    good("name: p", &spec).pod.containers.remove(0)
}

const C: &str = "containers: [{name: c, image: x}]";

/// Each spec breaks exactly these rules, in Kubernetes' words.
fn check_spec(cases: &[(&str, &[&str])]) {
    for (spec, expected) in cases {
        let errors = try_lower(&pod_of("name: p", spec), &Source::Api).expect_err(spec);
        assert_eq!(errors, *expected, "{spec}");
    }
}

/// As [`check_spec`], with the fields of one container; paths are within it.
fn check_container(cases: &[(&str, &[&str])]) {
    for (fields, expected) in cases {
        let spec = format!("containers: [{{name: c, image: x, {fields}}}]");
        let errors = try_lower(&pod_of("name: p", &spec), &Source::Api).expect_err(fields);
        let expected: Vec<String> =
            expected.iter().map(|text| format!("spec.containers[0].{text}")).collect();
        assert_eq!(errors, expected, "{fields}");
    }
}

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start \
                     and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
                     '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";

#[test]
fn rules_of_a_pod() {
    let bad_name = format!("spec.containers[0].name: Invalid value: \"A_b\": {LABEL}");
    check_spec(&[
        ("", &["spec.containers: Required value"]),
        ("containers: [{name: A_b, image: x}]", &[&bad_name]),
        (
            "containers: [{image: x}, {name: c}]",
            &[
                "spec.containers[0].name: Required value",
                "spec.containers[1].image: Required value",
            ],
        ),
        (
            "containers: [{name: a, image: x}], initContainers: [{name: a, image: z}]",
            &["spec.containers[0].name: Duplicate value: \"a\""],
        ),
        (
            &format!("{C}, restartPolicy: X"),
            &[
                "spec.restartPolicy: Unsupported value: \"X\": supported values: \"Always\", \"Never\", \"OnFailure\"",
            ],
        ),
        (
            &format!("{C}, activeDeadlineSeconds: 0"),
            &[
                "spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive",
            ],
        ),
        (
            &format!("{C}, hostAliases: [{{ip: nowhere, hostnames: [ok]}}]"),
            &[
                "spec.hostAliases[0].ip: Invalid value: \"nowhere\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            ],
        ),
        (
            &format!("{C}, hostname: a.b"),
            &["spec.hostname: Invalid value: \"a.b\": must not contain dots"],
        ),
        (
            "containers: [{name: a, image: x, ports: [{containerPort: 1, hostPort: 8080}]}, \
             {name: b, image: x, ports: [{containerPort: 2, hostPort: 8080}]}]",
            &["spec.containers[1].ports[0].hostPort: Duplicate value: \"TCP//8080\""],
        ),
        (
            &format!("{C}, volumes: [{{name: v}}, {{name: v}}, {{}}]"),
            &[
                "spec.volumes[1].name: Duplicate value: \"v\"",
                "spec.volumes[2].name: Required value",
            ],
        ),
        (
            &format!("{C}, resources: {{limits: {{cpu: 1, disk: 1}}, requests: {{cpu: 2}}}}"),
            &[
                "spec.resources.limits[disk]: Invalid value: \"disk\": must be a standard resource for pods: cpu or memory",
                "spec.resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
            ],
        ),
    ]);
}

#[test]
fn a_pods_own_limits_must_have_room_for_its_containers() {
    let c = "containers: [{name: a, image: x, resources: {requests: {cpu: 1}}}, \
             {name: b, image: x, resources: {limits: {cpu: 2, memory: 1Gi}}}]";
    check_spec(&[(
        &format!(
            "{c}, resources: {{limits: {{cpu: 4, memory: 1Mi}}, requests: {{cpu: 2, memory: 1Mi}}}}"
        ),
        &[
            "spec.resources.requests[cpu]: Invalid value: \"2\": must be greater than or equal to aggregate container requests of 3",
            "spec.resources.requests[memory]: Invalid value: \"1Mi\": must be greater than or equal to aggregate container requests of 1Gi",
            "spec.containers[1].resources.limits[memory]: Invalid value: \"1Gi\": must be less than or equal to pod limits of 1Mi",
        ],
    )]);
    let fits = good("name: p", &format!("{c}, resources: {{limits: {{cpu: 4, memory: 1Gi}}}}")).pod;
    // The pod's own requests come from its containers' where it names none.
    assert_eq!(fits.resources.cpu_request_millis, Some(3000));
}

#[test]
fn words_without_effect_must_still_be_kubernetes_own() {
    check_spec(&[
        (
            &format!("{C}, dnsPolicy: Cluster, preemptionPolicy: Always"),
            &[
                "spec.preemptionPolicy: Unsupported value: \"Always\": supported values: \"Never\", \"PreemptLowerPriority\"",
                "spec.dnsPolicy: Unsupported value: \"Cluster\": supported values: \"ClusterFirst\", \"ClusterFirstWithHostNet\", \"Default\", \"None\"",
            ],
        ),
        (
            &format!("{C}, dnsPolicy: None"),
            &[
                "spec.dnsConfig.nameservers: Required value: must provide at least one DNS nameserver when `dnsPolicy` is None",
            ],
        ),
        (
            "volumes: [{name: v}], containers: [{name: c, image: x, volumeMounts: [{name: v, mountPath: /v, mountPropagation: Up}]}]",
            &[
                "spec.containers[0].volumeMounts[0].mountPropagation: Unsupported value: \"Up\": supported values: \"Bidirectional\", \
               \"HostToContainer\", \"None\"",
            ],
        ),
        (
            &format!("{C}, serviceAccountName: A"),
            &[&format!(
                "spec.serviceAccountName: Invalid value: \"A\": {}",
                rules::dns_subdomain("A")[0]
            )],
        ),
    ]);
}

#[test]
fn rules_of_metadata() {
    for (metadata, expected) in [
        ("", "metadata.name: Required value: name or generateName is required"),
        ("name: A", "metadata.name: Invalid value: \"A\": a lowercase RFC 1123 subdomain must"),
        (
            "name: p, namespace: a.b",
            "metadata.namespace: Invalid value: \"a.b\": must not contain dots",
        ),
        (
            "name: p, labels: {a/b/c: x}",
            "metadata.labels: Invalid value: \"a/b/c\": a qualified name must",
        ),
        (
            "name: p, labels: {a: x y}",
            "metadata.labels: Invalid value: \"x y\": a valid label must be",
        ),
        (
            "name: p, annotations: {stop-signal.podling.dev/c: maybe}",
            "metadata.annotations[stop-signal.podling.dev/c]: Unsupported value: \"maybe\": supported values: \"lifecycle\", \"stdin\"",
        ),
        (
            "name: p, annotations: {http-concurrency.podling.dev/c: '0'}",
            "metadata.annotations[http-concurrency.podling.dev/c]: Invalid value: \"0\": must be a whole number between 1 and 1024",
        ),
        (
            "name: p, annotations: {http-body-limit.podling.dev/c: much}",
            "metadata.annotations[http-body-limit.podling.dev/c]: Invalid value: \"much\"",
        ),
        (
            "name: p, annotations: {on-memory-limit.podling.dev/other: fail}",
            "metadata.annotations[on-memory-limit.podling.dev/other]: Not found: \"other\"",
        ),
        (
            "name: p, annotations: {podling.dev/unheard-of: x}",
            "metadata.annotations[podling.dev/unheard-of]: Forbidden: not an annotation of podling; known: \
             stop-signal.podling.dev/CONTAINER, on-memory-limit.podling.dev/CONTAINER, \
             http-concurrency.podling.dev/CONTAINER",
        ),
        (
            "name: p, annotations: {stop-singal.podling.dev/c: stdin}",
            "metadata.annotations[stop-singal.podling.dev/c]: Forbidden: not an annotation of podling",
        ),
    ] {
        let errors = try_lower(&pod_of(metadata, C), &Source::Api).expect_err(metadata);
        assert!(errors.len() == 1 && errors[0].starts_with(expected), "{metadata}: {errors:?}");
    }
    // What is not ours is nobody's business here.
    good("name: p, annotations: {example.com/x: z, notpodling.dev/x: z}", C);
}

#[test]
fn rules_of_a_container() {
    check_container(&[
        (
            "ports: [{containerPort: 70000}, {}, {containerPort: 1, name: UP, protocol: X}]",
            &[
                "ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
                "ports[1].containerPort: Required value",
                "ports[2].name: Invalid value: \"UP\": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
                "ports[2].name: Invalid value: \"UP\": must contain at least one letter (a-z)",
                "ports[2].protocol: Unsupported value: \"X\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
            ],
        ),
        (
            "ports: [{containerPort: 1, name: a}, {containerPort: 2, name: a}]",
            &["ports[1].name: Duplicate value: \"a\""],
        ),
        (
            "ports: [{containerPort: 1, protocol: SCTP, hostIP: x, hostPort: -1}]",
            &[
                "ports[0].hostIP: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
                "ports[0].hostPort: Invalid value: -1: must be between 1 and 65535, inclusive",
                "ports[0].protocol: Forbidden: SCTP is not offered: modules have TCP and UDP",
            ],
        ),
        (
            "imagePullPolicy: Sometimes",
            &[
                "imagePullPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"IfNotPresent\", \"Never\"",
            ],
        ),
        (
            "terminationMessagePolicy: Shout",
            &[
                "terminationMessagePolicy: Unsupported value: \"Shout\": supported values: \"FallbackToLogsOnError\", \"File\"",
            ],
        ),
        (
            "restartPolicyRules: [{action: Restart, exitCodes: {operator: In, values: [1]}}]",
            &[
                "restartPolicy: Required value: must specify restartPolicy when restart rules are used",
            ],
        ),
        (
            "restartPolicy: Never, restartPolicyRules: [{action: Run}, {action: Restart, exitCodes: {operator: Is}}]",
            &[
                "restartPolicyRules[0].action: Unsupported value: \"Run\": supported values: \"Restart\", \"RestartAllContainers\"",
                "restartPolicyRules[0].exitCodes: Required value: must be specified",
                "restartPolicyRules[1].exitCodes.operator: Unsupported value: \"Is\": supported values: \"In\", \"NotIn\"",
                "restartPolicyRules[1].exitCodes.values: Required value",
            ],
        ),
    ]);
}

#[test]
fn rules_of_probes_and_hooks() {
    check_container(&[
        ("livenessProbe: {}", &["livenessProbe: Required value: must specify a handler type"]),
        (
            "livenessProbe: {exec: {command: [a]}, tcpSocket: {port: 1}}",
            &["livenessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type"],
        ),
        ("livenessProbe: {exec: {}}", &["livenessProbe.exec.command: Required value"]),
        (
            "livenessProbe: {tcpSocket: {port: 1}, successThreshold: 2, periodSeconds: -1}",
            &[
                "livenessProbe.periodSeconds: Invalid value: -1: must be greater than or equal to 0",
                "livenessProbe.successThreshold: Invalid value: 2: must be 1",
            ],
        ),
        (
            "readinessProbe: {tcpSocket: {port: 1}, terminationGracePeriodSeconds: 5}",
            &[
                "readinessProbe.terminationGracePeriodSeconds: Invalid value: 5: must not be set for readinessProbes",
            ],
        ),
        (
            "startupProbe: {tcpSocket: {port: 0}, terminationGracePeriodSeconds: 0}",
            &[
                "startupProbe.tcpSocket.port: Invalid value: 0: must be between 1 and 65535, inclusive",
                "startupProbe.terminationGracePeriodSeconds: Invalid value: 0: must be greater than 0",
            ],
        ),
        (
            "readinessProbe: {httpGet: {port: 1, scheme: HTTPS, httpHeaders: [{name: 'a b', value: x}]}}",
            &[
                "readinessProbe.httpGet.scheme: Forbidden: TLS comes with a later version; use HTTP",
                "readinessProbe.httpGet.httpHeaders[0].name: Invalid value: \"a b\": a valid HTTP header must consist of \
                 alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')",
            ],
        ),
        (
            "readinessProbe: {grpc: {port: 1}}",
            &[
                "readinessProbe.grpc: Forbidden: gRPC probes come with a later version; use httpGet, tcpSocket or exec",
            ],
        ),
        (
            "lifecycle: {preStop: {sleep: {seconds: 31}}}",
            &[
                "lifecycle.preStop.sleep.seconds: Invalid value: 31: must be non-negative and less than terminationGracePeriodSeconds (30)",
            ],
        ),
        (
            "lifecycle: {postStart: {tcpSocket: {port: 1}}, preStop: {}}",
            &[
                "lifecycle.postStart.tcpSocket: Forbidden: Kubernetes accepts it and fails when it should run; use httpGet, exec or sleep",
                "lifecycle.preStop: Required value: must specify a handler type",
            ],
        ),
    ]);
    let plain_init = "containers: [{name: c, image: x}], \
                      initContainers: [{name: i, image: x, livenessProbe: {tcpSocket: {port: 1}}}]";
    check_spec(&[(
        plain_init,
        &[
            "spec.initContainers[0].livenessProbe: Forbidden: may not be set for init containers without restartPolicy=Always",
        ],
    )]);
}

#[test]
fn rules_of_the_environment() {
    check_container(&[
        (
            "env: [{name: A=B}, {}, {name: C, valueFrom: {}}]",
            &[
                "env[0].name: Invalid value: \"A=B\": a valid environment variable name must consist only of printable ASCII characters other than '='",
                "env[1].name: Required value",
                "env[2].valueFrom: Invalid value: \"\": must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
            ],
        ),
        (
            "env: [{name: A, value: x, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]",
            &[
                "env[0].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty",
            ],
        ),
        (
            "env: [{name: A, valueFrom: {fieldRef: {fieldPath: metadata.name}, secretKeyRef: {name: s, key: k}}}]",
            &[
                "env[0].valueFrom: Invalid value: \"\": may not have more than one field specified at a time",
            ],
        ),
        (
            "env: [{name: A, valueFrom: {fieldRef: {fieldPath: metadata.labels}}}]",
            &[
                "env[0].valueFrom.fieldRef.fieldPath: Unsupported value: \"metadata.labels\": supported values: \"metadata.name\", \
               \"metadata.namespace\", \"metadata.uid\", \"spec.nodeName\", \"spec.serviceAccountName\", \"status.hostIP\", \
               \"status.hostIPs\", \"status.podIP\", \"status.podIPs\"",
            ],
        ),
        (
            "env: [{name: A, valueFrom: {fieldRef: {fieldPath: \"metadata.name['x']\"}}}]",
            &[
                "env[0].valueFrom.fieldRef.fieldPath: Invalid value: \"metadata.name\": does not support subscript",
            ],
        ),
        (
            "env: [{name: A, valueFrom: {resourceFieldRef: {resource: limits.memory, divisor: 3, containerName: d}}}]",
            &[
                "env[0].valueFrom.resourceFieldRef.containerName: Not found: \"d\"",
                "env[0].valueFrom.resourceFieldRef.divisor: Invalid value: \"3\": only divisor's values 1, 1k, 1M, 1G, 1T, 1P, 1E, \
                 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei are supported with the memory resource",
            ],
        ),
        (
            "env: [{name: A, valueFrom: {resourceFieldRef: {resource: limits.cpu, divisor: 2}}}]",
            &[
                "env[0].valueFrom.resourceFieldRef.divisor: Invalid value: \"2\": only divisor's values 1m and 1 are supported with the cpu resource",
            ],
        ),
        (
            "env: [{name: A, valueFrom: {configMapKeyRef: {key: a/b}}}]",
            &[
                "env[0].valueFrom.configMapKeyRef.name: Required value",
                "env[0].valueFrom.configMapKeyRef.key: Invalid value: \"a/b\": a valid config key must consist of alphanumeric characters, \
                 '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')",
            ],
        ),
        (
            "envFrom: [{}, {configMapRef: {name: a}, secretRef: {name: b}}, {secretRef: {}}]",
            &[
                "envFrom[0]: Invalid value: \"\": must specify one of: `configMapRef` or `secretRef`",
                "envFrom[1]: Invalid value: \"\": may not have more than one field specified at a time",
                "envFrom[2].secretRef.name: Required value",
            ],
        ),
    ]);
}

#[test]
fn rules_of_resources() {
    check_container(&[
        (
            "resources: {limits: {cpu: 1}, requests: {cpu: 2}}",
            &[
                "resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
            ],
        ),
        (
            "resources: {limits: {memory: -1}}",
            &[
                "resources.limits[memory]: Invalid value: \"-1\": must be greater than or equal to 0",
            ],
        ),
        (
            "resources: {requests: {memory: 1K, gpu: 1}}",
            &[
                "resources.requests[gpu]: Invalid value: \"gpu\": must be a standard resource for containers",
                "resources.requests[memory]: Invalid value: \"1K\": unable to parse quantity's suffix",
            ],
        ),
        (
            "resources: {limits: {podling.dev/fuel: 1.5}, requests: {podling.dev/fuel: 1.5}}",
            &["resources.limits[podling.dev/fuel]: Invalid value: \"1500m\": must be an integer"],
        ),
        (
            "resources: {limits: {podling.dev/fuel: 2}, requests: {podling.dev/fuel: 1}}",
            &[
                "resources.requests: Invalid value: \"1\": must be equal to podling.dev/fuel limit of 2",
            ],
        ),
        (
            "resources: {requests: {podling.dev/fuel: 1}}",
            &[
                "resources.limits: Required value: Limit must be set for non overcommitable resources",
            ],
        ),
        (
            "resources: {limits: {podling.dev/feul: 1, example.com/gpu: 1}, requests: {hugepages-2Mi: 1}}",
            &[
                "resources.limits[example.com/gpu]: Forbidden: this node has no such resource",
                "resources.limits[podling.dev/feul]: Forbidden: no resource of podling; known: podling.dev/fuel, podling.dev/fuel-per-second",
                "resources.requests[hugepages-2Mi]: Forbidden: modules have no huge pages",
            ],
        ),
    ]);
}

#[test]
fn rules_of_volumes_and_mounts() {
    let volume = |fields: &str| format!("{C}, volumes: [{{name: v, {fields}}}]");
    check_spec(&[
        (
            &volume("emptyDir: {}, hostPath: {path: /x}"),
            &["spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type"],
        ),
        (
            &volume("hostPath: {path: /a/../b, type: Dir}"),
            &[
                "spec.volumes[0].hostPath.path: Invalid value: \"/a/../b\": must not contain '..'",
                "spec.volumes[0].hostPath.type: Unsupported value: \"Dir\": supported values: \"\", \"BlockDevice\", \"CharDevice\", \
                 \"Directory\", \"DirectoryOrCreate\", \"File\", \"FileOrCreate\", \"Socket\"",
            ],
        ),
        (&volume("hostPath: {}"), &["spec.volumes[0].hostPath.path: Required value"]),
        (
            &volume("configMap: {defaultMode: 01000, items: [{key: k, path: ../x}, {}]}"),
            &[
                "spec.volumes[0].configMap.name: Required value",
                "spec.volumes[0].configMap.items[0].path: Invalid value: \"../x\": must not contain '..'",
                "spec.volumes[0].configMap.items[1].key: Required value",
                "spec.volumes[0].configMap.items[1].path: Required value",
                "spec.volumes[0].configMap.defaultMode: Invalid value: 512: must be a number between 0 and 0777 (octal), both inclusive",
            ],
        ),
        (
            &volume(
                "downwardAPI: {items: [{path: a}, {path: /b, fieldRef: {fieldPath: status.podIP}}, \
                     {path: c, resourceFieldRef: {resource: limits.cpu}}]}",
            ),
            &[
                "spec.volumes[0].downwardAPI.items[0]: Required value: one of fieldRef and resourceFieldRef is required",
                "spec.volumes[0].downwardAPI.items[1].path: Invalid value: \"/b\": must be a relative path",
                "spec.volumes[0].downwardAPI.items[1].fieldRef.fieldPath: Unsupported value: \"status.podIP\": supported values: \
                 \"metadata.annotations\", \"metadata.labels\", \"metadata.name\", \"metadata.namespace\", \"metadata.uid\"",
                "spec.volumes[0].downwardAPI.items[2].resourceFieldRef.containerName: Required value",
            ],
        ),
        (
            &volume(
                "projected: {sources: [{secret: {name: a, items: [{key: k, path: p}]}}, \
                     {configMap: {name: b, items: [{key: k, path: p}]}}]}",
            ),
            &["spec.volumes[0].projected: Invalid value: \"p\": conflicting duplicate paths"],
        ),
        (
            &volume("persistentVolumeClaim: {claimName: c}"),
            &[
                "spec.volumes[0].persistentVolumeClaim: Forbidden: volumes of this type are not offered here; emptyDir, hostPath, configMap, \
               secret, downwardAPI and projected are",
            ],
        ),
        (
            &volume("emptyDir: {medium: HugePages, sizeLimit: -1}"),
            &[
                "spec.volumes[0].emptyDir.medium: Invalid value: \"HugePages\": must be empty or \"Memory\": modules have no huge pages",
                "spec.volumes[0].emptyDir.sizeLimit: Forbidden: SizeLimit field must be a valid resource quantity",
            ],
        ),
    ]);
    check_container(&[
        (
            "volumeMounts: [{name: w, mountPath: /a}, {name: w, mountPath: 'a/'}, {mountPath: 'c:d'}, {name: w}]",
            &[
                "volumeMounts[0].name: Not found: \"w\"",
                "volumeMounts[1].name: Not found: \"w\"",
                "volumeMounts[1].mountPath: Invalid value: \"a/\": must be unique",
                "volumeMounts[2].name: Required value",
                "volumeMounts[2].mountPath: Invalid value: \"c:d\": must not contain ':'",
                "volumeMounts[3].name: Not found: \"w\"",
                "volumeMounts[3].mountPath: Required value",
            ],
        ),
        (
            "volumeMounts: [{name: w, mountPath: /a, subPath: /x, subPathExpr: z, recursiveReadOnly: Enabled}]",
            &[
                "volumeMounts[0].name: Not found: \"w\"",
                "volumeMounts[0].recursiveReadOnly: Forbidden: may only be specified when readOnly is true",
                "volumeMounts[0].subPathExpr: Invalid value: \"z\": subPathExpr and subPath are mutually exclusive",
                "volumeMounts[0].subPath: Invalid value: \"/x\": must be a relative path",
            ],
        ),
    ]);
}

#[test]
fn what_would_change_the_meaning_if_ignored_is_refused() {
    for field in [
        "hostNetwork: true",
        "hostPID: true",
        "hostIPC: true",
        "setHostnameAsFQDN: true",
        "resourceClaims: [{name: a}]",
        "schedulingGates: [{name: a}]",
        "os: {name: windows}",
        "ephemeralContainers: [{name: e, image: x}]",
        "securityContext: {sysctls: [{name: a, value: b}]}",
    ] {
        let errors = try_lower(&pod_of("name: p", &format!("{C}, {field}")), &Source::Api);
        let errors = errors.expect_err(field);
        assert!(errors.len() == 1 && errors[0].contains(": Forbidden: "), "{field}: {errors:?}");
    }
    for field in ["volumeDevices: [{name: a, devicePath: /b}]", "lifecycle: {stopSignal: SIGUSR1}"]
    {
        let spec = format!("containers: [{{name: c, image: x, {field}}}]");
        let errors = try_lower(&pod_of("name: p", &spec), &Source::Api).expect_err(field);
        assert!(errors.len() == 1 && errors[0].contains(": Forbidden: "), "{field}: {errors:?}");
    }
}

#[test]
fn what_means_nothing_here_is_warned_about_once_and_what_holds_anyway_is_not() {
    let lowered = good(
        "name: p, finalizers: [a.b/c]",
        "nodeSelector: {a: b}, dnsPolicy: None, dnsConfig: {nameservers: [10.0.0.1]}, schedulerName: mine, priorityClassName: gold, \
         containers: [{name: c, image: x, tty: true, securityContext: {privileged: true, runAsUser: 5}}]",
    );
    let paths: Vec<&str> = lowered.warnings.iter().map(|warning| warning.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "metadata.finalizers",
            "spec.containers[0].securityContext.privileged",
            "spec.containers[0].securityContext.runAsUser",
            "spec.containers[0].tty",
            "spec.dnsConfig.nameservers",
            "spec.nodeSelector",
            "spec.priorityClassName",
            "spec.schedulerName",
        ]
    );
    let quiet = good(
        "name: p, creationTimestamp: null",
        "dnsPolicy: ClusterFirst, schedulerName: default-scheduler, hostNetwork: false, enableServiceLinks: true, os: {name: linux}, \
         priorityClassName: system-node-critical, tolerations: [{operator: Exists}], nodeName: here, \
         containers: [{name: c, image: x, securityContext: {runAsNonRoot: true, readOnlyRootFilesystem: true, \
         allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}, seccompProfile: {type: RuntimeDefault}}}]",
    );
    assert_eq!(quiet.warnings, []);
    assert_eq!(quiet.pod.priority, 2_000_001_000);
}

#[test]
fn a_defaulted_pod_warns_no_more_than_the_one_it_came_from() {
    let mut pod = pod_of("name: p", C);
    default::pod(&mut pod);
    let once = pod.clone();
    default::pod(&mut pod);
    assert_eq!(pod, once, "defaulting twice changes nothing");
    assert_eq!(try_lower(&pod, &Source::Api).unwrap().warnings, []);
}

#[test]
fn kubernetes_defaults_are_filled_in() {
    let mut pod = pod_of(
        "name: p",
        "terminationGracePeriodSeconds: -5, volumes: [{name: v}, {name: h, hostPath: {path: /x}}, {name: m, configMap: {name: m}}], \
         containers: [{name: c, image: 'x:1', ports: [{containerPort: 1}], resources: {limits: {cpu: 1000m, memory: 1.5Gi}, requests: {cpu: 500m}}, \
         readinessProbe: {httpGet: {port: 1}}, env: [{name: A, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]}, \
         {name: d, image: x}, {name: e, image: 'h:5000/x@sha256:00'}]",
    );
    default::pod(&mut pod);
    assert_eq!(pod.metadata.namespace.as_deref(), Some("default"));
    let json = serde_json::to_value(&pod.spec).unwrap();
    for (pointer, expected) in [
        ("/restartPolicy", "\"Always\""),
        ("/dnsPolicy", "\"ClusterFirst\""),
        ("/schedulerName", "\"default-scheduler\""),
        ("/enableServiceLinks", "true"),
        ("/securityContext", "{}"),
        ("/terminationGracePeriodSeconds", "1"),
        ("/volumes/0/emptyDir", "{}"),
        ("/volumes/1/hostPath/type", "\"\""),
        ("/volumes/2/configMap/defaultMode", "420"),
        ("/containers/0/imagePullPolicy", "\"IfNotPresent\""),
        ("/containers/1/imagePullPolicy", "\"Always\""),
        ("/containers/2/imagePullPolicy", "\"IfNotPresent\""),
        ("/containers/0/ports/0/protocol", "\"TCP\""),
        ("/containers/0/terminationMessagePath", "\"/dev/termination-log\""),
        ("/containers/0/terminationMessagePolicy", "\"File\""),
        ("/containers/0/resources/limits/cpu", "\"1\""),
        ("/containers/0/resources/requests/cpu", "\"500m\""),
        ("/containers/0/resources/requests/memory", "\"1536Mi\""),
        ("/containers/0/readinessProbe/timeoutSeconds", "1"),
        ("/containers/0/readinessProbe/periodSeconds", "10"),
        ("/containers/0/readinessProbe/successThreshold", "1"),
        ("/containers/0/readinessProbe/failureThreshold", "3"),
        ("/containers/0/readinessProbe/httpGet/path", "\"/\""),
        ("/containers/0/readinessProbe/httpGet/scheme", "\"HTTP\""),
        ("/containers/0/env/0/valueFrom/fieldRef/apiVersion", "\"v1\""),
    ] {
        let found = json.pointer(pointer).map(ToString::to_string);
        assert_eq!(found.as_deref(), Some(expected), "{pointer}");
    }
}

#[test]
fn a_pod_becomes_what_it_says() {
    let lowered = good(
        "name: web.front, namespace: shop, labels: {a: b}, generation: 3, \
         annotations: {stop-signal.podling.dev/main: stdin, on-memory-limit.podling.dev/side: fail, \
         http-concurrency.podling.dev/main: '7', http-timeout.podling.dev/main: '5', http-body-limit.podling.dev/main: 1Mi, \
         http-reuse.podling.dev/side: '100', log-rate.podling.dev/main: 16Ki}",
        "restartPolicy: OnFailure, terminationGracePeriodSeconds: 5, subdomain: sub, serviceAccountName: robot, priority: 7, \
         hostAliases: [{ip: 10.0.0.1, hostnames: [db]}], readinessGates: [{conditionType: example.com/warm}], \
         resources: {limits: {memory: 64Mi}}, \
         initContainers: [{name: first, image: x}, {name: side, image: x, restartPolicy: Always}, \
         {name: ruled, image: x, restartPolicy: Always, restartPolicyRules: [{action: RestartAllContainers, exitCodes: {operator: NotIn, values: [0, 3]}}]}], \
         containers: [{name: main, image: 'repo:2', restartPolicy: Never}]",
    );
    let pod = lowered.pod;
    assert_eq!(pod.key.to_string(), "shop/web.front");
    assert_eq!((pod.generation, pod.grace, pod.priority), (3, Duration::from_secs(5), 7));
    assert_eq!(pod.hostname, "web.front");
    assert_eq!(pod.host_aliases[0].hostnames, ["db"]);
    assert_eq!(pod.readiness_gates, ["example.com/warm"]);
    assert_eq!(pod.resources.memory_limit_bytes, Some(64 << 20));
    let kinds: Vec<_> = pod.init_containers.iter().map(|c| c.kind).collect();
    assert_eq!(kinds, [ContainerKind::Init, ContainerKind::Sidecar, ContainerKind::Init]);
    let ruled = &pod.init_containers[2];
    assert_eq!(ruled.restart_policy, Some(ContainerRestartPolicy::Always));
    assert_eq!(ruled.restart_rules[0].action, RuleAction::RestartAllContainers);
    assert_eq!(
        (ruled.restart_rules[0].within, &ruled.restart_rules[0].codes[..]),
        (false, &[0, 3][..])
    );
    assert_eq!(pod.init_containers[1].restart_policy, None);
    assert_eq!(pod.init_containers[1].on_memory_limit, OnMemoryLimit::Fail);
    assert_eq!(pod.containers[0].stop_signal, StopSignal::StdinEof);
    let http = HttpLimits {
        concurrency: 7,
        request_timeout: Duration::from_secs(5),
        body_bytes_max: 1 << 20,
        ..HttpLimits::default()
    };
    assert_eq!(pod.containers[0].http, http);
    assert_eq!(pod.init_containers[1].http.requests_per_instance, 100);
    assert_eq!(pod.init_containers[0].http, HttpLimits::default());
    assert_eq!(pod.containers[0].log_bytes_per_second, 16 << 10);
    assert_eq!(pod.init_containers[0].log_bytes_per_second, crate::limits::LOG_BYTES_PER_SECOND);
    assert_eq!(pod.containers[0].restart_policy, Some(ContainerRestartPolicy::Never));
    assert_eq!(pod.containers[0].image.text(), "repo:2");
}

#[test]
fn a_container_becomes_what_it_says() {
    let lowered = container(
        "ports: [{containerPort: 80, name: http, hostPort: 8080, hostIP: 127.0.0.1}], \
         resources: {limits: {cpu: 100m, memory: 16Mi, podling.dev/fuel: 100M, ephemeral-storage: 1k}}, \
         readinessProbe: {httpGet: {port: http, path: healthz, httpHeaders: [{name: X, value: z}]}, periodSeconds: 2}, \
         livenessProbe: {tcpSocket: {port: 80}, terminationGracePeriodSeconds: 3}, \
         lifecycle: {preStop: {sleep: {seconds: 1}}, postStart: {exec: {command: [a, b]}}}, \
         env: [{name: A, value: '$(B)'}, {name: L, valueFrom: {fieldRef: {fieldPath: \"metadata.labels['x']\"}}}]",
    );
    assert_eq!(lowered.ports[0].host_port, Some(8080));
    assert_eq!(lowered.resources.cpu_limit_millis, Some(100));
    assert_eq!(lowered.resources.cpu_request_millis, Some(100));
    assert_eq!(lowered.resources.memory_limit_bytes, Some(16 << 20));
    assert_eq!(lowered.resources.fuel, Some(100_000_000));
    assert_eq!(lowered.resources.ephemeral_storage_limit_bytes, Some(1000));
    let readiness = lowered.readiness.unwrap();
    let Handler::HttpGet(get) = readiness.handler else { panic!("{readiness:?}") };
    assert_eq!((get.path.as_str(), get.port), ("/healthz", PortRef::Name("http".to_owned())));
    assert_eq!(readiness.period, Duration::from_secs(2));
    assert_eq!(readiness.failure_threshold.get(), 3);
    assert_eq!(lowered.liveness.unwrap().grace, Some(Duration::from_secs(3)));
    assert_eq!(lowered.hooks.pre_stop, Some(Hook::Sleep(Duration::from_secs(1))));
    assert_eq!(lowered.env[0].source, EnvSource::Value("$(B)".to_owned()));
    assert_eq!(lowered.env[1].source, EnvSource::Field(FieldPath::Labels(Some("x".to_owned()))));
}

#[test]
fn mounts_are_made_absolute_and_keep_their_sub_paths() {
    let spec = "volumes: [{name: v, emptyDir: {medium: Memory, sizeLimit: 1Mi}}], containers: [{name: c, image: x, \
                volumeMounts: [{name: v, mountPath: 'data//x/', readOnly: true}, {name: v, mountPath: /b, subPath: s}, {name: v, mountPath: /c, subPathExpr: '$(A)'}]}]";
    let pod = good("name: p", spec).pod;
    let mounts = &pod.containers[0].mounts;
    assert_eq!((mounts[0].path.as_str(), mounts[0].read_only), ("/data/x", true));
    assert_eq!(mounts[1].sub_path, Some(SubPath::Literal("s".to_owned())));
    assert_eq!(mounts[2].sub_path, Some(SubPath::Expr("$(A)".to_owned())));
    let VolumeSource::EmptyDir { size_limit_bytes, .. } = pod.volumes[0].source else { panic!() };
    assert_eq!(size_limit_bytes, Some(1 << 20));
}

#[test]
fn the_host_name_is_cut_as_kubernetes_cuts_it() {
    let long = format!("{}-.x", "a".repeat(62)).replace("-.x", "-b");
    for (name, spec, expected) in [
        ("short", "", "short".to_owned()),
        ("short", "hostname: other, ", "other".to_owned()),
        ("short", "hostname: other, hostnameOverride: a.b, ", "a.b".to_owned()),
        (long.as_str(), "", "a".repeat(62)),
    ] {
        let pod = good(&format!("name: {name}"), &format!("{spec}{C}")).pod;
        assert_eq!(pod.hostname, expected);
    }
}

#[test]
fn module_files_are_named_from_the_manifests_folder_and_only_by_files() {
    let pod = pod_of("name: p", "containers: [{name: c, image: 'file:./web.wasm'}]");
    for source in
        [Source::Folder(PathBuf::from("/etc/pods/a.yaml")), Source::Play("/etc/pods/a.yaml".into())]
    {
        let lowered = try_lower(&pod, &source).unwrap();
        let ImageRef::File { path, text } = &lowered.pod.containers[0].image else { panic!() };
        assert_eq!(
            (path.as_path(), &**text),
            (FilePath::new("/etc/pods/web.wasm"), "file:./web.wasm")
        );
    }
    for source in [Source::Api, Source::Mqtt] {
        let errors = try_lower(&pod, &source).unwrap_err();
        assert!(
            errors.len() == 1 && errors[0].starts_with("spec.containers[0].image: Invalid value: \"file:./web.wasm\": file: references are only allowed"),
            "{errors:?}"
        );
    }
    let bad = pod_of("name: p", "containers: [{name: c, image: 'Up Per'}, {name: d, image: ' x'}]");
    assert_eq!(
        try_lower(&bad, &Source::Api).unwrap_err(),
        [
            "spec.containers[0].image: Invalid value: \"Up Per\": invalid reference format",
            "spec.containers[1].image: Invalid value: \" x\": must not have leading or trailing whitespace",
        ]
    );
}

#[test]
fn the_uid_of_a_file_pod_follows_place_and_content_only() {
    let here = Source::Folder("/a/b.yaml".into());
    let uid = |source: &Source, metadata: &str, spec: &str| {
        file_uid(source, &pod_of(metadata, spec)).to_string()
    };
    let base = uid(&here, "name: p", C);
    assert_eq!(base.len(), 36);
    assert_eq!(base.split('-').map(str::len).collect::<Vec<_>>(), [8, 4, 4, 4, 12]);
    // The same, said otherwise.
    assert_eq!(base, uid(&here, "name: p, namespace: default, uid: x, resourceVersion: '5'", C));
    assert_eq!(base, uid(&here, "name: p", &format!("{C}, restartPolicy: Always")));
    // Another place, another content.
    assert_ne!(base, uid(&Source::Folder("/a/c.yaml".into()), "name: p", C));
    assert_ne!(base, uid(&here, "name: p, labels: {a: b}", C));
    assert_ne!(base, uid(&here, "name: p", &format!("{C}, restartPolicy: Never")));
}

#[test]
fn the_quality_of_service_is_part_of_the_pod() {
    assert_eq!(good("name: p", C).pod.qos, QosClass::BestEffort);
    let spec = "containers: [{name: c, image: x, resources: {limits: {cpu: 1, memory: 1Mi}}}]";
    assert_eq!(good("name: p", spec).pod.qos, QosClass::Guaranteed);
}

#[test]
fn config_maps_and_secrets_have_rules_too() {
    let check = |text: &str| {
        let mut parsed = parse(text.as_bytes(), FieldValidation::Strict);
        let object = parsed.documents.pop().unwrap().object;
        let errors = validate(&object, &Source::Api).err().unwrap_or_default();
        errors.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\n";
    assert_eq!(check(&format!("{map}data: {{a.b: x}}")), Vec::<String>::new());
    let errors = check(&format!("{map}data: {{a/b: x, k: z}}\nbinaryData: {{k: aGk=}}"));
    assert_eq!(errors.len(), 2);
    assert!(errors[0].starts_with("data[a/b]: Invalid value: \"a/b\": a valid config key must"));
    assert_eq!(errors[1], "binaryData[k]: Invalid value: \"k\": duplicate of key present in data");
    let big = check(&format!("{map}data: {{k: {}}}", "x".repeat(1 << 21)));
    assert_eq!(big, ["data: Too long: may not be more than 1048576 bytes"]);
    let secret = "apiVersion: v1\nkind: Secret\nmetadata: {}\nstringData: {..k: x}";
    assert_eq!(
        check(secret),
        [
            "metadata.name: Required value: name or generateName is required",
            "stringData[..k]: Invalid value: \"..k\": must not start with '..'",
        ]
    );
}

#[test]
fn a_secret_keeps_plain_text_as_data() {
    let text = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {a: b2xk, b: aGk=}\nstringData: {a: new}";
    let mut object =
        parse(text.as_bytes(), FieldValidation::Strict).documents.pop().unwrap().object;
    default::object(&mut object);
    let Object::Secret(secret) = object else { panic!() };
    let data = secret.data.unwrap();
    assert_eq!((data["a"].0.as_slice(), data["b"].0.as_slice()), (&b"new"[..], &b"hi"[..]));
    assert_eq!((secret.string_data, secret.type_.as_deref()), (None, Some("Opaque")));
}

#[test]
fn the_whole_is_said_in_kubernetes_one_sentence() {
    let errors = lower(&pod_of("name: p", ""), &Source::Api, PodUid::new("u")).unwrap_err();
    assert_eq!(
        crate::manifest::invalid("Pod", "p", &errors),
        "Pod \"p\" is invalid: spec.containers: Required value"
    );
    assert_eq!(errors[0].cause_reason(), "FieldValueRequired");
    assert_eq!(errors[0].cause_message(), "Required value");
}

#[test]
fn ports_of_the_hosts_loopback_are_asked_for_one_by_one() {
    let asked = |value: &str| {
        let metadata = format!("name: p, annotations: {{podling.dev/host-loopback: '{value}'}}");
        let lowered = try_lower(&pod_of(&metadata, C), &Source::Api);
        lowered.map(|lowered| {
            lowered.pod.network.host_loopback.iter().map(ToString::to_string).collect::<Vec<_>>()
        })
    };
    assert_eq!(asked("tcp/5432, udp/53").unwrap(), ["tcp/5432", "udp/53"]);
    for (value, expected) in [
        (
            "5432",
            "metadata.annotations[podling.dev/host-loopback]: Invalid value: \"5432\": must be tcp/PORT",
        ),
        ("", "metadata.annotations[podling.dev/host-loopback]: Invalid value: \"\""),
        (
            "tcp/1,tcp/1",
            "metadata.annotations[podling.dev/host-loopback]: Duplicate value: \"tcp/1\"",
        ),
    ] {
        let errors = asked(value).unwrap_err();
        assert!(errors.len() == 1 && errors[0].starts_with(expected), "{value}: {errors:?}");
    }
}
