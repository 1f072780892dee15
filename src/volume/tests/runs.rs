//! The mounts of one run, and its termination message.

use super::*;

fn mount(volume: &str, path: &str, read_only: bool) -> Mount {
    let (volume, path) = (volume.to_owned(), path.to_owned());
    Mount { volume, path, read_only, sub_path: None }
}

/// A pod with a folder of each kind.
fn bench() -> (Bench, Pod, MountedVolumes) {
    let mut bench = Bench::new();
    let map = keys(&[("a.conf", "alpha"), ("b", "beta")]);
    bench.objects.config_maps.insert("cm".to_owned(), map);
    bench.objects.secrets.insert("s".to_owned(), keys(&[("token", "hush")]));
    fs::create_dir(bench.path("host")).unwrap();
    fs::write(bench.path("host/file"), "host").unwrap();
    let host = |path, kind| VolumeSource::HostPath { path: bench.path(path), kind };
    let pod = pod(vec![
        ("data", empty_dir()),
        ("cm", config_map("cm")),
        ("s", secret("s")),
        ("host", host("host", HostPathType::Directory)),
        ("file", host("host/file", HostPathType::File)),
    ]);
    let mounted = bench.set_up(&pod).unwrap();
    (bench, pod, mounted)
}

/// Each mount as `GUEST rw|ro`, sorted.
fn shape(run: &RunMounts) -> Vec<String> {
    let line = |mount: &PreparedMount| {
        format!("{} {}", mount.guest(), if mount.read_only() { "ro" } else { "rw" })
    };
    let mut lines: Vec<String> = run.mounts.iter().map(line).collect();
    lines.sort();
    lines
}

fn host(run: &RunMounts, guest: &str) -> PathBuf {
    run.mounts.iter().find(|mount| mount.guest() == guest).unwrap().host()
}

fn prepare(
    (bench, pod, mounted): &(Bench, Pod, MountedVolumes),
    mounts: &[(&str, &str, bool, Option<&str>)],
) -> Result<RunMounts, MountError> {
    let sub_paths: Vec<Option<String>> =
        mounts.iter().map(|(_, _, _, sub_path)| sub_path.map(str::to_owned)).collect();
    let mounts =
        mounts.iter().map(|(volume, path, read_only, _)| mount(volume, path, *read_only)).collect();
    bench.root.prepare(pod, &container(mounts), 0, mounted, &sub_paths)
}

#[test]
fn folders_are_handed_out_as_they_are() {
    let all = bench();
    let run = prepare(
        &all,
        &[
            ("data", "/data", false, None),
            ("data", "/look//only/", true, None),
            ("cm", "/etc/app", false, None),
            ("host", "relative/./x/../host", true, None),
        ],
    )
    .unwrap();
    assert_eq!(
        shape(&run),
        ["/data rw", "/dev rw", "/etc/app ro", "/look/only ro", "/relative/host ro"]
    );
    fs::write(host(&run, "/data").join("x"), "shared").unwrap();
    assert_eq!(fs::read_to_string(host(&run, "/look/only").join("x")).unwrap(), "shared");
    assert_eq!(fs::read_to_string(host(&run, "/etc/app").join("b")).unwrap(), "beta");
    assert_eq!(all.0.root.end_run(&all.1, run), "");
    assert!(all.0.on_disk("data/x").exists(), "what is the pod's stays");
}

#[test]
fn a_sub_path_is_a_part_of_the_volume_made_where_it_is_missing() {
    let all = bench();
    let bench = &all.0;
    fs::create_dir_all(bench.on_disk("data/there")).unwrap();
    fs::write(bench.on_disk("data/there/x"), "x").unwrap();
    symlink("there", bench.on_disk("data/link")).unwrap();
    let run = prepare(
        &all,
        &[
            ("data", "/there", false, Some("there")),
            ("data", "/link", false, Some("link/.")),
            ("data", "/new", false, Some("new/deep")),
            ("data", "/whole", false, Some("")),
            ("host", "/host", true, Some("made")),
        ],
    )
    .unwrap();
    assert_eq!(fs::read_to_string(host(&run, "/there").join("x")).unwrap(), "x");
    assert_eq!(fs::read_to_string(host(&run, "/link").join("x")).unwrap(), "x");
    assert!(host(&run, "/whole").join("new/deep").is_dir());
    assert_eq!(fs::metadata(bench.on_disk("data/new/deep")).unwrap().mode() & 0o777, 0o777);
    assert!(bench.path("host/made").is_dir());
}

