//! Services, NetworkPolicies and endpoints through the API.

use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::json;

use super::Api;

const SERVICES: &str = "/api/v1/namespaces/default/services";
const POLICIES: &str = "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies";

#[tokio::test]
async fn a_service_is_created_shown_patched_and_deleted() {
    let api = Api::new();
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "nodePort": 30080}], "type": "NodePort"},
    });
    let made = api.post(SERVICES, &service).await;
    assert_eq!(made.code, 201, "{made:?}");
    assert!(made.json()["metadata"]["uid"].is_string());
    let table = api.table(SERVICES).await.json();
    let heads: Vec<&str> = table["columnDefinitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|column| column["name"].as_str().unwrap())
        .collect();
    let expected = ["Name", "Type", "Cluster-IP", "External-IP", "Port(s)", "Age", "Selector"];
    assert_eq!(heads, expected);
    assert_eq!(table["rows"][0]["cells"][4], "80:30080/TCP");
    let strategic = [("content-type", "application/strategic-merge-patch+json")];
    let patch = br#"{"spec": {"ports": [{"port": 80, "targetPort": "http"}]}}"#;
    let patched = api.send("PATCH", &format!("{SERVICES}/web"), &strategic, patch).await;
    assert_eq!(patched.json()["spec"]["ports"][0]["nodePort"], 30080, "{patched:?}");
    let selected = api.get(&format!("{SERVICES}?fieldSelector=spec.type%3DNodePort")).await;
    assert_eq!(selected.json()["items"].as_array().unwrap().len(), 1);
    assert_eq!(selected.json()["kind"], "ServiceList");
    assert_eq!(api.send("DELETE", &format!("{SERVICES}/web"), &[], b"").await.code, 200);
    let gone = api.get(&format!("{SERVICES}/web")).await.status();
    assert_eq!(gone.2, "services \"web\" not found");
}

#[tokio::test]
async fn a_policy_lives_in_its_own_group() {
    let api = Api::new();
    let policy = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "deny"},
        "spec": {"podSelector": {"matchLabels": {"app": "web"}}},
    });
    assert_eq!(api.post(POLICIES, &policy).await.code, 201);
    let list = api.get("/apis/networking.k8s.io/v1/networkpolicies").await.json();
    let kinds = (list["kind"].as_str(), list["apiVersion"].as_str());
    assert_eq!(kinds, (Some("NetworkPolicyList"), Some("networking.k8s.io/v1")));
    assert_eq!(list["items"][0]["kind"], "NetworkPolicy");
    let table = api.table(POLICIES).await.json();
    assert_eq!(table["rows"][0]["cells"][1], "app=web");
    let missing = api.get(&format!("{POLICIES}/other")).await;
    assert_eq!(missing.json()["details"]["group"], "networking.k8s.io");
    assert_eq!(missing.status().2, "networkpolicies.networking.k8s.io \"other\" not found");
    // The same resource does not exist in another group, nor the group's in the core.
    assert_eq!(api.get("/api/v1/namespaces/default/networkpolicies").await.code, 404);
    assert_eq!(api.get("/apis/networking.k8s.io/v1/pods").await.code, 404);
    let wrong = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}});
    let refused = api.post(POLICIES, &wrong).await.status();
    assert_eq!(refused.2, "Service in version \"v1\" cannot be handled as a NetworkPolicy");
}

#[tokio::test]
async fn endpoints_are_read_and_never_written() {
    let api = Api::new();
    let slice: EndpointSlice = serde_json::from_value(json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "web-ipv4", "namespace": "default"}, "addressType": "IPv4",
        "ports": [{"port": 8080}], "endpoints": [{"addresses": ["10.88.0.1"]}],
    }))
    .unwrap();
    api.fake.put_for_test(slice);
    let path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    let table = api.table(path).await.json();
    let cells = table["rows"][0]["cells"].as_array().unwrap();
    assert_eq!(cells[1..4], [json!("IPv4"), json!("8080"), json!("10.88.0.1")]);
    let body = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice"});
    assert_eq!(api.post(path, &body).await.code, 405);
    let endpoints = "/api/v1/namespaces/default/endpoints";
    assert_eq!(api.send("DELETE", &format!("{endpoints}/web"), &[], b"").await.code, 405);
    assert_eq!(api.get(endpoints).await.json()["kind"], "EndpointsList");
}

#[tokio::test]
async fn each_group_is_discovered_in_both_forms() {
    let api = Api::new();
    let groups = api.get("/apis").await.json();
    let names: Vec<&str> = groups["groups"]
        .as_array()
        .unwrap()
        .iter()
        .map(|group| group["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["discovery.k8s.io", "networking.k8s.io", "metrics.k8s.io"]);
    let group = api.get("/apis/networking.k8s.io").await.json();
    assert_eq!(group["preferredVersion"]["groupVersion"], "networking.k8s.io/v1");
    let list = api.get("/apis/networking.k8s.io/v1").await.json();
    assert_eq!(list["groupVersion"], "networking.k8s.io/v1");
    assert_eq!(list["resources"][0]["shortNames"], json!(["netpol"]));
    assert_eq!(api.get("/apis/apps").await.code, 404);
    assert_eq!(api.get("/apis/networking.k8s.io/v1beta1").await.code, 404);
    let newest =
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    let all = api.send("GET", "/apis", &[("accept", newest)], b"").await.json();
    let policies = &all["items"][1];
    assert_eq!(policies["metadata"]["name"], "networking.k8s.io");
    let resource = &policies["versions"][0]["resources"][0];
    assert_eq!(resource["responseKind"]["group"], "networking.k8s.io");
    let index = api.get("/openapi/v3").await.json();
    let url = index["paths"]["apis/networking.k8s.io/v1"]["serverRelativeURL"].as_str().unwrap();
    let path = url.split('?').next().unwrap();
    let document = api.get(path).await.json();
    let patch = &document["paths"]
        [&format!("{}/{{name}}", POLICIES.replace("default", "{namespace}"))]["patch"];
    assert_eq!(patch["operationId"], "patchNetworkingV1NamespacedNetworkPolicy", "{document}");
}
