//! Asks programs of the host's owner whether an image may be used (docs/security.md has the
//! contract).
//!
//! What is asked about is a manifest: by the digests in it, it stands for configuration and layers,
//! which a load compares.

use std::env;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ampoule_protocol::hooks;
use oci_spec::image::ImageManifest;
use oci_spec::runtime::HookBuilder;

use super::digest::Digest;
use super::reference::Reference;
use super::store::{Image, StoreError};

/// Where it is there, it is asked about every image, whatever a command line or environment says.
pub const OF_HOST: &str = "/etc/ampoule/verify-image";

/// How long a program may take for an answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a program gets of the environment, and all names that begin with [`PASSED_PREFIXES`]: what
/// it needs to find programs, keys and registries.
const PASSED: [&str; 20] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "LANG",
    "TZ",
    "TMPDIR",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "all_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "DOCKER_CONFIG",
    "REGISTRY_AUTH_FILE",
    "GNUPGHOME",
];

const PASSED_PREFIXES: [&str; 6] = ["LC_", "XDG_", "COSIGN_", "SIGSTORE_", "TUF_", "NOTATION_"];

/// Why an image may not be used.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// the program said no, or could not be asked
    #[error("the image {image} is refused by {}", program.display())]
    Refused {
        /// as it was named to the program
        image: String,
        /// the program
        program: PathBuf,
        /// its end, and its last words
        #[source]
        source: io::Error,
    },
    /// there is nothing that could have been signed
    #[error(
        "the image {image} has no manifest that {} could be asked about: use an OCI layout \
         (skopeo copy … oci-archive:FILE, docker save since version 25), not an archive of \
         `docker save`'s older kind",
        program.display()
    )]
    NoManifest {
        /// its name or id
        image: String,
        /// the program
        program: PathBuf,
    },
    /// whether the host has such a program cannot be found out
    #[error("cannot look for {OF_HOST}")]
    Host(#[source] io::Error),
}

/// What an image is wanted for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Purpose {
    /// To be taken into the store.
    #[default]
    Load,
    /// To start a container of it.
    Run,
}

impl Purpose {
    fn word(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Run => "run",
        }
    }
}

/// The programs that have a say.
#[derive(Debug, Clone, Default)]
pub struct Verifier {
    programs: Vec<PathBuf>,
    purpose: Purpose,
    patience: Duration,
}

impl Verifier {
    /// That of the host, where it has one, and then `named` (an absolute path).
    ///
    /// # Errors
    ///
    /// [`VerifyError::Host`] where it cannot be found out whether the host has one: in doubt,
    /// nothing is accepted.
    pub fn new(named: Option<&Path>, purpose: Purpose) -> Result<Self, VerifyError> {
        let of_host = Path::new(OF_HOST);
        let there = of_host.try_exists().map_err(VerifyError::Host)?;
        // A link to nowhere was meant to be one, too.
        let meant = there || of_host.is_symlink();
        let programs = meant.then_some(of_host).into_iter().chain(named).map(Path::to_owned);
        Ok(Self { programs: programs.collect(), purpose, patience: PATIENCE })
    }

    /// Asks about an image in the making, once for each of its names.
    ///
    /// # Errors
    ///
    /// [`VerifyError`] of the first program that does not accept it.
    pub fn check(
        &self,
        id: Digest,
        names: &[Reference],
        manifest: Option<&[u8]>,
    ) -> Result<(), VerifyError> {
        for program in &self.programs {
            let Some(manifest) = manifest else {
                let image = names.first().map_or_else(|| id.to_string(), Reference::familiar);
                return Err(VerifyError::NoManifest { image, program: program.clone() });
            };
            let digest = Digest::of(manifest).to_string();
            if names.is_empty() {
                self.ask(program, "", &digest, manifest)?;
            }
            for name in names {
                self.ask(program, &name.to_string(), &digest, manifest)?;
            }
        }
        Ok(())
    }

    /// Asks about an image of the store: by the name that `text` is, else by all of its names.
    ///
    /// # Errors
    ///
    /// [`VerifyError`] of the first program that does not accept it, and [`StoreError`] where the
    /// image's manifest cannot be read or is not its own.
    pub fn check_stored<E>(&self, image: &Image, text: &str) -> Result<(), E>
    where
        E: From<VerifyError> + From<StoreError>,
    {
        if self.programs.is_empty() {
            return Ok(());
        }
        let manifest = image.manifest()?;
        if let Some(manifest) = &manifest {
            check_own(image, manifest)?;
        }
        let asked: Option<Reference> = text.parse().ok();
        let asked = asked.filter(|asked| image.references.contains(asked));
        let names = asked.map_or_else(|| image.references.clone(), |asked| vec![asked]);
        Ok(self.check(image.id, &names, manifest.as_deref())?)
    }

