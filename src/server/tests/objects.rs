//! Objects as they are made, listed and discovered.

use serde_json::json;

use super::{Answer, Api, config_map, pod};

pub(super) const PODS: &str = "/api/v1/namespaces/default/pods";
pub(super) const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// What a list of these names is, in order.
pub(super) fn names(list: &Answer) -> Vec<String> {
    let list = list.json();
    let items = list["items"].as_array().unwrap();
    items.iter().map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()).collect()
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
