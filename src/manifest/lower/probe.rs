//! Probes and hooks (`KUBELET.md` 8 and 9).

use std::num::NonZeroU32;
use std::time::Duration;

use k8s_openapi::api::core::v1 as corev1;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::super::path::Path;
use super::super::rules;
use super::check::Check;
use crate::spec::{Handler, Hook, Hooks, HttpGet, HttpScheme, PortRef, Probe, ProbeKind};

pub(super) const STARTUP: ProbeKind = ProbeKind::Startup;
pub(super) const LIVENESS: ProbeKind = ProbeKind::Liveness;
pub(super) const READINESS: ProbeKind = ProbeKind::Readiness;

/// Kubernetes' sentence for a handler without an action.
const NO_HANDLER: &str = "must specify a handler type";
const MANY_HANDLERS: &str = "may not specify more than 1 handler type";

pub(super) fn lower(
    wire: &corev1::Probe,
    kind: ProbeKind,
    container: &corev1::Container,
    path: &Path<'_>,
    check: &mut Check<'_>,
) -> Option<Probe> {
    let actions = Actions {
        exec: wire.exec.as_ref(),
        http_get: wire.http_get.as_ref(),
        tcp_socket: wire.tcp_socket.as_ref(),
        grpc: wire.grpc.as_ref(),
        sleep: None,
    };
    let handler = actions.lower(container, path, check);
    let mut seconds =
        |field, value: Option<i32>| check.not_negative(&path.field(field), value.map(i64::from));
    let initial_delay = seconds("initialDelaySeconds", wire.initial_delay_seconds);
    let timeout = seconds("timeoutSeconds", wire.timeout_seconds);
    let period = seconds("periodSeconds", wire.period_seconds);
    let success = seconds("successThreshold", wire.success_threshold);
    let failure = seconds("failureThreshold", wire.failure_threshold);
    if kind != ProbeKind::Readiness && success > 1 {
        check.invalid_number(&path.field("successThreshold"), success, "must be 1");
    }
    let grace = grace(wire, kind, path, check);
    Some(Probe {
        handler: handler?,
        initial_delay: Duration::from_secs(initial_delay),
        timeout: Duration::from_secs(timeout.max(1)),
        period: Duration::from_secs(period.max(1)),
        success_threshold: count(success),
        failure_threshold: count(failure),
        grace,
    })
}

/// Zero and absent were defaulted before; what is left of them counts as one.
fn count(value: u64) -> NonZeroU32 {
    u32::try_from(value).ok().and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MIN)
}

fn grace(
    wire: &corev1::Probe,
    kind: ProbeKind,
    path: &Path<'_>,
    check: &mut Check<'_>,
) -> Option<Duration> {
    let seconds = wire.termination_grace_period_seconds?;
    let path = path.field("terminationGracePeriodSeconds");
    if kind == ProbeKind::Readiness {
        check.invalid_number(&path, seconds, "must not be set for readinessProbes");
    } else if seconds <= 0 {
        check.invalid_number(&path, seconds, "must be greater than 0");
    }
    u64::try_from(seconds).ok().map(Duration::from_secs)
}

pub(super) fn hooks(
    wire: &corev1::Lifecycle,
    grace: i64,
    container: &corev1::Container,
    path: &Path<'_>,
    check: &mut Check<'_>,
) -> Hooks {
    let mut lower_hook = |wire: &Option<corev1::LifecycleHandler>, field| {
        let wire = wire.as_ref()?;
        hook(wire, grace, container, &path.field(field), check)
    };
    Hooks {
        post_start: lower_hook(&wire.post_start, "postStart"),
        pre_stop: lower_hook(&wire.pre_stop, "preStop"),
    }
}

fn hook(
    wire: &corev1::LifecycleHandler,
    grace: i64,
    container: &corev1::Container,
    path: &Path<'_>,
    check: &mut Check<'_>,
) -> Option<Hook> {
    let actions = Actions {
        exec: wire.exec.as_ref(),
        http_get: wire.http_get.as_ref(),
        tcp_socket: None,
        grpc: None,
        sleep: wire.sleep.as_ref(),
    };
    if let Some(sleep) = &wire.sleep {
        let path = path.field("sleep");
        let path = path.field("seconds");
        if !(0..=grace).contains(&sleep.seconds) {
            let detail = format!(
                "must be non-negative and less than terminationGracePeriodSeconds ({grace})"
            );
            check.invalid_number(&path, sleep.seconds, detail);
        }
    }
    if wire.tcp_socket.is_some() && actions.count() == 0 {
        // The table of what is supported has refused it already.
        return None;
    }
    match (actions.lower(container, path, check), &wire.sleep) {
        (None, Some(sleep)) if actions.count() == 1 => {
            Some(Hook::Sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))))
        }
        (handler, _) => handler.map(Hook::Call),
    }
}

