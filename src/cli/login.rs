//! `ampoule login`: who the user is to a registry.

use std::io::{self, IsTerminal, Read, Write};
use std::process::ExitCode;

use super::registry::RegistryArgs;
use super::{Failure, Global, say};
use crate::image::registry::{Logins, check_login, registry_of};

/// Longest password that is read, in bytes.
const LIMIT: u64 = 64 << 10;

/// Log in to a registry
///
/// The registry is asked first; then name and password go where docker keeps them: `~/.docker/config.json`
/// (or the file of `$DOCKER_CONFIG`, `$REGISTRY_AUTH_FILE`), or the program that it names for secrets.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  ampoule login\n  \
    pass show registry | ampoule login -u me --password-stdin registry.test")]
pub struct Args {
    /// Name of the user
    #[arg(short, long)]
    username: Option<String>,
    /// Password; others on this machine can see it
    #[arg(short, long, conflicts_with = "password_stdin")]
    password: Option<String>,
    /// Read the password from standard input
    #[arg(long, requires = "username")]
    password_stdin: bool,
    #[command(flatten)]
    registry: RegistryArgs,
    /// The registry [default: docker.io]
    #[arg(value_name = "REGISTRY", default_value = "", hide_default_value = true)]
    server: String,
}

/// Asks the registry and keeps what is right.
pub fn run(args: &Args, _global: &Global) -> Result<ExitCode, Failure> {
    let host = registry_of(&args.server);
    let logins = Logins::of_environment();
    let user = match &args.username {
        Some(user) => user.clone(),
        None => ask_user(&logins, &host)?,
    };
    let password = password(args)?;
    if user.is_empty() || user.contains(':') {
        return Err("the name of a user is not empty and has no colon".into());
    }
    check_login(&args.registry.settings()?, &host, &user, &password)?;
    let path = logins.add(&host, &user, &password)?;
    if args.password.is_some() {
        eprintln!(
            "ampoule: warning: others can see a password in --password: use --password-stdin"
        );
    }
    eprintln!("ampoule: the login is kept in {}", path.display());
    say("Login Succeeded");
    Ok(ExitCode::SUCCESS)
}

fn needs_terminal() -> Failure {
    "no terminal to ask for name and password: give -u NAME and --password-stdin".into()
}

fn ask_user(logins: &Logins, host: &str) -> Result<String, Failure> {
    if !io::stdin().is_terminal() {
        return Err(needs_terminal());
    }
    let known = logins.user(host);
    match &known {
        Some(known) => print!("Username ({known}): "),
        None => print!("Username: "),
    }
    io::stdout().flush()?;
    let mut line = String::new();
    io::stdin().read_line(&mut line)?;
    let line = line.trim();
    Ok(if line.is_empty() { known.unwrap_or_default() } else { line.to_owned() })
}

fn password(args: &Args) -> Result<String, Failure> {
    if let Some(password) = &args.password {
        return Ok(password.clone());
    }
    if args.password_stdin {
        let mut text = String::new();
        io::stdin().lock().take(LIMIT).read_to_string(&mut text)?;
        let text = text.strip_suffix('\n').unwrap_or(&text);
        return Ok(text.strip_suffix('\r').unwrap_or(text).to_owned());
    }
    if !io::stdin().is_terminal() {
        return Err(needs_terminal());
    }
    Ok(rpassword::prompt_password("Password: ")?)
}
