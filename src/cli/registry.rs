//! How the verbs that speak to a registry do that, and who the user is to it.

use std::io::{self, Write};
use std::path::PathBuf;

use super::Failure;
use crate::image::registry::{Logins, Settings};
use crate::sandbox::Config;

/// Options of the verbs that speak to a registry.
#[derive(Debug, Clone, clap::Args)]
pub struct RegistryArgs {
    /// Whether the registry's certificate must be trusted; without, plain HTTP is taken as well
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set,
        num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    tls_verify: bool,
    /// Folder of certificates, in place of /etc/docker/certs.d/REGISTRY
    #[arg(long, value_name = "DIR")]
    cert_dir: Option<PathBuf>,
}

impl Default for RegistryArgs {
    fn default() -> Self {
        Self { tls_verify: true, cert_dir: None }
    }
}

impl RegistryArgs {
    /// With what the host's owner and the user's files of logins say.
    pub fn settings(&self) -> Result<Settings, Failure> {
        Ok(Settings {
            registries: Config::load()?.registry,
            tls_verify: self.tls_verify,
            cert_dir: self.cert_dir.clone(),
            logins: Logins::of_environment(),
            told: |host, time| {
                let seconds = time.as_secs();
                // Nobody is left to tell where standard error is closed.
                drop(writeln!(
                    io::stderr(),
                    "The registry {host} wants to be asked again in {seconds} s: waiting"
                ));
            },
        })
    }
}
