//! The command line: what there is to type. `docs/cli.md` explains it at length.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

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
    /// Show what all nodes of a broker say
    #[command(subcommand)]
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

/// How to reach the broker. What is given here wins over the file.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Broker")]
pub struct BrokerArgs {
    /// Settings (docs/publish.md) [default: ~/.config/podling/controller.yaml, else /etc/podling/controller.yaml]
    #[arg(long, env = "PODLING_CONTROLLER", value_name = "FILE")]
    pub controller: Option<PathBuf>,
    /// The broker, `mqtts://HOST[:8883]` or `mqtt://HOST[:1883]`; may be given several times
    #[arg(long, value_name = "URL")]
    pub broker: Vec<String>,
    /// The tenant whose nodes are meant
    #[arg(long, value_name = "NAME")]
    pub tenant: Option<String>,
    /// First levels of every topic [default: pods/v1]
    #[arg(long, value_name = "TOPIC")]
    pub topic_root: Option<String>,
    /// The key that documents are signed with (PEM, mode 0600)
    #[arg(long, value_name = "FILE")]
    pub signing_key: Option<PathBuf>,
    /// Authorities that may sign the broker's certificate (PEM) [default: the system's]
    #[arg(long, value_name = "FILE")]
    pub certificate_authority: Option<PathBuf>,
    /// This client's certificate (PEM)
    #[arg(long, value_name = "FILE")]
    pub client_certificate: Option<PathBuf>,
    /// The key of this client's certificate (PEM, mode 0600)
    #[arg(long, value_name = "FILE")]
    pub client_key: Option<PathBuf>,
    /// The name that the broker's certificate must have, if it is not the host's
    #[arg(long, value_name = "NAME")]
    pub tls_server_name: Option<String>,
    /// For brokers that ask for a name and a password
    #[arg(long, value_name = "NAME")]
    pub username: Option<String>,
    /// The password's file
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
}

/// What else the exit code of `publish` says.
const PUBLISH_EXIT_CODES: &str = "Exit codes: 0 ready (or gone); 1 failed before anything was published; 2 the command line makes no sense; \
3 a node refuses it; 4 the broker cannot be reached; 5 accepted, but not good (rolled back, failed, not leading); \
6 another controller is at work; 124 timed out waiting.";

#[cfg(feature = "demo")]
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Leave the folder with keys, settings and logs behind
    #[arg(long)]
    pub keep: bool,
}

