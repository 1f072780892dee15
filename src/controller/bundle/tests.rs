#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
use super::*;

fn file(name: &str, text: &str) -> File {
    File { path: name.into(), text: text.to_owned() }
}

fn pod(name: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  containers:\n  - name: c\n    image: file:{name}.wasm\n{more}"
    )
}

const CONFIG: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: pages}\ndata: {a: b}\n";
const SECRET: &str =
    "apiVersion: v1\nkind: Secret\nmetadata: {name: login}\nstringData: {password: hunter2}\n";

fn renamed(name: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(format!("file:{name}.wasm"), format!("{name}@sha256:00"))])
}

#[test]
fn the_authors_lines_stay_where_they_are_and_a_secret_stays_out() {
    let text = format!("# a shop\n{SECRET}---\n{}---\n{CONFIG}", pod("web", "    # note\n"));
    let found = bundles(&[file("shop.yaml", &text)], None).unwrap();
    let [web] = &found.pods[..] else { panic!("{found:?}") };
    let sent = web.manifest(&BTreeMap::from([("file:web.wasm".into(), "web:7".into())]));
    assert!(!sent.contains("hunter2") && !sent.contains("Secret"), "{sent}");
    assert!(sent.contains("# note") && sent.contains("name: pages"), "{sent}");
    let line = |text: &str, of: &str| text.lines().position(|line| line.contains(of));
    for word in ["name: web", "image:", "name: pages"] {
        assert_eq!(line(&sent, word), line(&text, word), "{word} moved in\n{sent}");
    }
    assert_eq!(web.secrets[0].metadata.name.as_deref(), Some("login"));
    assert_eq!(web.place("spec.containers[0].image").unwrap(), "shop.yaml:13:5");
    let ImageRef::File { path, .. } = &web.images[0] else { panic!("{:?}", web.images) };
    assert!(path.is_absolute() && path.ends_with("web.wasm"), "beside the manifest");
}

#[test]
fn each_pod_gets_what_it_names() {
    let more = "    envFrom: [{configMapRef: {name: pages}}]\n";
    let volume = "  volumes: [{name: v, secret: {secretName: login}}]\n";
    let files = [
        file("pods.yaml", &format!("{}---\n{}", pod("web", more), pod("db", volume))),
        file("data.yaml", &format!("{CONFIG}---\n{SECRET}")),
    ];
    let found = bundles(&files, Some("shop")).unwrap();
    let [web, db] = &found.pods[..] else { panic!("{found:?}") };
    assert_eq!((web.key.to_string(), db.key.to_string()), ("shop/web".into(), "shop/db".into()));
    let (web_text, db_text) = (web.manifest(&renamed("web")), db.manifest(&renamed("db")));
    assert!(web_text.contains("name: pages") && !web_text.contains("name: db"), "{web_text}");
    assert!(!db_text.contains("pages") && db_text.contains("db@sha256:00"), "{db_text}");
    assert_eq!((web.secrets.len(), db.secrets.len()), (0, 1));
    assert_eq!(db.secrets[0].metadata.namespace.as_deref(), Some("shop"));
    let both = format!("{}---\n{}---\n{CONFIG}", pod("a", more), pod("b", more));
    let shared = bundles(&[file("x", &both)], None).unwrap_err().to_string();
    assert!(shared.contains("default/a, default/b"), "{shared}");
    let unused =
        bundles(&[file("x", &format!("{}---\n{}---\n{CONFIG}", pod("a", ""), pod("b", "")))], None);
    assert!(unused.unwrap().warnings[0].contains("ConfigMap pages is used by none"));
}

#[test]
fn an_image_behind_an_alias_is_renamed_all_the_same() {
    let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  containers:\n\
        \x20 - {name: a, image: &i 'file:web.wasm'}\n  - {name: b, image: *i}\n";
    let found = bundles(&[file("x.yaml", text)], None).unwrap();
    let sent = found.pods[0].manifest(&renamed("web"));
    assert!(has_images(&sent, &["web@sha256:00".to_owned(), "web@sha256:00".to_owned()]), "{sent}");
    let list = r#"{"apiVersion":"v1","kind":"List","items":[
        {"apiVersion":"v1","kind":"Pod","metadata":{"name":"web"},"spec":{"containers":[{"name":"c","image":"file:web.wasm"}]}},
        {"apiVersion":"v1","kind":"Secret","metadata":{"name":"login"},"stringData":{"password":"hunter2"}}]}"#;
    let found = bundles(&[file("x.json", list)], None).unwrap();
    let sent = found.pods[0].manifest(&renamed("web"));
    assert!(
        !sent.contains("hunter2") && has_images(&sent, &["web@sha256:00".to_owned()]),
        "{sent}"
    );
}

#[test]
fn a_secret_that_is_sealed_already_travels_as_it_is() {
    let recipient = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";
    let armored = crate::secret::encrypt(&recipient.parse().unwrap(), b"hunter2").unwrap();
    let sealed = SECRET
        .replace("name: login", "name: login, annotations: {podling.dev/encryption: age}")
        .replace("hunter2", &serde_json::to_string(&armored).unwrap());
    let text = format!("{}---\n{sealed}", pod("web", ""));
    let found = bundles(&[file("x.yaml", &text)], None).unwrap();
    assert!(found.pods[0].secrets.is_empty());
    assert!(found.pods[0].manifest(&renamed("web")).contains("kind: Secret"));
}

#[test]
fn what_cannot_travel_is_named() {
    let error = |text: &str| bundles(&[file("x.yaml", text)], None).unwrap_err().to_string();
    assert!(error(CONFIG).contains("no Pod"));
    let mistaken = error(&pod("web", "    imagee: x\n"));
    assert!(mistaken.contains("x.yaml:8:5: error: Pod web"), "{mistaken}");
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {selector: {a: b}, ports: [{port: 80}]}\n";
    assert!(error(&format!("{}---\n{service}", pod("web", ""))).contains("Service s"));
    let other = pod("web", "").replace("name: web", "name: web, namespace: b");
    let error = bundles(&[file("x", &other)], Some("a")).unwrap_err().to_string();
    assert!(error.contains("'--namespace=b'"), "{error}");
}
