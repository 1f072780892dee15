//! configMap, secret, downwardAPI and projected volumes.

use super::super::payload::{PayloadError, format_map};
use super::*;

fn item(key: &str, path: &str, mode: Option<u32>) -> KeyToPath {
    KeyToPath { key: key.to_owned(), path: path.to_owned(), mode }
}

/// Every visible file with its mode and content, read as a guest would: through the links.
fn files(volume: &Path) -> BTreeMap<String, (u32, String)> {
    let mut found = BTreeMap::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(below) = todo.pop() {
        for entry in fs::read_dir(volume.join(&below)).unwrap() {
            let name = entry.unwrap().file_name();
            if name.to_string_lossy().starts_with("..") {
                continue;
            }
            let path = below.join(name);
            let meta = fs::metadata(volume.join(&path)).unwrap();
            if meta.is_dir() {
                todo.push(path);
            } else {
                let text = fs::read_to_string(volume.join(&path)).unwrap();
                found.insert(path.display().to_string(), (meta.mode() & 0o777, text));
            }
        }
    }
    found
}

fn expect(pairs: &[(&str, u32, &str)]) -> BTreeMap<String, (u32, String)> {
    pairs
        .iter()
        .map(|(path, mode, text)| ((*path).to_owned(), (*mode, (*text).to_owned())))
        .collect()
}

fn bench() -> Bench {
    let mut bench = Bench::new();
    let map = keys(&[("a.conf", "alpha"), ("b", "beta")]);
    bench.objects.config_maps.insert("cm".to_owned(), map);
    bench.objects.secrets.insert("s".to_owned(), keys(&[("token", "hush")]));
    bench
}

#[test]
fn a_config_map_becomes_files_behind_one_link() {
    let bench = bench();
    bench.set_up(&pod(vec![("v", config_map("cm"))])).unwrap();
    let volume = bench.on_disk("v");
    assert_eq!(files(&volume), expect(&[("a.conf", 0o644, "alpha"), ("b", 0o644, "beta")]));
    assert_eq!(fs::read_link(volume.join("b")).unwrap(), Path::new("..data/b"));
    let data = fs::read_link(volume.join("..data")).unwrap();
    assert!(data.is_relative() && data.to_string_lossy().starts_with(".."));
    assert!(data.components().count() == 1, "it stays inside: {}", data.display());
}

#[test]
fn items_choose_paths_and_modes() {
    let bench = bench();
    let source = VolumeSource::ConfigMap {
        name: "cm".to_owned(),
        items: vec![
            item("b", "deep/down/b.txt", Some(0o600)),
            item("b", "deep/again", None),
            item("a.conf", "./x", Some(0o755)),
        ],
        default_mode: 0o640,
        optional: false,
    };
    bench.set_up(&pod(vec![("v", source)])).unwrap();
    assert_eq!(
        files(&bench.on_disk("v")),
        expect(&[
            ("deep/down/b.txt", 0o600, "beta"),
            ("deep/again", 0o640, "beta"),
            ("x", 0o755, "alpha")
        ])
    );
}

#[test]
fn what_is_missing_is_an_error_unless_it_is_optional() {
    let bench = bench();
    let config = |name: &str, key: Option<&str>, optional| VolumeSource::ConfigMap {
        name: name.to_owned(),
        items: key.iter().map(|key| item(key, "x", None)).collect(),
        default_mode: 0o644,
        optional,
    };
    let secret = |name: &str, key: Option<&str>, optional| VolumeSource::Secret {
        name: name.to_owned(),
        items: key.iter().map(|key| item(key, "x", None)).collect(),
        default_mode: 0o644,
        optional,
    };
    for (source, words) in [
        (config("none", None, false), "configmap \"none\" not found"),
        (config("cm", Some("c"), false), "configmap references non-existent config key: c"),
        (secret("none", None, false), "secret \"none\" not found"),
        (secret("s", Some("c"), false), "references non-existent secret key: c"),
    ] {
        let error = bench.set_up(&pod(vec![("v", source)])).unwrap_err();
        assert_eq!(error.cause.to_string(), words);
    }
    for source in [
        config("none", None, true),
        config("cm", Some("c"), true),
        secret("none", Some("x"), true),
        secret("s", Some("c"), true),
    ] {
        let pod = pod(vec![("v", source)]);
        bench.set_up(&pod).unwrap();
        let volume =
            if bench.in_memory("v").exists() { bench.in_memory("v") } else { bench.on_disk("v") };
        assert_eq!(files(&volume), BTreeMap::new());
        bench.root.tear_down(&pod.uid).unwrap();
    }
}

