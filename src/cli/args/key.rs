//! The command line of `key`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{BrokerArgs, NodeArgs, ReportFormat};

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
        #[arg(long, value_name = "NUMBER", default_value_t = 1, requires = "root")]
        threshold: usize,
        /// Only for these tenants
        #[arg(long, value_name = "NAME", value_delimiter = ',')]
        tenant: Vec<String>,
        /// Only for pods of these namespaces
        #[arg(long, value_name = "NAME", value_delimiter = ',')]
        namespace: Vec<String>,
    },
    /// Print whom secrets for this node are encrypted to, or what it signs its word with
    Node {
        /// The public key that everything it says over MQTT is signed with: for nodeKeys of a controller's settings
        #[arg(long)]
        status_key: bool,
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
