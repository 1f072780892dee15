//! Containers: regular ones, init containers and sidecars.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::core::v1 as corev1;

use super::super::path::Path;
use super::super::rules;
use super::annotations::Annotations;
use super::check::Check;
use super::{BAD_IP, env, image_base, probe, protocol, resources, volume};
use crate::spec::{
    Container, ContainerKind, ContainerName, ContainerRestartPolicy, Hooks, ImageRef, Port,
    PullPolicy, RestartRule, RuleAction, TerminationMessagePolicy, Volume,
};

/// Rules of one container, and exit codes of one rule, as Kubernetes bounds them.
const RULES_MAX: usize = 20;
const RULE_CODES_MAX: usize = 255;

/// The containers of one pod share names: each may occur once.
pub(super) struct Lists<'p> {
    annotations: &'p Annotations,
    volumes: &'p [Volume],
    spec: &'p corev1::PodSpec,
    names: BTreeSet<String>,
    port_names: BTreeSet<String>,
}

impl<'p> Lists<'p> {
    pub(super) fn new(
        annotations: &'p Annotations,
        volumes: &'p [Volume],
        spec: &'p corev1::PodSpec,
    ) -> Self {
        Self { annotations, volumes, spec, names: BTreeSet::new(), port_names: BTreeSet::new() }
    }

    pub(super) fn lower_init(
        &mut self,
        list: &[corev1::Container],
        path: &Path<'_>,
        check: &mut Check<'_>,
    ) -> Vec<Container> {
        let lowered = list.iter().enumerate().map(|(index, container)| {
            let path = path.index(index);
            let rules = container.restart_policy_rules.as_ref().is_some_and(|r| !r.is_empty());
            let always = container.restart_policy.as_deref() == Some("Always");
            let kind = if always && !rules { ContainerKind::Sidecar } else { ContainerKind::Init };
            if kind == ContainerKind::Init {
                no_probes(container, &path, check);
            }
            self.lower(container, kind, &path, check)
        });
        lowered.collect()
    }

    pub(super) fn lower_regular(
        &mut self,
        list: &[corev1::Container],
        path: &Path<'_>,
        check: &mut Check<'_>,
    ) -> Vec<Container> {
        if list.is_empty() {
            check.required(path, "");
        }
        let lowered = list.iter().enumerate().map(|(index, container)| {
            self.lower(container, ContainerKind::Regular, &path.index(index), check)
        });
        lowered.collect()
    }

    fn lower(
        &mut self,
        wire: &corev1::Container,
        kind: ContainerKind,
        path: &Path<'_>,
        check: &mut Check<'_>,
    ) -> Container {
        self.check_name(&wire.name, &path.field("name"), check);
        let hooks = wire.lifecycle.as_ref().map_or_else(Hooks::default, |lifecycle| {
            let grace = self.spec.termination_grace_period_seconds.unwrap_or(30);
            probe::hooks(lifecycle, grace, wire, &path.field("lifecycle"), check)
        });
        let mut lower_probe = |probe: &Option<corev1::Probe>, field, kind| {
            let probe = probe.as_ref()?;
            probe::lower(probe, kind, wire, &path.field(field), check)
        };
        let startup = lower_probe(&wire.startup_probe, "startupProbe", probe::STARTUP);
        let liveness = lower_probe(&wire.liveness_probe, "livenessProbe", probe::LIVENESS);
        let readiness = lower_probe(&wire.readiness_probe, "readinessProbe", probe::READINESS);
        Container {
            name: ContainerName::new(&wire.name),
            kind,
            image: image(wire, &path.field("image"), check),
            pull_policy: pull_policy(wire, path, check),
            command: wire.command.clone().unwrap_or_default(),
            args: wire.args.clone().unwrap_or_default(),
            working_dir: wire.working_dir.clone().filter(|dir| !dir.is_empty()),
            env_from: env::lower_from(wire, &path.field("envFrom"), check),
            env: env::lower(wire, self.spec, &path.field("env"), check),
            ports: self.ports(wire, &path.field("ports"), check),
            mounts: volume::lower_mounts(wire, self.volumes, &path.field("volumeMounts"), check),
            resources: resources::container(wire, &path.field("resources"), check),
            startup,
            liveness,
            readiness,
            hooks,
            restart_policy: restart_policy(wire, kind, path, check),
            restart_rules: restart_rules(wire, path, check),
            termination_message_path: wire.termination_message_path.clone().unwrap_or_default(),
            termination_message_policy: message_policy(wire, path, check),
            stop_signal: self.annotations.stop_signal(&wire.name),
            on_memory_limit: self.annotations.on_memory_limit(&wire.name),
            http: self.annotations.http(&wire.name),
            log_bytes_per_second: self.annotations.log_bytes_per_second(&wire.name),
            stdin: wire.stdin.unwrap_or(false),
        }
    }

