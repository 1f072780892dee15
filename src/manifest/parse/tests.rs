#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use proptest::prelude::*;

use super::*;
use crate::manifest::node::NODES_MAX;

fn strict(text: &str) -> Parsed {
    parse(text.as_bytes(), FieldValidation::Strict)
}

fn names(parsed: &Parsed) -> Vec<String> {
    parsed.documents.iter().map(|d| format!("{} {}", d.object.kind(), d.object.name())).collect()
}

fn errors(parsed: &Parsed) -> Vec<String> {
    parsed.errors.iter().map(ToString::to_string).collect()
}

fn pod(text: &str) -> corev1::Pod {
    let mut parsed = strict(text);
    assert!(parsed.errors.is_empty(), "{:?}", errors(&parsed));
    match parsed.documents.pop().unwrap().object {
        Object::Pod(pod) => *pod,
        other @ (Object::ConfigMap(_)
        | Object::Secret(_)
        | Object::Service(_)
        | Object::NetworkPolicy(_)) => panic!("{other:?}"),
    }
}

const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n";

#[test]
fn a_file_holds_many_documents_and_empty_ones_are_skipped() {
    let text = "# a comment\n---\n---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n---\n# nothing\n--- # more\n\
                apiVersion: v1\nkind: Secret\nmetadata: {name: s}\n...\n---\n{apiVersion: v1, kind: ConfigMap, metadata: {name: m}}\n";
    let parsed = strict(text);
    assert_eq!(errors(&parsed), Vec::<String>::new());
    assert_eq!(names(&parsed), ["Pod a", "Secret s", "ConfigMap m"]);
    assert_eq!(parsed.documents[2].place.document, 3);
}

#[test]
fn nothing_at_all_is_no_error() {
    for text in ["", "\n\n", "# only a comment\n", "---\n", "\u{feff}", "---\n---\n"] {
        let parsed = strict(text);
        assert!(parsed.errors.is_empty() && parsed.documents.is_empty(), "{text:?}");
    }
}

#[test]
fn json_is_read_as_json_one_object_or_several() {
    let text = "{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"a\"},\"data\":{\"k\":\"a\\/\\ud83d\\ude00\"}}\n \
                {\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"metadata\":{\"name\":\"b\"}}";
    let parsed = strict(text);
    assert_eq!(errors(&parsed), Vec::<String>::new());
    assert_eq!(names(&parsed), ["ConfigMap a", "Pod b"]);
    let Object::ConfigMap(map) = &parsed.documents[0].object else { panic!() };
    assert_eq!(map.data.as_ref().unwrap()["k"], "a/😀");
    // What begins like JSON may be YAML.
    assert_eq!(
        names(&strict("{apiVersion: v1, kind: Pod, metadata: {name: c}}\n---\n")),
        ["Pod c"]
    );
    // Broken JSON is told as JSON.
    let broken = strict("{\"apiVersion\": \"v1\",\n \"kind\" \"Pod\"}");
    assert_eq!(errors(&broken), ["line 2, column 9: expected `:`"]);
}

#[test]
fn lists_are_flattened() {
    let text = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Pod, metadata: {name: a}}\n\
                - {apiVersion: v1, kind: Secret, metadata: {name: b}, dat: {}}\n- 5\n";
    let parsed = strict(text);
    assert_eq!(names(&parsed), ["Pod a"]);
    assert_eq!(
        errors(&parsed),
        [
            "document 1, items[1] (Secret b), line 5, column 55: unknown field \"dat\"",
            "document 1, items[2]: apiVersion must be set",
        ]
    );
    let typed = strict("apiVersion: v1\nkind: PodList\nitems: [{metadata: {name: a}}]");
    assert_eq!(names(&typed), ["Pod a"]);
}

#[test]
fn a_list_is_one_document_and_its_items_are_counted_singly() {
    let list = |items: usize| {
        let item = "- {apiVersion: v1, kind: ConfigMap, metadata: {name: m}}\n";
        format!("apiVersion: v1\nkind: List\nitems:\n{}---\nkind: Pod\n", item.repeat(items))
    };
    let full = strict(&list(MANIFEST_DOCUMENTS_MAX - 1));
    assert_eq!(full.documents.len(), MANIFEST_DOCUMENTS_MAX - 1);
    assert!(errors(&full)[0].starts_with("document 2 (Pod), line 516"), "{:?}", errors(&full));
    let over = strict(&list(MANIFEST_DOCUMENTS_MAX));
    assert_eq!(errors(&over), ["more than 512 documents in one manifest"]);
}

