//! The containers of a described pod.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Container, ContainerPort, ContainerState, ContainerStatus, EnvVar, EnvVarSource, Pod, Probe,
    ResourceFieldSelector,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::manifest::quantity;

use super::page::{Page, text};
use super::rfc1123;
use crate::cli::top::Row;

pub(super) fn describe(
    page: &mut Page,
    title: &str,
    containers: &[Container],
    statuses: &[ContainerStatus],
    pod: &Pod,
    usage: &[Row],
) {
    let none = if containers.is_empty() { " <none>" } else { "" };
    page.line(0, &format!("{title}:{none}"));
    for container in containers {
        let status = statuses.iter().find(|status| status.name == container.name);
        basics(page, container, status);
        words(page, "Command", container.command.as_deref());
        words(page, "Args", container.args.as_deref());
        if let Some(status) = status {
            run_state(page, status);
        }
        let pod_name = text(&pod.metadata.name);
        let used = usage.iter().find(|row| row.is_of(&pod_name, &container.name));
        page.some(2, "Usage", used.map(Row::in_words).as_ref());
        let resources = container.resources.as_ref();
        quantities(page, "Limits", resources.and_then(|r| r.limits.as_ref()));
        quantities(page, "Requests", resources.and_then(|r| r.requests.as_ref()));
        probe(page, "Liveness", container.liveness_probe.as_ref());
        probe(page, "Readiness", container.readiness_probe.as_ref());
        probe(page, "Startup", container.startup_probe.as_ref());
        env_from(page, container);
        environment(page, container, pod);
        mounts(page, container);
    }
}

fn basics(page: &mut Page, container: &Container, status: Option<&ContainerStatus>) {
    page.line(1, &format!("{}:", container.name));
    if let Some(status) = status {
        page.line(2, &format!("Container ID:\t{}", text(&status.container_id)));
    }
    page.line(2, &format!("Image:\t{}", text(&container.image)));
    if let Some(status) = status {
        page.line(2, &format!("Image ID:\t{}", status.image_id));
    }
    let ports = container.ports.as_deref().unwrap_or_default();
    let list = |number: fn(&ContainerPort) -> i32| -> Vec<String> {
        let shown = |port: &ContainerPort| format!("{}/{}", number(port), text(&port.protocol));
        ports.iter().map(shown).collect()
    };
    for (one, many, ports) in [
        ("Port", "Ports", list(|port| port.container_port)),
        ("Host Port", "Host Ports", list(|port| port.host_port.unwrap_or_default())),
    ] {
        match ports.as_slice() {
            [] => page.line(2, &format!("{one}:\t<none>")),
            [port] => page.line(2, &format!("{one}:\t{port}")),
            ports => page.line(2, &format!("{many}:\t{}", ports.join(", "))),
        }
    }
}

fn words(page: &mut Page, title: &str, words: Option<&[String]>) {
    if let Some(words) = words.filter(|words| !words.is_empty()) {
        page.line(2, &format!("{title}:"));
        for line in words.iter().flat_map(|word| word.split('\n')) {
            page.line(3, line);
        }
    }
}

fn run_state(page: &mut Page, status: &ContainerStatus) {
    state(page, "State", status.state.as_ref());
    if let Some(last) = status.last_state.as_ref().filter(|last| last.terminated.is_some()) {
        state(page, "Last State", Some(last));
    }
    page.line(2, &format!("Ready:\t{}", if status.ready { "True" } else { "False" }));
    page.line(2, &format!("Restart Count:\t{}", status.restart_count));
}

