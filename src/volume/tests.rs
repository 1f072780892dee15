#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod confinement;
mod content;
mod host;
mod runs;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

use tempfile::TempDir;

use super::*;
use crate::spec::{
    Container, ContainerKind, ContainerName, Hooks, HostPathType, HttpLimits, ImageRef, KeyToPath,
    Mount, OnMemoryLimit, PodKey, PodResources, ProjectedSource, PullPolicy, QosClass, Resources,
    RestartPolicy, Source, StopSignal, TerminationMessagePolicy,
};

/// ConfigMaps and Secrets of a test: namespace `default` only.
#[derive(Default)]
struct Objects {
    config_maps: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    secrets: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
}

impl ObjectData for Objects {
    fn config_map(&self, namespace: &str, name: &str) -> Option<BTreeMap<String, Vec<u8>>> {
        assert_eq!(namespace, "default");
        self.config_maps.get(name).cloned()
    }

    fn secret(&self, namespace: &str, name: &str) -> Result<Option<Values>, Unreadable> {
        assert_eq!(namespace, "default");
        let values = self.secrets.get(name).cloned();
        Ok(values.map(|values| values.into_iter().map(|(k, v)| (k, v.into())).collect()))
    }

    fn field(&self, field: &FieldPath) -> Option<String> {
        (*field == FieldPath::NodeName).then(|| "gw-17".to_owned())
    }

    fn resource(&self, field: &ResourceField) -> Option<String> {
        (field.resource == "memory").then(|| "64".to_owned())
    }
}

fn keys(pairs: &[(&str, &str)]) -> BTreeMap<String, Vec<u8>> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec())).collect()
}

fn pod(volumes: Vec<(&str, VolumeSource)>) -> Pod {
    Pod {
        key: PodKey::new("default", "web"),
        uid: PodUid::new("0a1b-2c3d"),
        source: Source::Play(PathBuf::from("web.yaml")),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        generation: 1,
        init_containers: Vec::new(),
        containers: Vec::new(),
        restart_policy: RestartPolicy::Always,
        grace: std::time::Duration::from_secs(30),
        active_deadline: None,
        volumes: volumes
            .into_iter()
            .map(|(name, source)| Volume { name: name.to_owned(), source })
            .collect(),
        hostname: "web".to_owned(),
        subdomain: None,
        host_aliases: Vec::new(),
        network: crate::spec::PodNetwork::default(),
        resources: PodResources::default(),
        qos: QosClass::BestEffort,
        readiness_gates: Vec::new(),
        priority: 0,
        service_account: None,
        image_pull_secrets: Vec::new(),
    }
}

fn container(mounts: Vec<Mount>) -> Container {
    Container {
        name: ContainerName::new("app"),
        kind: ContainerKind::Regular,
        image: ImageRef::Named { text: "web".into(), name: "web".into(), tag: "latest".into() },
        pull_policy: PullPolicy::IfNotPresent,
        command: Vec::new(),
        args: Vec::new(),
        working_dir: None,
        env_from: Vec::new(),
        env: Vec::new(),
        ports: Vec::new(),
        mounts,
        resources: Resources::default(),
        startup: None,
        liveness: None,
        readiness: None,
        hooks: Hooks::default(),
        restart_policy: None,
        restart_rules: Vec::new(),
        termination_message_path: "/dev/termination-log".to_owned(),
        termination_message_policy: TerminationMessagePolicy::File,
        stop_signal: StopSignal::Lifecycle,
        on_memory_limit: OnMemoryLimit::Kill,
        log_bytes_per_second: crate::limits::LOG_BYTES_PER_SECOND,
        http: HttpLimits::default(),
        stdin: false,
    }
}

fn empty_dir() -> VolumeSource {
    VolumeSource::EmptyDir { medium: VolumeMedium::Default, size_limit_bytes: None }
}