#[derive(Debug, Args)]
pub struct PublishArgs {
    /// Manifests: file, folder of files, or - for stdin; may be given several times
    #[arg(short, long = "filename", value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// With --delete: the pods, without a file
    #[arg(value_name = "POD")]
    pub names: Vec<String>,
    /// The node that is to run them
    #[arg(long, value_name = "NAME", conflicts_with = "group")]
    pub node: Option<String>,
    /// The group whose nodes are to run them
    #[arg(long, value_name = "NAME", required_unless_present = "node")]
    pub group: Option<String>,
    /// Of the group, only nodes with these labels
    #[arg(long, value_name = "KEY=VALUE", value_delimiter = ',')]
    pub node_selector: Vec<String>,
    /// The namespace [default: default]
    #[arg(short, long, value_name = "NAME")]
    pub namespace: Option<String>,
    /// Delete the pods: publish a tombstone for each
    #[arg(long)]
    pub delete: bool,
    /// Print the signed documents and publish nothing. `server`: with the generation that comes next; `client`: without asking the broker
    #[arg(long, value_name = "HOW", value_enum, default_value_t = PublishDryRun::None, num_args = 0..=1, default_missing_value = "server", require_equals = true)]
    pub dry_run: PublishDryRun,
    /// Output format
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t = PublishFormat::Text)]
    pub output: PublishFormat,
    /// Wait for the nodes' verdict, and give them modules meanwhile (--wait=false: do not)
    #[arg(long, value_name = "BOOL", default_value_t = true, num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub wait: bool,
    /// How long to wait at most
    #[arg(long, value_name = "DURATION", default_value = "10m")]
    pub timeout: String,
    /// Another place for an image: oci://HOST/REPOSITORY, https://…; tried before this program
    #[arg(long, value_name = "IMAGE=URL")]
    pub source: Vec<String>,
    /// An older version of a module, which nodes may have: they then fetch the difference only
    #[cfg(feature = "compiler")]
    #[arg(long, value_name = "FILE")]
    pub delta_from: Vec<PathBuf>,
    /// To whom Secrets are encrypted [default: recipients of the settings, else what the node says of itself]
    #[arg(long, value_name = "AGE1…")]
    pub recipient: Option<String>,
    /// Publish over a document that another controller has signed
    #[arg(long)]
    pub force_conflicts: bool,
    /// A new generation although nothing has changed: a rollout that has failed is tried again
    #[arg(long)]
    pub again: bool,
    /// A new incarnation of the pod: its volumes begin anew
    #[arg(long)]
    pub recreate: bool,
    /// The generation [default: one above all that is known]
    #[arg(long, value_name = "NUMBER")]
    pub generation: Option<u64>,
    /// The epoch [default: the nodes']
    #[arg(long, value_name = "NUMBER")]
    pub epoch: Option<u64>,
    /// How long the node may take to fetch everything [default: 24h]
    #[arg(long, value_name = "DURATION")]
    pub fetch_deadline: Option<String>,
    /// How long it may take from the start until it is good, before the node goes back [default: 5m]
    #[arg(long, value_name = "DURATION")]
    pub progress_deadline: Option<String>,
    /// How long the pod must be ready to be called good [default: 10s]
    #[arg(long, value_name = "DURATION")]
    pub min_ready: Option<String>,
    /// Publish also what has more than 64 KiB
    #[arg(long)]
    pub allow_large: bool,
    /// Do not sign: for nodes whose trust is off
    #[arg(long, conflicts_with = "signing_key")]
    pub unsigned: bool,
    /// Where this machine's images are kept [default: the daemon's, for this user]
    #[arg(long, env = "PODLING_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    #[command(flatten)]
    pub broker: BrokerArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PublishDryRun {
    None,
    Client,
    Server,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PublishFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
pub enum FleetCommand {
    /// List nodes or pods, as the nodes describe them
    Get(Box<FleetGetArgs>),
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
    /// The namespace [default: default]
    #[arg(short, long, value_name = "NAME")]
    pub namespace: Option<String>,
    /// In all namespaces
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
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
}

/// Settings of the node that may be given on the command line; they win over the file.
#[derive(Clone, Debug, Default, Args)]
pub struct NodeArgs {
    /// Configuration file (docs/configuration.md)
    #[arg(long, env = "PODLING_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where objects, images and volumes are kept
    #[arg(long, env = "PODLING_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Where compiled modules are kept; may be lost at any time
    #[arg(long, env = "PODLING_CACHE_DIR", value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,
    /// Name of this node [default: the host's name]
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// The command that compiles modules, split at spaces [default: this program]
    #[arg(long, env = "PODLING_COMPILE_COMMAND", value_name = "COMMAND")]
    pub compile_command: Option<String>,
}

#[derive(Debug, Args)]
pub struct DaemonArgs {
    #[command(flatten)]
    pub node: NodeArgs,
    /// Folder of manifests whose pods this node runs
    #[arg(long, env = "PODLING_MANIFESTS", value_name = "DIR")]
    pub manifests: Option<PathBuf>,
    /// Where to serve the API
    #[arg(long, env = "PODLING_SOCKET", value_name = "PATH")]
    pub socket: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct PlayArgs {
    #[command(flatten)]
    pub node: NodeArgs,
    /// Manifests (YAML or JSON, several documents each if need be)
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Manifests (YAML or JSON, several documents each if need be)
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Output format
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t = ReportFormat::Text)]
    pub output: ReportFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ReportFormat {
    Text,
    Json,
}

#[derive(Debug, Args)]
pub struct CompileArgs {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub args: Vec<std::ffi::OsString>,
}

#[derive(Debug, Args)]
pub struct TrustArgs {
    /// The document (docs/mqtt.md, "Trust documents"), YAML or JSON; version, tenant and issuedAt may be left out. Or a signed one, to add
    /// signatures to
    #[arg(short, long = "filename", value_name = "FILE")]
    pub file: PathBuf,
    /// Root keys to sign with; may be given several times
    #[arg(long, required = true, value_name = "FILE")]
    pub root: Vec<PathBuf>,
    /// Print the signed document and publish nothing: for the next root to sign
    #[arg(long)]
    pub dry_run: bool,
    /// How long to wait for the nodes that are there
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    pub timeout: String,
    #[command(flatten)]
    pub broker: BrokerArgs,
}

#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Make a key that documents are signed with
    Generate {
        /// The new file (mode 0600)
        file: PathBuf,
    },
    /// Print the public half of a signing key, and how nodes call it
    Show {
        /// The key's file
        file: PathBuf,
        /// Output format
        #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t = ReportFormat::Text)]
        output: ReportFormat,
    },
    /// Sign and publish a trust document: whom the nodes of the tenant trust from now on
    Trust(Box<TrustArgs>),
    /// Print the trust anchor that makes a node trust signing keys
    Anchor {
        /// Keys of controllers
        #[arg(required_unless_present = "root")]
        files: Vec<PathBuf>,
        /// Keys that may sign trust documents; may be given several times
        #[arg(long, value_name = "FILE")]
        root: Vec<PathBuf>,
        /// How many of the roots must sign a trust document
        #[arg(long, value_name = "NUMBER", default_value_t = 1)]
        threshold: usize,
        /// Only for these tenants
        #[arg(long, value_name = "NAME", value_delimiter = ',')]
        tenant: Vec<String>,
        /// Only for pods of these namespaces
        #[arg(long, value_name = "NAME", value_delimiter = ',')]
        namespace: Vec<String>,
    },
    /// Print whom secrets for this node are encrypted to
    Node {
        #[command(flatten)]
        node: NodeArgs,
    },
    /// Encrypt the values of Secrets, so that only one node can read them
    Seal {
        /// The manifest; - for standard input. What is no Secret stays as it is
        #[arg(short, long = "filename", value_name = "FILE")]
        file: PathBuf,
        /// The node's recipient (podling key node)
        #[arg(long, value_name = "AGE1…")]
        to: String,
    },
}

