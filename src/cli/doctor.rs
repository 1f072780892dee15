//! `podling doctor`: what this machine is, what podling makes of it, and what each pod costs now.

use std::process::ExitCode;

use serde_json::json;

use crate::daemon::config::Places;
use crate::daemon::doctor::{Facts, Level, examine};
use crate::daemon::node::memory_dir;

use super::args::{DoctorArgs, ReportFormat};
use super::client::Client;
use super::{Out, top};

pub(super) async fn run(args: &DoctorArgs, out: &mut Out) -> anyhow::Result<ExitCode> {
    let config = super::node::config(&args.node, None, args.socket.clone())?;
    let findings = examine(&Facts::probe(&config, memory_dir(&config.state_dir)));
    // A doctor is also asked when nothing runs.
    let socket = args.socket.clone().or_else(|| Places::of_this_process().socket);
    let pods = match socket {
        Some(socket) => top::pods(&Client::new(socket), None).await.ok(),
        None => None,
    };
    match args.output {
        ReportFormat::Text => {
            for f in &findings {
                out.line(&format!("{:<8} {:<16} {}", f.level, f.what, f.found))?;
                out.line(&format!("{:<25} {}", "", f.hence))?;
            }
            match &pods {
                None => out.line("no daemon answers: nothing to say of pods")?,
                Some(pods) => {
                    out.line("")?;
                    out.line(&top::table(pods, true))?;
                }
            }
        }
        ReportFormat::Json => {
            let pods = pods.map(|pods| top::to_json(&pods));
            let report = json!({ "findings": findings, "pods": pods });
            out.line(&serde_json::to_string_pretty(&report)?)?;
        }
    }
    let problem = findings.iter().any(|finding| finding.level == Level::Problem);
    Ok(if problem { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
