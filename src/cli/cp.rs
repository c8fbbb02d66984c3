//! `ampoule cp`: files from a container, or to one.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use ampoule_protocol::archive::{Contents, Owners, Packer};
use ampoule_protocol::message::Files;
use clap::Args as ClapArgs;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use super::{Failure, Global, size};
use crate::image::limits::{Budget, Limits};
use crate::sandbox::archive::names::{self, Side, Target, There, clean, split, target};
use crate::sandbox::archive::{ArchiveError, Guest, Purpose, extract, relay, visit};
use crate::sandbox::{Places, SandboxError};

/// Copy files from a container, or to one, whether it runs or not
#[derive(Debug, ClapArgs)]
#[command(
    after_help = "SOURCE and DESTINATION: CONTAINER:PATH, a path of this host, or - for a tar archive \
    on standard input or output. Of DIRECTORY/. what is in it is copied.\n\nExamples:\n  \
    ampoule cp web:/var/log/app.log .\n  ampoule cp site/. web:/srv\n  ampoule cp web:/etc - | tar t"
)]
pub struct Args {
    /// Keep owners and groups, by number, and set-user-id and set-group-id; else files are the caller's here, and
    /// root's there
    #[arg(short, long)]
    archive: bool,
    /// If SOURCE is a symbolic link, copy what that leads to
    #[arg(short = 'L', long)]
    follow_link: bool,
    /// Do not tell what was copied
    #[arg(short, long)]
    quiet: bool,
    /// What is copied
    source: String,
    /// Where to
    destination: String,
}

