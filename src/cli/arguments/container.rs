//! What a container is: `run`, and whatever else makes one.

use std::env;
use std::path::{Component, Path, PathBuf};

use clap::Args;

use super::super::Failure;
use super::limits::LimitArgs;
use super::metadata::{self, MetadataArgs};
use super::network::NetworkArgs;
use super::rates::RateArgs;
use super::security::SecurityArgs;
use super::storage::StorageArgs;
use super::{ProcessArgs, terminal_for};
use crate::sandbox::{Options, Places};
use crate::terminal;

/// Everything that says what a container is, and not how it is started.
#[derive(Debug, Args)]
pub struct ContainerArgs {
    /// Name of the container
    #[arg(long)]
    name: Option<String>,
    /// Host name of the container (default: the beginning of its id)
    #[arg(short = 'h', long, value_name = "NAME")]
    hostname: Option<String>,
    /// Program that replaces the image's entrypoint; empty for none
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<String>,
    #[command(flatten)]
    storage: StorageArgs,
    #[command(flatten)]
    network: NetworkArgs,
    #[command(flatten)]
    limits: LimitArgs,
    #[command(flatten)]
    rates: RateArgs,
    #[command(flatten)]
    security: SecurityArgs,
    #[command(flatten)]
    metadata: MetadataArgs,
    /// Run an init as the container's first process: it passes signals on and collects orphans
    #[arg(long)]
    init: bool,
    /// Further group of the program, by name or id
    #[arg(long = "group-add", value_name = "GROUP")]
    groups: Vec<String>,
    /// File of environment variables, one a line
    #[arg(long = "env-file", value_name = "FILE")]
    env_files: Vec<PathBuf>,
    /// Control group of the host that the sandbox's own is made in
    #[arg(long, value_name = "PATH", value_parser = cgroup_parent)]
    cgroup_parent: Option<PathBuf>,
    /// Use the image only if this program accepts it (docs/security.md)
    #[arg(long, value_name = "PROGRAM", env = "AMPOULE_VERIFY_WITH")]
    verify_with: Option<PathBuf>,
    /// Another guest kernel than ampoule's
    #[arg(long, value_name = "PATH")]
    kernel: Option<PathBuf>,
    #[command(flatten)]
    process: ProcessArgs,
    /// Image to run
    image: String,
    /// Program and arguments, in place of the image's
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
}

/// A path below the root of all control groups.
fn cgroup_parent(text: &str) -> Result<PathBuf, String> {
    let path: PathBuf =
        Path::new(text).components().filter(|part| *part != Component::RootDir).collect();
    let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
    if path.as_os_str().is_empty() || !plain {
        return Err("it is to be the path of a group, such as /machines/web".into());
    }
    Ok(path)
}

impl ContainerArgs {
    /// Refuses a terminal that nobody could type to; one that stays behind needs none.
    pub fn check_terminal(&self, detach: bool) -> Result<(), &'static str> {
        terminal_for(self.process.tty, self.process.interactive && !detach)
    }

    /// The options, all that they name on the host by absolute paths: they are used again wherever
    /// the container is started. How it is started is for the caller to say.
    pub fn options(self, places: &Places) -> Result<Options, Failure> {
        let StorageArgs { read_only, layer_size, .. } = self.storage;
        let mounts = self.storage.mounts(places)?;
        let files = metadata::variables(&self.env_files)?;
        let env = self.process.env(files, |name| env::var(name).ok());
        let absolute = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
        Ok(Options {
            image: self.image,
            verify_with: self.verify_with.map(absolute),
            command: self.command,
            entrypoint: self.entrypoint,
            env,
            workdir: self.process.workdir,
            user: self.process.user,
            hostname: self.hostname,
            name: self.name,
            cpus: self.limits.cpus,
            memory: self.limits.memory,
            kernel: self.kernel.map(absolute),
            interactive: self.process.interactive,
            terminal: self.process.tty,
            terminal_size: self.process.tty.then(terminal::size).flatten(),
            mounts,
            read_only,
            layer_size,
            limits: self.limits.limits()?,
            rates: self.rates.rates(),
            security: self.security.security()?,
            init: self.init,
            network: self.network.options(places)?,
            groups: self.groups,
            labels: self.metadata.labels()?,
            annotations: self.metadata.annotations(),
            stop_signal: self.metadata.stop_signal,
            stop_timeout: self.metadata.stop_timeout,
            cgroup_parent: self.cgroup_parent,
            ..Options::default()
        })
    }
}
