//! hostPath: types, and what no pod gets.

use std::os::unix::net::UnixListener;

use super::super::host_path::{self, Rule};
use super::*;

use HostPathType::{
    BlockDevice, CharDevice, Directory, DirectoryOrCreate, File, FileOrCreate, Socket, Unchecked,
};

fn open(
    bench: &Bench,
    path: &Path,
    kind: HostPathType,
    source: &Source,
) -> Result<OwnedFd, HostPathError> {
    host_path::open(path, kind, source, &bench.policy)
}

fn local() -> Source {
    Source::Folder(PathBuf::from("/etc/pods/web.yaml"))
}

#[test]
fn each_type_accepts_its_own_kind_and_tells_the_others_in_kubernetes_words() {
    let bench = Bench::new();
    let at = |name: &str| bench.path(name);
    fs::create_dir(at("dir")).unwrap();
    fs::write(at("file"), "x").unwrap();
    symlink("dir", at("link")).unwrap();
    let _listener = UnixListener::bind(at("socket")).unwrap();
    for (kind, right, word) in [
        (Directory, &["dir", "link"][..], "a directory"),
        (DirectoryOrCreate, &["dir", "link"], "a directory"),
        (File, &["file"], "a file"),
        (FileOrCreate, &["file"], "a file"),
        (Socket, &["socket"], "a socket file"),
        (CharDevice, &[], "a character device"),
        (BlockDevice, &[], "a block device"),
        (Unchecked, &["dir", "link", "file", "socket"], ""),
    ] {
        for name in ["dir", "link", "file", "socket"] {
            let path = at(name);
            let opened = open(&bench, &path, kind, &local());
            if right.contains(&name) {
                opened.unwrap();
            } else {
                let words = format!("hostPath type check failed: {} is not {word}", path.display());
                assert_eq!(opened.unwrap_err().to_string(), words);
            }
        }
    }
    for kind in [Directory, File, Socket, CharDevice, BlockDevice] {
        let error = open(&bench, &at("none"), kind, &local()).unwrap_err();
        assert!(matches!(error, HostPathError::Type { .. }), "{kind:?}: {error}");
        assert!(!at("none").exists());
    }
}

#[test]
fn folders_and_files_are_made_where_the_type_says_so() {
    let bench = Bench::new();
    for (kind, path) in [(DirectoryOrCreate, "a/b/c"), (Unchecked, "d/e")] {
        open(&bench, &bench.path(path), kind, &local()).unwrap();
        assert!(bench.path(path).is_dir());
        open(&bench, &bench.path(path), Directory, &local()).unwrap();
    }
    let mode = fs::metadata(bench.path("a/b")).unwrap().mode() & 0o777;
    assert_eq!(mode & 0o700, 0o700, "at most 0755: {mode:o}");
    assert_eq!(mode & 0o022, 0);
    open(&bench, &bench.path("a/file"), FileOrCreate, &local()).unwrap();
    assert!(bench.path("a/file").is_file());
    // As in Kubernetes, the folder of a file is not made.
    let error = open(&bench, &bench.path("x/y/file"), FileOrCreate, &local()).unwrap_err();
    assert!(matches!(error, HostPathError::Create { .. }), "{error}");
    assert!(!bench.path("x").exists());
    let error = open(&bench, Path::new("relative"), Unchecked, &local()).unwrap_err();
    assert!(matches!(error, HostPathError::Relative { .. }));
    // A link that leads nowhere is no place to make something behind.
    symlink("nowhere", bench.path("dangling")).unwrap();
    for kind in [DirectoryOrCreate, FileOrCreate] {
        open(&bench, &bench.path("dangling"), kind, &local()).unwrap_err();
        assert!(!bench.path("nowhere").exists());
    }
}

fn rule_of(bench: &Bench, path: &Path, source: &Source) -> Option<Rule> {
    for kind in [Unchecked, DirectoryOrCreate] {
        match open(bench, path, kind, source) {
            Err(HostPathError::Forbidden { rule, .. }) => return Some(rule),
            Ok(_) | Err(HostPathError::Type { .. }) => {}
            Err(error) => panic!("{}: {error}", path.display()),
        }
    }
    None
}

#[test]
fn the_daemons_own_folders_are_nobody_elses() {
    let bench = Bench::new();
    let state = bench.path("state");
    fs::create_dir_all(bench.path("other/inner")).unwrap();
    symlink("../state/volumes", bench.path("other/link")).unwrap();
    symlink("..", bench.path("other/up")).unwrap();
    fs::write(bench.path("state/record"), "x").unwrap();
    for inside in [
        "state",
        "state/volumes",
        "state/record",
        "state/new/folder",
        "other/link",
        "other/inner/../link/pods",
    ] {
        let rule = rule_of(&bench, &bench.path(inside), &local());
        assert_eq!(rule, Some(Rule::InOwn(state.clone())), "{inside}");
    }
    assert!(!bench.path("state/new").exists(), "nothing is made before the rules");
    for around in ["", "other/up", "other/.."] {
        let rule = rule_of(&bench, &bench.path(around), &local());
        assert_eq!(rule, Some(Rule::ContainsOwn(state.clone())), "{around}");
    }
    for free in ["other", "other/inner", "statements", "other/new"] {
        assert_eq!(rule_of(&bench, &bench.path(free), &local()), None, "{free}");
    }
    let memory = bench.path("memory");
    assert_eq!(rule_of(&bench, &memory, &local()), Some(Rule::InOwn(memory.clone())));
}