#[test]
fn a_sub_path_never_leads_out() {
    let all = bench();
    let bench = &all.0;
    for (link, target) in [("out", "../../../../.."), ("abs", "/etc"), ("state", "../..")] {
        symlink(target, bench.on_disk("data").join(link)).unwrap();
    }
    let fail =
        |sub_path: &str| prepare(&all, &[("data", "/x", false, Some(sub_path))]).unwrap_err();
    for sub_path in ["out", "out/etc", "abs", "abs/new", "state", "state/new"] {
        let error = fail(sub_path);
        assert_eq!(error.reason(), "CreateContainerConfigError");
        assert_eq!(
            error.to_string(),
            "failed to prepare subPath for volumeMount \"data\" of container \"app\": it leads out of \
             the volume",
            "{sub_path}"
        );
    }
    for sub_path in ["..", "../x", "a/../../x", "/etc", "a\0b"] {
        assert!(matches!(fail(sub_path), MountError::SubPath { .. }), "{sub_path}");
    }
    let error = prepare(&all, &[("cm", "/x", true, Some("no-such-key"))]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "failed to create subPath directory for volumeMount \"cm\" of container \"app\""
    );
    let error = prepare(&all, &[("none", "/x", true, None)]).unwrap_err();
    assert_eq!(error.to_string(), "cannot find volume \"none\" to mount into container \"app\"");
}

#[test]
fn single_files_are_private_copies_side_by_side() {
    let all = bench();
    let (bench, pod, _) = &all;
    fs::write(bench.on_disk("data/own.txt"), "own").unwrap();
    let run = prepare(
        &all,
        &[
            ("cm", "/etc/app/app.conf", false, Some("a.conf")),
            ("s", "/etc/app/token", false, Some("token")),
            ("file", "/opt/file", true, None),
            ("data", "/data", false, None),
            ("data", "/copy/own", true, Some("own.txt")),
        ],
    )
    .unwrap();
    assert_eq!(shape(&run), ["/copy ro", "/data rw", "/dev rw", "/etc/app ro", "/opt ro"]);
    let read = |guest: &str, name: &str| fs::read_to_string(host(&run, guest).join(name)).unwrap();
    assert_eq!(read("/etc/app", "app.conf"), "alpha");
    assert_eq!(read("/etc/app", "token"), "hush");
    assert_eq!(read("/opt", "file"), "host");
    assert_eq!(read("/copy", "own"), "own");
    let modes = ["app.conf", "token"]
        .map(|name| fs::metadata(host(&run, "/etc/app").join(name)).unwrap().mode() & 0o777);
    assert_eq!(modes, [0o644, 0o400]);
    assert_eq!(fs::read_dir(host(&run, "/etc/app")).unwrap().count(), 2, "nothing else is seen");
    assert_eq!(fs::read_dir(bench.path("memory/pods/0a1b-2c3d/runs")).unwrap().count(), 1);
    assert!(!bench.path("state/volumes/pods/0a1b-2c3d/runs").exists(), "a secret stays in memory");
    fs::write(bench.path("host/file"), "changed").unwrap();
    assert_eq!(read("/opt", "file"), "host", "a copy");
    let _ = bench.root.end_run(pod, run);
    assert_eq!(fs::read_dir(bench.path("memory/pods/0a1b-2c3d/runs")).unwrap().count(), 0);
}

