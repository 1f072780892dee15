//! Changes of the watched folder. Nobody acknowledges them: what counts is that the node catches up.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;

use super::Dice;
use crate::support::guest;

const NAMES: [&str; 3] = ["file-0", "file-1", "file-2"];
const ANCHOR: &str = "anchor-folder";

pub(super) struct Folder {
    dir: PathBuf,
    /// The version that each pod's file has.
    files: BTreeMap<&'static str, u64>,
    pub(super) changes: u64,
}

impl Folder {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir, files: BTreeMap::new(), changes: 0 }
    }

    pub(super) fn create_anchor(&mut self) {
        self.write(ANCHOR);
    }

    pub(super) fn act(&mut self, dice: &mut Dice) {
        let name = NAMES[usize::try_from(dice.below(NAMES.len() as u64)).unwrap()];
        if self.files.contains_key(name) && dice.below(3) == 0 {
            std::fs::remove_file(self.dir.join(format!("{name}.yaml"))).unwrap();
            self.files.remove(name);
            self.changes += 1;
        } else {
            self.write(name);
        }
    }

    fn write(&mut self, name: &'static str) {
        self.changes += 1;
        let text = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{v: 'v{}'}}}}\n\
             spec: {{terminationGracePeriodSeconds: 1, containers: [{{name: c, image: 'file:{}'}}]}}\n",
            self.changes,
            guest("counter").display()
        );
        let hidden = self.dir.join(format!(".{name}.new"));
        std::fs::write(&hidden, text).unwrap();
        std::fs::rename(&hidden, self.dir.join(format!("{name}.yaml"))).unwrap();
        self.files.insert(name, self.changes);
    }

    /// Whether the node shows exactly these pods of the folder.
    pub(super) fn is_shown(&self, pods: &[Value]) -> bool {
        let label =
            |pod: &Value| pod["metadata"]["labels"]["v"].as_str().unwrap_or_default().to_owned();
        let shown: BTreeMap<&str, String> = pods
            .iter()
            .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null())
            .map(|pod| (pod["metadata"]["name"].as_str().unwrap(), label(pod)))
            .filter(|(name, _)| *name == ANCHOR || NAMES.contains(name))
            .collect();
        let wanted = self.files.iter().map(|(name, version)| (*name, format!("v{version}")));
        shown == wanted.collect()
    }
}
