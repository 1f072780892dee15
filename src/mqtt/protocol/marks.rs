//! Which marks of deleted pods are forgotten, and what forbids all the same what they forbade. Pure.
//!
//! Owns: the choice. Not: writing it down (`desired`). Marks of all namespaces share one bound. When there are too many, a namespace that has the
//! most of them gives one up, its oldest, and its own floor rises to it: a controller that deletes without end in one namespace makes the others
//! neither forget nor refuse anything.
//!
//! Limits: [`FLOORS_MAX`] namespaces have a floor of their own; of more, the lowest floor becomes that of all namespaces.

use std::collections::BTreeMap;

use crate::mqtt::record::{Floor, Floors};
use crate::spec::PodKey;

/// Floors of single namespaces, in a record that is written each time one rises.
pub(super) const FLOORS_MAX: usize = 32;

/// What has to go so that no more than `max` are left.
pub(super) fn surplus(marks: Vec<(PodKey, Floor)>, max: usize) -> Vec<(PodKey, Floor)> {
    let excess = marks.len().saturating_sub(max);
    if excess == 0 {
        return vec![];
    }
    let mut of: BTreeMap<String, Vec<(Floor, PodKey)>> = BTreeMap::new();
    for (key, floor) in marks {
        of.entry(key.namespace.to_string()).or_default().push((floor, key));
    }
    for marks in of.values_mut() {
        // The oldest last.
        marks.sort_unstable_by(|a, b| b.cmp(a));
    }
    let mut gone = vec![];
    for _ in 0..excess {
        // Where several have as many, the one whose oldest is the oldest of all.
        let most = of.values_mut().max_by(|a, b| {
            let oldest = |marks: &[(Floor, PodKey)]| marks.last().map(|(floor, _)| *floor);
            a.len().cmp(&b.len()).then_with(|| oldest(b).cmp(&oldest(a)))
        });
        let Some((floor, key)) = most.and_then(Vec::pop) else { break };
        gone.push((key, floor));
    }
    gone
}

/// Raises a namespace's floor.
pub(super) fn raise(floors: &mut Floors, namespace: &str, floor: Floor) {
    if floors.of(namespace) >= Some(floor) {
        return;
    }
    floors.floors.insert(namespace.to_owned(), floor);
    while floors.floors.len() > FLOORS_MAX {
        let lowest = floors.floors.values().min().copied();
        floors.floor = floors.floor.max(lowest);
        // What is no higher than the common one says nothing.
        let common = floors.floor;
        floors.floors.retain(|_, floor| Some(*floor) > common);
    }
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use proptest::prelude::*;

    use super::*;

    fn mark(namespace: u8, nth: usize, ms: i64) -> (PodKey, Floor) {
        let key = PodKey::new(&format!("ns-{namespace}"), &format!("pod-{nth}"));
        (key, Floor { epoch: 1, issued_ms: ms })
    }

    #[test]
    fn whoever_has_the_most_gives_up_the_oldest() {
        let mut marks: Vec<_> =
            (0..8).map(|n| mark(0, n, 100 + i64::try_from(n).unwrap())).collect();
        marks.extend([mark(1, 0, 1), mark(1, 1, 2)]);
        let gone: Vec<i64> =
            surplus(marks.clone(), 7).into_iter().map(|(_, floor)| floor.issued_ms).collect();
        assert_eq!(gone, [100, 101, 102]);
        // Of two that have as many, the one with the oldest.
        let gone = surplus(marks, 3);
        assert_eq!(gone.last().unwrap().1.issued_ms, 1);
    }

    proptest! {
        #[test]
        fn nothing_that_was_forgotten_is_allowed_and_nobody_pays_for_another(
            rounds in proptest::collection::vec(
                proptest::collection::vec((0_u8..60, 0_i64..1000), 0..30),
                1..12,
            ),
            namespaces in 1_u8..60,
            max in 1_usize..40,
        ) {
            let mut floors = Floors::default();
            let mut kept: Vec<(PodKey, Floor)> = vec![];
            let mut forgotten = vec![];
            let mut nth = 0;
            for round in rounds {
                for (namespace, ms) in round {
                    nth += 1;
                    kept.push(mark(namespace % namespaces, nth, ms));
                }
                let count = |all: &[(PodKey, Floor)], of: &str| {
                    all.iter().filter(|(key, _)| &*key.namespace == of).count()
                };
                let names: std::collections::BTreeSet<String> =
                    kept.iter().map(|(key, _)| key.namespace.to_string()).collect();
                let gone = surplus(kept.clone(), max);
                prop_assert_eq!(gone.len(), kept.len().saturating_sub(max));
                for (key, _) in &gone {
                    // Whoever has no more than his share keeps all of it.
                    prop_assert!(count(&kept, &key.namespace) > max / names.len());
                }
                kept.retain(|mark| !gone.contains(mark));
                for (key, floor) in &gone {
                    raise(&mut floors, &key.namespace, *floor);
                }
                forgotten.extend(gone);
                prop_assert!(floors.floors.len() <= FLOORS_MAX);
                for (key, floor) in &forgotten {
                    prop_assert!(floors.of(&key.namespace) >= Some(*floor));
                }
                if usize::from(namespaces) <= FLOORS_MAX {
                    let others = forgotten.iter().map(|(key, _)| &*key.namespace);
                    let others: std::collections::BTreeSet<&str> = others.collect();
                    for name in names.iter().filter(|name| !others.contains(name.as_str())) {
                        prop_assert_eq!(floors.of(name), None, "{} has forgotten nothing", name);
                    }
                }
            }
        }
    }
}
