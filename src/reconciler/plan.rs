//! Which workers to start and stop: a pure function of what is wanted and what is there.
//!
//! Owns: the plan. Not: carrying it out (`task`), nor what a pod does inside its life (`lifecycle`).
//!
//! Level-triggered: it looks at every worker's stage, not only at its UID, since deleting a manifest and putting the
//! same text back gives the same UID while the old worker is still stopping. Such a pod simply starts on the pass after
//! that worker has gone; nothing needs to remember the wish. One name has one worker at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::spec::{PodKey, PodUid};

/// What is wanted under one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub uid: PodUid,
    /// Set when the pod is to end: it stays wanted (visible) until its worker is gone, but nothing new starts.
    pub deleting: Option<Duration>,
}

/// How far a worker is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Running,
    /// Told to stop; will not come back.
    Stopping,
    /// Nothing of it is left.
    Finished,
}

/// A worker as the plan sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    pub key: PodKey,
    pub uid: PodUid,
    pub stage: Stage,
}

/// What to do, in this order: forget, stop, start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Finished workers whose records can go.
    pub forget: Vec<PodUid>,
    /// Workers to stop; the grace where the deletion named one, else the pod's own.
    pub stop: Vec<(PodUid, Option<Duration>)>,
    /// Pods to start a worker for.
    pub start: Vec<PodKey>,
    /// Pods that were being deleted and have no worker (any more): their objects can go.
    pub remove: Vec<PodKey>,
}

impl Plan {
    /// Compares what is wanted with what runs.
    #[must_use]
    pub fn new(wanted: &BTreeMap<PodKey, Wanted>, running: &[Running]) -> Self {
        let mut plan = Self::default();
        for worker in running {
            let keep = wanted.get(&worker.key).filter(|w| w.uid == worker.uid);
            match (worker.stage, keep.map(|w| w.deleting)) {
                (Stage::Finished, _) => plan.forget.push(worker.uid.clone()),
                (Stage::Running, None) => plan.stop.push((worker.uid.clone(), None)),
                // A repeated deletion may shorten the grace, so it is passed on again; the worker lets it only shrink.
                (Stage::Running | Stage::Stopping, Some(Some(grace))) => {
                    plan.stop.push((worker.uid.clone(), Some(grace)));
                }
                (Stage::Running, Some(None)) | (Stage::Stopping, None | Some(None)) => {}
            }
        }
        let there = running.iter().filter(|w| w.stage != Stage::Finished);
        let occupied: BTreeSet<&PodKey> = there.map(|w| &w.key).collect();
        for (key, want) in wanted {
            match (occupied.contains(key), want.deleting) {
                (false, None) => plan.start.push(key.clone()),
                (false, Some(_)) => plan.remove.push(key.clone()),
                (true, _) => {}
            }
        }
        plan
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn key(name: &str) -> PodKey {
        PodKey::new("default", name)
    }

    fn wanted(list: &[(&str, &str, Option<u64>)]) -> BTreeMap<PodKey, Wanted> {
        list.iter()
            .map(|(name, uid, deleting)| {
                let deleting = deleting.map(Duration::from_secs);
                (key(name), Wanted { uid: PodUid::new(uid), deleting })
            })
            .collect()
    }

    fn running(list: &[(&str, &str, Stage)]) -> Vec<Running> {
        list.iter()
            .map(|(name, uid, stage)| Running {
                key: key(name),
                uid: PodUid::new(uid),
                stage: *stage,
            })
            .collect()
    }

    /// Renders a plan as `-forget !stop +start xremove`, which reads as a table.
    fn check(want: &[(&str, &str, Option<u64>)], have: &[(&str, &str, Stage)]) -> String {
        let plan = Plan::new(&wanted(want), &running(have));
        let mut words: Vec<String> = vec![];
        words.extend(plan.forget.iter().map(|u| format!("-{u}")));
        words.extend(plan.stop.iter().map(|(u, g)| match g {
            Some(g) => format!("!{u}@{}", g.as_secs()),
            None => format!("!{u}"),
        }));
        words.extend(plan.start.iter().map(|k| format!("+{}", k.name)));
        words.extend(plan.remove.iter().map(|k| format!("x{}", k.name)));
        words.join(" ")
    }

    type Want = &'static [(&'static str, &'static str, Option<u64>)];
    type Have = &'static [(&'static str, &'static str, Stage)];

    #[test]
    fn plans_follow_the_difference() {
        use Stage::{Finished, Running, Stopping};
        let rows: &[(&str, Want, Have, &str)] = &[
            ("nothing wanted, nothing there", &[], &[], ""),
            ("a new pod starts", &[("a", "1", None)], &[], "+a"),
            ("an unchanged pod is kept", &[("a", "1", None)], &[("a", "1", Running)], ""),
            ("a pod that is no longer wanted stops", &[], &[("a", "1", Running)], "!1"),
            ("a changed pod stops first", &[("a", "2", None)], &[("a", "1", Running)], "!1"),
            ("and waits while it stops", &[("a", "2", None)], &[("a", "1", Stopping)], ""),
            ("then the new one starts", &[("a", "2", None)], &[("a", "1", Finished)], "-1 +a"),
            ("the same text put back waits", &[("a", "1", None)], &[("a", "1", Stopping)], ""),
            ("and starts anew", &[("a", "1", None)], &[("a", "1", Finished)], "-1 +a"),
            ("a deletion stops", &[("a", "1", Some(5))], &[("a", "1", Running)], "!1@5"),
            ("a repeated one too", &[("a", "1", Some(0))], &[("a", "1", Stopping)], "!1@0"),
            ("its object goes last", &[("a", "1", Some(5))], &[("a", "1", Finished)], "-1 xa"),
            ("a deletion before any worker", &[("a", "1", Some(5))], &[], "xa"),
            (
                "neighbours do not matter",
                &[("a", "1", None), ("b", "2", None)],
                &[("a", "1", Running), ("c", "3", Running)],
                "!3 +b",
            ),
        ];
        for (name, want, have, expected) in rows {
            assert_eq!(check(want, have), *expected, "{name}");
        }
    }
}
