//! The command line of what runs on a node's own files: `daemon`, `play`, `check`, `image`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

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
