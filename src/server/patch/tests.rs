#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Patch, three_way};

fn strategic(to: Value, patch: &Value) -> Value {
    let text = patch.to_string();
    Patch::parse("application/strategic-merge-patch+json", text.as_bytes())
        .unwrap()
        .apply(&to)
        .unwrap()
}

#[test]
fn strategic_patches_know_named_lists() {
    let pod = || {
        json!({"spec": {
            "containers": [{"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}], "args": ["x"]}, {"name": "b", "image": "2"}],
            "volumes": [{"name": "v", "emptyDir": {}}],
        }})
    };
    let containers = |value: Value| json!({"spec": {"containers": value}});
    let cases = [
        (
            "merges by name",
            containers(json!([{"name": "b", "image": "3"}])),
            "/spec/containers/1/image",
            json!("3"),
        ),
        (
            "keeps the others",
            containers(json!([{"name": "b", "image": "3"}])),
            "/spec/containers/0/image",
            json!("1"),
        ),
        ("adds", containers(json!([{"name": "c"}])), "/spec/containers/2/name", json!("c")),
        (
            "deletes",
            containers(json!([{"$patch": "delete", "name": "a"}])),
            "/spec/containers/0/name",
            json!("b"),
        ),
        (
            "replaces the list",
            containers(json!([{"name": "z"}, {"$patch": "replace"}])),
            "/spec/containers",
            json!([{"name": "z"}]),
        ),
        (
            "merges deeper",
            containers(json!([{"name": "a", "env": [{"name": "Y", "value": "2"}]}])),
            "/spec/containers/0/env/1/name",
            json!("Y"),
        ),
        (
            "plain lists are replaced",
            containers(json!([{"name": "a", "args": ["y"]}])),
            "/spec/containers/0/args",
            json!(["y"]),
        ),
        (
            "removes a field",
            json!({"spec": {"volumes": null}}),
            "/spec",
            json!({"containers": pod()["spec"]["containers"]}),
        ),
        (
            "retains keys",
            json!({"spec": {"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}]}}),
            "/spec/volumes/0",
            json!({"name": "v", "hostPath": {"path": "/x"}}),
        ),
        (
            "orders",
            json!({"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}], "containers": []}}),
            "/spec/containers/0/name",
            json!("b"),
        ),
    ];
    for (what, patch, pointer, expected) in cases {
        let result = strategic(pod(), &patch);
        assert_eq!(result.pointer(pointer), Some(&expected), "{what}: {result}");
    }
    let finalizers = json!({"metadata": {"finalizers": ["a", "b"]}});
    let patch = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], "finalizers": ["b", "c"]}});
    assert_eq!(strategic(finalizers, &patch)["metadata"]["finalizers"], json!(["b", "c"]));
    assert_eq!(
        strategic(json!({"a": {"b": 1}}), &json!({"a": {"$patch": "replace", "c": 2}})),
        json!({"a": {"c": 2}})
    );
    assert_eq!(strategic(json!({"a": {"b": 1}}), &json!({"a": {"$patch": "delete"}})), json!({}));
}

#[test]
fn merge_patches_are_rfc_7386() {
    // The examples of the RFC's appendix A.
    let cases = [
        (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
        (json!({"a": "b"}), json!({"a": null}), json!({})),
        (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
        (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
        (json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"])),
        (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
        (json!([1, 2]), json!({"a": "b", "c": null}), json!({"a": "b"})),
        (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
    ];
    for (target, patch, expected) in cases {
        let patch =
            Patch::parse("application/merge-patch+json", patch.to_string().as_bytes()).unwrap();
        assert_eq!(patch.apply(&target).unwrap(), expected, "{patch:?}");
    }
}

#[test]
fn json_patches_are_rfc_6902() {
    let target = || json!({"a": {"b": [1, 2]}, "x/y": 1, "m~n": 2});
    let apply = |operations: Value| {
        let patch =
            Patch::parse("application/json-patch+json", operations.to_string().as_bytes()).unwrap();
        patch.apply(&target())
    };
    let good = [
        (json!({"op": "add", "path": "/a/b/1", "value": 9}), "/a/b", json!([1, 9, 2])),
        (json!({"op": "add", "path": "/a/b/-", "value": 9}), "/a/b", json!([1, 2, 9])),
        (json!({"op": "add", "path": "/a/c", "value": null}), "/a/c", Value::Null),
        (json!({"op": "remove", "path": "/a/b/0"}), "/a/b", json!([2])),
        (json!({"op": "replace", "path": "/x~1y", "value": 5}), "/x~1y", json!(5)),
        (json!({"op": "test", "path": "/m~0n", "value": 2}), "/m~0n", json!(2)),
        (json!({"op": "copy", "from": "/a/b", "path": "/c"}), "/c", json!([1, 2])),
        (json!({"op": "move", "from": "/a/b/0", "path": "/a/b/1"}), "/a/b", json!([2, 1])),
        (json!({"op": "replace", "path": "", "value": {"c": 1}}), "/c", json!(1)),
    ];
    for (operation, pointer, expected) in good {
        let result = apply(json!([operation])).unwrap();
        assert_eq!(result.pointer(pointer), Some(&expected), "{operation}");
    }
    let bad = [
        json!({"op": "remove", "path": "/none"}),
        json!({"op": "remove", "path": ""}),
        json!({"op": "replace", "path": "/none", "value": 1}),
        json!({"op": "add", "path": "/none/a", "value": 1}),
        json!({"op": "add", "path": "/a/b/3", "value": 1}),
        json!({"op": "add", "path": "/x~1y/z", "value": 1}),
        json!({"op": "add", "path": "/a"}),
        json!({"op": "test", "path": "/m~0n", "value": 3}),
        json!({"op": "move", "from": "/a", "path": "/a/b/c"}),
        json!({"op": "copy", "path": "/a"}),
        json!({"op": "spin", "path": "/a"}),
        json!({"path": "/a"}),
        json!(1),
    ];
    for operation in bad {
        assert!(apply(json!([operation])).is_err(), "{operation}");
    }
}

#[test]
fn patches_that_are_none_are_refused() {
    for (kind, text, code) in [
        ("application/apply-patch+yaml", "{}", 415),
        ("text/plain", "{}", 415),
        ("application/merge-patch+json", "{", 400),
        ("application/json-patch+json", "{}", 400),
        ("application/strategic-merge-patch+json", "[]", 400),
    ] {
        assert_eq!(Patch::parse(kind, text.as_bytes()).unwrap_err().code(), code, "{kind} {text}");
    }
    let nameless = json!({"spec": {"containers": [{"image": "x"}]}});
    let patch =
        Patch::parse("application/strategic-merge-patch+json", nameless.to_string().as_bytes())
            .unwrap();
    let error = patch.apply(&json!({"spec": {"containers": []}})).unwrap_err();
    assert!(
        error.message().contains("does not contain declared merge key: name"),
        "{}",
        error.message()
    );
}

/// A container list as a manifest might have it.
fn any_manifest() -> impl Strategy<Value = Value> {
    let env = prop::collection::btree_map("[A-C]", "[a-c]", 0..3);
    let containers = prop::collection::btree_map("[a-d]", (env, prop::option::of("[x-z]")), 1..4);
    let labels = prop::collection::btree_map("[k-n]", "[a-c]", 0..4);
    (containers, labels).prop_map(|(containers, labels)| {
        let containers: Vec<Value> = containers
            .into_iter()
            .map(|(name, (env, image))| {
                let env: Vec<Value> = env
                    .into_iter()
                    .map(|(name, value)| json!({"name": name, "value": value}))
                    .collect();
                let mut container = json!({"name": name, "env": env});
                if let Some(image) = image {
                    container["image"] = json!(image);
                }
                container
            })
            .collect();
        json!({"metadata": {"labels": labels}, "spec": {"containers": containers}})
    })
}

/// The same with named lists in one order: where a new item comes to stand among old ones is not apply's affair.
fn sorted(mut value: Value) -> Value {
    if let Value::Object(map) = &mut value {
        for child in map.values_mut() {
            *child = sorted(child.take());
        }
    } else if let Value::Array(list) = &mut value {
        *list = list.drain(..).map(sorted).collect();
        list.sort_by_key(|item| item["name"].as_str().map(str::to_owned));
    }
    value
}

proptest! {
    /// Applying what a file says leads to what it says, whatever was applied before.
    #[test]
    fn applying_leads_to_the_file(last in any_manifest(), new in any_manifest()) {
        let patch = three_way(Some(&last), &new);
        prop_assert_eq!(sorted(strategic(last, &patch)), sorted(new));
    }

    #[test]
    fn applying_twice_changes_nothing(last in any_manifest(), new in any_manifest()) {
        let once = strategic(last.clone(), &three_way(Some(&last), &new));
        let twice = strategic(once.clone(), &three_way(Some(&new), &new));
        prop_assert_eq!(twice, once);
    }

    /// What somebody else has added stays.
    #[test]
    fn applying_keeps_what_others_added(last in any_manifest(), new in any_manifest()) {
        let mut current = last.clone();
        current["metadata"]["labels"]["other"] = json!("theirs");
        current["spec"]["nodeName"] = json!("gw");
        let result = strategic(current, &three_way(Some(&last), &new));
        prop_assert_eq!(&result["metadata"]["labels"]["other"], "theirs");
        prop_assert_eq!(&result["spec"]["nodeName"], "gw");
    }
}

#[test]
fn the_same_field_is_merged_as_its_kind_has_it() {
    let service = json!({"kind": "Service", "spec": {"ports": [
        {"port": 80, "nodePort": 30080}, {"port": 53, "protocol": "UDP"},
    ]}});
    let patch = json!({"spec": {"ports": [{"port": 80, "targetPort": 8080}]}});
    let merged = strategic(service.clone(), &patch);
    let expected = json!([
        {"port": 80, "nodePort": 30080, "targetPort": 8080}, {"port": 53, "protocol": "UDP"},
    ]);
    assert_eq!(merged["spec"]["ports"], expected);
    let mut new = service.clone();
    new["spec"]["ports"] = json!([{"port": 80, "nodePort": 30080}]);
    let patch = three_way(Some(&service), &new);
    assert_eq!(strategic(service, &patch), new, "{patch}");
    let policy =
        |ports: Value| json!({"kind": "NetworkPolicy", "spec": {"egress": [{"ports": ports}]}});
    let (old, new) = (policy(json!([{"port": 80}, {"port": 81}])), policy(json!([{"port": 81}])));
    assert_eq!(strategic(old.clone(), &three_way(Some(&old), &new)), new);
}
