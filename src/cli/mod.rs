//! The command line: what a person at the gateway types.
//!
//! Owns: argument parsing, the client of the local API, everything that is printed, exit codes. Not: pods; `daemon` and `play` run them, and
//! the other commands ask the daemon over its socket (`client`), as `kubectl` would. Words, tables and messages are kubectl's.
//!
//! Output: results on stdout, everything else on stderr. Nothing is coloured, and nothing is drawn twice, so that a pipe sees what a terminal
//! sees. A reader that goes away (`| head`) ends the command quietly.

mod apply;
pub mod args;
mod client;
mod columns;
mod controller;
mod delete;
#[cfg(feature = "demo")]
mod demo;
mod describe;
mod doctor;
mod duration;
mod fleet;
mod get;
mod image;
mod journal;
mod jsonpath;
mod key;
mod kinds;
mod known;
mod logs;
mod manifests;
mod net;
mod node;
mod port_forward;
mod publish;
mod table;
mod top;
mod version;
mod yaml;

#[cfg(test)]
mod tests;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{CommandFactory, Parser};

use crate::daemon::config::Places;
use crate::error::Chain;

use args::{Cli, Command, Target};
use client::{Client, ClientError};

/// Parses the command line of this process and does what it says.
#[must_use]
pub fn main() -> ExitCode {
    run(Cli::parse().command)
}

/// Does what a command says. Errors have been shown when this returns.
fn run(command: Command) -> ExitCode {
    let mut out = Out::new(Box::new(io::stdout()));
    let outcome = match command {
        Command::Daemon(args) => node::daemon(&args),
        Command::Play(args) => node::play(args),
        Command::Check(args) => node::check(&args, &mut out),
        Command::Compile(args) => Ok(crate::runtime::compile_child(&args.args)),
        Command::Image(command) => image::run(command, &mut out),
        Command::Key(command) => key::run(command, &mut out),
        Command::Publish(args) => publish::run(&args, &mut out),
        Command::Fleet(command) => fleet::run(&command, &mut out),
        #[cfg(feature = "demo")]
        Command::Demo(args) => demo::run(&args, &mut out),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "podling", &mut script);
            out.bytes(&script).map(|()| ExitCode::SUCCESS)
        }
        command @ (Command::Get(_)
        | Command::Describe(_)
        | Command::Logs(_)
        | Command::Apply(_)
        | Command::Delete(_)
        | Command::PortForward(_)
        | Command::Net(_)
        | Command::Top(_)
        | Command::Doctor(_)
        | Command::Version(_)) => client_command(command, &mut out),
    };
    finish(outcome.and_then(|code| out.flush().map(|()| code)))
}

fn client_command(command: Command, out: &mut Out) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(ask(command, out))
}

/// The commands that are clients of a daemon.
async fn ask(command: Command, out: &mut Out) -> anyhow::Result<ExitCode> {
    match command {
        Command::Get(args) => get::run(&client(&args.target)?, &args, out).await,
        Command::Describe(args) => describe::run(&client(&args.target)?, &args, out).await,
        Command::Logs(args) => logs::run(&client(&args.target)?, &args, out).await,
        Command::Apply(args) => apply::run(&client(&args.target)?, &args, out).await,
        Command::Delete(args) => delete::run(&client(&args.target)?, &args, out).await,
        Command::PortForward(args) => port_forward::run(&client(&args.target)?, &args, out).await,
        Command::Net(args) => net::run(&client(&args.target)?, &args, out).await,
        Command::Top(args) => top::run(&client(&args.target)?, &args, out).await,
        Command::Doctor(args) => doctor::run(&args, out).await,
        Command::Version(args) => version::run(&args, out).await,
        #[cfg(feature = "demo")]
        Command::Demo(_) => unreachable!("`run` has taken these"),
        Command::Daemon(_)
        | Command::Play(_)
        | Command::Check(_)
        | Command::Compile(_)
        | Command::Image(_)
        | Command::Key(_)
        | Command::Publish(_)
        | Command::Fleet(_)
        | Command::Completions { .. } => unreachable!("`run` has taken these"),
    }
}

/// The daemon that is meant.
fn client(target: &Target) -> anyhow::Result<Client> {
    Ok(Client::new(socket(target)?))
}

fn socket(target: &Target) -> anyhow::Result<PathBuf> {
    let default = || Places::of_this_process().socket;
    target.socket.clone().or_else(default).ok_or_else(|| {
        anyhow::anyhow!("no socket is known: set XDG_RUNTIME_DIR or HOME, or name it with --socket")
    })
}

/// Shows an error, once and with its causes, and chooses the exit code.
fn finish(outcome: anyhow::Result<ExitCode>) -> ExitCode {
    match outcome {
        Ok(code) => code,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            show_error(&error);
            ExitCode::FAILURE
        }
    }
}

/// A refusal by the server stands as kubectl words it; anything else begins with `error:`.
fn show_error(error: &anyhow::Error) {
    let text = match error.downcast_ref::<ClientError>() {
        Some(refused @ ClientError::Refused { .. }) => refused.to_string(),
        _ => format!("error: {}", Chain(error.as_ref())),
    };
    complain(&text);
}

/// A line on standard error. That nobody reads it (`2>&1 | head`) is no reason to fail.
fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "{}", columns::visible(text));
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io_error = error.chain().find_map(|cause| cause.downcast_ref::<io::Error>());
    error.downcast_ref::<ClientError>().is_none()
        && io_error.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// What a full disk or a closed pipe did.
const UNWRITABLE: &str = "cannot write the output";

/// Where results go: standard output, or a test's buffer.
struct Out(io::BufWriter<Box<dyn Write + Send>>);

impl Out {
    fn new(to: Box<dyn Write + Send>) -> Self {
        Self(io::BufWriter::new(to))
    }

    fn text(&mut self, text: &str) -> anyhow::Result<()> {
        self.bytes(text.as_bytes())
    }

    fn line(&mut self, line: &str) -> anyhow::Result<()> {
        self.text(line)?;
        self.text("\n")
    }

    fn bytes(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.0.write_all(bytes).context(UNWRITABLE)
    }

    /// Whatever must be seen now.
    fn flush(&mut self) -> anyhow::Result<()> {
        self.0.flush().context(UNWRITABLE)
    }
}

impl std::fmt::Debug for Out {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Out")
    }
}