fn config_map(name: &str) -> VolumeSource {
    let name = name.to_owned();
    VolumeSource::ConfigMap { name, items: Vec::new(), default_mode: 0o644, optional: false }
}

fn secret(name: &str) -> VolumeSource {
    let name = name.to_owned();
    VolumeSource::Secret { name, items: Vec::new(), default_mode: 0o400, optional: false }
}

/// A volumes' folder with and without memory behind it, and objects.
struct Bench {
    folder: TempDir,
    root: VolumeRoot,
    objects: Objects,
    policy: HostPathPolicy,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |part: &str| folder.path().join(part);
        let root = VolumeRoot::open(&at("state/volumes"), Some(&at("memory"))).unwrap();
        let policy =
            HostPathPolicy { own: vec![at("state"), at("memory"), at("missing")], allow: vec![] };
        Self { root, objects: Objects::default(), policy, folder }
    }

    fn path(&self, part: &str) -> PathBuf {
        self.folder.path().join(part)
    }

    fn set_up(&self, pod: &Pod) -> Result<MountedVolumes, VolumeError> {
        self.root.set_up(pod, &self.objects, &self.policy)
    }

    /// Where a volume is on the host.
    fn on_disk(&self, volume: &str) -> PathBuf {
        self.path("state/volumes/pods/0a1b-2c3d/volumes").join(volume)
    }

    fn in_memory(&self, volume: &str) -> PathBuf {
        self.path("memory/pods/0a1b-2c3d/volumes").join(volume)
    }
}

#[test]
fn an_empty_dir_is_open_to_its_pod_closed_to_the_host_and_keeps_its_content_till_the_end() {
    let bench = Bench::new();
    let pod = pod(vec![("data", empty_dir())]);
    bench.set_up(&pod).unwrap();
    let data = bench.on_disk("data");
    assert_eq!(fs::metadata(&data).unwrap().permissions().mode() & 0o7777, 0o777);
    assert_eq!(fs::metadata(bench.path("state/volumes/pods")).unwrap().mode() & 0o777, 0o700);
    fs::write(data.join("kept"), "x").unwrap();
    // A daemon started anew finds it as it was.
    let again = VolumeRoot::open(&bench.path("state/volumes"), None).unwrap();
    again.set_up(&pod, &bench.objects, &bench.policy).unwrap();
    assert_eq!(fs::read_to_string(data.join("kept")).unwrap(), "x");
    assert_eq!(again.remove_orphans(std::slice::from_ref(&pod.uid)).len(), 0);
    assert!(data.join("kept").exists(), "its pod is wanted");
    again.tear_down(&pod.uid).unwrap();
    again.tear_down(&pod.uid).unwrap();
    assert!(fs::read_dir(bench.path("state/volumes/pods")).unwrap().next().is_none());
}