#[test]
fn wrong_paths_never_become_files() {
    let bench = bench();
    for path in ["../x", "/etc/x", "..data", "..data/x", "a/../../x", "", ".", "a\0b"] {
        let source = VolumeSource::ConfigMap {
            name: "cm".to_owned(),
            items: vec![item("b", path, None)],
            default_mode: 0o644,
            optional: false,
        };
        let error = bench.set_up(&pod(vec![("v", source)])).unwrap_err();
        assert!(
            matches!(error.cause, VolumeFault::Payload(PayloadError::Path(_))),
            "{path:?}: {error}"
        );
    }
}

#[test]
fn the_downward_api_tells_what_the_pod_is() {
    let bench = bench();
    let field =
        |path: &str, field| ProjectedSource::Field { path: path.to_owned(), mode: None, field };
    let memory = ResourceField {
        container: Some("app".to_owned()),
        limit: true,
        resource: "memory".to_owned(),
        divisor_milli: 1_048_576_000,
    };
    let mut pod = pod(vec![(
        "v",
        VolumeSource::DownwardApi {
            items: vec![
                field("name", FieldPath::Name),
                field("ns", FieldPath::Namespace),
                field("uid", FieldPath::Uid),
                field("labels", FieldPath::Labels(None)),
                field("tier", FieldPath::Labels(Some("tier".to_owned()))),
                field("none", FieldPath::Annotations(Some("none".to_owned()))),
                field("node", FieldPath::NodeName),
                ProjectedSource::Resource {
                    path: "mem".to_owned(),
                    mode: Some(0o600),
                    field: memory,
                },
            ],
            default_mode: 0o444,
        },
    )]);
    pod.labels = [("tier", "front"), ("app", "a \"b\"\n\\é\u{1}\u{2028}")]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
    bench.set_up(&pod).unwrap();
    let labels = "app=\"a \\\"b\\\"\\n\\\\é\\x01\\u2028\"\ntier=\"front\"";
    assert_eq!(format_map(&pod.labels), labels);
    assert_eq!(
        files(&bench.on_disk("v")),
        expect(&[
            ("name", 0o444, "web"),
            ("ns", 0o444, "default"),
            ("uid", 0o444, "0a1b-2c3d"),
            ("labels", 0o444, labels),
            ("tier", 0o444, "front"),
            ("none", 0o444, ""),
            ("node", 0o444, "gw-17"),
            ("mem", 0o600, "64"),
        ])
    );
    pod.volumes[0].source = VolumeSource::DownwardApi {
        items: vec![field("ip", FieldPath::PodIp)],
        default_mode: 0o644,
    };
    let error = bench.set_up(&pod).unwrap_err();
    assert_eq!(error.cause.to_string(), "fieldRef of ip has no value (yet)");
}