#[test]
fn single_files_that_cannot_be_are_told_with_a_way_out() {
    let all = bench();
    let bench = &all.0;
    for (mounts, words) in [
        (
            &[("file", "/opt/file", false, None)][..],
            "volumeMount \"file\" of container \"app\" is a single file (/opt/file) that may be written to",
        ),
        (
            &[("data", "/etc", false, None), ("cm", "/etc/app.conf", true, Some("b"))],
            "volumeMount \"cm\" of container \"app\" is a single file (/etc/app.conf) inside another mount (/etc, volume \"data\")",
        ),
        (
            &[("data", "/etc", false, None), ("cm", "/etc/x/y/app.conf", true, Some("b"))],
            "volumeMount \"cm\" of container \"app\" is a single file (/etc/x/y/app.conf) inside another mount",
        ),
        (
            &[("data", "/x", false, None), ("host", "/x/", true, None)],
            "mountPath \"/x\" of container \"app\" is used twice",
        ),
        (
            &[("cm", "/x/f", true, Some("b")), ("s", "/x/f", true, Some("token"))],
            "mountPath \"/x/f\" of container \"app\" is used twice",
        ),
        (
            &[("data", "/x/f", false, None), ("s", "/x/f", true, Some("token"))],
            "mountPath \"/x/f\" of container \"app\" is used twice",
        ),
        (&[("cm", "/", true, Some("b"))], "mountPath \"/\" of container \"app\""),
    ] {
        let error = prepare(&all, mounts).map(|run| shape(&run)).unwrap_err().to_string();
        assert!(error.starts_with(words), "{error}");
    }
    rustix::fs::mknodat(
        CWD,
        bench.on_disk("data/fifo"),
        rustix::fs::FileType::Fifo,
        Mode::from_raw_mode(0o666),
        0,
    )
    .unwrap();
    let error = prepare(&all, &[("data", "/f", true, Some("fifo"))]).unwrap_err().to_string();
    assert!(error.contains("is a FIFO; a module can be given folders"), "{error}");
    let large = fs::File::create(bench.path("host/large")).unwrap();
    large.set_len(4 * 1024 * 1024 + 1).unwrap();
    let error = prepare(&all, &[("host", "/f", true, Some("large"))]).unwrap_err().to_string();
    assert!(error.contains("of more than 4194304 bytes"), "{error}");
}

/// Runs a container that writes `bytes` to its termination log, at `path` in the guest.
fn message(
    all: &(Bench, Pod, MountedVolumes),
    path: &str,
    mounts: &[Mount],
    write: impl FnOnce(&RunMounts),
) -> String {
    let (bench, pod, mounted) = all;
    let mut app = container(mounts.to_vec());
    app.termination_message_path = path.to_owned();
    let run = bench.root.prepare(pod, &app, 3, mounted, &[]).unwrap();
    write(&run);
    bench.root.end_run(pod, run)
}

#[test]
fn the_termination_log_is_fresh_for_each_run_and_read_from_its_end() {
    let all = bench();
    let default = "/dev/termination-log";
    let log = |run: &RunMounts| host(run, "/dev").join("termination-log");
    let said = message(&all, default, &[], |run| {
        assert_eq!(fs::metadata(log(run)).unwrap().mode() & 0o777, 0o666);
        fs::write(log(run), "out of seed").unwrap();
    });
    assert_eq!(said, "out of seed");
    assert_eq!(message(&all, default, &[], |run| assert_eq!(fs::read(log(run)).unwrap(), b"")), "");
    let long = format!("start{}é{}", "x".repeat(8000), "y".repeat(4095));
    let said = message(&all, default, &[], |run| fs::write(log(run), &long).unwrap());
    assert_eq!(said.len(), 4096);
    assert!(said.starts_with('\u{fffd}') && said.ends_with("yyy"), "cut inside a character");
}

#[test]
fn a_run_beside_another_has_its_own_folder_and_what_a_killed_daemon_left_goes() {
    let all = bench();
    let (bench, pod, mounted) = &all;
    let app = container(vec![]);
    let run = bench.root.prepare(pod, &app, 0, mounted, &[]).unwrap();
    let beside = bench.root.prepare(pod, &app, 0, mounted, &[]).unwrap();
    fs::write(host(&run, "/dev").join("termination-log"), "main").unwrap();
    fs::write(host(&beside, "/dev").join("termination-log"), "probe").unwrap();
    assert_eq!(bench.root.end_run(pod, beside), "probe");
    assert_eq!(fs::read_dir(bench.path("state/volumes/pods/0a1b-2c3d/runs")).unwrap().count(), 1);
    // The daemon is killed here: `run` is never ended.
    bench.set_up(pod).unwrap();
    assert!(!bench.path("state/volumes/pods/0a1b-2c3d/runs").exists());
    assert_eq!(bench.root.end_run(pod, run), "", "nor does a late end harm");
}

