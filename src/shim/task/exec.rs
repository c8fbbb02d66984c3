//! `Exec`: a further process, which is started later.

use ampoule_protocol::message::ProcessId;
use containerd_shim::protos::api::ExecProcessRequest;
use oci_spec::runtime::Process as Spec;

use crate::sandbox::container::fresh_name;
use crate::shim::error::ShimError;
use crate::shim::process::{Process, Status};
use crate::shim::stdio::Paths;
use crate::shim::tasks::Tasks;

/// Runs the method.
pub fn exec(tasks: &Tasks, request: &ExecProcessRequest) -> Result<(), ShimError> {
    let task = tasks.find(&request.id)?;
    if request.exec_id.is_empty() {
        return Err(ShimError::Usage("a further process has a name".into()));
    }
    let container = task.init.guest()?.container.clone();
    if matches!(*task.init.status(), Status::Stopped(_)) {
        return Err(ShimError::WrongState(format!("container {} is not running", task.id)));
    }
    let invalid = |error: serde_json::Error| ShimError::Usage(format!("process: {error}"));
    let mut spec: Spec = serde_json::from_slice(&request.spec.value).map_err(invalid)?;
    spec.set_terminal(Some(request.terminal));
    // These are for the host's kernel.
    spec.set_apparmor_profile(None).set_selinux_label(None);
    let paths = Paths {
        stdin: request.stdin.clone(),
        stdout: request.stdout.clone(),
        stderr: request.stderr.clone(),
        terminal: request.terminal,
    };
    let guest = ProcessId { container, process: fresh_name("exec")? };
    task.add(&request.exec_id, Process::new(Some(guest), paths, Some(Box::new(spec))))?;
    tasks.events.exec_added(&task.id, &request.exec_id);
    Ok(())
}
