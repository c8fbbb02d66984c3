//! Who the user is to a registry: docker's `config.json`, podman's `auth.json`, and the programs
//! that these name for secrets (`docker-credential-…`).

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use docker_credential::{CredentialRetrievalError, DockerCredential, get_credential_from_reader};
use serde_json::{Map, Value, json};
use tempfile::NamedTempFile;

use super::hosts::DOCKER_HUB;

/// The name of Docker Hub in docker's file.
const HUB_KEY: &str = "https://index.docker.io/v1/";

/// Largest file that is read, in bytes.
const LIMIT: u64 = 4 << 20;

/// Why a file of logins, or a program that keeps secrets, is no help.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// the file
    #[error("cannot use the logins in {}", path.display())]
    File {
        /// the file
        path: PathBuf,
        /// why
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// the program that keeps the secrets
    #[error("the program {program} that keeps secrets failed{said}")]
    Helper {
        /// its name
        program: String,
        /// its words, with a colon before them
        said: String,
    },
    /// there is no place for such a file
    #[error("no place for logins: neither DOCKER_CONFIG nor HOME is set")]
    NoHome,
}

/// What proves who somebody is.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// a name and a password
    Password {
        /// the name
        user: String,
        /// the password
        password: String,
    },
    /// what a token server gave at a login, to be exchanged for tokens
    IdentityToken(String),
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Password { .. } => "Password",
            Self::IdentityToken(_) => "IdentityToken",
        })
    }
}

/// The files with a user's logins, the first that knows a registry decides. New ones go into the
/// first.
#[derive(Debug, Clone, Default)]
pub struct Logins {
    files: Vec<PathBuf>,
}

impl Logins {
    /// Those that docker and podman look for.
    #[must_use]
    pub fn of_environment() -> Self {
        Self::by(&|name| env::var_os(name).filter(|value| !value.is_empty()))
    }

    fn by(variable: &dyn Fn(&str) -> Option<OsString>) -> Self {
        // Who names a file means it alone.
        if let Some(file) = variable("REGISTRY_AUTH_FILE") {
            return Self { files: vec![file.into()] };
        }
        let docker = variable("DOCKER_CONFIG").map(PathBuf::from);
        let docker = docker.or_else(|| Some(PathBuf::from(variable("HOME")?).join(".docker")));
        let runtime = variable("XDG_RUNTIME_DIR").map(PathBuf::from);
        let files = [
            docker.map(|folder| folder.join("config.json")),
            runtime.map(|folder| folder.join("containers/auth.json")),
            Some("/run/containers/0/auth.json".into()).filter(|_| nix::unistd::geteuid().is_root()),
        ];
        Self { files: files.into_iter().flatten().collect() }
    }