    fn check_name(&mut self, name: &str, path: &Path<'_>, check: &mut Check<'_>) {
        if name.is_empty() {
            return check.required(path, "");
        }
        check.faults(path, name, rules::dns_label(name));
        if !self.names.insert(name.to_owned()) {
            check.duplicate(path, name);
        }
    }

    fn ports(
        &mut self,
        wire: &corev1::Container,
        path: &Path<'_>,
        check: &mut Check<'_>,
    ) -> Vec<Port> {
        let mut ports = Vec::new();
        for (index, port) in wire.ports.iter().flatten().enumerate() {
            let path = path.index(index);
            if let Some(lowered) = self.port(port, &path, check) {
                ports.push(lowered);
            }
        }
        ports
    }

    fn port(
        &mut self,
        wire: &corev1::ContainerPort,
        path: &Path<'_>,
        check: &mut Check<'_>,
    ) -> Option<Port> {
        let name = wire.name.clone().filter(|name| !name.is_empty());
        if let Some(name) = &name {
            let path = path.field("name");
            check.faults(&path, name, rules::port_name(name));
            if !self.port_names.insert(name.clone()) {
                check.duplicate(&path, name);
            }
        }
        let host_ip = wire.host_ip.as_deref().filter(|ip| !ip.is_empty());
        let host_ip = host_ip.and_then(|text| {
            let ip = text.parse::<IpAddr>().ok();
            if ip.is_none() {
                check.invalid(&path.field("hostIP"), text, BAD_IP);
            }
            ip
        });
        let host_port = wire.host_port.filter(|port| *port != 0);
        let host_port = host_port.and_then(|port| check.port(&path.field("hostPort"), port));
        let protocol = protocol(&path.field("protocol"), wire.protocol.as_deref(), check);
        if wire.container_port == 0 {
            check.required(&path.field("containerPort"), "");
            return None;
        }
        let container_port = check.port(&path.field("containerPort"), wire.container_port)?;
        Some(Port { name, container_port, protocol, host_port, host_ip })
    }
}

/// A plain init container runs to its end; there is nothing to probe and nothing to hook into.
fn no_probes(wire: &corev1::Container, path: &Path<'_>, check: &mut Check<'_>) {
    let fields = [
        ("lifecycle", wire.lifecycle.is_some()),
        ("livenessProbe", wire.liveness_probe.is_some()),
        ("readinessProbe", wire.readiness_probe.is_some()),
        ("startupProbe", wire.startup_probe.is_some()),
    ];
    for (field, is_set) in fields {
        if is_set {
            check.forbidden(
                &path.field(field),
                "may not be set for init containers without restartPolicy=Always",
            );
        }
    }
}

fn image(wire: &corev1::Container, path: &Path<'_>, check: &mut Check<'_>) -> ImageRef {
    let text = wire.image.as_deref().unwrap_or_default();
    if text.is_empty() {
        check.required(path, "");
    } else if text.trim() != text {
        check.invalid(path, text, "must not have leading or trailing whitespace");
    } else {
        match crate::image::parse_reference(text, image_base(check.source)) {
            Ok(image) => return image,
            Err(error) => check.invalid(path, text, error.to_string()),
        }
    }
    ImageRef::Digest { text: text.into(), hex: "".into() }
}

