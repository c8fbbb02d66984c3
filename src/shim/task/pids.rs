//! `Pids`: the processes of a container, as its guest counts them.

use ampoule_protocol::message::{Reply, Request};
use containerd_shim::protos::api::{PidsResponse, ProcessInfo};

use crate::agent::ClientError;
use crate::shim::error::ShimError;
use crate::shim::tasks::Tasks;

/// Runs the method.
pub fn pids(tasks: &Tasks, id: &str) -> Result<PidsResponse, ShimError> {
    let task = tasks.find(id)?;
    let info = |pid| ProcessInfo { pid, ..Default::default() };
    let processes = match &task.init.guest {
        // A pod: what stands for it on the host.
        None => vec![info(tasks.pid())],
        Some(guest) => {
            let container = guest.container.clone();
            match tasks.sandbox()?.ask(&Request::Processes { container, table: false })? {
                Reply::Processes { pids, .. } => {
                    pids.into_iter().map(|pid| info(pid.unsigned_abs())).collect()
                }
                _ => return Err(ClientError::UnexpectedReply.into()),
            }
        }
    };
    Ok(PidsResponse { processes, ..Default::default() })
}
