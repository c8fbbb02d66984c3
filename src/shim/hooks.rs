//! The hooks of a `config.json` that run on the host: the same as those of `ampoule-oci`. What they are
//! told as the pid is the monitor's, in whose network namespace they may lay interfaces.

use std::path::Path;

use jiff::Timestamp;
use oci_spec::runtime::Spec;

use super::error::ShimError;
use crate::oci::hooks::{self, Kind};
use crate::oci::{OciError, Record, RecordStatus};
use crate::sandbox::Places;

/// Whose hooks are to run.
#[derive(Debug)]
pub struct Hooked<'a> {
    /// The container's id.
    pub id: &'a str,
    /// Its bundle.
    pub bundle: &'a Path,
    /// Its `config.json`.
    pub spec: &'a Spec,
    /// Pid that stands for it.
    pub pid: u32,
}

impl Hooked<'_> {
    /// Runs those of these kinds, one after another, up to the first that fails.
    pub fn run(&self, kinds: &[Kind]) -> Result<(), ShimError> {
        for kind in kinds.iter().filter(|kind| kind.is_in(self.spec)) {
            hooks::run(self.spec, *kind, &self.record()).map_err(OciError::from)?;
        }
        Ok(())
    }

    fn record(&self) -> Record {
        let root = self.spec.root().as_ref().map(|root| self.bundle.join(root.path()));
        Record {
            oci_version: self.spec.version().clone(),
            id: self.id.to_owned(),
            // Hooks are told what befits their kind.
            status: RecordStatus::Created,
            pid: i32::try_from(self.pid).unwrap_or(0),
            bundle: self.bundle.to_owned(),
            rootfs: root.unwrap_or_default(),
            created: Timestamp::now(),
            annotations: self.spec.annotations().clone().unwrap_or_default(),
            vsock: Default::default(),
            places: Places::of_environment(),
            cgroups: Vec::new(),
            failure: None,
        }
    }
}
