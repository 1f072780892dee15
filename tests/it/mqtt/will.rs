//! What readers see of a node whose link breaks: nothing, until its will is due or it is back.

use std::io::{BufRead as _, BufReader};
use std::process::Child;
use std::sync::mpsc;

use serde_json::Value;

use super::cable::Cable;
use super::rig::Rig;
use crate::support::{DEADLINE, Node};

const ONLINE: &str = "pods/v1/acme/s/gw-test/online";

/// A node at the end of a cable, whose broker waits that long with its will; and a reader of its births and wills.
struct Setting {
    cable: Cable,
    node: Node,
    reader: Reader,
    _rig: Rig,
}

impl Setting {
    fn start(delay: u64, more: &str) -> Option<Self> {
        let rig = Rig::start()?;
        let cable = Cable::to(rig.port);
        let configuration = rig.node_configuration(&format!("  willDelaySeconds: {delay}\n{more}"));
        let (broker, through) = (format!(":{}'", rig.port), format!(":{}'", cable.port));
        let reader = Reader::start(&rig);
        let node = Node::start_with(&configuration.replace(&broker, &through));
        Some(Self { cable, node, reader, _rig: rig })
    }
}

/// Everything that is said of a node's being there, in order.
struct Reader {
    child: Child,
    lines: mpsc::Receiver<String>,
    heard: Vec<Value>,
}

impl Reader {
    fn start(rig: &Rig) -> Self {
        let mut child = rig.follow(ONLINE);
        let (out, lines) = mpsc::channel();
        let mut printed = BufReader::new(child.stdout.take().unwrap()).lines();
        std::thread::spawn(move || {
            while let Some(Ok(line)) = printed.next()
                && out.send(line).is_ok()
            {}
        });
        Self { child, lines, heard: vec![] }
    }

    /// Waits for the next message that fits; its connection number.
    #[track_caller]
    fn wait(&mut self, online: bool, above: u64) -> u64 {
        loop {
            let Ok(line) = self.lines.recv_timeout(DEADLINE) else {
                panic!(
                    "no online={online} above {conn}, but {heard:?}",
                    conn = above,
                    heard = self.heard
                )
            };
            let said: Value = serde_json::from_str(&line).unwrap();
            let conn = said["conn"].as_u64().unwrap();
            let fits = said["online"] == online && conn > above;
            self.heard.push(said);
            if fits {
                return conn;
            }
        }
    }

    fn was_offline(&mut self) -> bool {
        let come: Vec<Value> =
            self.lines.try_iter().map(|line| serde_json::from_str(&line).unwrap()).collect();
        self.heard.extend(come);
        self.heard.iter().any(|said| said["online"] == false)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_node_whose_link_breaks_is_not_offline_before_its_will_is_due() {
    let Some(mut setting) = Setting::start(900, "") else { return };
    let conn = setting.reader.wait(true, 0);
    super::link::wait_link(&setting.node, "True");
    setting.cable.cut();
    super::link::wait_link(&setting.node, "False");
    assert!(!setting.reader.was_offline(), "{:?}", setting.reader.heard);
    setting.cable.mend();
    // A broker may say what became of the session before; then comes the birth.
    setting.reader.wait(true, conn);
}

/// The link breaks while the birth is under way, more often than chance would have it: the node says it again each time.
#[test]
fn a_link_that_breaks_right_after_each_birth_does_not_silence_the_node() {
    let Some(mut setting) = Setting::start(900, "") else { return };
    let mut conn = 0;
    for _ in 0..3 {
        conn = setting.reader.wait(true, conn);
        setting.cable.cut();
        super::link::wait_link(&setting.node, "False");
        setting.cable.mend();
    }
    conn = setting.reader.wait(true, conn);
    // A planned stop is told at once, by the node itself.
    assert_eq!(setting.node.terminate(), 0, "{}", setting.node.output());
    assert_eq!(setting.reader.wait(false, conn - 1), conn);
}

#[test]
fn a_node_that_stays_away_is_offline_until_it_is_back() {
    let Some(mut setting) = Setting::start(1, "") else { return };
    let conn = setting.reader.wait(true, 0);
    setting.cable.cut();
    assert_eq!(setting.reader.wait(false, 0), conn, "it is the will of that connection");
    setting.cable.mend();
    setting.reader.wait(true, conn);
}

#[test]
fn with_an_older_broker_a_broken_link_is_told_at_once() {
    let Some(mut setting) = Setting::start(900, "  protocol: '3.1.1'\n") else { return };
    let conn = setting.reader.wait(true, 0);
    setting.cable.cut();
    assert_eq!(setting.reader.wait(false, 0), conn);
    setting.cable.mend();
    setting.reader.wait(true, conn);
}