fn pull_policy(wire: &corev1::Container, path: &Path<'_>, check: &mut Check<'_>) -> PullPolicy {
    let known = [
        ("IfNotPresent", PullPolicy::IfNotPresent),
        ("Always", PullPolicy::Always),
        ("Never", PullPolicy::Never),
    ];
    let word = wire.image_pull_policy.as_deref();
    let policy = check.choice(&path.field("imagePullPolicy"), word, &known);
    policy.unwrap_or(PullPolicy::IfNotPresent)
}

fn restart_policy(
    wire: &corev1::Container,
    kind: ContainerKind,
    path: &Path<'_>,
    check: &mut Check<'_>,
) -> Option<ContainerRestartPolicy> {
    let word = wire.restart_policy.as_deref().filter(|word| !word.is_empty())?;
    let known = [
        ("Always", ContainerRestartPolicy::Always),
        ("OnFailure", ContainerRestartPolicy::OnFailure),
        ("Never", ContainerRestartPolicy::Never),
    ];
    let policy = check.choice(&path.field("restartPolicy"), Some(word), &known);
    // A sidecar's kind says it already.
    policy.filter(|_| kind != ContainerKind::Sidecar)
}

/// `KUBELET.md` 4.
fn restart_rules(
    wire: &corev1::Container,
    path: &Path<'_>,
    check: &mut Check<'_>,
) -> Vec<RestartRule> {
    let list = path.field("restartPolicyRules");
    let rules = wire.restart_policy_rules.as_deref().unwrap_or_default();
    if rules.is_empty() {
        return Vec::new();
    }
    if wire.restart_policy.as_deref().unwrap_or_default().is_empty() {
        let detail = "must specify restartPolicy when restart rules are used";
        check.required(&path.field("restartPolicy"), detail);
    }
    if rules.len() > RULES_MAX {
        check.too_many(&list, rules.len(), RULES_MAX);
    }
    let mut lowered = Vec::new();
    for (index, rule) in rules.iter().take(RULES_MAX).enumerate() {
        let path = list.index(index);
        lowered.extend(restart_rule(rule, &path, check));
    }
    lowered
}

fn restart_rule(
    rule: &corev1::ContainerRestartRule,
    path: &Path<'_>,
    check: &mut Check<'_>,
) -> Option<RestartRule> {
    let actions = [
        ("Restart", RuleAction::Restart),
        ("RestartAllContainers", RuleAction::RestartAllContainers),
    ];
    let action = required_choice(&path.field("action"), &rule.action, &actions, check);
    let codes_path = path.field("exitCodes");
    let Some(codes) = &rule.exit_codes else {
        check.required(&codes_path, "must be specified");
        return None;
    };
    let operators = [("In", true), ("NotIn", false)];
    let operator_path = codes_path.field("operator");
    let within = required_choice(&operator_path, &codes.operator, &operators, check);
    let values = codes.values.clone().unwrap_or_default();
    let values_path = codes_path.field("values");
    if values.is_empty() {
        check.required(&values_path, "");
    }
    if values.len() > RULE_CODES_MAX {
        check.too_many(&values_path, values.len(), RULE_CODES_MAX);
    }
    Some(RestartRule { action: action?, within: within?, codes: values })
}

fn required_choice<T: Copy>(
    path: &Path<'_>,
    word: &str,
    known: &[(&'static str, T)],
    check: &mut Check<'_>,
) -> Option<T> {
    if word.is_empty() {
        check.required(path, "");
        return None;
    }
    check.choice(path, Some(word), known)
}

fn message_policy(
    wire: &corev1::Container,
    path: &Path<'_>,
    check: &mut Check<'_>,
) -> TerminationMessagePolicy {
    let known = [
        ("File", TerminationMessagePolicy::File),
        ("FallbackToLogsOnError", TerminationMessagePolicy::FallbackToLogsOnError),
    ];
    let path = path.field("terminationMessagePolicy");
    let policy = check.choice(&path, wire.termination_message_policy.as_deref(), &known);
    policy.unwrap_or(TerminationMessagePolicy::File)
}
