//! Mistakes in the settings of `publish`, `fleet` and `key trust` are told as mistakes, not as a broker that is away.

use super::support::{podling, text};

#[test]
fn tls_files_that_cannot_be_used_are_a_mistake_in_the_settings() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let made = podling().args(["key", "generate"]).arg(path("key.pem")).output().unwrap();
    assert!(made.status.success(), "{}", text(&made.stderr));
    std::fs::write(path("trust.yaml"), "keys: []\n").unwrap();
    std::fs::write(path("empty.pem"), "nothing\n").unwrap();
    // Nobody listens there: with files that can be used it is a broker that cannot be reached.
    let authority = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(path("good.pem"), authority.cert.pem()).unwrap();
    let rows = [
        ("{ca: missing.pem}", 1, "missing.pem"),
        ("{ca: empty.pem}", 1, "empty.pem holds no certificate"),
        ("{ca: good.pem, certificate: good.pem, key: missing.key}", 1, "missing.key"),
        ("{ca: good.pem, serverName: 'not a name'}", 1, "no name that a certificate can have"),
        ("{ca: good.pem}", 4, "cannot reach"),
    ];
    for (tls, code, says) in rows {
        let settings = format!(
            "urls: ['mqtts://127.0.0.1:9']\ntenant: acme\nsigningKey: key.pem\ntls: {tls}\n"
        );
        std::fs::write(path("controller.yaml"), settings).unwrap();
        let root = path("key.pem").display().to_string();
        let file = path("trust.yaml").display().to_string();
        let commands = [
            vec!["publish", "--delete", "web", "--node", "gw-17"],
            vec!["fleet", "get", "nodes"],
            vec!["fleet", "ping", "gw-17"],
            vec!["key", "trust", "-f", &file, "--root", &root],
        ];
        for words in commands {
            let mut command = podling();
            command.env("PODLING_CONTROLLER", path("controller.yaml")).args(&words);
            let output = command.output().unwrap();
            let err = text(&output.stderr);
            assert_eq!(output.status.code(), Some(code), "{words:?} with {tls}: {err}");
            assert!(err.contains(says), "{words:?} with {tls}: {err}");
        }
    }
}