#[test]
fn orphans_of_both_folders_go_and_nothing_else_does() {
    let bench = Bench::new();
    let mut kept = pod(vec![("data", empty_dir())]);
    kept.uid = PodUid::new("../Kept/Uid");
    let mut gone = pod(vec![(
        "data",
        VolumeSource::EmptyDir { medium: VolumeMedium::Memory, size_limit_bytes: None },
    )]);
    gone.uid = PodUid::new("gone");
    bench.set_up(&kept).unwrap();
    bench.set_up(&gone).unwrap();
    symlink(bench.path("state"), bench.path("state/volumes/pods/link")).unwrap();
    let failed = bench.root.remove_orphans(std::slice::from_ref(&kept.uid));
    assert!(failed.is_empty(), "{failed:?}");
    assert_eq!(fs::read_dir(bench.path("memory/pods")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(bench.path("state/volumes/pods")).unwrap().count(), 1);
    bench.root.tear_down(&kept.uid).unwrap();
    assert_eq!(fs::read_dir(bench.path("state/volumes/pods")).unwrap().count(), 0);
}

#[test]
fn memory_volumes_and_secrets_are_in_memory_or_the_pod_is_told() {
    let mut bench = Bench::new();
    bench.objects.secrets.insert("s".to_owned(), keys(&[("key", "hush")]));
    let memory = VolumeSource::EmptyDir { medium: VolumeMedium::Memory, size_limit_bytes: None };
    let pod = pod(vec![("tmp", memory), ("cert", secret("s")), ("data", empty_dir())]);
    let mounted = bench.set_up(&pod).unwrap();
    assert_eq!(mounted.warnings, Vec::<String>::new());
    assert_eq!(fs::read_to_string(bench.in_memory("cert/key")).unwrap(), "hush");
    assert!(bench.in_memory("tmp").is_dir() && bench.on_disk("data").is_dir());
    assert!(!bench.on_disk("cert").exists() && !bench.on_disk("tmp").exists());
    bench.root.tear_down(&pod.uid).unwrap();
    assert!(!bench.in_memory("cert").exists());
    let without = VolumeRoot::open(&bench.path("state/volumes"), None).unwrap();
    let mounted = without.set_up(&pod, &bench.objects, &bench.policy).unwrap();
    assert_eq!(
        mounted.warnings,
        [
            "memory volume \"tmp\" is kept on disk: no memory-backed folder was found",
            "secret volume \"cert\" is kept on disk: no memory-backed folder was found"
        ]
    );
    assert_eq!(fs::read_to_string(bench.on_disk("cert/key")).unwrap(), "hush");
}

#[test]
fn a_memory_folder_is_private_or_not_taken() {
    let folder = tempfile::tempdir().unwrap();
    let shm = PathBuf::from("/dev/shm");
    if !shm.is_dir() {
        eprintln!("skipped: this machine has no /dev/shm");
        return;
    }
    let none = folder.path().join("missing");
    let state = folder.path().join("state");
    assert_eq!(find_memory_dir(&[none.clone(), "/proc".into()], &state), None);
    let found = find_memory_dir(&[none, shm.clone()], &state).unwrap();
    assert!(found.starts_with(&shm));
    assert_eq!(fs::metadata(&found).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(
        find_memory_dir(std::slice::from_ref(&shm), &state).as_ref(),
        Some(&found),
        "the same again"
    );
    let other = find_memory_dir(std::slice::from_ref(&shm), &folder.path().join("other")).unwrap();
    assert_ne!(other, found, "each daemon has its own");
    fs::remove_dir(&other).unwrap();
    // Somebody else was there first, with a link.
    fs::remove_dir(&found).unwrap();
    symlink(folder.path(), &found).unwrap();
    assert_eq!(find_memory_dir(std::slice::from_ref(&shm), &state), None);
    fs::remove_file(&found).unwrap();
    // Or with a folder of their own.
    fs::create_dir(&found).unwrap();
    if std::os::unix::fs::chown(&found, Some(65534), None).is_ok() {
        assert_eq!(find_memory_dir(std::slice::from_ref(&shm), &state), None);
    } else {
        eprintln!("skipped in part: only root can give a folder away");
    }
    fs::remove_dir(&found).unwrap();
}

#[test]
fn a_volume_that_cannot_be_is_told_in_kubernetes_words() {
    let bench = Bench::new();
    let missing =
        VolumeSource::HostPath { path: bench.path("nothing"), kind: HostPathType::Directory };
    let path = bench.path("nothing").display().to_string();
    for (source, words) in [
        (config_map("cm"), "configmap \"cm\" not found".to_owned()),
        (secret("s"), "secret \"s\" not found".to_owned()),
        (missing, format!("hostPath type check failed: {path} is not a directory")),
    ] {
        let error = bench.set_up(&pod(vec![("ok", empty_dir()), ("v", source)])).unwrap_err();
        assert_eq!(error.reason(), "FailedMount");
        assert_eq!(
            error.to_string(),
            format!("MountVolume.SetUp failed for volume \"v\" : {words}")
        );
    }
}