/// What a probe or a hook may do; exactly one must be set.
struct Actions<'w> {
    exec: Option<&'w corev1::ExecAction>,
    http_get: Option<&'w corev1::HTTPGetAction>,
    tcp_socket: Option<&'w corev1::TCPSocketAction>,
    grpc: Option<&'w corev1::GRPCAction>,
    sleep: Option<&'w corev1::SleepAction>,
}

impl Actions<'_> {
    fn set(&self) -> impl Iterator<Item = &'static str> {
        let all = [
            ("exec", self.exec.is_some()),
            ("httpGet", self.http_get.is_some()),
            ("tcpSocket", self.tcp_socket.is_some()),
            ("grpc", self.grpc.is_some()),
            ("sleep", self.sleep.is_some()),
        ];
        all.into_iter().filter(|(_, is_set)| *is_set).map(|(name, _)| name)
    }

    fn count(&self) -> usize {
        self.set().count()
    }

    fn lower(
        &self,
        container: &corev1::Container,
        path: &Path<'_>,
        check: &mut Check<'_>,
    ) -> Option<Handler> {
        if self.count() == 0 {
            check.required(path, NO_HANDLER);
        }
        for extra in self.set().skip(1) {
            check.forbidden(&path.field(extra), MANY_HANDLERS);
        }
        if let Some(exec) = self.exec {
            let command = exec.command.clone().unwrap_or_default();
            if command.is_empty() {
                let path = path.field("exec");
                check.required(&path.field("command"), "");
            }
            return Some(Handler::Exec { command });
        }
        if let Some(get) = self.http_get {
            return http_get(get, container, &path.field("httpGet"), check);
        }
        if let Some(tcp) = self.tcp_socket {
            let path = path.field("tcpSocket");
            let port = port(&tcp.port, container, &path.field("port"), check)?;
            let host = tcp.host.clone().filter(|host| !host.is_empty());
            return Some(Handler::TcpSocket { port, host });
        }
        if let Some(grpc) = self.grpc {
            let path = path.field("grpc");
            let port = check.port(&path.field("port"), grpc.port)?;
            return Some(Handler::Grpc { port, service: grpc.service.clone().unwrap_or_default() });
        }
        None
    }
}

fn http_get(
    wire: &corev1::HTTPGetAction,
    container: &corev1::Container,
    path: &Path<'_>,
    check: &mut Check<'_>,
) -> Option<Handler> {
    let schemes = [("HTTP", HttpScheme::Http), ("HTTPS", HttpScheme::Https)];
    let scheme_path = path.field("scheme");
    let scheme = check.choice(&scheme_path, wire.scheme.as_deref(), &schemes);
    if scheme == Some(HttpScheme::Https) {
        check.forbidden(&scheme_path, "TLS comes with a later version; use HTTP");
    }
    let mut headers = Vec::new();
    let list = path.field("httpHeaders");
    for (index, header) in wire.http_headers.iter().flatten().enumerate() {
        let path = list.index(index);
        check.faults(&path.field("name"), &header.name, rules::header_name(&header.name));
        if header.value.contains(['\r', '\n', '\0']) {
            check.invalid(&path.field("value"), &header.value, "must not contain line breaks");
        }
        headers.push((header.name.clone(), header.value.clone()));
    }
    let port = port(&wire.port, container, &path.field("port"), check)?;
    let text = wire.path.as_deref().unwrap_or("/");
    if text.contains(|c: char| c.is_control() || c == ' ') {
        check.invalid(&path.field("path"), text, "must not contain blanks or control characters");
    }
    let target = if text.starts_with('/') { text.to_owned() } else { format!("/{text}") };
    let host = wire.host.clone().filter(|host| !host.is_empty());
    Some(Handler::HttpGet(HttpGet { scheme: scheme?, host, port, path: target, headers }))
}

/// A number, or a name that one of the container's ports has. Kubernetes finds a name that none has
/// only when it probes; here it is said at once, but accepted too.
fn port(
    wire: &IntOrString,
    container: &corev1::Container,
    path: &Path<'_>,
    check: &mut Check<'_>,
) -> Option<PortRef> {
    match wire {
        IntOrString::Int(number) => check.port(path, *number).map(PortRef::Number),
        IntOrString::String(name) => {
            check.faults(path, name, rules::port_name(name));
            let mut ports = container.ports.iter().flatten();
            if !ports.any(|port| port.name.as_deref() == Some(name)) {
                check
                    .warn(path, format!("no port of container {:?} has this name", container.name));
            }
            Some(PortRef::Name(name.clone()))
        }
    }
}
