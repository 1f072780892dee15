#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;
use crate::manifest::{FieldValidation, Object, ObjectMap, lower, parse};
use crate::spec::{PodUid, Source};

/// A pod with one container that has these fields, and the objects beside it.
fn pod(fields: &str, objects: &str) -> (Pod, ObjectMap) {
    let text = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: p, namespace: ns, labels: {{b: \"2\", a: one}}, annotations: {{note: \"line 1\\nsaid \\\"hi\\\"\"}}}}\n\
         spec:\n  hostname: host\n  serviceAccountName: robot\n  resources: {{limits: {{memory: 1Gi}}}}\n  volumes: [{{name: v}}]\n  \
         containers:\n  - {{name: main, image: x, {fields}}}\n  - {{name: other, image: x, resources: {{limits: {{cpu: 1500m, memory: 64Mi}}}}}}\n{objects}"
    );
    let parsed = parse(text.as_bytes(), FieldValidation::Strict);
    assert!(parsed.errors.is_empty(), "{:?}", parsed.errors);
    let mut objects = ObjectMap::default();
    let mut pods = Vec::new();
    for document in parsed.documents {
        objects.insert(&document.object);
        if let Object::Pod(pod) = document.object {
            pods.push(lower(&pod, &Source::Api, PodUid::new("uid-1")).unwrap().pod);
        }
    }
    (pods.pop().unwrap(), objects)
}

fn facts() -> Facts {
    Facts {
        pod_ips: vec![
            Ipv4Addr::new(10, 0, 0, 2).into(),
            Ipv6Addr::new(0xfd, 0, 0, 0, 0, 0, 0, 2).into(),
        ],
        host_ips: vec![Ipv4Addr::new(192, 0, 2, 1).into()],
        node_name: "gateway".to_owned(),
        allocatable: Allocatable {
            cpu_millis: 4000,
            memory_bytes: 2 << 30,
            ephemeral_storage_bytes: 1 << 30,
        },
        services: BTreeMap::new(),
    }
}

fn try_resolve(fields: &str, objects: &str) -> Result<Resolved, EnvironmentError> {
    let (pod, objects) = pod(fields, objects);
    resolve(&pod, &pod.containers[0], &facts(), &objects)
}

/// The variables of the container, `HOSTNAME` apart, as `NAME=value` words.
fn env(fields: &str, objects: &str) -> Vec<String> {
    let resolved = try_resolve(fields, objects).unwrap();
    let list = resolved.env.iter().filter(|(name, _)| name != "HOSTNAME");
    list.map(|(name, value)| format!("{name}={value}")).collect()
}

const OBJECTS: &str = "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: m, namespace: ns}\ndata: {A: one, B: two, x.conf: '$(A)'}\n\
                       ---\napiVersion: v1\nkind: Secret\nmetadata: {name: s, namespace: ns}\nstringData: {B: hidden}\ndata: {bin: gICA}\n";

#[test]
fn variables_come_in_order_and_the_last_one_wins() {
    let fields = "envFrom: [{configMapRef: {name: m}}, {prefix: P_, secretRef: {name: s, optional: true}}], env: [{name: A, value: own}, {name: C, value: c}, {name: C, value: d}]";
    let objects = OBJECTS.replace("\ndata: {bin: gICA}", "");
    assert_eq!(env(fields, &objects), ["A=own", "B=two", "x.conf=$(A)", "P_B=hidden", "C=d"]);
    let both = "envFrom: [{configMapRef: {name: m}}, {secretRef: {name: s}}]";
    assert_eq!(env(both, &objects), ["A=one", "B=hidden", "x.conf=$(A)"]);
}

#[test]
fn references_to_variables_are_filled_in_where_kubernetes_does() {
    let fields = "envFrom: [{configMapRef: {name: m}}], env: [{name: LATE, value: '$(C) $(A)'}, {name: C, value: '$$(A) $(B) $A $( $'}, \
                  {name: D, valueFrom: {configMapKeyRef: {name: m, key: x.conf}}}, {name: E, value: '$(D)'}, {name: F, value: ''}]";
    let found = env(fields, OBJECTS);
    assert_eq!(
        found[3..],
        ["LATE=$(C) one", "C=$(A) two $A $( $", "D=$(A)", "E=$(A)", "F="],
        "a variable that comes later is not known yet, and nothing is filled in twice"
    );
}

/// Kubernetes' own table for its little language, in our words.
#[test]
fn the_expansion_language_is_kubernetes_own() {
    let known = |name: &str, out: &mut String| match name {
        "A" => out.push('1'),
        "E" => {}
        other => {
            let _ = write!(out, "$({other})");
        }
    };
    for (text, expected) in [
        ("$(A)", "1"),
        ("___$(A)___", "___1___"),
        ("$(A)$(A)", "11"),
        ("$(E)x", "x"),
        ("$(NO)", "$(NO)"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$$$$(A)", "$$(A)"),
        ("$(A", "$(A"),
        ("$(A $(A)", "$(A $(A)"),
        ("$A", "$A"),
        ("$", "$"),
        ("$$", "$"),
        ("$()", "$()"),
        ("f000-$$", "f000-$"),
        ("$ü$(A)", "$ü1"),
        ("$)$(A)", "$)1"),
    ] {
        assert_eq!(expand(text, known).unwrap(), expected, "{text}");
    }
}

#[test]
fn fields_of_the_pod_can_be_read() {
    let rows = [
        ("metadata.name", "p"),
        ("metadata.namespace", "ns"),
        ("metadata.uid", "uid-1"),
        ("metadata.labels['b']", "2"),
        ("metadata.labels['none']", ""),
        ("metadata.annotations['note']", "line 1\nsaid \"hi\""),
        ("spec.nodeName", "gateway"),
        ("spec.serviceAccountName", "robot"),
        ("status.hostIP", "192.0.2.1"),
        ("status.podIP", "10.0.0.2"),
        ("status.podIPs", "10.0.0.2,fd::2"),
    ];
    for (path, expected) in rows {
        let fields =
            format!("env: [{{name: X, valueFrom: {{fieldRef: {{fieldPath: \"{path}\"}}}}}}]");
        assert_eq!(env(&fields, ""), [format!("X={expected}")], "{path}");
    }
    let (pod, _) = pod("tty: false", "");
    assert_eq!(field_value(&pod, &FieldPath::Labels(None), &facts()), "a=\"one\"\nb=\"2\"");
    assert_eq!(
        field_value(&pod, &FieldPath::Annotations(None), &facts()),
        "note=\"line 1\\nsaid \\\"hi\\\"\""
    );
}

#[test]
fn limits_and_requests_can_be_read() {
    for (of, resource, divisor, expected) in [
        ("", "limits.cpu", "1", "4"),
        ("", "limits.cpu", "1m", "4000"),
        ("", "requests.cpu", "1", "0"),
        ("", "limits.memory", "1Mi", "1024"),
        ("", "limits.ephemeral-storage", "1Gi", "1"),
        ("", "requests.memory", "1", "0"),
        ("containerName: other, ", "limits.cpu", "1", "2"),
        ("containerName: other, ", "requests.cpu", "1m", "1500"),
        ("containerName: other, ", "limits.memory", "0", "67108864"),
        ("containerName: other, ", "limits.memory", "1Gi", "1"),
        ("containerName: other, ", "limits.memory", "1E", "1"),
    ] {
        let fields = format!(
            "env: [{{name: X, valueFrom: {{resourceFieldRef: {{{of}resource: {resource}, divisor: {divisor}}}}}}}]"
        );
        assert_eq!(env(&fields, ""), [format!("X={expected}")], "{of}{resource} / {divisor}");
    }
}

#[test]
fn what_is_missing_is_said_in_kubernetes_words_unless_it_is_optional() {
    for (fields, message) in [
        ("envFrom: [{configMapRef: {name: none}}]", "configmap \"none\" not found"),
        ("envFrom: [{secretRef: {name: none}}]", "secret \"none\" not found"),
        (
            "env: [{name: X, valueFrom: {configMapKeyRef: {name: none, key: k}}}]",
            "configmap \"none\" not found",
        ),
        (
            "env: [{name: X, valueFrom: {configMapKeyRef: {name: m, key: k}}}]",
            "couldn't find key k in ConfigMap ns/m",
        ),
        (
            "env: [{name: X, valueFrom: {secretKeyRef: {name: none, key: k}}}]",
            "secret \"none\" not found",
        ),
        (
            "env: [{name: X, valueFrom: {secretKeyRef: {name: s, key: k}}}]",
            "couldn't find key k in Secret ns/s",
        ),
    ] {
        assert_eq!(try_resolve(fields, OBJECTS).unwrap_err().to_string(), message);
        let optional = fields
            .replace("name: none", "name: none, optional: true")
            .replace("key: k", "key: k, optional: true");
        let optional = optional.replace("optional: true, key: k", "key: k");
        assert_eq!(env(&optional, OBJECTS), Vec::<String>::new(), "{optional}");
    }
    let binary = try_resolve(
        "env: [{name: X, valueFrom: {secretKeyRef: {name: s, key: bin, optional: true}}}]",
        OBJECTS,
    );
    assert_eq!(
        binary.unwrap_err().to_string(),
        "key bin in Secret ns/s is not UTF-8 text and cannot be a variable"
    );
}

#[test]
fn another_namespace_is_not_looked_into() {
    let elsewhere = OBJECTS.replace("namespace: ns", "namespace: other");
    assert!(try_resolve("envFrom: [{configMapRef: {name: m}}]", &elsewhere).is_err());
}

#[test]
fn the_argument_vector_is_command_and_args_or_the_name_and_args() {
    let argv = |fields: &str| try_resolve(fields, OBJECTS).unwrap().argv;
    assert_eq!(argv("tty: false"), ["main"]);
    assert_eq!(argv("args: [a, '$(X)'], env: [{name: X, value: b}]"), ["main", "a", "b"]);
    assert_eq!(
        argv("command: [prog, '$(X)'], args: ['$$(X)'], env: [{name: X, value: b}]"),
        ["prog", "b", "$(X)"]
    );
    assert_eq!(argv("args: ['$(HOSTNAME)']"), ["main", "$(HOSTNAME)"]);
}

#[test]
fn the_host_name_is_a_variable_that_a_module_may_replace() {
    let resolved = try_resolve("tty: false", "").unwrap();
    assert_eq!(resolved.env, [("HOSTNAME".to_owned(), "host".to_owned())]);
    let own = try_resolve("env: [{name: HOSTNAME, value: mine}]", "").unwrap();
    assert_eq!(own.env, [("HOSTNAME".to_owned(), "mine".to_owned())]);
}

#[test]
fn sub_paths_are_filled_in_and_checked_again() {
    let with = |expression: &str, value: &str| {
        let fields = format!(
            "volumeMounts: [{{name: v, mountPath: /a}}, {{name: v, mountPath: /b, subPath: '$(X)'}}, {{name: v, mountPath: /c, subPathExpr: '{expression}'}}], env: [{{name: X, value: '{value}'}}]"
        );
        try_resolve(&fields, "")
            .map(|resolved| resolved.sub_paths)
            .map_err(|error| error.to_string())
    };
    let good = with("logs/$(X)", "a").unwrap();
    assert_eq!(good, [None, Some("$(X)".to_owned()), Some("logs/a".to_owned())]);
    for (expression, value, message) in [
        (
            "$(NO)/$(ALSO)",
            "a",
            "cannot expand subPathExpr \"$(NO)/$(ALSO)\": missing value for ALSO, NO",
        ),
        ("$(X)", "", "cannot expand subPathExpr \"$(X)\": missing value for X"),
        ("$(X)", "/etc", "subPath \"/etc\" must not be an absolute path"),
        ("a/$(X)", "../..", "subPath \"a/../..\" must not contain '..'"),
    ] {
        assert_eq!(with(expression, value).unwrap_err(), message);
    }
}

#[test]
fn variables_that_double_each_other_come_to_an_end() {
    let doubling: Vec<String> =
        (1..60).map(|i| format!("{{name: V{i}, value: '$(V{0})$(V{0})'}}", i - 1)).collect();
    let fields = format!("env: [{{name: V0, value: xx}}, {}]", doubling.join(", "));
    assert_eq!(try_resolve(&fields, ""), Err(EnvironmentError::TooLarge));
    let arguments = format!(
        "args: [{}], env: [{{name: V, value: {}}}]",
        vec!["'$(V)'"; 200].join(", "),
        "x".repeat(10_000)
    );
    assert_eq!(try_resolve(&arguments, ""), Err(EnvironmentError::TooLarge));
}

#[test]
fn no_nul_reaches_a_module() {
    let nul = "\"a\\0b\"";
    assert_eq!(
        try_resolve(&format!("env: [{{name: X, value: {nul}}}]"), "").unwrap_err().to_string(),
        "environment variable \"X\" contains a NUL character"
    );
    assert_eq!(
        try_resolve(&format!("args: [{nul}]"), "").unwrap_err().to_string(),
        "argument 1 contains a NUL character"
    );
}

proptest! {
    #[test]
    fn text_without_a_dollar_is_never_changed(text in "[^$]{0,60}") {
        prop_assert_eq!(expand(&text, |_, _| {}).unwrap(), text);
    }

    #[test]
    fn doubling_every_dollar_escapes_all(text in "[$()a]{0,40}") {
        let escaped = text.replace('$', "$$");
        prop_assert_eq!(expand(&escaped, |_, out| out.push('!')).unwrap(), text);
    }
}

#[test]
fn variables_of_services_are_there_and_yield_to_the_modules_own() {
    let (pod, objects) = pod(
        "env: [{name: URL, value: 'http://$(WEB_SERVICE_HOST):80'}, {name: DB_SERVICE_HOST, value: mine}], args: [$(DB_SERVICE_HOST)]",
        "",
    );
    let services = [("WEB_SERVICE_HOST", "10.89.0.1"), ("DB_SERVICE_HOST", "10.89.0.2")];
    let services = services.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let facts = Facts { services, ..facts() };
    let resolved = resolve(&pod, &pod.containers[0], &facts, &objects).unwrap();
    let find = |wanted: &str| {
        let found = resolved.env.iter().filter(|(name, _)| name == wanted);
        found.map(|(_, value)| value.as_str()).collect::<Vec<_>>()
    };
    assert_eq!(find("WEB_SERVICE_HOST"), ["10.89.0.1"]);
    assert_eq!(find("DB_SERVICE_HOST"), ["mine"]);
    assert_eq!(find("URL"), ["http://10.89.0.1:80"]);
    assert_eq!(resolved.argv[1], "mine");
}
