//! What is done to a running module from outside: probes and hooks find it here, and commands are run beside it.

use tokio_util::sync::CancellationToken;

use super::{FIRST_EXEC_SERIAL, Hands};
use crate::lifecycle::RunId;
use crate::pod::exec::{ExecAsk, ExecRefused, exec};
use crate::pod::prober::Target;
use crate::spec::ContainerName;

impl Hands {
    /// Runs a command beside a module until it ends, the module does, or nobody waits for it any more.
    pub fn exec(&mut self, ask: ExecAsk) {
        let ExecAsk { container, command, mut reply } = ask;
        let target = self.exec_container(container).and_then(|name| {
            let not_running = || ExecRefused::NotRunning(name.to_string());
            let run = self.runs.get(&name).map(|active| active.run.clone());
            run.and_then(|run| self.target(&run)).ok_or_else(not_running)
        });
        let (target, over) = match target {
            Ok(found) => found,
            // Who has gone away needs no answer.
            Err(refused) => return drop(reply.send(Err(refused))),
        };
        tokio::spawn(async move {
            let Target { ingredients, container, control, serial } = target;
            let name = container.name.to_string();
            let run = Box::pin(exec(&ingredients, &container, serial, &command, control));
            tokio::select! {
                ran = over.run_until_cancelled(run) => {
                    let answer = match ran {
                        Some(Ok(result)) => Ok(result),
                        Some(Err(failure)) => Err(ExecRefused::Failed(failure.message)),
                        None => Err(ExecRefused::NotRunning(name)),
                    };
                    drop(reply.send(answer));
                }
                () = reply.closed() => {}
            }
        });
    }

    fn exec_container(&self, asked: Option<ContainerName>) -> Result<ContainerName, ExecRefused> {
        match (asked, self.pod.containers.as_slice()) {
            (Some(name), _) => Ok(name),
            (None, [only]) => Ok(only.name.clone()),
            (None, several) => {
                let names = several.iter().map(|c| c.name.to_string()).collect();
                Err(ExecRefused::WhichContainer(names))
            }
        }
    }

    /// The running module, as probes and hooks see it, and what tells them that it is over.
    pub(super) fn target(&mut self, run: &RunId) -> Option<(Target, CancellationToken)> {
        let container = self.container(run)?;
        let serial = self.next_exec_serial;
        // Wraps after two thousand million execs, back to where it began.
        self.next_exec_serial = serial.checked_add(1).unwrap_or(FIRST_EXEC_SERIAL);
        let active = self.active(run)?;
        let control = active.control.clone()?;
        let target = Target { ingredients: active.ingredients.clone(), container, control, serial };
        Some((target, active.over.clone()))
    }
}
