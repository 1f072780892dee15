use serde_json::{Value, json};

use super::{Answer, Api, config_map, pod};
use crate::server::BODY_BYTES_MAX;
use crate::server::backend::{FieldCause, WriteError};

const PODS: &str = "/api/v1/namespaces/default/pods";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// What a list of these names is, in order.
fn names(list: &Answer) -> Vec<String> {
    let list = list.json();
    let items = list["items"].as_array().unwrap();
    items.iter().map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn every_refusal_is_a_status_with_code_reason_and_sentence() {
    let api = Api::new();
    let missing = "the server could not find the requested resource";
    let method = "the server does not allow this method on the requested resource";
    let derived = "a namespace exists as long as an object is in it: it need not be created and cannot be deleted";
    let cases = [
        ("GET", "/", 404, "NotFound", missing),
        ("GET", "/nothing", 404, "NotFound", missing),
        ("GET", "/apis/apps/v1/deployments", 404, "NotFound", missing),
        ("GET", "/api/v1/replicationcontrollers", 404, "NotFound", missing),
        ("GET", "/api/v1/pods/web", 404, "NotFound", missing),
        ("GET", "/api/v1/namespaces/default/nodes", 404, "NotFound", missing),
        ("GET", "/api/v1/namespaces/default/pods/web/nothing", 404, "NotFound", missing),
        ("GET", "/api/v1/namespaces/default/pods/%ff", 404, "NotFound", missing),
        ("GET", "/api/v1/namespaces/default/pods/x", 404, "NotFound", "pods \"x\" not found"),
        ("GET", "/api/v1/nodes/x", 404, "NotFound", "nodes \"x\" not found"),
        ("GET", "/api/v1/namespaces/x", 404, "NotFound", "namespaces \"x\" not found"),
        ("DELETE", "/api/v1/namespaces/default/pods/x", 404, "NotFound", "pods \"x\" not found"),
        ("POST", "/version", 405, "MethodNotAllowed", method),
        ("POST", "/api/v1/pods", 405, "MethodNotAllowed", method),
        ("POST", "/api/v1/namespaces", 405, "MethodNotAllowed", derived),
        ("POST", "/api/v1/namespaces/default/pods/x", 405, "MethodNotAllowed", method),
        ("DELETE", "/api/v1/namespaces/default/events/x", 405, "MethodNotAllowed", method),
        ("PUT", "/api/v1/namespaces/default/pods/x/log", 405, "MethodNotAllowed", method),
        (
            "GET",
            "/api/v1/pods?limit=x",
            400,
            "BadRequest",
            "invalid value for limit: \"x\" is not an integer",
        ),
        (
            "GET",
            "/api/v1/pods?fieldSelector=spec.foo%3Dbar",
            400,
            "BadRequest",
            "field label not supported: spec.foo",
        ),
        (
            "DELETE",
            "/api/v1/namespaces/default/pods?dryRun=Some",
            400,
            "BadRequest",
            "dryRun: Unsupported value: \"Some\": supported values: \"All\"",
        ),
    ];
    for (verb, path, code, reason, message) in cases {
        let answer = api.send(verb, path, &[], b"").await;
        let expected = (code, reason.to_owned(), message.to_owned());
        assert_eq!(answer.status(), expected, "{verb} {path}");
        assert_eq!(answer.headers["content-type"], "application/json", "{verb} {path}");
    }
}

#[tokio::test]
async fn a_not_found_status_is_exactly_kubernetes() {
    let answer = Api::new().get("/api/v1/namespaces/default/pods/x").await;
    let expected = json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": "pods \"x\" not found",
        "reason": "NotFound",
        "details": {"name": "x", "kind": "pods"},
        "code": 404,
    });
    assert_eq!(answer.json(), expected);
}

