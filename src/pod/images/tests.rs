//! Pull policies against a real registry that comes and goes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use crate::testkit::registry;

use std::cell::Cell;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1 as corev1;

use super::*;
use crate::board::Object;
use crate::image::parse_reference;
use crate::pod::context::NoKeeper;
use crate::testkit::node::TestNode;
use crate::testkit::pods::{Tweak as _, pod, regular};

use registry::{Door, Registry, USER};

/// A module that differs with `fill`.
fn module(fill: u8) -> Vec<u8> {
    [b"\0asm\x01\0\0\0\0\x03\x01x".as_slice(), &[fill]].concat()
}

struct Bench {
    node: TestNode,
    registry: Registry,
}

impl Bench {
    async fn new() -> Self {
        Self { node: TestNode::new(Arc::new(NoKeeper)), registry: Registry::start().await }
    }

    fn name(&self, rest: &str) -> String {
        format!("{}/acme/{rest}", self.registry.host())
    }

    /// What came of it, and whether "Pulling" was said.
    async fn obtain(
        &self,
        image: &str,
        policy: PullPolicy,
        secrets: &[&str],
    ) -> (Result<Obtained, PullFailure>, bool) {
        let secrets = secrets.iter().map(|name| (*name).to_owned()).collect();
        let pod = pod([regular("web")]).tweak(|pod| {
            pod.image_pull_secrets = secrets;
            pod.containers[0].image = parse_reference(image, None).unwrap();
            pod.containers[0].pull_policy = policy;
        });
        let said = Cell::new(false);
        let node = &self.node.context;
        let pulling = async { said.set(true) };
        let obtained = obtain(node, &pod, &pod.containers[0], pulling, &|_| {}).await;
        (obtained, said.get())
    }

    /// The last byte of the module that is run, whether it was pulled now, and the warnings' reasons.
    async fn runs(&self, image: &str, policy: PullPolicy) -> (u8, bool, Vec<&'static str>) {
        let (obtained, said) = self.obtain(image, policy, &[]).await;
        let obtained = obtained.unwrap();
        assert!(said || obtained.present, "Pulled comes after Pulling");
        let bytes = std::fs::read(&obtained.image.path).unwrap();
        let reasons = obtained.warnings.iter().map(|warning| warning.reason).collect();
        (*bytes.last().unwrap(), !obtained.present, reasons)
    }

    async fn fails(&self, image: &str, policy: PullPolicy) -> PullFailure {
        self.obtain(image, policy, &[]).await.0.unwrap_err()
    }
}

#[tokio::test]
async fn what_is_not_here_is_pulled_once_if_not_present() {
    let bench = Bench::new().await;
    let web = bench.name("web:1");
    let manifest = bench.registry.put_image("acme/web", "1", &module(1));
    assert_eq!(bench.runs(&web, PullPolicy::IfNotPresent).await, (1, true, vec![]));
    bench.registry.put_image("acme/web", "1", &module(2));
    bench.registry.log();
    assert_eq!(bench.runs(&web, PullPolicy::IfNotPresent).await, (1, false, vec![]));
    assert_eq!(bench.registry.log(), Vec::<String>::new());
    let (obtained, _) = bench.obtain(&web, PullPolicy::Never, &[]).await;
    assert_eq!(obtained.unwrap().image.image_id, format!("{}@{manifest}", bench.name("web")));
    let never = bench.fails(&bench.name("web:2"), PullPolicy::Never).await;
    assert_eq!(never.reason, "ErrImageNeverPull");
}

#[tokio::test]
async fn always_follows_a_tag_that_moves_and_costs_no_download_when_it_does_not() {
    let bench = Bench::new().await;
    let web = bench.name("web");
    bench.registry.put_image("acme/web", "latest", &module(1));
    assert_eq!(bench.runs(&web, PullPolicy::Always).await, (1, true, vec![]));
    let written = bench.node.context.images.written();
    bench.registry.log();
    assert_eq!(bench.runs(&web, PullPolicy::Always).await, (1, true, vec![]));
    assert_eq!(bench.registry.log(), ["GET /v2/acme/web/manifests/latest"]);
    assert_eq!(bench.node.context.images.written(), written, "nor a write");
    bench.registry.put_image("acme/web", "latest", &module(2));
    assert_eq!(bench.runs(&web, PullPolicy::Always).await, (2, true, vec![]));
}

#[tokio::test]
async fn a_digest_is_asked_about_only_when_its_content_is_not_here() {
    let bench = Bench::new().await;
    let manifest = bench.registry.put_image("acme/web", "1", &module(1));
    let web = bench.name(&format!("web@{manifest}"));
    assert_eq!(bench.runs(&web, PullPolicy::Always).await, (1, true, vec![]));
    bench.registry.log();
    assert_eq!(bench.runs(&web, PullPolicy::Always).await, (1, false, vec![]));
    assert_eq!(bench.registry.log(), Vec::<String>::new());
}

#[tokio::test]
async fn a_registry_that_is_away_keeps_nobody_from_what_is_here() {
    let bench = Bench::new().await;
    let web = bench.name("web");
    bench.registry.put_image("acme/web", "latest", &module(1));
    bench.runs(&web, PullPolicy::Always).await;
    let Bench { node, registry } = bench;
    let address = registry.address;
    drop(registry);
    let elsewhere = Registry::start().await;
    assert_ne!(elsewhere.address, address);
    let bench = Bench { node, registry: elsewhere };
    let kept = (1, false, vec!["ImageNotRefreshed"]);
    assert_eq!(bench.runs(&web, PullPolicy::Always).await, kept);
    // The next one does not even try.
    let (obtained, said) = bench.obtain(&web, PullPolicy::Always, &[]).await;
    assert!(!said);
    let message = &obtained.unwrap().warnings[0].message;
    assert!(message.contains("could not be reached a moment ago; "), "{message}");
    let missing = bench.fails(&web.replace("web", "api"), PullPolicy::Always).await;
    assert_eq!(missing.reason, "ErrImagePull");
    assert!(missing.message.contains("cannot reach http://"), "{}", missing.message);
}

