//! Files and standard streams, as guests meet them.

use super::lab::Trial;
use crate::spec::Exit;

#[tokio::test]
async fn a_module_sees_its_mounts_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("data")).unwrap();
    std::fs::write(dir.path().join("secret"), "outside").unwrap();
    for name in ["files", "files-p1"] {
        let args = ["write", "/data/f", "text", "then", "read", "/data/f", "then", "list", "/data"];
        let mount = dir.path().join("data");
        let (exit, paper) =
            Trial::of(name, &args).await.mount(&mount, "/data", false).finish().await;
        assert_eq!(exit, Exit::Code(0), "{name}: {}{}", paper.stdout(), paper.stderr());
        assert!(paper.stdout().contains("ok text"), "{name}: {}", paper.stdout());
        assert_eq!(std::fs::read_to_string(mount.join("f")).unwrap(), "text");

        let trial = Trial::of(name, &["read", "/etc/passwd"]).await;
        let (exit, paper) = trial.mount(&mount, "/data", false).finish().await;
        assert_eq!(exit, Exit::Code(1), "{name}: {}", paper.stdout());

        let trial = Trial::of(name, &["escape", "/data"]).await;
        let (exit, paper) = trial.mount(&mount, "/data", false).finish().await;
        assert_eq!(exit, Exit::Code(0), "{name}: {}", paper.stdout());
    }
    assert_eq!(std::fs::read_to_string(dir.path().join("secret")).unwrap(), "outside");
}

#[tokio::test]
async fn a_read_only_mount_cannot_be_changed() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("f"), "before").unwrap();
    for name in ["files", "files-p1"] {
        for operation in [
            &["write", "/ro/f", "after"][..],
            &["append", "/ro/f", "after"],
            &["delete", "/ro/f"],
            &["mkdir", "/ro/d"],
            &["rename", "/ro/f", "/ro/g"],
            &["symlink", "f", "/ro/l"],
        ] {
            let trial = Trial::of(name, operation).await.mount(dir.path(), "/ro", true);
            let (exit, paper) = trial.finish().await;
            assert_eq!(exit, Exit::Code(1), "{name} {operation:?}: {}", paper.stdout());
        }
        let trial = Trial::of(name, &["read", "/ro/f"]).await.mount(dir.path(), "/ro", true);
        let (exit, paper) = trial.finish().await;
        assert_eq!(exit, Exit::Code(0));
        assert!(paper.stdout().contains("ok before"));
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn modules_share_a_mounted_directory() {
    let dir = tempfile::tempdir().unwrap();
    let writer = Trial::of("files", &["write", "/a/x", "shared"]).await;
    let (exit, _) = writer.mount(dir.path(), "/a", false).finish().await;
    assert_eq!(exit, Exit::Code(0));
    let reader = Trial::of("files-p1", &["read", "/b/x"]).await;
    let (_, paper) = reader.mount(dir.path(), "/b", true).finish().await;
    assert!(paper.stdout().contains("ok shared"), "{}", paper.stdout());
}

#[tokio::test]
async fn a_torrent_of_output_reaches_the_sink_whole() {
    let trial = Trial::of("log", &["lines=20000", "length=100", "to=both"]).await;
    let (exit, paper) = trial.finish().await;
    assert_eq!(exit, Exit::Code(0));
    assert_eq!(paper.stdout().matches('\n').count(), 20_000);
    assert_eq!(paper.stderr().matches('\n').count(), 20_000);
    assert!(paper.stdout().contains("line 19999 "));
}