#[test]
fn an_error_says_where_it_is_and_hides_no_other() {
    let text = "\
apiVersion: v1
kind: Pod
metadata:
  name: a
spec:
  replicas: 3
  containers:
  - name: c
    image: x
    ports:
    - containerPort: http
      hostport: 80
    name: d
---
kind: Pod
---
foo: [1, 2
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: d, namespace: ns}
---
- a
---
apiVersion: v1
kind: Pod
metadata: {name: good}
";
    let parsed = strict(text);
    assert_eq!(names(&parsed), ["Pod good"]);
    assert_eq!(
        errors(&parsed),
        [
            "document 1 (Pod a), line 6, column 3: unknown field \"spec.replicas\"",
            "document 1 (Pod a), line 11, column 7: spec.containers[0].ports[0].containerPort: must be a whole number, not a string",
            "document 1 (Pod a), line 12, column 7: unknown field \"spec.containers[0].ports[0].hostport\"",
            "document 1 (Pod a), line 13, column 5: duplicate field \"spec.containers[0].name\"",
            "document 2 (Pod), line 15, column 1: apiVersion must be set",
            "document 3, line 18, column 1: did not find expected ',' or ']'",
            "document 4 (Deployment ns/d), line 19, column 1: no matches for kind \"Deployment\" in version \"apps/v1\": this version of \
             podling runs Pod, ConfigMap, Secret and Service (v1) and NetworkPolicy (networking.k8s.io/v1); workloads come with later ones",
            "document 5, line 23, column 3: a document must be a Kubernetes object, not a list",
        ]
    );
}

#[test]
fn all_type_errors_of_a_document_are_told_at_once() {
    let text = format!(
        "{POD}spec:\n  hostname: 5\n  containers:\n  - name: true\n    args: x\n  - image: [a]\n  priority: 99999999999\n  volumes: {{}}\n"
    );
    let messages: Vec<String> = strict(&text).errors.iter().map(ManifestError::message).collect();
    assert_eq!(
        messages,
        [
            "spec.hostname: must be a string, not a number: put it in quotes",
            "spec.containers[0].name: must be a string, not a boolean: put it in quotes",
            "spec.containers[0].args: must be a list, not a string",
            "spec.containers[1].image: must be a string, not a list",
            "spec.priority: must be a whole number between -2147483648 and 2147483647",
            "spec.volumes: must be a list, not an object",
        ]
    );
}

#[test]
fn field_validation_decides_what_unknown_fields_are() {
    let text = format!("{POD}foo: 1\nspec:\n  x: 1\n  x: 2\n");
    for (validation, documents, errors, warnings) in [
        (FieldValidation::Strict, 0, 3, 0),
        (FieldValidation::Warn, 1, 0, 3),
        (FieldValidation::Ignore, 1, 0, 0),
    ] {
        let parsed = parse(text.as_bytes(), validation);
        let found = (parsed.documents.len(), parsed.errors.len(), parsed.warnings.len());
        assert_eq!(found, (documents, errors, warnings), "{validation:?}");
    }
    assert_eq!(strict(&text).rejected.len(), 1);
    // A wrong type is an error whatever was asked for.
    let wrong = format!("{POD}spec: 5\n");
    assert_eq!(parse(wrong.as_bytes(), FieldValidation::Ignore).errors.len(), 1);
    assert_eq!(FieldValidation::from_query(""), Some(FieldValidation::Warn));
    assert_eq!(FieldValidation::from_query("strict"), None);
}