#[tokio::test]
async fn the_daemons_refusals_become_the_right_status() {
    let api = Api::new();
    let cause = |field: &str, message: &str| FieldCause {
        field: field.to_owned(),
        reason: "FieldValueInvalid".to_owned(),
        message: message.to_owned(),
    };
    let cases = [
        (WriteError::AlreadyExists, 409, "AlreadyExists", "pods \"web\" already exists"),
        (
            WriteError::SourceConflict("it is owned by file /etc/podling/web.yaml".to_owned()),
            409,
            "AlreadyExists",
            "pods \"web\" already exists: it is owned by file /etc/podling/web.yaml",
        ),
        (WriteError::Forbidden("no".to_owned()), 403, "Forbidden", "pods \"web\" is forbidden: no"),
        (
            WriteError::Storage("no space left".to_owned()),
            500,
            "InternalError",
            "Internal error occurred: no space left",
        ),
        (WriteError::Unavailable("ending".to_owned()), 503, "ServiceUnavailable", "ending"),
        (
            WriteError::modified(),
            409,
            "Conflict",
            "Operation cannot be fulfilled on pods \"web\": the object has been modified; please \
             apply your changes to the latest version and try again",
        ),
        (
            WriteError::Invalid(vec![cause("spec.a", "Required value")]),
            422,
            "Invalid",
            "Pod \"web\" is invalid: spec.a: Required value",
        ),
        (
            WriteError::Invalid(vec![cause("a", "bad"), cause("b", "worse"), cause("a", "bad")]),
            422,
            "Invalid",
            "Pod \"web\" is invalid: [a: bad, b: worse]",
        ),
    ];
    for (error, code, reason, message) in cases {
        api.fake.behave(|behaviour| behaviour.refuse = Some(error.clone()));
        let answer = api.post(PODS, &pod("web")).await;
        let expected = (code, reason.to_owned(), message.to_owned());
        assert_eq!(answer.status(), expected, "{error:?}");
    }
}

#[tokio::test]
async fn invalid_objects_name_every_cause() {
    let answer = Api::new()
        .post(PODS, &json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}, "spec": {"containers": []}}))
        .await;
    let details = &answer.json()["details"];
    let expected = json!({"name": "web", "kind": "Pod", "causes": [
        {"field": "spec.containers", "reason": "FieldValueRequired", "message": "Required value"},
    ]});
    assert_eq!(*details, expected);
}

#[tokio::test]
async fn a_created_pod_has_identity_and_can_be_read_in_every_form() {
    let api = Api::new();
    let created = api.create_pod("web").await.json();
    let meta = &created["metadata"];
    assert_eq!(meta["namespace"], "default");
    assert_eq!(meta["generation"], 1);
    assert_eq!(meta["uid"].as_str().unwrap().len(), 36);
    assert!(meta["creationTimestamp"].is_string() && meta["resourceVersion"].is_string());

    let path = format!("{PODS}/web");
    assert_eq!(api.get(&path).await.json(), created);
    assert_eq!(api.get(&format!("{path}/status")).await.json(), created);
    let table = api.table(&path).await.json();
    assert_eq!(table["kind"], "Table");
    assert_eq!(
        table["rows"][0]["cells"].as_array().unwrap()[..3],
        [json!("web"), json!("1/1"), json!("Running")]
    );
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let partial = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
    let partial = api.send("GET", &path, &[("accept", partial)], b"").await.json();
    assert_eq!(partial["metadata"], created["metadata"]);
    assert!(partial.get("spec").is_none());
}

#[tokio::test]
async fn what_the_client_may_not_set_is_not_taken_from_it() {
    let api = Api::new();
    let mut wish = pod("web");
    for (key, value) in [
        ("uid", json!("mine")),
        ("generation", json!(7)),
        ("creationTimestamp", json!("2001-01-01T00:00:00Z")),
        ("deletionTimestamp", json!("2001-01-01T00:00:00Z")),
        ("managedFields", json!([{"manager": "me"}])),
    ] {
        wish["metadata"][key] = value;
    }
    wish["status"] = json!({"phase": "Failed", "reason": "Mine"});
    let created = api.post(PODS, &wish).await.json();
    let meta = &created["metadata"];
    assert_ne!(meta["uid"], "mine");
    assert_eq!(meta["generation"], 1);
    assert_ne!(meta["creationTimestamp"], "2001-01-01T00:00:00Z");
    assert!(meta.get("deletionTimestamp").is_none() && meta.get("managedFields").is_none());
    assert!(created["status"].get("reason").is_none());
}

