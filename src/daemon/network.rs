//! The `network` section of the configuration: the node's ways to other hosts and to its own loopback.
//!
//! Owns: its names, defaults and validation. Not: acting on them (`node` makes the gateway).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;

use crate::outside::names::NameServers;
use crate::outside::test_net::{TestNet, TestNetError};
use crate::spec::HostPort;

/// The section as it is written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct NetworkFile {
    /// Ports of the host's loopback that pods from the API and from MQTT may be granted; none by default.
    pub host_loopback_allow_list: Vec<String>,
    /// Where the name servers are written. Default: `/etc/resolv.conf`.
    pub resolv_conf: Option<PathBuf>,
    /// For tests of egress without a network; see `outside::test_net`. Not for operators, hence in no manual.
    pub test_net: Option<TestNetFile>,
    /// For tests on a bad network; see `daemon::faults`. In no manual either.
    pub test_faults: Option<TestFaults>,
    /// Without it a release build refuses `testNet` and `testFaults`.
    pub allow_test_net: bool,
}

/// Addresses kept for documentation that lead to this machine's loopback, and a name server there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct TestNetFile {
    pub hosts: BTreeMap<String, String>,
    pub name_server: Option<String>,
}

/// Faults between pods, and the file that orders them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TestFaults {
    /// Decides the dice.
    pub seed: u64,
    pub orders: PathBuf,
}

/// The section, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkConfig {
    pub host_loopback_allow_list: Vec<HostPort>,
    pub name_servers: NameServers,
    pub test_net: Option<TestNet>,
    pub test_faults: Option<TestFaults>,
}

/// Why the section is not usable.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error(
        "network.hostLoopbackAllowList of the configuration must list tcp/PORT or udp/PORT, but has {0:?}"
    )]
    HostPort(String),
    #[error("network.resolvConf of the configuration must be an absolute path, but is {0}")]
    NotAbsolute(PathBuf),
    #[error(
        "network.testNet and network.testFaults of the configuration are for tests; a release build takes them only with network.allowTestNet: true"
    )]
    TestNetInRelease,
    #[error("network.testNet of the configuration needs ADDRESS:PORT, but has {0:?}")]
    Address(String),
    #[error("network.testNet of the configuration cannot be used")]
    TestNet(#[from] TestNetError),
}

impl NetworkFile {
    /// Checks it. `release`: whether this is a build for use.
    ///
    /// # Errors
    /// [`NetworkError`], with the setting that is wrong.
    pub fn resolve(self, release: bool) -> Result<NetworkConfig, NetworkError> {
        let port = |text: &String| {
            HostPort::parse(text).ok_or_else(|| NetworkError::HostPort(text.clone()))
        };
        let ports = self.host_loopback_allow_list.iter().map(port).collect::<Result<_, _>>()?;
        if let Some(path) = self.resolv_conf.as_ref().filter(|path| !path.is_absolute()) {
            return Err(NetworkError::NotAbsolute(path.clone()));
        }
        let for_tests = self.test_net.is_some() || self.test_faults.is_some();
        if for_tests && release && !self.allow_test_net {
            return Err(NetworkError::TestNetInRelease);
        }
        let (mut servers, mut test_net) = (self.resolv_conf.map(NameServers::File), None);
        if let Some(file) = self.test_net {
            let hosts = file.hosts.iter().map(|(from, to)| Ok((address(from)?, address(to)?)));
            test_net = Some(TestNet::new(hosts.collect::<Result<_, NetworkError>>()?)?);
            if let Some(server) = &file.name_server {
                servers = Some(NameServers::At(address(server)?));
            }
        }
        Ok(NetworkConfig {
            host_loopback_allow_list: ports,
            name_servers: servers.unwrap_or_default(),
            test_net,
            test_faults: self.test_faults,
        })
    }
}

fn address(text: &str) -> Result<SocketAddr, NetworkError> {
    text.parse().map_err(|_| NetworkError::Address(text.to_owned()))
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn resolve(text: &str, release: bool) -> Result<NetworkConfig, String> {
        let file: NetworkFile = serde_yaml::from_str(text).unwrap();
        file.resolve(release).map_err(|error| error.to_string())
    }

    #[test]
    fn nothing_is_granted_by_default() {
        let config = NetworkFile::default().resolve(true).unwrap();
        assert_eq!(config.host_loopback_allow_list, []);
        assert_eq!(config.name_servers, NameServers::File("/etc/resolv.conf".into()));
        assert_eq!(config.test_net, None);
    }

    #[test]
    fn mistakes_are_named() {
        let rows = [
            ("hostLoopbackAllowList: ['5432']", "network.hostLoopbackAllowList"),
            ("resolvConf: etc/resolv.conf", "network.resolvConf"),
            (
                "testNet: {hosts: {192.0.2.1: '127.0.0.1:80'}}",
                "network.testNet of the configuration needs",
            ),
            (
                "testNet: {hosts: {'10.0.0.1:80': '127.0.0.1:80'}}",
                "network.testNet of the configuration cannot",
            ),
            ("testNet: {nameServer: localhost}", "network.testNet of the configuration needs"),
        ];
        for (text, expected) in rows {
            let error = resolve(text, false).unwrap_err();
            assert!(error.starts_with(expected), "{text}: {error}");
        }
    }

    #[test]
    fn a_release_build_takes_a_test_net_only_when_told_twice() {
        let map = "testNet: {hosts: {'192.0.2.1:80': '127.0.0.1:8080'}}";
        assert!(resolve(map, false).is_ok());
        assert!(resolve(map, true).unwrap_err().contains("allowTestNet: true"));
        assert!(resolve(&format!("{map}\nallowTestNet: true"), true).is_ok());
        let faults = "testFaults: {seed: 1, orders: /tmp/faults.yaml}";
        assert!(resolve(faults, false).is_ok_and(|config| config.test_faults.is_some()));
        assert!(resolve(faults, true).is_err());
    }
}
