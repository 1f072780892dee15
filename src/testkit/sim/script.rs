//! What the world does to a pod: scripts of guests, of the hands, of the sandbox.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::lifecycle::{ProbeOutcome, Restored};
use crate::spec::{Exit, ImageRef, Pod, ProbeKind, Redefinition};

use super::Sim;

/// One try of the hands: how long it takes, and the error it ends with.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Try {
    pub takes: Duration,
    pub error: Option<&'static str>,
}

impl Try {
    #[must_use]
    pub fn good(takes: Duration) -> Self {
        Self { takes, error: None }
    }

    #[must_use]
    pub fn bad(error: &'static str) -> Self {
        Self { takes: Duration::ZERO, error: Some(error) }
    }
}

/// What a guest does when it is asked to stop.
#[derive(Clone, Debug, PartialEq)]
pub enum OnStop {
    /// It has not asked to hear it, and ends at once with 143.
    Dies,
    /// It tidies up and returns.
    Returns {
        after: Duration,
        code: i32,
    },
    Ignores,
}

/// When a probe succeeds, measured from the start of the run; and how long an answer takes.
#[derive(Clone, Debug, PartialEq)]
pub struct Answers {
    pub takes: Duration,
    pub good_from: Duration,
    pub good_until: Duration,
    /// The first answers, whatever the time.
    pub first: Vec<ProbeOutcome>,
}

impl Default for Answers {
    fn default() -> Self {
        Self {
            takes: Duration::ZERO,
            good_from: Duration::ZERO,
            good_until: Duration::MAX,
            first: Vec::new(),
        }
    }
}

/// The script of one container. Where there is a list, the n-th try takes the n-th entry, and the last one repeats.
#[derive(Clone, Debug, PartialEq)]
pub struct Guest {
    pub prepare: Vec<Try>,
    pub start: Vec<Try>,
    /// How long each run lives by itself (`None`: for ever), and how it ends.
    pub lives: Vec<(Option<Duration>, Exit)>,
    pub on_stop: OnStop,
    pub startup: Answers,
    pub liveness: Answers,
    pub readiness: Answers,
    pub post_start: Try,
    pub pre_stop: Try,
}

impl Default for Guest {
    fn default() -> Self {
        Self {
            prepare: vec![Try::default()],
            start: vec![Try::default()],
            lives: vec![(None, Exit::Code(0))],
            on_stop: OnStop::Dies,
            startup: Answers::default(),
            liveness: Answers::default(),
            readiness: Answers::default(),
            post_start: Try::default(),
            pre_stop: Try::default(),
        }
    }
}

impl Guest {
    /// Lives that long each time, and ends with this code.
    #[must_use]
    pub fn exits(after: Duration, code: i32) -> Self {
        Self { lives: vec![(Some(after), Exit::Code(code))], ..Self::default() }
    }

    /// Ends with the first code, then with the second, …; each time at once.
    #[must_use]
    pub fn codes(codes: &[i32]) -> Self {
        let lives = codes.iter().map(|code| (Some(Duration::ZERO), Exit::Code(*code))).collect();
        Self { lives, ..Self::default() }
    }

    /// Does this when it is asked to stop.
    #[must_use]
    pub fn on_stop(mut self, on_stop: OnStop) -> Self {
        self.on_stop = on_stop;
        self
    }

    pub(super) fn answers(&self, kind: ProbeKind) -> &Answers {
        match kind {
            ProbeKind::Startup => &self.startup,
            ProbeKind::Liveness => &self.liveness,
            ProbeKind::Readiness => &self.readiness,
        }
    }
}

/// Everything outside the core.
#[derive(Clone, Debug)]
pub struct World {
    pub(super) pod: Arc<Pod>,
    pub(super) guests: BTreeMap<String, Guest>,
    pub(super) sandbox: Vec<Try>,
    pub(super) restored: Option<Restored>,
    /// Every timer fires this much late.
    pub late: Duration,
    /// Arming a timer again leaves the old one armed, too; the worker replaces it. The core must not care.
    pub keeps_old_timers: bool,
    /// A start that takes time can be cut short.
    pub gives_up_starts: bool,
}

impl World {
    #[must_use]
    pub fn new(pod: Pod) -> Self {
        Self {
            pod: Arc::new(pod),
            guests: BTreeMap::new(),
            sandbox: vec![Try::default()],
            restored: None,
            late: Duration::ZERO,
            keeps_old_timers: false,
            gives_up_starts: false,
        }
    }

    #[must_use]
    pub fn guest(mut self, name: &str, guest: Guest) -> Self {
        self.guests.insert(name.to_owned(), guest);
        self
    }

    #[must_use]
    pub fn sandbox(mut self, tries: Vec<Try>) -> Self {
        self.sandbox = tries;
        self
    }

    #[must_use]
    pub fn restored(mut self, restored: Restored) -> Self {
        self.restored = Some(restored);
        self
    }

    #[must_use]
    pub fn pod(&self) -> &Pod {
        &self.pod
    }

    /// The same with these images, as an edit leaves it.
    #[must_use]
    pub fn edited(self, images: &[(&str, &str)]) -> Self {
        let mut to = self.pod.redefinition();
        for (container, text) in images {
            let (name, tag) = text.rsplit_once(':').expect("a test's image has a tag");
            let image =
                ImageRef::Named { text: (*text).into(), name: name.into(), tag: tag.into() };
            let theirs = to.images.iter_mut().find(|(name, _)| name.as_str() == *container);
            theirs.expect("the pod has the container").1 = image;
        }
        self.redefined(to)
    }

    /// The same as another definition leaves it.
    #[must_use]
    pub fn redefined(mut self, mut to: Redefinition) -> Self {
        to.generation = self.pod.generation + 1;
        self.pod = Arc::new(self.pod.redefined(&to));
        self
    }

    /// Takes the pod on at time zero.
    #[must_use]
    pub fn start(self) -> Sim {
        Sim::new(self)
    }
}