#[tokio::test]
async fn creation_is_refused_for_a_wrong_place_or_no_name() {
    let api = Api::new();
    let with = |key: &str, value: &str| {
        let mut wish = pod("web");
        wish["metadata"][key] = json!(value);
        wish
    };
    let mut nameless = pod("web");
    nameless["metadata"] = json!({});
    let cases = [
        (
            with("namespace", "other"),
            400,
            "the namespace of the provided object does not match the namespace sent on the request",
        ),
        (
            with("resourceVersion", "5"),
            400,
            "resourceVersion should not be set on objects to be created",
        ),
        (
            nameless,
            422,
            "Pod \"\" is invalid: metadata.name: Required value: name or generateName is required",
        ),
        (config_map("web", "x"), 400, "ConfigMap in version \"v1\" cannot be handled as a Pod"),
    ];
    for (wish, code, message) in cases {
        let (got, _, said) = api.post(PODS, &wish).await.status();
        assert_eq!((got, said.as_str()), (code, message));
    }
}

#[tokio::test]
async fn a_generated_name_is_the_prefix_and_five_characters() {
    let api = Api::new();
    let mut wish = pod("web");
    wish["metadata"] = json!({"generateName": "web-"});
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..3 {
        let name =
            api.post(PODS, &wish).await.json()["metadata"]["name"].as_str().unwrap().to_owned();
        assert!(name.starts_with("web-") && name.len() == 9, "{name}");
        seen.insert(name);
    }
    assert_eq!(seen.len(), 3);
}

#[tokio::test]
async fn a_second_pod_of_the_same_name_already_exists() {
    let api = Api::new();
    api.create_pod("web").await;
    let (code, reason, message) = api.post(PODS, &pod("web")).await.status();
    assert_eq!((code, reason.as_str()), (409, "AlreadyExists"));
    assert_eq!(message, "pods \"web\" already exists");
}

#[tokio::test]
async fn unknown_fields_warn_by_default_fail_when_strict_and_pass_when_ignored() {
    let api = Api::new();
    let wish = |name: &str| {
        let mut wish = pod(name);
        wish["spec"]["foo"] = json!(1);
        wish
    };
    let warned = api.post(PODS, &wish("a")).await;
    assert_eq!(warned.code, 201);
    assert_eq!(warned.warnings(), ["299 - \"unknown field \\\"spec.foo\\\"\""]);

    let strict = api.post(&format!("{PODS}?fieldValidation=Strict"), &wish("b")).await;
    let message = "Pod in version \"v1\" cannot be handled as a Pod: strict decoding error: unknown field \"spec.foo\"";
    assert_eq!(strict.status(), (400, "BadRequest".to_owned(), message.to_owned()));

    let ignored = api.post(&format!("{PODS}?fieldValidation=Ignore"), &wish("c")).await;
    assert_eq!((ignored.code, ignored.warnings().len()), (201, 0));
    let wrong = api.post(&format!("{PODS}?fieldValidation=Maybe"), &wish("d")).await;
    assert_eq!(wrong.code, 400);
}

#[tokio::test]
async fn warnings_are_said_once_and_cannot_break_the_header() {
    let api = Api::new();
    api.fake.behave(|behaviour| {
        behaviour.warnings =
            vec!["a \"b\"\r\nX: y\u{fc}".to_owned(), "twice".to_owned(), "twice".to_owned()];
    });
    let answer = api.post(PODS, &pod("web")).await;
    assert_eq!(answer.warnings(), ["299 - \"a \\\"b\\\"??X: y?\"", "299 - \"twice\""]);
}

#[tokio::test]
async fn a_dry_run_answers_and_changes_nothing() {
    let api = Api::new();
    assert_eq!(api.post(&format!("{PODS}?dryRun=All"), &pod("web")).await.code, 201);
    assert_eq!(api.get(&format!("{PODS}/web")).await.code, 404);
    api.create_pod("web").await;
    let before = api.get(&format!("{PODS}/web")).await.json();
    assert_eq!(api.send("DELETE", &format!("{PODS}/web?dryRun=All"), &[], b"").await.code, 200);
    assert_eq!(api.get(&format!("{PODS}/web")).await.json(), before);
}

