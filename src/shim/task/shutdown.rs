//! `Shutdown`: containerd needs the shim no more, once the last container is gone.

use crate::shim::error::ShimError;
use crate::shim::tasks::Tasks;

/// Runs the method.
pub fn shutdown(tasks: &Tasks, now: bool) -> Result<(), ShimError> {
    if !now && !tasks.all().is_empty() {
        return Ok(());
    }
    let ended = tasks.end_sandbox();
    tasks.exit.0.signal();
    ended
}