/// Runs the verb.
pub fn run(args: &Args, global: &Global) -> Result<ExitCode, Failure> {
    let places = global.places();
    match (Side::parse(&args.source), Side::parse(&args.destination)) {
        (Side::Container { container, path }, Side::Stream) => {
            let path = clean(&path);
            visit(&places, &container, Purpose::Read, |guest, _| {
                let (wanted, name, _) = find(guest, &container, &path, args.follow_link)?;
                let mut budget = Budget::new(Limits::default(), &places.state);
                let mut out = io::stdout().lock();
                guest.read(wanted, |from| relay::relay(from, &mut out, &name, &mut budget))
            })?;
        }
        (Side::Container { container, path }, Side::Local(to)) => {
            let path = clean(&path);
            let copied = visit(&places, &container, Purpose::Read, |guest, _| {
                fetch(guest, &container, &path, &to, args)
            })?;
            told(args, copied, &to);
        }
        (Side::Stream, Side::Container { container, path }) => {
            let path = clean(&path);
            stream(&places, &container, &path)?;
        }
        (Side::Local(from), Side::Container { container, path }) => {
            let path = clean(&path);
            let source = Source::open(&from, args.follow_link)?;
            let copied = visit(&places, &container, Purpose::Write, |guest, _| {
                bring(guest, source, &path, args.archive)
            })?;
            told(args, copied, &args.destination);
        }
        (Side::Container { .. }, Side::Container { .. }) => {
            return Err("copying between containers is not supported".into());
        }
        (Side::Local(_) | Side::Stream, Side::Local(_) | Side::Stream) => {
            return Err("must specify at least one container source".into());
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn told(args: &Args, bytes: u64, to: &str) {
    if !args.quiet {
        eprintln!("Successfully copied {} to {to}", size::decimal(bytes));
    }
}

/// How a file of a container is read, what it is called, and whether it is a directory.
fn find(
    guest: &Guest,
    container: &str,
    path: &str,
    follow: bool,
) -> Result<(Files, String, bool), SandboxError> {
    let found = guest.look(path, follow)?.ok_or_else(|| ArchiveError::NotFound {
        path: path.to_owned(),
        container: container.to_owned(),
    })?;
    let wanted = Files::Read { path: path.to_owned(), follow };
    Ok((wanted, split(path).1.to_owned(), found.directory))
}

/// From a container to this host: how many bytes the archive had.
fn fetch(
    guest: &Guest,
    container: &str,
    path: &str,
    to: &str,
    args: &Args,
) -> Result<u64, SandboxError> {
    let (wanted, name, directory) = find(guest, container, path, args.follow_link)?;
    let (to, there) = here(to)?;
    let Target { directory: folder, name } = target(&name, directory, &to, there)?;
    let folder = Path::new(&folder);
    let opened = open_folder(folder)?;
    let mut budget = Budget::new(Limits::default(), folder);
    let mut count = 0;
    let skipped = guest.read(wanted, |from| {
        let mut from = Counting { inner: from, count: &mut count };
        extract::extract(&mut from, opened, &name, args.archive, &mut budget)
    })?;
    if let Some(first) = skipped.first {
        let more = match skipped.devices {
            1 => String::new(),
            devices => format!(" and {} more", devices - 1),
        };
        eprintln!(
            "ampoule: warning: {first:?}{more} not copied: a container's devices are not this host's"
        );
    }
    Ok(count)
}

/// What is at a path of this host, from the root on; where a link leads, not the link.
fn here(path: &str) -> Result<(String, There), ArchiveError> {
    let path = absolute(path)?;
    let (folder, _) = split(&path);
    let path = match fs::read_link(path.trim_end_matches('/')) {
        // It may lead to what is not there yet.
        Ok(link) => match fs::canonicalize(&path) {
            Ok(real) => real.to_string_lossy().into_owned(),
            Err(_) => clean(&Path::new(folder).join(link).to_string_lossy()),
        },
        Err(_) => path,
    };
    match fs::metadata(&path) {
        Ok(found) if found.is_dir() => Ok((path, There::Directory)),
        Ok(_) => Ok((path, There::Other)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let (folder, _) = split(&path);
            if !Path::new(folder).is_dir() {
                return Err(ArchiveError::NoFolder(folder.into()));
            }
            Ok((path, There::Nothing))
        }
        Err(source) => Err(ArchiveError::File { what: "look at", path: path.into(), source }),
    }
}

/// A path of this host from the root on.
fn absolute(path: &str) -> Result<String, ArchiveError> {
    let here = std::env::current_dir().map_err(ArchiveError::io("find the working directory"))?;
    let whole = here.join(path);
    // What a name that is not text would become is another file.
    match whole.to_str() {
        Some(text) if path == ".." || path.ends_with("/..") => Ok(clean(text)),
        Some(text) if path == "." => Ok(clean(&format!("{text}/."))),
        Some(text) => Ok(clean(text)),
        None => Err(ArchiveError::File {
            what: "name",
            path: whole,
            source: io::ErrorKind::InvalidFilename.into(),
        }),
    }
}

fn open_folder(folder: &Path) -> Result<OwnedFd, ArchiveError> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    open(folder, flags, Mode::empty()).map_err(file("open", folder))
}

fn file(what: &'static str, path: &Path) -> impl Fn(nix::errno::Errno) -> ArchiveError {
    let path = PathBuf::from(path);
    move |errno| ArchiveError::File { what, path: path.clone(), source: errno.into() }
}

/// A file of this host that is copied.
struct Source {
    file: OwnedFd,
    name: String,
    directory: bool,
}

impl Source {
    fn open(path: &str, follow: bool) -> Result<Self, ArchiveError> {
        let path = absolute(path)?;
        let mut flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
        if !follow {
            flags |= OFlag::O_NOFOLLOW;
        }
        let (failed, path) = (file("open", Path::new(&path)), path.as_str());
        let opened = open(path, flags, Mode::empty()).map_err(&failed)?;
        let stat = nix::sys::stat::fstat(&opened).map_err(&failed)?;
        let kind = nix::sys::stat::SFlag::from_bits_truncate(stat.st_mode);
        let directory = kind & nix::sys::stat::SFlag::S_IFMT == nix::sys::stat::SFlag::S_IFDIR;
        Ok(Self { file: opened, name: split(path).1.to_owned(), directory })
    }
}

/// What is at a path of a container, and the path that a link there leads to.
fn there(guest: &Guest, path: &str) -> Result<(String, There), SandboxError> {
    let mut path = path.to_owned();
    let mut found = guest.look(&path, false)?;
    if let Some(link) = found.as_ref().and_then(|found| found.link.clone()) {
        let (folder, _) = split(&path);
        path = match link.starts_with('/') {
            true => clean(&link),
            false => clean(&format!("{folder}/{link}")),
        };
        // One link after another is followed to its end.
        found = guest.look(&path, true)?;
    }
    Ok(match found {
        Some(found) if found.directory => (path, There::Directory),
        Some(_) => (path, There::Other),
        None => (path, There::Nothing),
    })
}

/// From this host to a container: how many bytes the archive had.
fn bring(guest: &Guest, source: Source, path: &str, owners: bool) -> Result<u64, SandboxError> {
    let (path, there) = there(guest, path)?;
    let Target { directory, name } = target(&source.name, source.directory, &path, there)?;
    let owners = if owners { Owners::Kept } else { Owners::Root };
    let mut count = 0;
    guest.write(&directory, |to| {
        let to = Counting { inner: to, count: &mut count };
        let mut packer = Packer::new(to, Contents::Files, owners);
        packer.tree(source.file, name.into_bytes())?;
        packer.finish()?;
        Ok(())
    })?;
    Ok(count)
}

/// An archive on standard input to a directory of a container.
fn stream(places: &Places, container: &str, path: &str) -> Result<(), SandboxError> {
    visit(places, container, Purpose::Write, |guest, _| {
        let (to, there) = there(guest, path)?;
        if there != names::There::Directory {
            return Err(ArchiveError::Destination {
                container: container.to_owned(),
                path: path.to_owned(),
            }
            .into());
        }
        let mut budget = Budget::new(Limits::default(), &places.state);
        let mut from = io::stdin().lock();
        guest.write(&to, |to| relay::relay(&mut from, to, ".", &mut budget))
    })
}

/// Counts what goes through.
struct Counting<'a, T> {
    inner: T,
    count: &'a mut u64,
}

impl<R: Read> Read for Counting<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        *self.count += read as u64;
        Ok(read)
    }
}

impl<W: Write> Write for Counting<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        *self.count += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
