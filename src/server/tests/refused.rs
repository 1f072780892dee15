//! Every refusal is a `Status`, in Kubernetes' words.

use serde_json::json;

use super::objects::PODS;
use super::{Api, pod};
use crate::server::BODY_BYTES_MAX;
use crate::server::backend::{FieldCause, WriteError};

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