#[test]
fn scalars_have_the_types_they_have_for_kubectl() {
    let text = format!(
        "{POD}spec:\n  hostNetwork: yes\n  hostPID: off\n  priority: 1_000\n  terminationGracePeriodSeconds: 5.0\n  hostname: \"yes\"\n  \
         subdomain: !!str 5\n  volumes:\n  - name: v\n    secret: {{secretName: 's', defaultMode: 0400}}\n  containers:\n  - name: c\n    \
         resources: {{limits: {{cpu: 0.5, memory: 64, x: 1Gi}}}}\n    command: [null, 'no', \"0644\", &anchor plain, *anchor]\n"
    );
    let spec = pod(&text).spec.unwrap();
    assert_eq!((spec.host_network, spec.host_pid), (Some(true), Some(false)));
    assert_eq!((spec.priority, spec.termination_grace_period_seconds), (Some(1000), Some(5)));
    assert_eq!((spec.hostname.as_deref(), spec.subdomain.as_deref()), (Some("yes"), Some("5")));
    let secret = spec.volumes.unwrap()[0].secret.clone().unwrap();
    assert_eq!(secret.default_mode, Some(0o400));
    let limits = spec.containers[0].resources.clone().unwrap().limits.unwrap();
    assert_eq!((limits["cpu"].0.as_str(), limits["memory"].0.as_str()), ("0.5", "64"));
    assert_eq!(spec.containers[0].command.clone().unwrap(), ["", "no", "0644", "plain", "plain"]);
}

#[test]
fn keys_are_text_whatever_they_look_like() {
    let text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\ndata:\n  1: a\n  0644: b\n  y: c\n  \"n\": d\n";
    let parsed = strict(text);
    let Object::ConfigMap(map) = &parsed.documents[0].object else {
        panic!("{:?}", errors(&parsed))
    };
    let keys: Vec<&str> = map.data.as_ref().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["1", "420", "n", "true"]);
    let null = strict("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\ndata: {~: a}\n");
    assert_eq!(null.errors.len(), 1);
}

#[test]
fn merge_keys_merge_as_kubectl_merges_them() {
    let text = format!(
        "{POD}spec:\n  containers:\n  - &base {{name: a, image: x, tty: true}}\n  - <<: *base\n    name: b\n  - name: c\n    <<: [{{image: first}}, {{image: second, stdin: true}}]\n  \
         - name: before\n    <<: *base\n"
    );
    let containers = pod(&text).spec.unwrap().containers;
    let seen: Vec<(&str, Option<&str>)> =
        containers.iter().map(|c| (c.name.as_str(), c.image.as_deref())).collect();
    // The last row differs from YAML's own rule; kubectl lets what comes later win.
    assert_eq!(seen, [("a", Some("x")), ("b", Some("x")), ("c", Some("first")), ("a", Some("x"))]);
    assert_eq!(containers[2].stdin, Some(true));
    let wrong = strict(&format!("{POD}spec:\n  <<: 5\n"));
    assert_eq!(
        wrong.errors[0].message(),
        "spec: map merge requires a map or a list of maps as the value"
    );
    // In quotes it is a key like any other.
    let quoted = strict(&format!("{POD}spec:\n  \"<<\": {{}}\n"));
    assert_eq!(quoted.errors[0].message(), "unknown field \"spec.<<\"");
}

#[test]
fn tags_that_mean_nothing_are_refused() {
    for tag in ["!custom x", "!!binary aGk=", "!!binary \"aGk=\"", "&a !!set x"] {
        let parsed = strict(&format!("{POD}spec: {{hostname: {tag}}}\n"));
        assert!(
            parsed.errors[0].message().contains("has no meaning here"),
            "{tag}: {:?}",
            errors(&parsed)
        );
    }
    assert_eq!(
        pod(&format!("{POD}spec: {{hostname: !!str yes}}")).spec.unwrap().hostname.unwrap(),
        "yes"
    );
}

#[test]
fn positions_survive_multi_byte_text_and_windows_line_ends() {
    let text = "apiVersion: v1\r\nkind: Pod # ü €\r\nmetadata: {name: a}\r\nspec: {hostname: \"é\", bad: 1}\r\n";
    let parsed = strict(text);
    assert_eq!(
        errors(&parsed),
        ["document 1 (Pod a), line 4, column 23: unknown field \"spec.bad\""]
    );
    let document = &parsed.rejected[0];
    assert_eq!(document.position("spec.hostname"), Some(Position { line: 4, column: 8 }));
    // What is not there is where it would be.
    assert_eq!(document.position("spec.containers[0].name"), Some(Position { line: 4, column: 1 }));
}

