//! `Stats`: what a container uses.

use ampoule_protocol::message::{Reply, Request, Stats};
use containerd_shim::protos::protobuf::well_known_types::any::Any;

use crate::agent::ClientError;
use crate::shim::error::ShimError;
use crate::shim::metrics;
use crate::shim::tasks::Tasks;

/// Runs the method.
pub fn stats(tasks: &Tasks, id: &str) -> Result<Any, ShimError> {
    let task = tasks.find(id)?;
    let sandbox = tasks.sandbox()?;
    let used = match &task.init.guest {
        Some(guest) => {
            match sandbox.ask(&Request::Stats { container: guest.container.clone() })? {
                Reply::Stats(stats) => *stats,
                _ => return Err(ClientError::UnexpectedReply.into()),
            }
        }
        // A pod's own: its containers are asked for one by one.
        None => Stats::default(),
    };
    metrics::any(&used)
}
