//! The command line of the daemon's clients, kubectl's verbs.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{NodeArgs, ReportFormat, Target};

#[derive(Debug, Args)]
pub struct GetArgs {
    /// What to list: pods, services, endpoints, endpointslices, networkpolicies, configmaps, secrets, events, nodes or namespaces, or several as pods,svc; TYPE or TYPE/NAME
    #[arg(value_name = "TYPE")]
    pub kind: String,
    /// Only these
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
    #[command(flatten)]
    pub target: Target,
    #[command(flatten)]
    pub select: Select,
    /// Output format: wide, yaml, json, name, or jsonpath=TEMPLATE
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<String>,
    /// Show changes as they happen, after the list
    #[arg(short, long)]
    pub watch: bool,
    /// No heading
    #[arg(long)]
    pub no_headers: bool,
    /// A last column with all labels
    #[arg(long)]
    pub show_labels: bool,
    /// No error for an object that does not exist
    #[arg(long)]
    pub ignore_not_found: bool,
}

#[derive(Clone, Debug, Default, Args)]
pub struct Select {
    /// In all namespaces
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    /// Only those whose labels match, as app=web,tier!=db
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    pub selector: Option<String>,
    /// Only those whose fields match, as status.phase=Running
    #[arg(long, value_name = "SELECTOR")]
    pub field_selector: Option<String>,
}

#[derive(Debug, Args)]
pub struct DescribeArgs {
    /// pod, service, networkpolicy or node; TYPE or TYPE/NAME
    #[arg(value_name = "TYPE")]
    pub kind: String,
    /// Only these; without any, all of them
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
    #[command(flatten)]
    pub target: Target,
    #[command(flatten)]
    pub select: Select,
}

#[derive(Debug, Args)]
pub struct LogsArgs {
    /// The pod: NAME or pod/NAME
    pub pod: String,
    /// The container, where the pod has several
    #[arg(value_name = "CONTAINER", conflicts_with = "container")]
    pub container_word: Option<String>,
    #[command(flatten)]
    pub target: Target,
    /// The container, where the pod has several
    #[arg(short, long, value_name = "NAME")]
    pub container: Option<String>,
    /// Go on until the container ends
    #[arg(short, long)]
    pub follow: bool,
    /// The run before the present one
    #[arg(short, long)]
    pub previous: bool,
    /// Only this many lines from the end
    #[arg(long, value_name = "LINES", allow_negative_numbers = true)]
    pub tail: Option<i64>,
    /// Only lines newer than this, as 5s, 2m or 3h
    #[arg(long, value_name = "DURATION")]
    pub since: Option<String>,
    /// Only lines after this RFC 3339 time
    #[arg(long, value_name = "TIME", conflicts_with = "since")]
    pub since_time: Option<String>,
    /// At most this many bytes
    #[arg(long, value_name = "BYTES")]
    pub limit_bytes: Option<u64>,
    /// The time before each line
    #[arg(long)]
    pub timestamps: bool,
    /// Every container of the pod
    #[arg(long, conflicts_with = "container")]
    pub all_containers: bool,
    /// Pod and container before each line
    #[arg(long)]
    pub prefix: bool,
}

#[derive(Debug, Args)]
pub struct PortForwardArgs {
    /// The pod: NAME, pod/NAME; or service/NAME for one of its pods
    #[arg(value_name = "POD")]
    pub pod: String,
    /// LOCAL:REMOTE, or PORT for both; without LOCAL (`:REMOTE`) any free port. REMOTE may be a port's name
    #[arg(value_name = "[LOCAL:]REMOTE", required = true)]
    pub ports: Vec<String>,
    #[command(flatten)]
    pub target: Target,
    /// Addresses of this machine to listen on; `localhost` is 127.0.0.1 and ::1
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',', default_value = "localhost")]
    pub address: Vec<String>,
}