#[test]
fn what_is_too_large_costs_its_refusal() {
    let too_large = vec![b'a'; usize::try_from(MANIFEST_BYTES_MAX).unwrap() + 1];
    let parsed = parse(&too_large, FieldValidation::Strict);
    assert_eq!(errors(&parsed), ["the manifest has 10485761 bytes; at most 10485760 are read"]);
    let binary = parse(b"apiVersion: \xff", FieldValidation::Strict);
    assert_eq!(errors(&binary), ["not UTF-8 text (byte 12)"]);
    let many = strict(&format!("{POD}---\n").repeat(MANIFEST_DOCUMENTS_MAX + 1));
    assert_eq!(many.documents.len(), MANIFEST_DOCUMENTS_MAX);
    assert_eq!(errors(&many), ["more than 512 documents in one manifest"]);
    assert_eq!(
        errors(&strict(&"---\n".repeat(100_000))),
        ["more than 512 documents in one manifest"]
    );
}

#[test]
fn bombs_are_refused_with_the_reason() {
    let repeat = |text: &str, times| text.repeat(times);
    let lol = (1..12).fold("a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned(), |text, i| {
        let parts = vec![format!("*a{}", i - 1); 9].join(", ");
        format!("{text}a{i}: &a{i} [{parts}]\n")
    });
    let merges = (1..30).fold("a0: &a0 {x: z}\n".to_owned(), |text, i| {
        let prev = i - 1;
        format!("{text}a{i}: &a{i}\n  b: *a{prev}\n  c: *a{prev}\n  <<: *a{prev}\n")
    });
    let long = format!("a: &a {}\nb: [{}]\n", repeat("x", 1_000_000), vec!["*a"; 100].join(", "));
    let depth = "nested more than 128 levels deep";
    let values = "more than 200000 tokens in one document";
    for (text, expected) in [
        (repeat("[", 100_000), depth),
        (repeat("{a: ", 100_000), depth),
        (format!("a: {}", repeat("{a: ", 100_000)), depth),
        (repeat("- ", 100_000), depth),
        (repeat("? ", 100_000), depth),
        (repeat("- a\n", 200_000), values),
        (repeat("a: b\n", 100_000), values),
        (format!("a: [{}]", repeat("a,", 200_000)), values),
        (lol, "more than 100000 values in one document, aliases expanded"),
        (merges, "aliases repeat each other too often"),
        (long, "too much text in one document, aliases expanded"),
        (repeat("[", 100_000) + &repeat("]", 100_000), depth),
        (format!("{{\"a\":[{}1]}}", repeat("1,", NODES_MAX)), "more than 100000 values"),
        (format!("{{\"a\":{}{}}}", repeat("[", 1000), repeat("]", 1000)), depth),
    ] {
        let parsed = strict(&text);
        let message = parsed.errors.first().map(ManifestError::message).unwrap_or_default();
        assert!(message.contains(expected), "{expected}: {message}");
        assert!(parsed.documents.is_empty());
    }
}

#[test]
fn a_bomb_leaves_its_neighbours_alone() {
    let text = format!("{}\n---\n{POD}", "{a: ".repeat(1000));
    let parsed = strict(&text);
    assert_eq!(names(&parsed), ["Pod a"]);
    assert_eq!(parsed.errors.len(), 1);
}

#[test]
fn a_large_config_map_is_no_bomb() {
    let lines = "    {\"key\": [1, 2, {\"a: b\": \"- - -\"}], # not a comment\n".repeat(5_000);
    let text = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: m}}\ndata:\n  file.json: |\n{lines}  other: >-\n{lines}"
    );
    let parsed = strict(&text);
    assert_eq!(errors(&parsed), Vec::<String>::new());
    assert_eq!(names(&parsed), ["ConfigMap m"]);
}

