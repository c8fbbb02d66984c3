//! This program's own starts as an OCI runtime: `ampoule-oci`.

use std::io;

use super::entrant::Entrant;
use super::interrupt::Interrupt;
use super::peers::oci_runtime::{self, Runtime};
use super::peers::{Setting, Unready};

/// Entrants for the ways of starting that are an OCI runtime's.
pub fn entrants(setting: &Setting<'_>, interrupt: &Interrupt) -> Result<Vec<Entrant>, Unready> {
    // It is installed beside this program.
    let program = std::env::current_exe()?.with_file_name("ampoule-oci");
    if !program.is_file() {
        let message = format!("there is no {}", program.display());
        return Err(io::Error::new(io::ErrorKind::NotFound, message).into());
    }
    let runtime = Runtime {
        name: "ampoule-oci",
        program,
        version: format!("ampoule {}", env!("CARGO_PKG_VERSION")),
        ours: true,
        environment: vec![
            ("AMPOULE_STATE", setting.places.state.clone()),
            ("AMPOULE_TEMPLATES", setting.places.templates()),
        ],
    };
    oci_runtime::entrants(&runtime, setting, interrupt)
}
