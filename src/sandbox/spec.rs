//! The OCI `config.json` of a container: docker's defaults, the image's configuration, the user's
//! options over it. Pure.

use ampoule_protocol::{AGENT_PATH, INIT_PATH};
use oci_spec::image::ImageConfiguration;
use oci_spec::runtime::{BoxBuilder, Capabilities, Mount, Process, Spec};

use super::limits;
use super::options::Options;

/// docker's default `PATH`, where the image has none.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Why no spec could be made.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// neither the image nor the user names a program
    #[error("no command specified: image {0} has no Entrypoint and no Cmd; name a program to run")]
    NoCommand(String),
    /// the working directory is not absolute
    #[error("the working directory {0:?} is invalid: it must be an absolute path")]
    RelativeWorkdir(String),
    /// an environment entry without a name
    #[error("invalid environment variable: {0:?}")]
    InvalidEnv(String),
    /// the built-in defaults are broken
    #[error("the default specification is not valid")]
    Defaults(#[source] serde_json::Error),
}

/// A container's spec, and the user it names (resolved in the guest, where the image's
/// `/etc/passwd` is).
#[derive(Debug, Clone)]
pub struct ContainerSpec {
    /// The `config.json`.
    pub spec: Spec,
    /// The `User` of the options or the image, if any.
    pub user: Option<String>,
    /// Further groups of it.
    pub groups: Vec<String>,
}

fn defaults() -> Result<Spec, SpecError> {
    serde_json::from_str(include_str!("default-spec.json")).map_err(SpecError::Defaults)
}

/// The capabilities that a container has where nothing is said of them.
pub fn usual_capabilities() -> Result<Capabilities, SpecError> {
    let process = defaults()?.process().clone().unwrap_or_default();
    Ok(process.capabilities().as_ref().and_then(|sets| sets.bounding().clone()).unwrap_or_default())
}

/// Makes the spec of a container with this id.
pub fn container(
    id: &str,
    image: &ImageConfiguration,
    options: &Options,
) -> Result<ContainerSpec, SpecError> {
    let mut spec = defaults()?;
    let config = image.config().clone().unwrap_or_default();
    let hostname = options.hostname.clone().unwrap_or_else(|| id.chars().take(12).collect());

    let mut process = spec.process().clone().unwrap_or_default();
    let mut args = command(image, options)?;
    if options.init {
        args.splice(..0, [INIT_PATH, "--"].map(str::to_owned));
        spec.set_mounts(Some(with_init(spec.mounts().clone().unwrap_or_default())));
    }
    process.set_args(Some(args));
    process.set_env(Some(environment(
        config.env().as_deref().unwrap_or_default(),
        &options.env,
        &hostname,
        options.terminal,
    )?));
    process
        .set_cwd(workdir(options.workdir.as_deref().or(config.working_dir().as_deref()))?.into());
    set_terminal(&mut process, options.terminal, options.terminal_size);
    spec.set_process(Some(process));
    spec.set_hostname(Some(hostname));

    if let Some(root) = spec.root_mut() {
        root.set_readonly(Some(options.read_only));
    }
    if let Some(linux) = spec.linux_mut() {
        linux.set_resources(Some(limits::resources(options)));
    }
    options.limits.add_to(&mut spec);
    options.security.add_to(&mut spec);
    if !options.annotations.is_empty() {
        spec.set_annotations(Some(options.annotations.clone().into_iter().collect()));
    }
    let user = options.user.clone().or_else(|| config.user().clone()).filter(|u| !u.is_empty());
    let groups = options.groups.clone();
    Ok(ContainerSpec { spec, user, groups })
}

/// The agent's own binary, where the container's first process finds it.
fn with_init(mut mounts: Vec<Mount>) -> Vec<Mount> {
    let mut init = Mount::default();
    init.set_destination(INIT_PATH.into());
    init.set_typ(Some("bind".into()));
    init.set_source(Some(AGENT_PATH.into()));
    init.set_options(Some(["bind", "ro", "nosuid", "nodev"].map(str::to_owned).into()));
    mounts.push(init);
    mounts
}

/// Program and arguments: docker's rules for `Entrypoint`, `Cmd` and what replaces them.
pub fn command(image: &ImageConfiguration, options: &Options) -> Result<Vec<String>, SpecError> {
    let config = image.config().as_ref();
    let image_entrypoint = config.and_then(|c| c.entrypoint().clone()).unwrap_or_default();
    let image_cmd = config.and_then(|c| c.cmd().clone()).unwrap_or_default();
    let (mut args, default_cmd) = match &options.entrypoint {
        Some(entrypoint) if entrypoint.is_empty() => (Vec::new(), Vec::new()),
        Some(entrypoint) => (vec![entrypoint.clone()], Vec::new()),
        None => (image_entrypoint, image_cmd),
    };
    args.extend(if options.command.is_empty() { default_cmd } else { options.command.clone() });
    if args.is_empty() {
        return Err(SpecError::NoCommand(options.image.clone()));
    }
    Ok(args)
}

