//! Random histories: two controllers, a broker that forgets, repeats, reorders and forges, a link that breaks, a disk that
//! refuses, power that goes at any step.
//!
//! `world` carries out what happens and watches the invariants as it does, with `broker` and `publishers`, against `invariants`; `truth` compares what readers end with to what is.
//! A history is a list of small numbers, so that a failing one shrinks to a few lines.
//!
//! `PODLING_HISTORIES=20000 cargo test histories` runs that many.

mod broker;
mod invariants;
mod publishers;
mod truth;
mod world;

use proptest::prelude::*;
use proptest::test_runner::{Config as Runs, FileFailurePersistence};

use world::{Act, World};

fn act() -> impl Strategy<Value = Act> {
    let n = any::<u8>;
    prop_oneof![
        8 => (n(), n(), n()).prop_map(|(who, pod, how)| Act::Intent { who, pod, how }),
        2 => (n(), n()).prop_map(|(who, pod)| Act::Tombstone { who, pod }),
        1 => (n(), n()).prop_map(|(who, pod)| Act::Conflict { who, pod }),
        2 => (n(), n()).prop_map(|(who, mask)| Act::Index { who, mask }),
        2 => n().prop_map(Act::Replay),
        2 => (n(), n()).prop_map(|(which, how)| Act::Forge { which, how }),
        1 => n().prop_map(Act::Trust),
        1 => Just(Act::Wipe),
        1 => n().prop_map(Act::Withdraw),
        4 => Just(Act::Connect),
        2 => n().prop_map(Act::Cut),
        1 => Just(Act::WillFires),
        14 => n().prop_map(Act::Down),
        2 => n().prop_map(Act::Drop),
        2 => n().prop_map(Act::Repeat),
        6 => n().prop_map(Act::Up),
        12 => (n(), n()).prop_map(|(which, how)| Act::Disk { which, how }),
        8 => (n(), n()).prop_map(|(which, how)| Act::Admit { which, how }),
        4 => (n(), n()).prop_map(|(which, how)| Act::Fetch { which, how }),
        8 => (n(), n()).prop_map(|(pod, how)| Act::Report { pod, how }),
        6 => n().prop_map(Act::Wait),
        2 => (n(), n()).prop_map(|(survives, how)| Act::Crash { survives, how }),
        1 => Just(Act::Missed),
        1 => Just(Act::Reconsider),
        1 => n().prop_map(Act::ToldLate),
        1 => n().prop_map(Act::Refuse),
    ]
}

fn runs() -> Runs {
    let cases = std::env::var("PODLING_HISTORIES").ok().and_then(|n| n.parse().ok()).unwrap_or(300);
    Runs {
        cases,
        max_shrink_iters: 20_000,
        failure_persistence: Some(Box::new(FileFailurePersistence::Off)),
        ..Runs::default()
    }
}

proptest! {
    #![proptest_config(runs())]

    #[test]
    fn whatever_happens_the_invariants_hold(acts in proptest::collection::vec(act(), 1..160)) {
        let mut world = World::new();
        for act in &acts {
            world.act(act);
        }
        world.settle();
        world.readers_have_the_truth();
        world.rests();
    }
}