#[tokio::test]
async fn while_the_node_is_short_of_memory_what_is_here_is_used_and_its_registry_not_asked() {
    let bench = Bench::new().await;
    let web = bench.name("web:1");
    bench.registry.put_image("acme/web", "1", &module(1));
    bench.runs(&web, PullPolicy::Always).await;
    bench.registry.put_image("acme/web", "1", &module(2));
    bench.registry.log();
    bench.node.context.fetcher.hold(true);
    let kept = (1, false, vec!["ImageNotRefreshed"]);
    assert_eq!(bench.runs(&web, PullPolicy::Always).await, kept);
    let (obtained, said) = bench.obtain(&web, PullPolicy::Always, &[]).await;
    let message = &obtained.unwrap().warnings[0].message;
    assert!(message.contains(": the node is short of memory and fetches nothing; "), "{message}");
    assert!(!said && bench.registry.log().is_empty());
    bench.node.context.fetcher.hold(false);
    assert_eq!(bench.runs(&web, PullPolicy::Always).await, (2, true, vec![]));
}

#[tokio::test]
async fn a_registry_that_says_nothing_is_not_waited_for_if_something_is_here() {
    let bench = Bench::new().await;
    // A listener that never answers.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let web = format!("{}/acme/web", silent.local_addr().unwrap());
    bench.registry.put_image("acme/web", "latest", &module(1));
    bench.runs(&bench.name("web"), PullPolicy::Always).await;
    let images = &bench.node.context.images;
    let digest = images.resolve(&parse_reference(&bench.name("web"), None).unwrap(), bench.now());
    let name = crate::image::PulledName {
        repository: web.clone(),
        tag: "latest".into(),
        manifest: None,
        created_ms: 0,
    };
    images.put_pulled(&name, &digest.unwrap().digest).unwrap();
    let start = bench.now();
    let kept = (1, false, vec!["ImageNotRefreshed"]);
    assert_eq!(bench.runs(&web, PullPolicy::Always).await, kept);
    assert!(bench.now().since(start) >= ASK_MAX);
    assert_eq!(bench.runs(&web, PullPolicy::Always).await, kept);
}

impl Bench {
    fn now(&self) -> crate::clock::Timestamp {
        self.node.context.clock.now()
    }
}

#[tokio::test]
async fn a_registry_that_says_no_is_obeyed() {
    let bench = Bench::new().await;
    let web = bench.name("web");
    bench.registry.put_image("acme/web", "latest", &module(1));
    bench.runs(&web, PullPolicy::Always).await;
    bench.registry.lock(Door::Basic);
    let failure = bench.fails(&web, PullPolicy::Always).await;
    assert_eq!(failure.reason, "ErrImagePull");
    assert!(failure.message.contains("denies access (401): who are you?"), "{}", failure.message);
}

#[tokio::test]
async fn what_a_person_has_loaded_is_not_asked_about() {
    let bench = Bench::new().await;
    let web = bench.name("web");
    let file = bench.node.dir.path().join("web.wasm");
    std::fs::write(&file, module(7)).unwrap();
    let image = parse_reference(&web, None).unwrap();
    bench.node.context.images.load(&file, &image, bench.now(), &mut |_, _| {}).unwrap();
    assert_eq!(bench.runs(&web, PullPolicy::Always).await, (7, false, vec![]));
    assert_eq!(bench.registry.log(), Vec::<String>::new());
    // A name without a registry is this node's own.
    let short = bench.fails("web:1", PullPolicy::Always).await;
    assert!(short.message.contains("podling image load"), "{}", short.message);
}

#[tokio::test]
async fn pull_secrets_open_the_registry_of_the_pod() {
    let bench = Bench::new().await;
    bench.registry.put_image("acme/web", "1", &module(1));
    bench.registry.lock(Door::Token);
    let web = bench.name("web:1");
    let (user, password) = USER;
    let json = format!(
        r#"{{"auths":{{"{}":{{"username":"{user}","password":"{password}"}}}}}}"#,
        bench.registry.host()
    );
    let mut secret = corev1::Secret::default();
    secret.metadata.namespace = Some("default".into());
    secret.metadata.name = Some("pull".into());
    secret.type_ = Some("kubernetes.io/dockerconfigjson".into());
    let data = (".dockerconfigjson".to_owned(), ByteString(json.into_bytes()));
    secret.data = Some([data].into());

    let (obtained, _) = bench.obtain(&web, PullPolicy::IfNotPresent, &["pull"]).await;
    assert!(obtained.unwrap_err().message.contains("denies access"));
    bench.registry.lock(Door::Open);
    let (obtained, _) = bench.obtain(&web, PullPolicy::IfNotPresent, &["pull", "gone"]).await;
    assert_eq!(
        obtained.unwrap().warnings[0].message,
        "Unable to retrieve some image pull secrets (pull, gone); attempting to pull the image \
         may not succeed."
    );
    bench.node.context.images.rm(&parse_reference(&web, None).unwrap()).unwrap();
    bench.registry.lock(Door::Token);
    bench.node.context.board.upsert(Object::from(secret));
    let (obtained, _) = bench.obtain(&web, PullPolicy::IfNotPresent, &["pull"]).await;
    let obtained = obtained.unwrap();
    assert_eq!((obtained.present, obtained.warnings), (false, vec![]));
}