fn state(page: &mut Page, title: &str, state: Option<&ContainerState>) {
    let empty = ContainerState::default();
    let state = state.unwrap_or(&empty);
    // A time that is not known is the year 1 in Go.
    let never = || "Mon, 01 Jan 0001 00:00:00 +0000".to_owned();
    if let Some(running) = &state.running {
        page.line(2, &format!("{title}:\tRunning"));
        let started = running.started_at.as_ref().map_or_else(never, rfc1123);
        page.line(3, &format!("Started:\t{started}"));
    } else if let Some(terminated) = &state.terminated {
        page.line(2, &format!("{title}:\tTerminated"));
        page.some(3, "Reason", terminated.reason.as_ref());
        page.some(3, "Message", terminated.message.as_ref());
        page.line(3, &format!("Exit Code:\t{}", terminated.exit_code));
        page.some(3, "Signal", terminated.signal.as_ref().filter(|signal| **signal > 0));
        let time = |time: Option<&_>| time.map_or_else(never, rfc1123);
        page.line(3, &format!("Started:\t{}", time(terminated.started_at.as_ref())));
        page.line(3, &format!("Finished:\t{}", time(terminated.finished_at.as_ref())));
    } else {
        page.line(2, &format!("{title}:\tWaiting"));
        let waiting = state.waiting.as_ref();
        page.some(3, "Reason", waiting.and_then(|waiting| waiting.reason.as_ref()));
        // kubectl leaves it to the events, which may have gone when somebody looks.
        page.some(3, "Message", waiting.and_then(|waiting| waiting.message.as_ref()));
    }
}

fn quantities(page: &mut Page, title: &str, all: Option<&BTreeMap<String, Quantity>>) {
    if let Some(all) = all.filter(|all| !all.is_empty()) {
        page.line(2, &format!("{title}:"));
        for (name, quantity) in all {
            page.line(3, &format!("{name}:\t{}", quantity.0));
        }
    }
}

fn probe(page: &mut Page, title: &str, probe: Option<&Probe>) {
    let Some(probe) = probe else { return };
    let number = |value: Option<i32>| value.unwrap_or_default();
    let timing = format!(
        "delay={}s timeout={}s period={}s #success={} #failure={}",
        number(probe.initial_delay_seconds),
        number(probe.timeout_seconds),
        number(probe.period_seconds),
        number(probe.success_threshold),
        number(probe.failure_threshold)
    );
    let deed = if let Some(exec) = &probe.exec {
        format!("exec [{}]", exec.command.as_deref().unwrap_or_default().join(" "))
    } else if let Some(get) = &probe.http_get {
        let scheme = text(&get.scheme).to_lowercase();
        let path = text(&get.path);
        let slash = if path.starts_with('/') || path.is_empty() { "" } else { "/" };
        format!("http-get {scheme}://{}:{}{slash}{path}", text(&get.host), port(&get.port))
    } else if let Some(tcp) = &probe.tcp_socket {
        format!("tcp-socket {}:{}", text(&tcp.host), port(&tcp.port))
    } else if let Some(grpc) = &probe.grpc {
        format!("grpc <pod>:{} {}", grpc.port, text(&grpc.service))
    } else {
        "unknown".to_owned()
    };
    page.line(2, &format!("{title}:\t{deed} {timing}"));
}

fn port(port: &IntOrString) -> String {
    match port {
        IntOrString::Int(number) => number.to_string(),
        IntOrString::String(name) => name.clone(),
    }
}

fn env_from(page: &mut Page, container: &Container) {
    let Some(all) = container.env_from.as_ref().filter(|all| !all.is_empty()) else { return };
    page.line(2, "Environment Variables from:");
    for from in all {
        let (kind, name, optional) = match (&from.config_map_ref, &from.secret_ref) {
            (Some(source), _) => ("ConfigMap", &source.name, source.optional),
            (None, Some(source)) => ("Secret", &source.name, source.optional),
            (None, None) => continue,
        };
        let prefix = match from.prefix.as_deref() {
            None | Some("") => String::new(),
            Some(prefix) => format!(" with prefix '{prefix}'"),
        };
        let optional = optional.unwrap_or_default();
        page.line(3, &format!("{name}\t{kind}{prefix}\tOptional: {optional}"));
    }
}

