//! Images from Dockerfiles: buildah reads the file and lays the layers, and every `RUN` step is a container of
//! `ampoule-oci`, so that nothing of the file's runs on the host's kernel.
//!
//! ```text
//! <data>/build/storage    buildah's own images and steps: the cache of builds
//! <state>/build           what a reboot takes of that
//! ```

mod from;

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use crate::image::save::SaveError;
use crate::image::{LoadError, Loaded, Reference, ReferenceError, Store, StoreError};
use crate::process;
use crate::sandbox::Places;

/// The builder; of Debian's package of the same name.
pub const BUILDAH: &str = "buildah";

/// Largest Dockerfile that is looked at for images of the store, in bytes.
const FILE_LIMIT: u64 = 1 << 20;

/// Names that a context's Dockerfile may have, as buildah looks for it.
const FILES: [&str; 2] = ["Containerfile", "Dockerfile"];

/// Lets images in that nobody has signed, as docker does: who has a say in ampoule's images is asked when
/// they are taken and run.
const POLICY: &str = r#"{"default": [{"type": "insecureAcceptAnything"}]}"#;

/// Why no image was built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// there is no builder
    #[error(
        "cannot build: there is no {BUILDAH} here (apt-get install buildah; `ampoule doctor` looks for it)"
    )]
    NoBuilder(#[source] io::Error),
    /// the builder failed, and has said why
    #[error("{BUILDAH} has failed ({0})")]
    Builder(ExitStatus),
    /// a file or folder
    #[error("cannot {what} {}", path.display())]
    File {
        /// what was attempted
        what: &'static str,
        /// on what
        path: PathBuf,
        /// why it failed
        #[source]
        source: io::Error,
    },
    /// a name that cannot be one
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// the store
    #[error(transparent)]
    Store(#[from] StoreError),
    /// an image that is to be built on
    #[error(transparent)]
    Save(#[from] SaveError),
    /// the built image
    #[error(transparent)]
    Load(#[from] LoadError),
    /// its cache is not to be taken away now
    #[error("the cache of builds is in use: something is being built")]
    Busy,
    /// there is nothing in the archive
    #[error("{BUILDAH} has built no image")]
    Nothing,
}

fn file(what: &'static str, path: &Path) -> impl Fn(io::Error) -> BuildError {
    move |source| BuildError::File { what, path: path.to_owned(), source }
}

/// Where the builder is; none where it is not installed.
pub fn builder() -> Option<PathBuf> {
    process::program(BUILDAH, &[])
}

/// What is to be built, in the words of `docker build`.
#[derive(Debug, Clone, Default)]
pub struct Build {
    /// Folder that `COPY` takes from.
    pub context: PathBuf,
    /// The Dockerfile; that of the context without it.
    pub file: Option<PathBuf>,
    /// Names that the image is to have.
    pub tags: Vec<Reference>,
    /// Arguments of buildah's that are passed on as they are.
    pub passed_on: Vec<OsString>,
    /// Say nothing but what goes wrong.
    pub quiet: bool,
}

impl Build {
    /// Builds it, and takes it into the store.
    pub fn run(&self, places: &Places) -> Result<Loaded, BuildError> {
        let work = tempfile::tempdir_in(made(&places.data.join("staging"))?)
            .map_err(file("create a folder in", &places.data.join("staging")))?;
        let builder = Builder::new(places, work.path())?;
        let lock = lock(places)?;
        lock.lock_shared().map_err(file("lock", &cache(places)))?;
        let store = Store::open(&places.data)?;
        self.give_images(&store, &builder, work.path())?;
        let id = work.path().join("iid");
        let mut build = builder.command("build");
        build.args([
            "--isolation",
            "oci",
            "--format",
            "oci",
            "--layers",
            "--force-rm",
            "--runtime",
        ]);
        build.arg(&builder.runtime).arg("--iidfile").arg(&id);
        if self.quiet {
            build.arg("--quiet");
        }
        if let Some(file) = &self.file {
            build.arg("--file").arg(file);
        }
        build.args(&self.passed_on).arg(&self.context);
        // Its progress is no result.
        build.stdout(io::stderr());
        run(&mut build)?;
        let id = fs::read_to_string(&id).map_err(file("read", &id))?;
        self.take(&store, &builder, id.trim(), work.path())
    }

    /// Lets the builder have the images of the store that the Dockerfile builds on: it has a storage of its
    /// own, and would ask a registry for them.
    fn give_images(&self, store: &Store, builder: &Builder, work: &Path) -> Result<(), BuildError> {
        for name in from::names(&self.dockerfile()?) {
            let Ok(reference) = name.parse::<Reference>() else { continue };
            let whole = reference.to_string();
            match store.get(&whole) {
                Ok(_) => {}
                Err(StoreError::NotFound(_)) => continue,
                Err(error) => return Err(error.into()),
            }
            let archive = work.join("from.tar");
            let new = fs::File::create(&archive).map_err(file("create", &archive))?;
            store.save(std::slice::from_ref(&whole), new)?;
            let mut pull = builder.command("pull");
            let mut source = OsString::from("docker-archive:");
            source.push(&archive);
            pull.arg("--quiet").arg(source).stdout(io::stderr());
            run(&mut pull)?;
            fs::remove_file(&archive).map_err(file("remove", &archive))?;
        }
        Ok(())
    }

    fn dockerfile(&self) -> Result<String, BuildError> {
        let in_context = || {
            let there = FILES.map(|name| self.context.join(name));
            there.into_iter().find(|path| path.exists())
        };
        // Where there is none the builder says so.
        let Some(path) = self.file.clone().or_else(in_context) else { return Ok(String::new()) };
        let size = fs::metadata(&path).map_err(file("read", &path))?.len();
        if size > FILE_LIMIT {
            return Err(file("read", &path)(io::ErrorKind::FileTooLarge.into()));
        }
        fs::read_to_string(&path).map_err(file("read", &path))
    }

    fn take(
        &self,
        store: &Store,
        builder: &Builder,
        id: &str,
        work: &Path,
    ) -> Result<Loaded, BuildError> {
        let archive = work.join("built.tar");
        let mut target = OsString::from("oci-archive:");
        target.push(&archive);
        let mut push = builder.command("push");
        push.arg("--quiet").arg(id).arg(target).stdout(io::stderr());
        run(&mut push)?;
        let loaded = store.load_path(&archive, &mut |_| {})?;
        let built = loaded.into_iter().next().ok_or(BuildError::Nothing)?;
        for tag in &self.tags {
            store.tag(&built.id.to_string(), tag.clone())?;
        }
        Ok(built)
    }
}

/// Where the cache of builds is.
pub fn cache(places: &Places) -> PathBuf {
    places.data.join("build")
}

/// Held shared by whoever builds.
fn lock(places: &Places) -> Result<fs::File, BuildError> {
    let path = made(&cache(places))?.join("lock");
    fs::File::create(&path).map_err(file("create", &path))
}

/// Takes away the cache of builds.
///
/// # Errors
///
/// [`BuildError::Busy`] while something is built.
pub fn prune(places: &Places) -> Result<(), BuildError> {
    if !cache(places).exists() {
        return Ok(());
    }
    let lock = lock(places)?;
    lock.try_lock().map_err(|_| BuildError::Busy)?;
    let work = tempfile::tempdir().map_err(file("create a folder in", &std::env::temp_dir()))?;
    let builder = Builder::new(places, work.path())?;
    // Builds that were killed have left containers.
    for (verb, options) in [("rm", &["--all"][..]), ("rmi", &["--all", "--force"])] {
        let mut remove = builder.command(verb);
        // Its ids mean nothing to anybody here.
        remove.args(options).stdout(Stdio::null());
        run(&mut remove)?;
    }
    Ok(())
}

/// buildah, with a storage of its own, and ampoule as the runtime of its steps.
struct Builder {
    storage: PathBuf,
    run: PathBuf,
    policy: PathBuf,
    runtime: PathBuf,
    /// Where the runtime's sandboxes, containers and templates are.
    environment: [(&'static str, PathBuf); 3],
}

impl Builder {
    fn new(places: &Places, work: &Path) -> Result<Self, BuildError> {
        let state = made(&places.state.join("build"))?;
        let storage = made(&cache(places).join("storage"))?;
        let policy = work.join("policy.json");
        fs::write(&policy, POLICY).map_err(file("write", &policy))?;
        // One program is called by its names.
        let program = std::env::current_exe().map_err(file("find", Path::new("/proc/self/exe")))?;
        let runtime = work.join("ampoule-oci");
        symlink(&program, &runtime).map_err(file("create", &runtime))?;
        let environment = [
            ("AMPOULE_ROOT", places.data.clone()),
            ("AMPOULE_STATE", places.state.clone()),
            ("AMPOULE_TEMPLATES", places.templates()),
        ];
        Ok(Self { storage, run: state.join("storage"), policy, runtime, environment })
    }

    fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(BUILDAH);
        command.arg("--root").arg(&self.storage).arg("--runroot").arg(&self.run).arg(verb);
        if ["build", "pull", "push"].contains(&verb) {
            command.arg("--signature-policy").arg(&self.policy);
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }
}

fn made(folder: &Path) -> Result<PathBuf, BuildError> {
    fs::create_dir_all(folder).map_err(file("create", folder))?;
    Ok(folder.to_owned())
}

fn run(command: &mut Command) -> Result<(), BuildError> {
    let status = command.status().map_err(BuildError::NoBuilder)?;
    if status.success() { Ok(()) } else { Err(BuildError::Builder(status)) }
}
