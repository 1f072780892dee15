//! `podling version`

use std::process::ExitCode;

use serde_json::{Value, json};

use super::args::{ReportFormat, VersionArgs};
use super::client::{Client, ClientError};
use super::{Out, socket};

pub(super) async fn run(args: &VersionArgs, out: &mut Out) -> anyhow::Result<ExitCode> {
    let server = if args.client { None } else { Some(ask(args).await) };
    match args.output {
        ReportFormat::Text => {
            out.line(&format!("Client Version: {}", env!("CARGO_PKG_VERSION")))?;
            out.line(&format!("Platform: {}-{}", std::env::consts::OS, std::env::consts::ARCH))?;
            let compiler = if cfg!(feature = "compiler") { "yes" } else { "no" };
            out.line(&format!("Compiler: {compiler}"))?;
            match server {
                None => {}
                Some(Ok(version)) => {
                    let text = version["gitVersion"].as_str().unwrap_or("unknown").to_owned();
                    out.line(&format!("Server Version: {text}"))?;
                }
                Some(Err(_)) => out.line("Server Version: none (no daemon answers)")?,
            }
        }
        ReportFormat::Json => {
            let mut report = json!({"clientVersion": {
                "version": env!("CARGO_PKG_VERSION"),
                "platform": format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
                "compiler": cfg!(feature = "compiler"),
            }});
            if let Some(Ok(version)) = server {
                report["serverVersion"] = version;
            }
            out.line(&serde_json::to_string_pretty(&report)?)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// No daemon is no error here: the client's own version is an answer.
async fn ask(args: &VersionArgs) -> Result<Value, ClientError> {
    match socket(&args.target) {
        Ok(socket) => Client::new(socket).get("/version").await,
        Err(_) => Err(ClientError::Timeout),
    }
}