/// The process of an exec: what it does not name is taken from the container's first process.
pub fn exec_process(
    args: Vec<String>,
    env: Vec<String>,
    workdir: Option<&str>,
    terminal: Option<Option<(u16, u16)>>,
) -> Result<Process, SpecError> {
    let mut process = Process::default();
    process.set_args(Some(args));
    if let Some(invalid) = env.iter().find(|entry| !is_env(entry)) {
        return Err(SpecError::InvalidEnv(invalid.clone()));
    }
    process.set_env(Some(env));
    // Empty: the container's own.
    process.set_cwd(workdir.unwrap_or_default().into());
    process.set_no_new_privileges(None);
    process.set_capabilities(None);
    process.set_rlimits(None);
    set_terminal(&mut process, terminal.is_some(), terminal.flatten());
    Ok(process)
}

fn set_terminal(process: &mut Process, terminal: bool, size: Option<(u16, u16)>) {
    process.set_terminal(Some(terminal));
    let size = size
        .filter(|_| terminal)
        .and_then(|(rows, columns)| BoxBuilder::default().height(rows).width(columns).build().ok());
    process.set_console_size(size);
}

fn is_env(entry: &str) -> bool {
    !entry.is_empty() && !entry.starts_with('=') && !entry.contains('\0')
}

/// docker's order: `PATH`, `HOSTNAME`, `TERM`, then the image's and the user's, of which the last of
/// a name counts.
fn environment(
    image: &[String],
    user: &[String],
    hostname: &str,
    terminal: bool,
) -> Result<Vec<String>, SpecError> {
    let mut env = vec![DEFAULT_PATH.to_owned(), format!("HOSTNAME={hostname}")];
    if terminal {
        env.push("TERM=xterm".to_owned());
    }
    for entry in image.iter().chain(user) {
        if !is_env(entry) {
            return Err(SpecError::InvalidEnv(entry.clone()));
        }
        let name = entry.split_once('=').map_or(entry.as_str(), |(name, _)| name);
        let same = |known: &String| known.split_once('=').is_some_and(|(n, _)| n == name);
        match env.iter_mut().find(|known| same(known)) {
            Some(known) => known.clone_from(entry),
            None => env.push(entry.clone()),
        }
    }
    Ok(env)
}

fn workdir(wanted: Option<&str>) -> Result<&str, SpecError> {
    match wanted {
        None | Some("") => Ok("/"),
        Some(path) if path.starts_with('/') => Ok(path),
        Some(path) => Err(SpecError::RelativeWorkdir(path.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn image(config: serde_json::Value) -> ImageConfiguration {
        serde_json::from_value(json!({
            "architecture": "amd64", "os": "linux", "config": config,
            "rootfs": { "type": "layers", "diff_ids": [] }, "history": []
        }))
        .unwrap()
    }

    fn args(config: serde_json::Value, options: Options) -> Result<Vec<String>, SpecError> {
        command(&image(config), &options)
    }

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|w| (*w).to_owned()).collect()
    }

    #[test]
    fn entrypoint_and_cmd_are_joined_and_replaced_as_docker_does() {
        let both = json!({ "Entrypoint": ["e"], "Cmd": ["c", "d"] });
        let plain = Options::default();
        assert_eq!(args(both.clone(), plain.clone()).unwrap(), words(&["e", "c", "d"]));
        let command = Options { command: words(&["x"]), ..plain.clone() };
        assert_eq!(args(both.clone(), command.clone()).unwrap(), words(&["e", "x"]));
        let entry = Options { entrypoint: Some("y".into()), ..plain.clone() };
        assert_eq!(args(both.clone(), entry).unwrap(), words(&["y"]));
        let cleared = Options { entrypoint: Some(String::new()), ..command };
        assert_eq!(args(both, cleared).unwrap(), words(&["x"]));
        assert!(matches!(args(json!({}), plain), Err(SpecError::NoCommand(_))));
    }

    #[test]
    fn the_last_value_of_a_variable_counts() {
        let env = environment(
            &words(&["PATH=/p", "A=1"]),
            &words(&["A=2", "B=", "HOSTNAME=h"]),
            "host",
            true,
        );
        assert_eq!(env.unwrap(), words(&["PATH=/p", "HOSTNAME=h", "TERM=xterm", "A=2", "B="]));
        assert!(environment(&[], &words(&["=x"]), "h", false).is_err());
    }

    #[test]
    fn the_images_configuration_reaches_the_spec() {
        let config =
            json!({ "Cmd": ["sh"], "User": "app:www", "WorkingDir": "/srv", "Env": ["K=V"] });
        let made = container(&"ab".repeat(32), &image(config), &Options::default()).unwrap();
        let process = made.spec.process().as_ref().unwrap();
        assert_eq!(process.cwd().to_str(), Some("/srv"));
        assert!(process.env().as_ref().unwrap().contains(&"K=V".to_owned()));
        assert_eq!(made.user.as_deref(), Some("app:www"));
        assert_eq!(made.spec.hostname().as_deref(), Some("abababababab"));
    }

    #[test]
    fn a_relative_working_directory_is_refused() {
        assert!(matches!(workdir(Some("x")), Err(SpecError::RelativeWorkdir(_))));
    }
}