#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Put a module file into the store under a name
    Load {
        /// The module: a WebAssembly component or core module
        file: PathBuf,
        /// NAME or NAME:TAG
        #[arg(long)]
        name: String,
        #[command(flatten)]
        node: NodeArgs,
    },
    /// Fetch a module from its registry into the store
    Pull {
        /// `REGISTRY/REPOSITORY[:TAG][@sha256:HEX]`
        #[arg(value_name = "REF")]
        reference: String,
        #[command(flatten)]
        node: NodeArgs,
    },
    /// Put a module file into a registry
    Push {
        /// The module: a WebAssembly component or core module
        file: PathBuf,
        /// `REGISTRY/REPOSITORY[:TAG]`
        #[arg(value_name = "REF")]
        reference: String,
        #[command(flatten)]
        node: NodeArgs,
    },
    /// List what the store has
    #[command(visible_alias = "list")]
    Ls {
        #[command(flatten)]
        node: NodeArgs,
    },
    /// Remove a name, and the module if it was its last
    #[command(visible_alias = "remove")]
    Rm {
        /// NAME, NAME:TAG or sha256:HEX
        #[arg(required = true)]
        names: Vec<String>,
        #[command(flatten)]
        node: NodeArgs,
    },
}

#[derive(Debug, Args)]
pub struct GetArgs {
    /// What to list: pods, services, endpoints, endpointslices, networkpolicies, configmaps, secrets, events, nodes or namespaces; TYPE or TYPE/NAME
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
    /// pod, or pod/NAME
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
