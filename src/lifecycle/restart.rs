//! Whether a run that is over is followed by another one.
//!
//! Owns: `restartPolicy` of pod and container, and `restartPolicyRules`. Not: when (see `backoff`), nor the ending of
//! pods: a pod that ends restarts nothing, and does not ask here.
//!
//! Source: `KUBELET.md` 4 (`ContainerShouldRestart`).

use crate::spec::{
    Container, ContainerKind, ContainerRestartPolicy, RestartPolicy, RestartRule, RuleAction,
};

/// Why a run is over, as far as restarting is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// By itself, or after a failed postStart hook: rules and exit code decide.
    Exit,
    /// Killed because a liveness or startup probe failed: only policies are asked, and the exit code does not matter.
    Probe,
    /// Ended because the container was given another image. Its next run was decided with that; nobody is asked.
    Redefined,
}

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    Restart,
    /// Every container of the pod runs again, from the first init container.
    RestartAll,
    /// Over for good.
    Stay,
}

/// Decides about one ended run.
#[must_use]
pub fn decide(
    policy: RestartPolicy,
    container: &Container,
    exit_code: i32,
    cause: Cause,
) -> Decision {
    if cause == Cause::Exit
        && let Some(rule) = container.restart_rules.iter().find(|rule| matches(rule, exit_code))
    {
        return match rule.action {
            RuleAction::Restart => Decision::Restart,
            RuleAction::RestartAllContainers => Decision::RestartAll,
        };
    }
    let failed = exit_code != 0 || cause == Cause::Probe;
    let again = match container.kind {
        ContainerKind::Sidecar => true,
        ContainerKind::Ephemeral => false,
        // An init container that has done its work is done, whatever the policy.
        ContainerKind::Init => failed && effective(policy, container) != RestartPolicy::Never,
        ContainerKind::Regular => match effective(policy, container) {
            RestartPolicy::Always => true,
            RestartPolicy::OnFailure => failed,
            RestartPolicy::Never => false,
        },
    };
    if again { Decision::Restart } else { Decision::Stay }
}

/// The container's own policy, else the pod's.
fn effective(policy: RestartPolicy, container: &Container) -> RestartPolicy {
    match container.restart_policy {
        Some(ContainerRestartPolicy::Always) => RestartPolicy::Always,
        Some(ContainerRestartPolicy::OnFailure) => RestartPolicy::OnFailure,
        Some(ContainerRestartPolicy::Never) => RestartPolicy::Never,
        None => policy,
    }
}

fn matches(rule: &RestartRule, exit_code: i32) -> bool {
    rule.codes.contains(&exit_code) == rule.within
}
