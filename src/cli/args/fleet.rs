//! The command line of `fleet`: looking at nodes through a broker, and asking one of them.

use clap::{Args, Subcommand, ValueEnum};

use super::{BrokerArgs, ReportFormat};

/// What else the exit code of `fleet` says.
pub(super) const FLEET_EXIT_CODES: &str = "Exit codes: 0 done; 1 failed before anything was asked; 2 the command line makes no sense; 3 the node refuses, or could \
not do it; 4 the broker cannot be reached; 5 the node is not there; 124 no answer in time. `exec` ends with the exit code of what it ran.";

#[derive(Debug, Subcommand)]
pub enum FleetCommand {
    /// List nodes or pods, as the nodes describe them
    Get(Box<FleetGetArgs>),
    /// Print what a module of a pod has written
    Logs(Box<FleetLogsArgs>),
    /// End a pod's modules and start them again
    Restart(Box<FleetRestartArgs>),
    /// Show a node, or one of its pods, in detail, with its events
    Describe(Box<FleetDescribeArgs>),
    /// Let a node ask the broker for everything once more, and say everything anew
    Resync(Box<FleetNodeArgs>),
    /// See whether a node answers, and how fast
    Ping(Box<FleetNodeArgs>),
    /// Run a command in a pod, where the node's configuration allows it
    Exec(Box<FleetExecArgs>),
}

#[derive(Debug, Args)]
pub struct FleetGetArgs {
    /// What to list
    #[arg(value_enum, value_name = "TYPE")]
    pub what: FleetWhat,
    /// Only these
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
    /// Only of this node
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
    /// Only nodes whose labels match, as site=north,tier!=test; of pods, those on such nodes
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    pub selector: Option<String>,
    /// The namespace [default: default]
    #[arg(short, long, value_name = "NAME")]
    pub namespace: Option<String>,
    /// In all namespaces
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    /// Show changes as they happen, after the list, until Ctrl-C
    #[arg(short, long)]
    pub watch: bool,
    /// Output format
    #[arg(short, long, value_name = "FORMAT", value_enum)]
    pub output: Option<FleetFormat>,
    /// No heading
    #[arg(long)]
    pub no_headers: bool,
    #[command(flatten)]
    pub broker: BrokerArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FleetWhat {
    #[value(aliases = ["node", "no"])]
    Nodes,
    #[value(aliases = ["pod", "po"])]
    Pods,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FleetFormat {
    Wide,
    Json,
    Yaml,
    Name,
}

/// How a node is asked.
#[derive(Debug, Args)]
pub struct AskArgs {
    /// How long to wait for the answer; nodes take a minute at most
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    pub timeout: String,
    /// What the command is called: a node carries out each name once, and says of one that comes again what became of it [default: a
    /// fresh one]
    #[arg(long, value_name = "ID")]
    pub id: Option<String>,
    /// Output format
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t = ReportFormat::Text)]
    pub output: ReportFormat,
    /// Do not sign: for nodes whose trust is off
    #[arg(long, conflicts_with = "signing_key")]
    pub unsigned: bool,
    #[command(flatten)]
    pub broker: BrokerArgs,
}

#[derive(Debug, Args)]
pub struct FleetNodeArgs {
    /// The node
    pub node: String,
    #[command(flatten)]
    pub ask: AskArgs,
}

#[derive(Debug, Args)]
pub struct FleetLogsArgs {
    /// The node
    pub node: String,
    /// The pod: NAME or pod/NAME
    pub pod: String,
    /// The container, where the pod has several
    #[arg(short, long, value_name = "NAME")]
    pub container: Option<String>,
    /// The namespace [default: default]
    #[arg(short, long, value_name = "NAME")]
    pub namespace: Option<String>,
    /// The run before the present one
    #[arg(short, long)]
    pub previous: bool,
    /// Only this many lines from the end
    #[arg(long, value_name = "LINES")]
    pub tail: Option<u64>,
    /// Only lines newer than this, as 5s, 2m or 3h
    #[arg(long, value_name = "DURATION")]
    pub since: Option<String>,
    /// At most this many bytes; a node sends 1 MiB at most
    #[arg(long, value_name = "BYTES")]
    pub limit_bytes: Option<u64>,
    #[command(flatten)]
    pub ask: AskArgs,
}

#[derive(Debug, Args)]
pub struct FleetRestartArgs {
    /// The node
    pub node: String,
    /// The pod: NAME or pod/NAME
    pub pod: String,
    /// The namespace [default: default]
    #[arg(short, long, value_name = "NAME")]
    pub namespace: Option<String>,
    #[command(flatten)]
    pub ask: AskArgs,
}

#[derive(Debug, Args)]
pub struct FleetDescribeArgs {
    /// The node
    pub node: String,
    /// The pod: NAME or pod/NAME; without it, the node
    pub pod: Option<String>,
    /// The namespace [default: default]
    #[arg(short, long, value_name = "NAME")]
    pub namespace: Option<String>,
    #[command(flatten)]
    pub ask: AskArgs,
}

#[derive(Debug, Args)]
pub struct FleetExecArgs {
    /// The node
    pub node: String,
    /// The pod: NAME or pod/NAME
    pub pod: String,
    /// The container, where the pod has several
    #[arg(short, long, value_name = "NAME")]
    pub container: Option<String>,
    /// The namespace [default: default]
    #[arg(short, long, value_name = "NAME")]
    pub namespace: Option<String>,
    #[command(flatten)]
    pub ask: AskArgs,
    /// What to run, after --
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}
