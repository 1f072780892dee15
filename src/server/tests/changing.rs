//! Objects that are changed and deleted.

use serde_json::{Value, json};

use super::objects::{MAPS, PODS, names};
use super::{Api, config_map};
use crate::server::backend::WriteError;

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
