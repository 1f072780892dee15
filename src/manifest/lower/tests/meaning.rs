//! What a valid pod comes to mean.

use super::*;

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
         http-reuse.podling.dev/side: '100', http-instance-concurrency.podling.dev/side: '3', log-rate.podling.dev/main: 16Ki}",
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
    let side = &pod.init_containers[1].http;
    assert_eq!((side.requests_per_instance, side.requests_at_once), (Some(100), 3));
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
