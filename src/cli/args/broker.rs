//! The command line of those who talk to a broker: `publish`, `demo`, and what `fleet` shares with them.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

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
    /// What a node signs its word with (podling key node --status-key); may be given several times
    #[arg(long, value_name = "NODE=KEY", value_parser = node_key)]
    pub node_key: Vec<(String, String)>,
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

fn node_key(text: &str) -> Result<(String, String), &'static str> {
    let (node, key) = text.split_once('=').ok_or("NODE=KEY is expected")?;
    Ok((node.to_owned(), key.to_owned()))
}

/// What else the exit code of `publish` says.
pub(super) const PUBLISH_EXIT_CODES: &str = "Exit codes: 0 ready (or gone); 1 failed before anything was published; 2 the command line makes no sense; \
3 a node refuses it; 4 the broker cannot be reached; 5 accepted, but not good (rolled back, failed, not leading); \
6 another controller is at work; 124 timed out waiting.";

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("target").required(true).args(["node", "group"])))]
pub struct PublishArgs {
    /// Manifests: file, folder of files, or - for stdin; may be given several times
    #[arg(short, long = "filename", value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// With --delete: the pods, without a file
    #[arg(value_name = "POD")]
    pub names: Vec<String>,
    /// The node that is to run them
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
    /// The group whose nodes are to run them
    #[arg(long, value_name = "NAME")]
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
    /// Publish the node's index too: pods that it lists, that -l or --all chooses, and that are not in the files, end
    #[arg(long, requires = "node", conflicts_with_all = ["delete", "group"])]
    pub prune: bool,
    /// With --prune: of the pods that are not in the files, those whose labels match
    #[arg(short = 'l', long, value_name = "SELECTOR", requires = "prune", conflicts_with = "all")]
    pub selector: Option<String>,
    /// With --prune: all pods that are not in the files
    #[arg(long, requires = "prune")]
    pub all: bool,
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

#[cfg(feature = "demo")]
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Leave the folder with keys, settings and logs behind
    #[arg(long)]
    pub keep: bool,
}