#[test]
fn whatever_a_guest_puts_in_place_of_its_log_is_never_followed() {
    let all = bench();
    let path = all.0.path("host/file");
    let log = |run: &RunMounts| host(run, "/dev").join("termination-log");
    let replace = |how: &dyn Fn(&Path)| {
        message(&all, "/dev/termination-log", &[], |run| {
            fs::remove_file(log(run)).unwrap();
            how(&log(run));
        })
    };
    assert_eq!(replace(&|_| ()), "");
    assert_eq!(replace(&|log| symlink(&path, log).unwrap()), "");
    assert_eq!(replace(&|log| symlink("../../../../../../../etc/passwd", log).unwrap()), "");
    assert_eq!(replace(&|log| fs::create_dir(log).unwrap()), "");
    let fifo = |log: &Path| {
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(CWD, log, kind, Mode::from_raw_mode(0o666), 0).unwrap();
    };
    assert_eq!(replace(&fifo), "", "and nobody waits for a writer");
    assert_eq!(fs::read_to_string(path).unwrap(), "host");
}

#[test]
fn a_log_inside_a_volume_counts_only_if_this_run_wrote_it() {
    let all = bench();
    let data = [mount("data", "/data", false)];
    fs::create_dir(all.0.on_disk("data/logs")).unwrap();
    let path = "/data/logs/msg";
    let write = |text: &'static str| {
        move |run: &RunMounts| {
            assert_eq!(shape(run), ["/data rw"], "the volume is the place");
            fs::write(host(run, "/data").join("logs/msg"), text).unwrap();
        }
    };
    assert_eq!(message(&all, path, &data, write("first")), "first");
    assert_eq!(message(&all, path, &data, |_| ()), "", "what the last run wrote is not ours");
    assert_eq!(fs::read_to_string(all.0.on_disk("data/logs/msg")).unwrap(), "first", "nor removed");
    assert_eq!(message(&all, path, &data, write("again")), "again");
    let read_only = [mount("data", "/data", true)];
    assert_eq!(message(&all, path, &read_only, |run| assert_eq!(shape(run), ["/data ro"])), "");
    let link = |run: &RunMounts| {
        let log = host(run, "/data").join("logs/msg");
        fs::remove_file(&log).unwrap();
        symlink("../../../../../etc/passwd", log).unwrap();
    };
    assert_eq!(message(&all, path, &data, link), "");
    let inside = |run: &RunMounts| {
        let volume = host(run, "/data");
        fs::remove_file(volume.join("logs/msg")).unwrap();
        fs::write(volume.join("logs/other"), "other").unwrap();
        symlink("other", volume.join("logs/msg")).unwrap();
    };
    assert_eq!(message(&all, path, &data, inside), "", "a link is no message, wherever it leads");
}

#[test]
fn the_log_may_share_a_folder_with_single_files_but_not_replace_one() {
    let all = bench();
    let (bench, pod, mounted) = &all;
    let mut app = container(vec![mount("cm", "/etc/app/a.conf", true)]);
    let sub = [Some("a.conf".to_owned())];
    app.termination_message_path = "/etc/app/msg".to_owned();
    let run = bench.root.prepare(pod, &app, 0, mounted, &sub).unwrap();
    assert_eq!(shape(&run), ["/etc/app rw"]);
    let folder = host(&run, "/etc/app");
    assert_eq!(fs::read_to_string(folder.join("a.conf")).unwrap(), "alpha");
    fs::write(folder.join("msg"), "done").unwrap();
    assert_eq!(bench.root.end_run(pod, run), "done");
    app.termination_message_path = "/etc/app/a.conf".to_owned();
    let run = bench.root.prepare(pod, &app, 0, mounted, &sub).unwrap();
    assert_eq!(bench.root.end_run(pod, run), "", "the file is no message");
}

#[test]
fn folders_may_be_let_go_once_they_are_open() {
    let all = bench();
    let (bench, pod, mounted) = &all;
    let mut run = bench.root.prepare(pod, &container(vec![]), 0, mounted, &[]).unwrap();
    let log = fs::read_link(host(&run, "/dev")).unwrap().join("termination-log");
    run.mounts.clear();
    fs::write(log, "bye").unwrap();
    assert_eq!(bench.root.end_run(pod, run), "bye");
}
