//! What a pod must not say, and what is warned about.

use super::*;

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