#[test]
fn a_projected_volume_gathers_and_one_with_a_secret_is_in_memory() {
    let bench = bench();
    let projected = |sources| VolumeSource::Projected { sources, default_mode: 0o644 };
    let config = |items: Vec<KeyToPath>| ProjectedSource::ConfigMap {
        name: "cm".to_owned(),
        items,
        optional: false,
    };
    let secret = ProjectedSource::Secret {
        name: "s".to_owned(),
        items: vec![item("token", "auth/token", Some(0o400))],
        optional: false,
    };
    let name =
        ProjectedSource::Field { path: "pod/name".to_owned(), mode: None, field: FieldPath::Name };
    bench.set_up(&pod(vec![("v", projected(vec![config(vec![]), secret, name]))])).unwrap();
    assert_eq!(
        files(&bench.in_memory("v")),
        expect(&[
            ("a.conf", 0o644, "alpha"),
            ("b", 0o644, "beta"),
            ("auth/token", 0o400, "hush"),
            ("pod/name", 0o644, "web"),
        ])
    );
    let clash = vec![config(vec![item("b", "x", None)]), config(vec![item("b", "x/y", None)])];
    let error = bench.set_up(&pod(vec![("w", projected(clash))])).unwrap_err();
    assert_eq!(error.cause.to_string(), "conflicting paths: x is both a file and a folder");
}

#[test]
fn an_update_is_seen_whole_and_nothing_is_written_without_one() {
    let mut bench = bench();
    let pod = pod(vec![("v", config_map("cm")), ("data", empty_dir())]);
    let mounted = bench.set_up(&pod).unwrap();
    let volume = bench.on_disk("v");
    let inode = || fs::metadata(volume.join("..data")).unwrap().ino();
    let before = inode();
    let refresh = |bench: &Bench| bench.root.refresh(&pod, &bench.objects, &mounted);
    assert!(!refresh(&bench).unwrap());
    assert_eq!(inode(), before);
    // One key changes, one goes, one comes.
    let changed = keys(&[("b", "BETA"), ("c", "gamma")]);
    bench.objects.config_maps.insert("cm".to_owned(), changed);
    let old = fs::File::open(volume.join("b")).unwrap();
    assert!(refresh(&bench).unwrap());
    assert_eq!(files(&volume), expect(&[("b", 0o644, "BETA"), ("c", 0o644, "gamma")]));
    assert_eq!(io::read_to_string(old).unwrap(), "beta", "what is open stays whole");
    assert!(fs::symlink_metadata(volume.join("a.conf")).is_err());
    let hidden = fs::read_dir(&volume)
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with(".."))
        .count();
    assert_eq!(hidden, 2, "the old files are gone");
    // An object that vanishes keeps its last content.
    bench.objects.config_maps.clear();
    let error = refresh(&bench).unwrap_err();
    assert_eq!(
        error.to_string(),
        "MountVolume.SetUp failed for volume \"v\" : configmap \"cm\" not found"
    );
    assert_eq!(files(&volume), expect(&[("b", 0o644, "BETA"), ("c", 0o644, "gamma")]));
}

#[test]
fn what_a_crash_or_a_power_cut_left_is_mended() {
    let bench = bench();
    let pod = pod(vec![("v", config_map("cm"))]);
    bench.set_up(&pod).unwrap();
    let volume = bench.on_disk("v");
    let whole = expect(&[("a.conf", 0o644, "alpha"), ("b", 0o644, "beta")]);
    let data = || volume.join(fs::read_link(volume.join("..data")).unwrap());
    let harms: [&dyn Fn(); 8] = [
        &|| fs::write(data().join("b"), "").unwrap(),
        &|| fs::write(data().join("b"), "bet4").unwrap(),
        &|| fs::set_permissions(data().join("b"), fs::Permissions::from_mode(0o600)).unwrap(),
        &|| fs::remove_file(data().join("a.conf")).unwrap(),
        &|| fs::remove_file(volume.join("..data")).unwrap(),
        &|| fs::remove_file(volume.join("b")).unwrap(),
        &|| symlink("..nowhere", volume.join("..data_tmp")).unwrap(),
        &|| {
            fs::remove_file(volume.join("b")).unwrap();
            symlink("/etc/passwd", volume.join("b")).unwrap();
            fs::create_dir_all(volume.join("..old/x")).unwrap();
        },
    ];
    for (number, harm) in harms.iter().enumerate() {
        harm();
        bench.set_up(&pod).unwrap();
        assert_eq!(files(&volume), whole, "harm {number}");
        assert_eq!(fs::read_dir(&volume).unwrap().count(), 4, "harm {number}");
    }
}
