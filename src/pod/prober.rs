//! Performs one probe or one hook against a running module, through the pod's own network.
//!
//! Owns: turning a handler into an outcome in Kubernetes' words, and its timeout. Not: when to probe and what follows
//! (`lifecycle::probe`).

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::lifecycle::ProbeOutcome;
use crate::pod::exec::exec;
use crate::pod::http_probe::{self, Asker, Dial as _};
use crate::pod::run::Ingredients;
use crate::runtime::RunControl;
use crate::spec::{Container, Handler, Hook, HttpGet, HttpScheme, PortRef, Probe};

/// A module to probe.
#[derive(Clone, Debug)]
pub struct Target {
    pub ingredients: Ingredients,
    pub container: Container,
    pub control: RunControl,
    /// Distinguishes the instances of exec probes of one container.
    pub serial: u32,
}

impl Target {
    /// Performs a probe; its timeout is a failure, as in Kubernetes.
    pub async fn probe(&self, probe: &Probe) -> ProbeOutcome {
        let attempt = self.handle(&probe.handler, Asker::Probe);
        match tokio::time::timeout(probe.timeout, attempt).await {
            Ok(outcome) => outcome,
            Err(_elapsed) => ProbeOutcome::Failure(self.timed_out(&probe.handler, probe.timeout)),
        }
    }

    /// Performs a hook within `within`. The error is the text after "… lifecycle hook … failed - error: ".
    ///
    /// # Errors
    /// If the hook failed or did not end in time.
    pub async fn hook(&self, hook: &Hook, within: Duration) -> Result<(), String> {
        let attempt = async {
            match hook {
                Hook::Call(handler) => self.handle(handler, Asker::Hook).await,
                Hook::Sleep(time) => {
                    tokio::time::sleep(*time).await;
                    ProbeOutcome::Success
                }
            }
        };
        match tokio::time::timeout(within, attempt).await {
            Ok(ProbeOutcome::Success | ProbeOutcome::Warning(_)) => Ok(()),
            Ok(ProbeOutcome::Failure(why) | ProbeOutcome::Error(why)) => Err(why),
            Err(_elapsed) => Err(format!("did not end within {}s", within.as_secs())),
        }
    }

    async fn handle(&self, handler: &Handler, asker: Asker) -> ProbeOutcome {
        match handler {
            Handler::HttpGet(get) => self.http(get, asker).await,
            Handler::TcpSocket { port, host } => self.tcp(port, host.as_deref()).await,
            Handler::Exec { command } => self.exec(command).await,
            Handler::Grpc { .. } => {
                ProbeOutcome::Error("grpc probes are not supported by this version".into())
            }
        }
    }

    async fn http(&self, get: &HttpGet, asker: Asker) -> ProbeOutcome {
        if get.scheme == HttpScheme::Https {
            return ProbeOutcome::Error("https probes are not supported by this version".into());
        }
        match self.address(&get.port, get.host.as_deref()) {
            Ok(to) => {
                let dial = self.ingredients.sandbox.dialer();
                http_probe::get(&dial, to, get, asker).await
            }
            Err(why) => ProbeOutcome::Error(why),
        }
    }

    async fn tcp(&self, port: &PortRef, host: Option<&str>) -> ProbeOutcome {
        let to = match self.address(port, host) {
            Ok(to) => to,
            Err(why) => return ProbeOutcome::Error(why),
        };
        match self.ingredients.sandbox.dialer().dial(to).await {
            Ok(_connected) => ProbeOutcome::Success,
            Err(error) => {
                let why = crate::error::chain(&error);
                ProbeOutcome::Failure(format!("dial tcp {to}: connect: {why}"))
            }
        }
    }

    async fn exec(&self, command: &[String]) -> ProbeOutcome {
        let Self { ingredients, container, control, serial } = self;
        match exec(ingredients, container, *serial, command, control.clone()).await {
            Ok(result) if result.exit.is_success() => ProbeOutcome::Success,
            Ok(result) => {
                ProbeOutcome::Failure(match (result.output.trim(), result.exit.message()) {
                    ("", Some(why)) => why.to_owned(),
                    ("", None) => format!("exit code {}", result.exit.code()),
                    (output, _) => output.to_owned(),
                })
            }
            Err(failure) => ProbeOutcome::Error(failure.message),
        }
    }

    /// Where a handler leads: a port by number or name, on the pod or on another address *of the pod's network*.
    fn address(&self, port: &PortRef, host: Option<&str>) -> Result<SocketAddr, String> {
        let port = match port {
            PortRef::Number(port) => *port,
            PortRef::Name(name) => {
                let named = |p: &&crate::spec::Port| p.name.as_deref() == Some(name);
                let found = self.container.ports.iter().find(named);
                found.map(|p| p.container_port).ok_or_else(|| {
                    format!("couldn't find port: {name} in container {}", self.container.name)
                })?
            }
        };
        let ip: IpAddr = match host {
            None => self.ingredients.sandbox.ip(),
            Some(host) => self
                .ingredients
                .sandbox
                .resolve(host)
                .ok_or_else(|| format!("host {host:?} is not part of the pod's network"))?,
        };
        Ok(SocketAddr::new(ip, port))
    }

    fn timed_out(&self, handler: &Handler, after: Duration) -> String {
        let after = after.as_secs();
        match handler {
            Handler::Exec { command } => {
                let command = command.join(" ");
                format!("command timed out: \"{command}\" timed out after {after}s")
            }
            Handler::HttpGet(get) => {
                let host = self.address(&get.port, get.host.as_deref());
                let host = host.map_or_else(|_| String::new(), |a| a.to_string());
                let path = &get.path;
                format!(
                    "Get \"http://{host}{path}\": context deadline exceeded \
                     (Client.Timeout exceeded while awaiting headers)"
                )
            }
            Handler::TcpSocket { port, host } => {
                let to = self.address(port, host.as_deref());
                let to = to.map_or_else(|_| String::new(), |a| a.to_string());
                format!("dial tcp {to}: i/o timeout")
            }
            Handler::Grpc { .. } => format!("timeout: no answer within {after}s"),
        }
    }
}