    fn ask(
        &self,
        program: &Path,
        name: &str,
        digest: &str,
        manifest: &[u8],
    ) -> Result<(), VerifyError> {
        let refused = |source| VerifyError::Refused {
            image: if name.is_empty() { digest.to_owned() } else { name.to_owned() },
            program: program.to_owned(),
            source,
        };
        let purpose = format!("AMPOULE_VERIFY_FOR={}", self.purpose.word());
        let arguments = [&program.to_string_lossy(), name, digest].map(str::to_owned);
        let hook = HookBuilder::default()
            .path(program)
            .args(arguments)
            .env(environment(env::vars_os()).chain([purpose]).collect::<Vec<_>>())
            .timeout(i64::try_from(self.patience.as_secs()).unwrap_or(i64::MAX))
            .build()
            .map_err(|error| refused(io::Error::other(error)))?;
        hooks::run(&hook, manifest).map_err(refused)
    }
}

/// The part of an environment that programs get.
fn environment(
    whole: impl Iterator<Item = (std::ffi::OsString, std::ffi::OsString)>,
) -> impl Iterator<Item = String> {
    whole.filter_map(|(name, value)| {
        let (name, value) = (name.to_str()?, value.to_str()?);
        let passed =
            PASSED.contains(&name) || PASSED_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
        passed.then(|| format!("{name}={value}"))
    })
}

/// That the manifest is this image's: what a program says of another one is worth nothing.
fn check_own(image: &Image, manifest: &[u8]) -> Result<(), StoreError> {
    let damaged = |source: Box<dyn std::error::Error + Send + Sync>| StoreError::Damaged {
        path: image.manifest_path(),
        source,
    };
    let parsed: ImageManifest =
        serde_json::from_slice(manifest).map_err(|error| damaged(error.into()))?;
    if parsed.config().digest().as_ref() == image.id.to_string() {
        Ok(())
    } else {
        Err(damaged("it is another image's".into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    /// A verifier that asks a shell script.
    fn script(folder: &Path, text: &str, patience: Duration) -> Verifier {
        let path = folder.join("verify");
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        Verifier { programs: vec![path], purpose: Purpose::Load, patience }
    }

    fn answer(text: &str) -> Result<(), VerifyError> {
        let folder = tempfile::tempdir().unwrap();
        let names = ["box:1".parse().unwrap()];
        script(folder.path(), text, PATIENCE).check(Digest::of(b"c"), &names, Some(b"{}"))
    }

    #[test]
    fn a_program_is_told_name_digest_and_manifest() {
        let digest = Digest::of(b"{}");
        let asks = format!(
            "test \"$1\" = docker.io/library/box:1 && test \"$2\" = {digest} && \
             test \"$(cat)\" = '{{}}' && test $# = 2 && test $AMPOULE_VERIFY_FOR = load"
        );
        answer(&asks).unwrap();
        assert!(answer("exit 1").is_err());
    }

    #[test]
    fn a_refusal_is_told_with_the_last_words() {
        let error = answer("seq 1 3000 >&2; echo no signature >&2; exit 4").unwrap_err();
        let text = crate::report::chain(&error);
        assert!(text.contains("docker.io/library/box:1 is refused by"), "{text}");
        assert!(text.contains("exit status 4") && text.ends_with("no signature"), "{text}");
        assert!(text.len() < 5000, "{}", text.len());
    }

    #[test]
    fn a_program_that_is_killed_or_hangs_refuses() {
        assert!(answer("kill -9 $$").is_err());
        let folder = tempfile::tempdir().unwrap();
        let slow = script(folder.path(), "exec sleep 1000", Duration::from_secs(1));
        let error = slow.check(Digest::of(b"c"), &[], Some(b"{}")).unwrap_err();
        assert!(crate::report::chain(&error).contains("timeout of 1 s"), "{error:?}");
    }

    #[test]
    fn a_program_that_cannot_be_executed_refuses() {
        let nowhere = Verifier { programs: vec!["/nonexistent".into()], ..Verifier::default() };
        let error = nowhere.check(Digest::of(b"c"), &[], Some(b"{}")).unwrap_err();
        assert!(error.to_string().contains("refused by /nonexistent"), "{error}");
        let error = nowhere.check(Digest::of(b"c"), &[], None).unwrap_err();
        assert!(matches!(error, VerifyError::NoManifest { .. }));
    }

    #[test]
    fn of_the_environment_only_what_helps_is_passed() {
        let given = ["PATH", "LC_ALL", "COSIGN_KEY", "LD_PRELOAD", "AMPOULE_ROOT", "SECRET"];
        let passed: Vec<_> =
            environment(given.map(|name| (name.into(), "v".into())).into_iter()).collect();
        assert_eq!(passed, ["PATH=v", "LC_ALL=v", "COSIGN_KEY=v"]);
    }
}