#[derive(Debug, Args)]
pub struct NetArgs {
    /// The pod: NAME or pod/NAME
    #[arg(value_name = "POD")]
    pub pod: String,
    #[command(flatten)]
    pub target: Target,
    /// Only sockets of this container
    #[arg(short, long, value_name = "NAME")]
    pub container: Option<String>,
    /// Only listening sockets
    #[arg(short, long)]
    pub listening: bool,
    /// What the traffic adds up to, instead of sockets
    #[arg(short, long, conflicts_with_all = ["listening"])]
    pub traffic: bool,
    /// What policy denied; of a pod that is audited, as a NetworkPolicy that allows exactly what it used
    #[arg(short, long, conflicts_with_all = ["listening", "traffic", "container"])]
    pub audit: bool,
    /// Output format: json, for all of it
    #[arg(short, long, value_name = "FORMAT", value_enum)]
    pub output: Option<NetFormat>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum NetFormat {
    Json,
}

#[derive(Debug, Args)]
pub struct ApplyArgs {
    /// File, folder of files, or - for stdin; may be given several times
    #[arg(short, long = "filename", required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    #[command(flatten)]
    pub target: Target,
    /// `server`: let the daemon check everything and change nothing
    #[arg(long, value_name = "HOW", value_enum, default_value_t = DryRun::None, num_args = 0..=1, default_missing_value = "server")]
    pub dry_run: DryRun,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DryRun {
    None,
    Server,
}

#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// TYPE or TYPE/NAME
    #[arg(value_name = "TYPE", required_unless_present = "files")]
    pub kind: Option<String>,
    /// Only these
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
    /// Delete what these files name
    #[arg(short, long = "filename", value_name = "FILE", conflicts_with = "kind")]
    pub files: Vec<PathBuf>,
    #[command(flatten)]
    pub target: Target,
    /// Those whose labels match
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    pub selector: Option<String>,
    /// All of that type in the namespace
    #[arg(long)]
    pub all: bool,
    /// Seconds to end in; without it, what the pod says
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    pub grace_period: Option<i64>,
    /// Kill at once
    #[arg(long)]
    pub force: bool,
    /// A grace period of one second
    #[arg(long, conflicts_with_all = ["grace_period", "force"])]
    pub now: bool,
    /// Wait until they are gone (--wait=false: do not)
    #[arg(long, value_name = "BOOL", default_value_t = true, num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub wait: bool,
    /// How long to wait at most, as 30s or 5m
    #[arg(long, value_name = "DURATION")]
    pub timeout: Option<String>,
    /// No error for an object that does not exist
    #[arg(long)]
    pub ignore_not_found: bool,
}

/// What `top` may show; kubectl's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TopWhat {
    Pods,
    #[value(hide = true)]
    Pod,
    #[value(hide = true)]
    Po,
    Node,
    #[value(hide = true)]
    Nodes,
    #[value(hide = true)]
    No,
}

#[derive(Debug, Args)]
pub struct TopArgs {
    #[command(flatten)]
    pub target: Target,
    /// Pods, or the node
    #[arg(value_enum, value_name = "WHAT")]
    pub what: TopWhat,
    /// One pod
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
    /// One line for each container
    #[arg(long)]
    pub containers: bool,
    /// One line for each container, with what it was held up for: time throttled, most memory, fuel
    #[arg(long)]
    pub wide: bool,
    /// Pods of all namespaces
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    /// Output format
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t = ReportFormat::Text)]
    pub output: ReportFormat,
}

#[derive(Debug, Args)]
pub struct DoctorArgs {
    #[command(flatten)]
    pub node: NodeArgs,
    /// The daemon's socket, to ask what its pods cost
    #[arg(long, env = "PODLING_SOCKET", value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Output format
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t = ReportFormat::Text)]
    pub output: ReportFormat,
}

#[derive(Debug, Args)]
pub struct VersionArgs {
    #[command(flatten)]
    pub target: Target,
    /// Output format
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t = ReportFormat::Text)]
    pub output: ReportFormat,
    /// Do not ask the daemon
    #[arg(long)]
    pub client: bool,
}