/// Kubernetes' words, punctuation that YAML cares about, and noise.
fn soup() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        Just("apiVersion: v1\n"),
        Just("kind: Pod\n"),
        Just("metadata:\n"),
        Just("  name: a\n"),
        Just("spec:\n"),
        Just("  containers:\n"),
        Just("  - name: c\n"),
        Just("    image: x\n"),
        Just("---\n"),
        Just("- "),
        Just("? "),
        Just(": "),
        Just("["),
        Just("]"),
        Just("{"),
        Just("}"),
        Just(","),
        Just("&a "),
        Just("*a"),
        Just("!!str "),
        Just("!x "),
        Just("\""),
        Just("'"),
        Just("|\n"),
        Just(">-\n"),
        Just("#"),
        Just("\n"),
        Just("  "),
        Just("\t"),
        Just("<<: "),
        Just("%YAML 1.1\n"),
        Just("..."),
        Just("\u{85}"),
        Just("\u{2028}"),
        Just("0644"),
        Just("yes"),
        Just("~"),
        Just("\\"),
        Just("@"),
        Just("`"),
        Just("ü"),
        Just("\r\n"),
        Just("\u{feff}"),
        Just("\0"),
    ];
    proptest::collection::vec(word, 0..120).prop_map(|words| words.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = parse(&bytes, FieldValidation::Strict);
    }

    #[test]
    fn any_soup_of_yaml_is_answered(text in soup()) {
        let parsed = strict(&text);
        for error in &parsed.errors {
            prop_assert!(!error.to_string().is_empty());
        }
    }

    #[test]
    fn a_damaged_manifest_is_answered(at in 0_usize..1000, cut in 0_usize..20, put in "\\PC{0,6}") {
        let whole = include_str!("../../../manifests/greenhouse.yaml");
        let mut start = at * whole.len() / 1000;
        while !whole.is_char_boundary(start) { start -= 1; }
        let mut end = (start + cut).min(whole.len());
        while !whole.is_char_boundary(end) { end += 1; }
        let text = format!("{}{put}{}", &whole[..start], &whole[end..]);
        for document in strict(&text).documents {
            let _ = crate::manifest::validate(&document.object, &crate::spec::Source::Play("x/y".into()));
        }
    }

    #[test]
    fn any_pod_of_the_right_types_is_lowered_or_refused(text in pods()) {
        for document in strict(&text).documents {
            let _ = crate::manifest::validate(&document.object, &crate::spec::Source::Api);
        }
    }
}

/// Pods whose values are of the right type and mostly wrong.
fn pods() -> impl Strategy<Value = String> {
    let text = prop_oneof![
        Just("a"),
        Just("''"),
        Just("'../x'"),
        Just("'$(A)'"),
        Just("x:1"),
        Just("Always"),
        Just("'A_b'"),
        Just("'1Gi'")
    ];
    let number = prop_oneof![Just("0"), Just("-1"), Just("80"), Just("99999"), Just("2147483647")];
    (proptest::collection::vec(text, 12), proptest::collection::vec(number, 8)).prop_map(|(t, n)| {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {}}}, spec: {{restartPolicy: {}, terminationGracePeriodSeconds: {}, activeDeadlineSeconds: {}, \
             volumes: [{{name: {}, configMap: {{name: {}, defaultMode: {}}}}}], containers: [{{name: {}, image: {}, \
             ports: [{{containerPort: {}, hostPort: {}}}], resources: {{limits: {{cpu: {}, memory: {}}}, requests: {{cpu: {}}}}}, \
             volumeMounts: [{{name: {}, mountPath: {}, subPath: {}}}], livenessProbe: {{httpGet: {{path: {}, port: {}}}, periodSeconds: {}}}, \
             env: [{{name: {}, value: {}}}]}}]}}}}",
            t[0], t[1], n[0], n[1], t[2], t[3], n[2], t[4], t[5], n[3], n[4], t[6], t[7], n[5], t[2], t[8], t[9], t[10], n[6], n[7], t[11], t[0],
        )
    })
}

#[test]
fn no_error_about_a_secret_says_what_is_in_it() {
    let rows = [
        ("data: {password: 'hunter2!'}", "data.password"),
        ("data: {password: 271828}", "data.password"),
        ("stringData: {password: 271828}", "stringData.password"),
        ("stringData: {password: [hunter2]}", "stringData.password"),
        ("stringData: {password: {hunter2: yes}}", "stringData.password"),
        ("stringData: 'hunter2, expected by nobody'", "stringData"),
        ("stringData: [hunter2]", "stringData"),
    ];
    for (values, path) in rows {
        for validation in [FieldValidation::Strict, FieldValidation::Warn] {
            let text = format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: s}}\n{values}\n");
            let said = errors(&parse(text.as_bytes(), validation)).join("; ");
            assert!(said.contains(path), "{values}: {said}");
            for hidden in ["hunter2", "271828"] {
                assert!(!said.contains(hidden), "{values}: {said}");
            }
        }
    }
}
