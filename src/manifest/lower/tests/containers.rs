//! What a container must not say.

use super::*;

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
