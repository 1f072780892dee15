use serde_json::json;

use super::Api;

#[tokio::test]
async fn whoever_reaches_the_socket_may_do_what_there_is() {
    let api = Api::new();
    let ask = |attributes: serde_json::Value| {
        let body = json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        });
        let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
        let api = &api;
        async move {
            let answer = api.post(path, &body).await;
            assert_eq!(answer.code, 201, "{answer:?}");
            answer.json()["status"]["allowed"].as_bool().unwrap()
        }
    };
    assert!(ask(json!({"verb": "create", "resource": "pods"})).await);
    assert!(ask(json!({"verb": "get", "resource": "pods", "subresource": "log"})).await);
    assert!(ask(json!({"verb": "*", "resource": "*", "group": "*"})).await);
    let policies = "networkpolicies";
    assert!(ask(json!({"verb": "list", "resource": policies, "group": "networking.k8s.io"})).await);
    assert!(!ask(json!({"verb": "list", "resource": policies})).await);
    assert!(!ask(json!({"verb": "delete", "resource": "nodes"})).await);
    assert!(!ask(json!({"verb": "create", "resource": "pods", "subresource": "exec"})).await);
    assert!(!ask(json!({"verb": "get", "resource": "deployments", "group": "apps"})).await);
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    assert_eq!(api.get(path).await.code, 405);
    assert_eq!(api.post(path, &json!({"spec": 1})).await.status().1, "BadRequest");
}

#[tokio::test]
async fn what_a_module_does_not_have_is_refused_with_what_to_do_instead() {
    let api = Api::new();
    api.create_pod("web").await;
    for (part, instead) in [
        ("exec", "podling net POD"),
        ("attach", "logs"),
        ("eviction", "delete the pod"),
        ("resize", "create it anew"),
        ("proxy", "port-forward"),
    ] {
        let path = format!("/api/v1/namespaces/default/pods/web/{part}?command=sh");
        let (code, reason, message) = api.post(&path, &json!({})).await.status();
        assert_eq!((code, &*reason), (405, "MethodNotAllowed"));
        assert!(message.contains(instead), "{part}: {message}");
    }
    let other = api.get("/api/v1/namespaces/default/pods/web/toenails").await;
    assert_eq!(other.status().1, "NotFound");
}
