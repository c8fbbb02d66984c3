//! `Update`: other limits for a container.

use ampoule_protocol::message::Request;
use containerd_shim::protos::api::UpdateTaskRequest;
use oci_spec::runtime::LinuxResources;

use crate::shim::error::ShimError;
use crate::shim::tasks::Tasks;

/// Runs the method.
pub fn update(tasks: &Tasks, request: &UpdateTaskRequest) -> Result<(), ShimError> {
    let task = tasks.find(&request.id)?;
    let invalid = |error: serde_json::Error| ShimError::Usage(format!("resources: {error}"));
    let mut resources: LinuxResources =
        serde_json::from_slice(&request.resources.value).map_err(invalid)?;
    // A pod's limits are those of its containers.
    let Ok(guest) = task.init.guest() else { return Ok(()) };
    let sandbox = tasks.sandbox()?;
    sandbox.check_limits(&mut resources)?;
    let container = guest.container.clone();
    sandbox.call(&Request::Update { container, resources: Box::new(resources) })
}
