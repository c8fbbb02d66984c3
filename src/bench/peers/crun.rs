//! crun: the quickest of the OCI runtimes that share the host's kernel.

use std::path::Path;

use super::oci_runtime::OciRuntime;
use super::{Setting, Unready};
use crate::bench::entrant::Entrant;
use crate::bench::interrupt::Interrupt;

/// One entrant, whatever the modes: it has no others.
pub fn prepare(
    program: &Path,
    version: String,
    setting: &Setting<'_>,
    interrupt: &Interrupt,
) -> Result<Vec<Entrant>, Unready> {
    let runtime = OciRuntime::new(program, "crun", setting, interrupt)?;
    let does = "crun run: the same image's files and config.json, on the host's kernel";
    let subject = Box::new(runtime);
    Ok(vec![Entrant { name: "crun".into(), does, version, ours: false, subject }])
}