#[tokio::test]
async fn bodies_have_a_size_a_type_and_one_object() {
    let api = Api::new();
    let json_type = ("content-type", "application/json");
    let huge = vec![b' '; BODY_BYTES_MAX + 1];
    assert_eq!(api.send("POST", PODS, &[json_type], &huge).await.status().0, 413);
    let announced = [json_type, ("content-length", "99999999999")];
    assert_eq!(api.send("POST", PODS, &announced, b"{}").await.status().0, 413);
    let protobuf = [("content-type", "application/vnd.kubernetes.protobuf")];
    assert_eq!(api.send("POST", PODS, &protobuf, b"k8s").await.status().0, 415);
    let yaml = [("content-type", "application/yaml")];
    let text = "{apiVersion: v1, kind: Pod, metadata: {name: yam}, spec: {containers: [{name: a, image: b}]}}";
    assert_eq!(api.send("POST", PODS, &yaml, text.as_bytes()).await.code, 201);
    for broken in [&b"{"[..], b"", b"[]", b"\xff\xfe", b"null"] {
        assert_eq!(
            api.send("POST", PODS, &[json_type], broken).await.status().0,
            400,
            "{broken:?}"
        );
    }
}

#[tokio::test]
async fn only_json_forms_are_acceptable() {
    let api = Api::new();
    api.create_pod("web").await;
    let cases = [
        ("application/json", Some("PodList")),
        ("*/*", Some("PodList")),
        ("application/vnd.kubernetes.protobuf,application/json", Some("PodList")),
        ("application/json;as=Table;v=v1;g=meta.k8s.io", Some("Table")),
        ("application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json", Some("Table")),
        ("application/json;as=Table;v=v2;g=meta.k8s.io,application/json", Some("PodList")),
        (
            "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
            Some("PartialObjectMetadataList"),
        ),
        ("application/json;q=0, text/html", None),
        ("application/vnd.kubernetes.protobuf", None),
        ("text/html", None),
    ];
    for (accept, expected) in cases {
        let answer = api.send("GET", "/api/v1/pods", &[("accept", accept)], b"").await;
        match expected {
            Some(kind) => assert_eq!(answer.json()["kind"], kind, "{accept}"),
            None => assert_eq!(answer.status().0, 406, "{accept}"),
        }
    }
}

