//! What follows: whose turn it is to start, whose to stop, and when it is all over.
//!
//! Owns: the order among containers. Called once after every event, and finds nothing to do most of the time. Sources:
//! `KUBELET.md` 6 (`computePodActions`), 7, 10 (termination order).

use crate::clock::Timestamp;
use crate::lifecycle::container::Machine;
use crate::lifecycle::{Action, StopReason};
use crate::spec::ContainerKind;

use super::{Plan, PodState, Sandbox};

impl PodState {
    /// Does whatever the situation asks for, until there is nothing more to do at this instant.
    pub(super) fn advance(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        if self.plan == Plan::Live {
            self.advance_live(now, actions);
        }
        match self.plan {
            Plan::Live => {}
            // No grace: no hooks, no order, and the floor of two seconds before the kill.
            Plan::RestartingAll => self.end_all(now, now, actions),
            Plan::Ending { deadline, .. } => self.end_all(now, deadline, actions),
        }
        self.give_turns(now, actions);
        match self.plan {
            Plan::RestartingAll if !self.is_any_live() => {
                self.plan = Plan::Live;
                for i in 0..self.machines.len() {
                    self.with(i, now, actions, |machine, cx| machine.next_round(cx));
                }
                actions.push(Action::Persist);
            }
            Plan::Ending { for_good, .. } if !self.is_any_live() => {
                self.come_to_rest(now, for_good, actions);
            }
            Plan::Live | Plan::RestartingAll | Plan::Ending { .. } => {}
        }
    }

    /// The last run is over: fixes the terminal phase, and makes the sandbox go if the pod is to go.
    fn come_to_rest(&mut self, now: Timestamp, for_good: bool, actions: &mut Vec<Action>) {
        if for_good && self.ended.is_none() {
            self.ended_at = now;
            self.ended = Some(self.terminal());
            // What is deleted is about to be forgotten. Its end on disk could only be taken for that of whoever has its UID next.
            if self.stop != Some(StopReason::Deleted) {
                actions.push(Action::Persist);
            }
        }
        if self.stop.is_none() {
            return;
        }
        match self.sandbox {
            // Half a sandbox cannot be removed while the other half is being made: its answer comes first.
            Sandbox::Asked | Sandbox::TearingDown | Sandbox::Gone => {}
            Sandbox::Absent | Sandbox::BackOff { .. } | Sandbox::Ready => {
                self.sandbox = Sandbox::TearingDown;
                actions.push(Action::TearDownSandbox);
                if !for_good {
                    // What was not worth a write while it changed is worth one on an orderly way out.
                    actions.push(Action::Persist);
                }
            }
        }
    }

    fn end_all(&mut self, now: Timestamp, deadline: Timestamp, actions: &mut Vec<Action>) {
        for i in 0..self.machines.len() {
            self.with(i, now, actions, |machine, cx| machine.end(cx, deadline));
        }
    }

    fn advance_live(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        let init = self.pod.init_containers.len();
        let all_over = self.machines[init..].iter().all(Machine::is_ended);
        let init_failed = self.machines[..init].iter().any(|machine| {
            machine.kind() == ContainerKind::Init && machine.is_ended() && !machine.is_complete()
        });
        if all_over || init_failed {
            // Sidecars do not keep a pod alive; they are stopped with the pod's own grace.
            self.end(now.plus(self.pod.grace), true);
            return;
        }
        if self.sandbox != Sandbox::Ready || !self.begin_init(init, now, actions) {
            return;
        }
        for i in init..self.machines.len() {
            self.with(i, now, actions, |machine, cx| machine.begin(cx));
            // Kubernetes starts them in a row. Here that holds for the first start only: a restart waits for nobody.
            if !self.machines[i].is_settled() {
                return;
            }
        }
    }

    /// Starts the init containers and sidecars whose turn it is; whether all gates are open.
    fn begin_init(&mut self, init: usize, now: Timestamp, actions: &mut Vec<Action>) -> bool {
        for i in 0..init {
            let machine = &self.machines[i];
            if machine.is_complete() {
                continue;
            }
            let is_gate = machine.kind() == ContainerKind::Init || !machine.has_passed();
            self.with(i, now, actions, |machine, cx| machine.begin(cx));
            if is_gate {
                return false;
            }
        }
        true
    }

    /// Sidecars stop last and in reverse order; everyone else stops at once.
    fn give_turns(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        // From the back: one that is gone by now makes way for the one before it.
        for i in (0..self.machines.len()).rev() {
            let waits = self.is_ending() && self.machines[i].kind() == ContainerKind::Sidecar && {
                let init = self.pod.init_containers.len();
                let later_sidecar = |(j, machine): (usize, &Machine)| {
                    j > i && machine.kind() == ContainerKind::Sidecar && machine.is_live()
                };
                self.machines[init..].iter().any(Machine::is_live)
                    || self.machines.iter().enumerate().any(later_sidecar)
            };
            self.with(i, now, actions, |machine, cx| machine.take_turn(cx, !waits));
        }
    }
}
