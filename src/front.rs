//! The front ends are one program: which of them it is, is said by the name that it was called by, so
//! that one file and two links are an installation.

use std::ffi::OsStr;
use std::path::Path;
use std::process::ExitCode;

use crate::{cli, oci, shim};

/// A front end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Front {
    /// `ampoule`
    Cli,
    /// `ampoule-oci`
    Oci,
    /// `containerd-shim-ampoule-v2`
    Shim,
}

/// The front end that a program of this name is.
fn named(name: &OsStr) -> Front {
    let name = Path::new(name).file_name().unwrap_or_default().as_encoded_bytes();
    if name.starts_with(b"containerd-shim-") {
        Front::Shim
    } else if name.ends_with(b"-oci") {
        Front::Oci
    } else {
        Front::Cli
    }
}

/// Runs the front end that this program was called as.
pub fn main() -> ExitCode {
    match named(&std::env::args_os().next().unwrap_or_default()) {
        Front::Cli => cli::main(),
        Front::Oci => oci::main(),
        Front::Shim => shim::main(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_says_it() {
        for (name, front) in [
            ("ampoule", Front::Cli),
            ("/usr/local/bin/ampoule", Front::Cli),
            ("./ampoule-oci", Front::Oci),
            ("/x-oci/ampoule", Front::Cli),
            ("/usr/bin/containerd-shim-ampoule-v2", Front::Shim),
            ("", Front::Cli),
        ] {
            assert_eq!(named(OsStr::new(name)), front, "{name}");
        }
    }
}