#[tokio::test]
async fn lists_are_by_namespace_and_selector_and_sorted() {
    let api = Api::new();
    for name in ["b", "a"] {
        api.create_pod(name).await;
    }
    let mut far = pod("c");
    far["metadata"]["namespace"] = json!("far");
    assert_eq!(api.post("/api/v1/namespaces/far/pods", &far).await.code, 201);
    let cases = [
        ("/api/v1/pods", vec!["a", "b", "c"]),
        ("/api/v1/pods?limit=500", vec!["a", "b", "c"]),
        ("/api/v1/namespaces/default/pods", vec!["a", "b"]),
        ("/api/v1/pods?labelSelector=app%3Da", vec!["a"]),
        ("/api/v1/pods?labelSelector=app+in+(a,c)", vec!["a", "c"]),
        ("/api/v1/pods?labelSelector=!app", vec![]),
        ("/api/v1/pods?fieldSelector=metadata.name%3Db", vec!["b"]),
        ("/api/v1/pods?fieldSelector=status.phase!%3DRunning", vec![]),
        ("/api/v1/pods?fieldSelector=metadata.namespace%3Dfar,spec.nodeName%3Dgateway", vec!["c"]),
    ];
    for (path, expected) in cases {
        assert_eq!(names(&api.get(path).await), expected, "{path}");
    }
    assert_eq!(names(&api.get("/api/v1/namespaces").await), ["default", "far"]);
    let list = api.get("/api/v1/pods").await.json();
    let version: u64 = list["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    for item in list["items"].as_array().unwrap() {
        let own: u64 = item["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
        assert!(own <= version);
    }
}

#[tokio::test]
async fn deletion_is_graceful_and_keeps_the_object_until_the_end() {
    let api = Api::new();
    api.fake.behave(|behaviour| behaviour.slow_end = true);
    let created = api.create_pod("web").await.json();
    let path = format!("{PODS}/web");
    let json_type = [("content-type", "application/json")];

    let wrong = json!({"preconditions": {"uid": "other"}}).to_string();
    let refused = api.send("DELETE", &path, &json_type, wrong.as_bytes()).await;
    let uid = created["metadata"]["uid"].as_str().unwrap();
    let message = format!(
        "Operation cannot be fulfilled on pods \"web\": Precondition failed: UID in precondition: other, UID in object meta: {uid}"
    );
    assert_eq!(refused.status(), (409, "Conflict".to_owned(), message));

    let options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 7, "propagationPolicy": "Background", "preconditions": {"uid": uid}});
    let deleted =
        api.send("DELETE", &path, &json_type, options.to_string().as_bytes()).await.json();
    assert_eq!(deleted["kind"], "Pod");
    assert_eq!(deleted["metadata"]["deletionGracePeriodSeconds"], 7);
    assert!(deleted["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(api.table(&path).await.json()["rows"][0]["cells"][2], "Terminating");
    let by_query =
        api.send("DELETE", &format!("{path}?gracePeriodSeconds=3"), &[], b"").await.json();
    assert_eq!(by_query["metadata"]["deletionGracePeriodSeconds"], 3);
    let negative =
        api.send("DELETE", &format!("{path}?gracePeriodSeconds=-5"), &[], b"").await.json();
    assert_eq!(negative["metadata"]["deletionGracePeriodSeconds"], 1);
    api.fake.finish("default", "web");
    assert_eq!(api.get(&path).await.code, 404);
}

#[tokio::test]
async fn a_collection_is_deleted_by_selector_and_the_first_refusal_is_told() {
    let api = Api::new();
    for name in ["a", "b", "c"] {
        api.create_pod(name).await;
    }
    let answer = api.send("DELETE", &format!("{PODS}?labelSelector=app!%3Dc"), &[], b"").await;
    assert_eq!(names(&answer), ["a", "b"]);
    assert_eq!(names(&api.get(PODS).await), ["c"]);
    api.create_pod("a").await;
    let refusal = WriteError::Forbidden("owned by file a.yaml".to_owned());
    api.fake.behave(|behaviour| behaviour.refuse = Some(refusal));
    let answer = api.send("DELETE", PODS, &[], b"").await;
    assert_eq!(answer.status().2, "pods \"a\" is forbidden: owned by file a.yaml");
    assert_eq!(names(&api.get(PODS).await), ["a"], "the others are gone all the same");
}

#[tokio::test]
async fn config_maps_and_secrets_live_their_whole_life() {
    let api = Api::new();
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"},
        "stringData": {"password": "hunter2"}, "data": {"password": "b2xk", "user": "cm9vdA=="},
    });
    let created = api.post("/api/v1/namespaces/default/secrets", &secret).await.json();
    assert_eq!(created["data"], json!({"password": "aHVudGVyMg==", "user": "cm9vdA=="}));
    assert_eq!(created["type"], "Opaque");
    assert!(created.get("stringData").is_none());

    api.post(MAPS, &config_map("cm", "one")).await;
    let path = format!("{MAPS}/cm");
    let json_type = [("content-type", "application/json")];
    let put = |value: Value| {
        let (api, path) = (&api, &path);
        async move { api.send("PUT", path, &json_type, value.to_string().as_bytes()).await }
    };
    let first = api.get(&path).await.json();
    let replaced = put(config_map("cm", "two")).await.json();
    assert_eq!(replaced["data"]["key"], "two");
    for kept in ["uid", "creationTimestamp"] {
        assert_eq!(replaced["metadata"][kept], first["metadata"][kept], "{kept}");
    }
    // `first` carries the version it was read at.
    assert_eq!(put(first).await.status().1, "Conflict");
    assert_eq!(put(config_map("other", "x")).await.status().0, 400);
    let gone = api
        .send(
            "PUT",
            &format!("{MAPS}/none"),
            &json_type,
            config_map("none", "x").to_string().as_bytes(),
        )
        .await;
    assert_eq!(gone.status().0, 404);

    let deleted = api.send("DELETE", &path, &[], b"").await.json();
    assert_eq!(deleted["status"], "Success");
    assert_eq!(deleted["details"]["kind"], "configmaps");
    assert_eq!(api.get(&path).await.code, 404);
}

#[tokio::test]
async fn an_immutable_config_map_stays_as_it_is() {
    let api = Api::new();
    let mut map = config_map("cm", "one");
    map["immutable"] = json!(true);
    api.post(MAPS, &map).await;
    map["data"]["key"] = json!("two");
    let json_type = [("content-type", "application/json")];
    let path = format!("{MAPS}/cm");
    let answer = api.send("PUT", &path, &json_type, map.to_string().as_bytes()).await;
    let message =
        "ConfigMap \"cm\" is invalid: data: Forbidden: field is immutable when `immutable` is set";
    assert_eq!(answer.status(), (422, "Invalid".to_owned(), message.to_owned()));
}