    /// What the user has for a registry, if anything.
    pub fn find(&self, host: &str) -> Result<Option<Secret>, LoginError> {
        for path in &self.files {
            let Some(bytes) = read(path)? else { continue };
            let failed = |error: CredentialRetrievalError| LoginError::File {
                path: path.clone(),
                source: error.to_string().into(),
            };
            match get_credential_from_reader(&*bytes, key(host)) {
                Ok(DockerCredential::UsernamePassword(user, password)) => {
                    return Ok(Some(Secret::Password { user, password }));
                }
                Ok(DockerCredential::IdentityToken(token)) => {
                    return Ok(Some(Secret::IdentityToken(token)));
                }
                Err(CredentialRetrievalError::NoCredentialConfigured) => {}
                Err(CredentialRetrievalError::HelperFailure { stdout, .. })
                    if stdout.contains("credentials not found") => {}
                Err(CredentialRetrievalError::HelperFailure { helper, stdout, stderr }) => {
                    return Err(helper_failed(helper, &format!("{stdout}{stderr}")));
                }
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(None)
    }

    /// The name that the user has at a registry, for whoever asks for a password.
    pub fn user(&self, host: &str) -> Option<String> {
        match self.find(host) {
            Ok(Some(Secret::Password { user, .. })) => Some(user),
            _ => None,
        }
    }

    /// Keeps a name and a password; where they are now.
    pub fn add(&self, host: &str, user: &str, password: &str) -> Result<PathBuf, LoginError> {
        let path = self.files.first().ok_or(LoginError::NoHome)?;
        let key = key(host);
        let mut entry = Value::Null;
        change(path, |file| {
            entry = match helper(file, key) {
                Some(helper) => {
                    let secret = json!({"ServerURL": key, "Username": user, "Secret": password});
                    ask(&helper, "store", &secret.to_string())?;
                    json!({})
                }
                None => json!({"auth": STANDARD.encode(format!("{user}:{password}"))}),
            };
            let auths = file.entry("auths").or_insert_with(|| json!({}));
            if let Some(auths) = auths.as_object_mut() {
                auths.insert(key.to_owned(), entry.take());
            }
            Ok(true)
        })?;
        Ok(path.clone())
    }

    /// Forgets a registry, in every file; whether one of them knew it.
    pub fn remove(&self, host: &str) -> Result<bool, LoginError> {
        let mut known = false;
        for path in self.files.iter().filter(|path| path.exists()) {
            change(path, |file| {
                let key = key(host);
                let auths = file.get_mut("auths").and_then(Value::as_object_mut);
                let removed = auths.is_some_and(|auths| auths.remove(key).is_some());
                let asked = match helper(file, key) {
                    Some(helper) if removed => ask(&helper, "erase", key).map(|()| true)?,
                    _ => false,
                };
                known |= removed || asked;
                Ok(removed)
            })?;
        }
        Ok(known)
    }
}

/// The name of a registry in the files.
fn key(host: &str) -> &str {
    if host == DOCKER_HUB || host == "registry-1.docker.io" || host == "index.docker.io" {
        HUB_KEY
    } else {
        host
    }
}

fn file_error<E>(path: &Path) -> impl Fn(E) -> LoginError
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    move |source| LoginError::File { path: path.to_owned(), source: source.into() }
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, LoginError> {
    let mut bytes = Vec::new();
    match File::open(path).and_then(|file| file.take(LIMIT + 1).read_to_end(&mut bytes)) {
        Ok(_) if bytes.len() as u64 > LIMIT => {
            Err(file_error(path)(format!("it is larger than {LIMIT} bytes")))
        }
        // As docker makes it by `touch`, or podman at its first login.
        Ok(0) => Ok(None),
        Ok(_) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(file_error(path)(error)),
    }
}

/// Changes a file, of which all else stays as it is, and which only its owner may read.
fn change(
    path: &Path,
    act: impl FnOnce(&mut Map<String, Value>) -> Result<bool, LoginError>,
) -> Result<(), LoginError> {
    // A link stays one.
    let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mut file: Map<String, Value> = match read(path)? {
        Some(bytes) => serde_json::from_slice(&bytes).map_err(file_error(path))?,
        None => Map::new(),
    };
    if !act(&mut file)? {
        return Ok(());
    }
    let folder = path.parent().unwrap_or(Path::new("."));
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(file_error(folder))?;
    let text = serde_json::to_vec_pretty(&file).map_err(file_error(path))?;
    let mut new = NamedTempFile::new_in(folder).map_err(file_error(path))?;
    new.as_file().set_permissions(fs::Permissions::from_mode(0o600)).map_err(file_error(path))?;
    new.write_all(&text).and_then(|()| new.as_file().sync_all()).map_err(file_error(path))?;
    new.persist(path).map_err(file_error(path))?;
    Ok(())
}

/// The program that keeps the secret of a registry.
fn helper(file: &Map<String, Value>, key: &str) -> Option<String> {
    let own = file.get("credHelpers").and_then(|helpers| helpers.get(key));
    let name = own.or_else(|| file.get("credsStore"))?.as_str()?;
    (!name.is_empty()).then(|| format!("docker-credential-{name}"))
}

fn helper_failed(program: String, said: &str) -> LoginError {
    let said: String = said.trim().chars().take(500).collect();
    let said = if said.is_empty() { said } else { format!(": {said}") };
    LoginError::Helper { program, said }
}

fn ask(program: &str, verb: &str, input: &str) -> Result<(), LoginError> {
    let failed = |error: io::Error| helper_failed(program.to_owned(), &error.to_string());
    let mut child = Command::new(program)
        .arg(verb)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends before it has read all says why by its status.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    Err(helper_failed(program.to_owned(), &String::from_utf8_lossy(&said)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logins(folder: &Path, text: &str) -> Logins {
        let path = folder.join("config.json");
        fs::write(&path, text).unwrap();
        Logins { files: vec![path] }
    }

    fn password(user: &str, password: &str) -> Option<Secret> {
        Some(Secret::Password { user: user.into(), password: password.into() })
    }

    #[test]
    fn docker_s_file_is_understood() {
        let folder = tempfile::tempdir().unwrap();
        let text = r#"{"auths": {"a:5000": {"auth": "dTpw"},
            "https://index.docker.io/v1/": {"auth": "aDpw"},
            "t": {"auth": "dTpw", "identitytoken": "x"}}}"#;
        let logins = logins(folder.path(), text);
        assert_eq!(logins.find("a:5000").unwrap(), password("u", "p"));
        assert_eq!(logins.find("docker.io").unwrap(), password("h", "p"));
        assert_eq!(logins.find("t").unwrap(), Some(Secret::IdentityToken("x".into())));
        assert_eq!(logins.find("b").unwrap(), None);
    }

    #[test]
    fn what_else_is_in_the_file_stays_there() {
        let folder = tempfile::tempdir().unwrap();
        let logins = logins(folder.path(), r#"{"proxies": {"a": 1}, "auths": {"x": {}}}"#);
        let path = logins.add("reg:1", "me", "pass:word").unwrap();
        assert_eq!(logins.find("reg:1").unwrap(), password("me", "pass:word"));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(logins.remove("reg:1").unwrap());
        assert!(!logins.remove("reg:1").unwrap());
        let file: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(file, json!({"proxies": {"a": 1}, "auths": {"x": {}}}));
    }

    #[test]
    fn a_damaged_file_is_named_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let logins = logins(folder.path(), "{");
        let path = folder.path().join("config.json");
        for error in [logins.find("x").unwrap_err(), logins.add("x", "u", "p").unwrap_err()] {
            assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        }
        assert_eq!(fs::read(path).unwrap(), b"{");
    }

    #[test]
    fn who_names_a_file_means_it_alone() {
        let all = |name: &str| Some(OsString::from(format!("/{name}")));
        assert_eq!(Logins::by(&all).files, [Path::new("/REGISTRY_AUTH_FILE")]);
        let some = |name: &str| (name == "HOME").then(|| OsString::from("/home/u"));
        assert_eq!(Logins::by(&some).files[0], Path::new("/home/u/.docker/config.json"));
    }
}
