//! A disk without room: what is there goes on, what comes is refused with the reason, what goes may go, and when there is room
//! again everything is made up for.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::rig::{Rig, metric};
use crate::support::{Node, restarts, wait_for};

/// More than the image store keeps in reserve for everybody else (16 MiB).
const DISK_BYTES: u64 = 24 << 20;

/// A file system of its own, in memory.
struct Disk(PathBuf);

impl Disk {
    /// `None` after a printed reason where nothing may be mounted.
    fn mount(at: &Path) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={DISK_BYTES},mode=0700"), "podling-test"]);
        let output = mount.arg(at).output();
        if output.as_ref().is_ok_and(|output| output.status.success()) {
            return Some(Self(at.to_owned()));
        }
        eprintln!("skipped: no file system can be mounted here ({output:?})");
        None
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    /// Leaves so many bytes free.
    fn fill(&self, leave: u64) {
        let free = || {
            let stat = rustix::fs::statvfs(&self.0).unwrap();
            stat.f_bavail * stat.f_frsize
        };
        let mut file =
            std::fs::OpenOptions::new().create(true).append(true).open(self.filler()).unwrap();
        while free() > leave {
            let next = usize::try_from((free() - leave).min(1 << 16)).unwrap();
            if file.write_all(&vec![0; next]).is_err() {
                return;
            }
        }
    }

    fn clear(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Whoever has files open there keeps them until it ends.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_harms_nothing_that_runs_and_says_what_it_stands_in_the_way_of() {
    let Some(rig) = Rig::start() else { return };
    let mut node = Node::prepare(&rig.node_configuration(""));
    let Some(disk) = Disk::mount(&node.path("state")) else { return };
    node.boot();
    rig.deliver(&rig.intent("web", ""));
    rig.deliver(&rig.intent("old", ""));
    let before = node.wait_ready("web")["metadata"]["uid"].clone();

    // Room for records, not for modules.
    disk.fill(8 << 20);
    let mut unknown = rig.intent("new", "");
    // Another module: with a section more that means nothing.
    let mut module = std::fs::read(crate::support::guest("counter")).unwrap();
    module.extend([0, 4, 3, b'n', b'e', b'w']);
    let artifact = &mut unknown.intent.artifacts[0];
    artifact.digest = podling::mqtt::envelope::digest(&module);
    artifact.size = module.len() as u64;
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(&module);
    artifact.sources = vec![format!("data:;base64,{text}")];
    rig.send(&rig.sign(&unknown));
    let status = rig.wait_status("new", "told why it does not get on", |s| {
        s["rollout"]["stage"] == "Fetching" && s["rollout"]["message"] != ""
    });
    let message = status["rollout"]["message"].as_str().unwrap_or_default();
    assert!(message.contains("DiskPressure") && message.contains("no space for"), "{status}");

    // No room at all.
    disk.fill(0);
    let next = rig.intent("late", "");
    rig.send(&rig.sign(&next));
    let status = rig.wait_status("late", "not durable", |s| {
        let conditions = s["conditions"].as_array().unwrap();
        conditions.iter().any(|c| {
            let text = c["message"].as_str().unwrap_or_default();
            c["type"] == "Durable" && c["status"] == "False" && text.contains("No space left")
        })
    });
    // What is not on disk is neither acknowledged nor run.
    let accepted = &status["documents"][0]["accepted"];
    assert!(accepted.is_null() && status["active"].is_null(), "{status}");
    assert!(node.pod("late").is_none());
    // Deleting needs no room.
    let mut gone = rig.intent("old", "");
    gone.intent = podling::mqtt::controller::tombstone(&gone.intent, &gone.intent.issued_at);
    rig.send(&rig.sign(&gone));
    node.wait_gone("old");
    rig.wait_status("old", "acknowledged as deleted", |s| {
        s["documents"][0]["accepted"]["deleted"] == true
    });
    let web = node.wait_ready("web");
    assert_eq!((&web["metadata"]["uid"], restarts(&web, "c")), (&before, 0));

    // The same node after a power cut, its disk as full as before.
    disk.fill(0);
    node.power_cut();
    node.boot();
    let web = node.wait_ready("web");
    assert_eq!(web["metadata"]["uid"], before);
    assert!(node.pod("old").is_none());

    disk.clear();
    // What the broker still has is taken now, and what was accepted gets on.
    for (name, generation) in [("late", next.intent.generation), ("new", unknown.intent.generation)]
    {
        rig.wait_status(name, "committed", |s| {
            s["rollout"]["stage"] == "Committed" && s["rollout"]["generation"] == generation
        });
        node.wait_ready(name);
    }
    wait_for("the node to be connected", || {
        (metric(&node, "podling_mqtt_connected") == 1).then_some(())
    });
    drop(disk);
}