#[tokio::test]
async fn patches_change_what_they_name_and_nothing_when_nothing_changes() {
    let api = Api::new();
    let before = api.create_pod("web").await.json();
    let path = format!("{PODS}/web");
    let patch = |kind: &'static str, body: Value| {
        let (api, path) = (&api, &path);
        async move {
            let kind = [("content-type", kind)];
            api.send("PATCH", path, &kind, body.to_string().as_bytes()).await
        }
    };
    let strategic = "application/strategic-merge-patch+json";
    let same = patch(strategic, json!({"metadata": {"labels": {"app": "web"}}})).await.json();
    assert_eq!(same, before, "no change, no new version");

    let labelled = patch(
        "application/merge-patch+json",
        json!({"metadata": {"labels": {"app": null, "tier": "x"}}}),
    )
    .await;
    assert_eq!(labelled.json()["metadata"]["labels"], json!({"tier": "x"}));
    let image = json!({"spec": {"$setElementOrder/containers": [{"name": "main"}], "containers": [{"name": "main", "image": "web:2"}]}});
    let image = patch(strategic, image).await.json();
    assert_eq!(image["spec"]["containers"][0]["image"], "web:2");
    assert_eq!(image["spec"]["containers"].as_array().unwrap().len(), 1);
    let json_patch = json!([{"op": "test", "path": "/spec/containers/0/image", "value": "web:2"}, {"op": "add", "path": "/metadata/annotations", "value": {"a": "b"}}]);
    let annotated = patch("application/json-patch+json", json_patch).await.json();
    assert_eq!(annotated["metadata"]["annotations"]["a"], "b");

    let stale = json!({"metadata": {"resourceVersion": "1", "labels": {"x": "y"}}});
    assert_eq!(patch(strategic, stale).await.status().1, "Conflict");
    let apply = patch("application/apply-patch+yaml", json!({})).await.status();
    assert_eq!((apply.0, apply.1.as_str()), (415, "UnsupportedMediaType"));
    assert_eq!(
        patch("application/merge-patch+json", json!({"metadata": {"name": "b"}})).await.status().0,
        400
    );
}

#[tokio::test]
async fn a_patch_that_meets_another_write_is_made_again() {
    let api = Api::new();
    api.post(MAPS, &config_map("cm", "one")).await;
    api.fake.behave(|behaviour| behaviour.refuse = Some(WriteError::modified()));
    let kind = [("content-type", "application/merge-patch+json")];
    let answer = api.send("PATCH", &format!("{MAPS}/cm"), &kind, br#"{"data":{"b":"c"}}"#).await;
    assert_eq!(answer.code, 200, "{answer:?}");
    assert_eq!(answer.json()["data"], json!({"key": "one", "b": "c"}));
}

#[tokio::test]
async fn discovery_lists_what_works_in_both_forms() {
    let api = Api::new();
    assert_eq!(api.get("/api").await.json()["versions"], json!(["v1"]));
    let list = api.get("/api/v1").await.json();
    assert_eq!(
        (list["kind"].as_str(), list["groupVersion"].as_str()),
        (Some("APIResourceList"), Some("v1"))
    );
    let resources = list["resources"].as_array().unwrap();
    let names: Vec<&str> = resources.iter().map(|r| r["name"].as_str().unwrap()).collect();
    let expected = [
        "configmaps",
        "endpoints",
        "events",
        "namespaces",
        "nodes",
        "pods",
        "pods/log",
        "pods/network",
        "pods/networkaudit",
        "pods/portforward",
        "pods/status",
        "secrets",
        "services",
    ];
    assert_eq!(names, expected);

    let newest = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList;profile=nopeer,application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    let answer = api.send("GET", "/api", &[("accept", newest)], b"").await;
    let exact = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    assert_eq!(answer.headers["content-type"], exact);
    let pods = answer.json()["items"][0]["versions"][0]["resources"][5].clone();
    assert_eq!(pods["resource"], "pods");
    assert_eq!(pods["scope"], "Namespaced");
    assert_eq!(pods["subresources"][0]["subresource"], "log");
    let version = api.get("/version").await.json();
    assert_eq!(version["major"], "1");
    assert!(version["gitVersion"].as_str().unwrap().starts_with("v1.36."));
    assert_eq!(api.get("/readyz").await.text(), "ok");
    assert!(api.get("/metrics").await.text().contains("podling_objects{kind=\"Pod\"} 0\n"));
}