#[test]
fn views_of_the_kernel_are_never_given_away_however_they_are_named() {
    let bench = Bench::new();
    symlink("/proc/self", bench.path("link")).unwrap();
    for (path, kind) in [
        ("/proc", "proc"),
        ("/proc/self/fd", "proc"),
        ("/proc/sys/kernel/hostname", "proc"),
        ("/sys", "sysfs"),
        ("/sys/kernel", "sysfs"),
    ] {
        assert_eq!(
            rule_of(&bench, Path::new(path), &local()),
            Some(Rule::Kernel(kind.to_owned())),
            "{path}"
        );
    }
    let link = bench.path("link/task");
    assert_eq!(rule_of(&bench, &link, &local()), Some(Rule::Kernel("proc".to_owned())));
    for device in ["/dev", "/dev/null"] {
        let rule = rule_of(&bench, Path::new(device), &local());
        // devtmpfs, or a tmpfs or plain folder made by a container engine.
        assert!(
            matches!(rule, Some(Rule::Kernel(_) | Rule::ContainsKernel { .. })),
            "{device}: {rule:?}"
        );
    }
    // Not even where it is not the daemon's state that lies below.
    let mut bare = Bench::new();
    bare.policy = HostPathPolicy::default();
    let rule = rule_of(&bare, Path::new("/"), &local());
    assert!(matches!(rule, Some(Rule::ContainsKernel { .. })), "{rule:?}");
    // A magic link to something harmless leads there, by its true path.
    let root = Path::new("/proc/self/root").join(bare.path("").strip_prefix("/").unwrap());
    assert_eq!(rule_of(&bare, &root, &local()), None);
}

#[test]
fn pods_from_outside_get_only_what_the_list_allows() {
    let mut bench = Bench::new();
    fs::create_dir_all(bench.path("data/one")).unwrap();
    fs::create_dir_all(bench.path("secret")).unwrap();
    fs::write(bench.path("data/file"), "").unwrap();
    symlink("../secret", bench.path("data/out")).unwrap();
    symlink("data", bench.path("alias")).unwrap();
    for source in [Source::Api, Source::Mqtt] {
        let rule = rule_of(&bench, &bench.path("data"), &source);
        assert_eq!(rule, Some(Rule::NotAllowed), "an empty list allows nothing");
    }
    bench.policy.allow = vec![bench.path("alias"), bench.path("not-there"), bench.path("state")];
    for source in [Source::Api, Source::Mqtt] {
        for allowed in
            ["data", "alias", "data/one", "data/file", "data/new/deep", "secret/../data/one"]
        {
            assert_eq!(rule_of(&bench, &bench.path(allowed), &source), None, "{allowed}");
        }
        for forbidden in
            ["secret", "data/out", "data/out/new", "data/..", "not-there", "data/../made"]
        {
            let rule = rule_of(&bench, &bench.path(forbidden), &source);
            assert_eq!(rule, Some(Rule::NotAllowed), "{forbidden}");
        }
        // The list is no way round the other rules.
        let rule = rule_of(&bench, &bench.path("state/volumes"), &source);
        assert_eq!(rule, Some(Rule::InOwn(bench.path("state"))));
    }
    assert!(!bench.path("made").exists() && !bench.path("not-there").exists());
    assert!(!bench.path("secret/new").exists());
    // What exists out there is not told, either.
    for (path, kind) in [("secret", File), ("nothing", Directory), ("nothing/x", FileOrCreate)] {
        let error = open(&bench, &bench.path(path), kind, &Source::Api).unwrap_err();
        assert!(
            matches!(error, HostPathError::Forbidden { rule: Rule::NotAllowed, .. }),
            "{path}: {error}"
        );
    }
    assert_eq!(
        rule_of(&bench, &bench.path("secret"), &local()),
        None,
        "local files are the operator's"
    );
}

#[test]
fn what_was_checked_is_what_is_mounted() {
    let bench = Bench::new();
    fs::create_dir(bench.path("good")).unwrap();
    fs::write(bench.path("good/file"), "good").unwrap();
    let source = VolumeSource::HostPath { path: bench.path("good"), kind: Directory };
    let pod = pod(vec![("v", source)]);
    let mounted = bench.set_up(&pod).unwrap();
    rustix::fs::renameat(CWD, bench.path("good"), CWD, bench.path("moved")).unwrap();
    symlink(bench.path("state"), bench.path("good")).unwrap();
    let mount =
        Mount { volume: "v".to_owned(), path: "/v".to_owned(), read_only: false, sub_path: None };
    let run = bench.root.prepare(&pod, &container(vec![mount]), 0, &mounted, &[None]).unwrap();
    let host = run.mounts.iter().find(|mount| mount.guest() == "/v").unwrap().host();
    assert_eq!(fs::read_to_string(host.join("file")).unwrap(), "good");
    bench.root.tear_down(&pod.uid).unwrap();
    assert_eq!(fs::read_to_string(bench.path("moved/file")).unwrap(), "good", "never removed");
}