fn environment(page: &mut Page, container: &Container, pod: &Pod) {
    let all = container.env.as_deref().unwrap_or_default();
    page.line(2, if all.is_empty() { "Environment:\t<none>" } else { "Environment:" });
    for variable in all {
        match &variable.value_from {
            Some(source) => computed(page, variable, source, container, pod),
            None => {
                let value = text(&variable.value);
                let mut lines = value.split('\n');
                let first = lines.next().unwrap_or_default();
                page.line(3, &format!("{}:\t{first}", variable.name));
                for line in lines {
                    page.line(3, &format!("\t{line}"));
                }
            }
        }
    }
}

fn computed(
    page: &mut Page,
    variable: &EnvVar,
    source: &EnvVarSource,
    container: &Container,
    pod: &Pod,
) {
    let name = &variable.name;
    if let Some(field) = &source.field_ref {
        let version = field.api_version.as_deref().unwrap_or("v1");
        let value = field_value(pod, &field.field_path);
        page.line(3, &format!("{name}:\t{value} ({version}:{})", field.field_path));
    } else if let Some(field) = &source.resource_field_ref {
        let value = resource_value(container, field);
        page.line(3, &format!("{name}:\t{value} ({})", field.resource));
    } else if let Some(key) = &source.secret_key_ref {
        let optional = key.optional.unwrap_or_default();
        page.line(
            3,
            &format!(
                "{name}:\t<set to the key '{}' in secret '{}'>\tOptional: {optional}",
                key.key, key.name
            ),
        );
    } else if let Some(key) = &source.config_map_key_ref {
        let optional = key.optional.unwrap_or_default();
        page.line(
            3,
            &format!(
                "{name}:\t<set to the key '{}' of config map '{}'>\tOptional: {optional}",
                key.key, key.name
            ),
        );
    }
}

/// A limit or request in units of the divisor, rounded up; without a limit, the node's.
fn resource_value(container: &Container, field: &ResourceFieldSelector) -> String {
    let (list, resource) = field.resource.split_once('.').unwrap_or_default();
    let resources = container.resources.as_ref();
    let list = resources.and_then(|resources| match list {
        "limits" => resources.limits.as_ref(),
        _ => resources.requests.as_ref(),
    });
    let read = |quantity: &Quantity| quantity::Quantity::parse(&quantity.0).ok();
    let value = list.and_then(|list| list.get(resource)).and_then(read);
    let divisor =
        field.divisor.as_ref().and_then(read).map_or(1000, |divisor| divisor.millis_u64());
    match value {
        Some(value) => value.divided_ceil(divisor.max(1)).to_string(),
        None if field.resource.starts_with("limits.") => "node allocatable".to_owned(),
        None => "0".to_owned(),
    }
}

/// What kubectl can tell of a field from the pod alone; the rest stays empty.
fn field_value(pod: &Pod, path: &str) -> String {
    let meta = &pod.metadata;
    let subscript = |map: Option<&BTreeMap<String, String>>, prefix: &str| {
        let key = path.strip_prefix(prefix)?.strip_suffix("']")?;
        map?.get(key).cloned()
    };
    match path {
        "metadata.name" => text(&meta.name),
        "metadata.namespace" => text(&meta.namespace),
        "metadata.uid" => text(&meta.uid),
        _ => subscript(meta.labels.as_ref(), "metadata.labels['")
            .or_else(|| subscript(meta.annotations.as_ref(), "metadata.annotations['"))
            .unwrap_or_default(),
    }
}

fn mounts(page: &mut Page, container: &Container) {
    let mut all: Vec<_> = container.volume_mounts.iter().flatten().collect();
    page.line(2, if all.is_empty() { "Mounts:\t<none>" } else { "Mounts:" });
    all.sort_by(|a, b| a.mount_path.cmp(&b.mount_path));
    for mount in all {
        let mut flags = if mount.read_only == Some(true) { "ro" } else { "rw" }.to_owned();
        if let Some(sub_path) = mount.sub_path.as_ref().filter(|path| !path.is_empty()) {
            flags.push_str(&format!(",path={sub_path:?}"));
        }
        page.line(3, &format!("{} from {} ({flags})", mount.mount_path, mount.name));
    }
}
