//! The command line: what there is to type. `docs/cli.md` explains it at length. One file for each
//! family of commands.

mod broker;
mod client;
mod fleet;
mod key;
mod node;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

pub use broker::*;
pub use client::*;
pub use fleet::*;
pub use key::*;
pub use node::*;

use broker::PUBLISH_EXIT_CODES;
use fleet::FLEET_EXIT_CODES;

const EXIT_CODES: &str =
    "Exit codes: 0 done; 1 failed, with the reason on stderr; 2 the command line makes no sense.";

/// Runs Kubernetes-shaped Pods of WebAssembly modules on this machine.
#[derive(Debug, Parser)]
#[command(name = "podling", version, about, after_help = EXIT_CODES, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the node: pods from a folder and from the API, until told to stop
    Daemon(DaemonArgs),
    /// Run the pods of some manifests in the foreground until Ctrl-C
    Play(PlayArgs),
    /// Check manifests without running anything
    Check(CheckArgs),
    /// Compile a module (for podling's own use)
    #[command(hide = true, disable_help_flag = true)]
    Compile(CompileArgs),
    /// Load, list and remove modules of the local image store
    #[command(subcommand)]
    Image(ImageCommand),
    /// Keys: a controller's, the node's own, and encrypting secrets to it
    #[command(subcommand)]
    Key(KeyCommand),
    /// Publish pods to nodes through an MQTT broker, and see them through
    #[command(after_help = PUBLISH_EXIT_CODES)]
    Publish(Box<PublishArgs>),
    /// Show what all nodes of a broker say, and ask one of them
    #[command(subcommand, after_help = FLEET_EXIT_CODES)]
    Fleet(FleetCommand),
    /// See all of it work on this machine: broker, node, pod, and a cable that is pulled
    #[cfg(feature = "demo")]
    Demo(DemoArgs),
    /// List objects
    Get(GetArgs),
    /// Show one pod, or several, in detail, with their events
    Describe(DescribeArgs),
    /// Print what a module of a pod has written
    Logs(LogsArgs),
    /// Create or change objects from files
    Apply(ApplyArgs),
    /// Delete objects by name, selector or file
    Delete(DeleteArgs),
    /// Forward ports of this machine to a pod, until Ctrl-C
    PortForward(PortForwardArgs),
    /// Show a pod's sockets, as ss does, and its traffic
    Net(NetArgs),
    /// Show what pods, or the node, use now
    Top(TopArgs),
    /// Say what this machine is, what podling makes of it, and what each pod costs
    Doctor(DoctorArgs),
    /// Print versions
    Version(VersionArgs),
    /// Print a completion script for a shell
    Completions {
        /// The shell to complete for
        shell: clap_complete::Shell,
    },
}

/// Where the daemon is, and which namespace is meant.
#[derive(Clone, Debug, Args)]
pub struct Target {
    /// The daemon's socket [default: /run/podling/podling.sock for root, else $XDG_RUNTIME_DIR/podling/podling.sock]
    #[arg(long, env = "PODLING_SOCKET", value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// The namespace [default: default]
    #[arg(short, long, value_name = "NAME")]
    pub namespace: Option<String>,
}

impl Target {
    /// The namespace that is meant.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or(crate::board::DEFAULT_NAMESPACE)
    }
}
