//! `ampoule save`: images as an archive.

use std::fs;
use std::io::{self, BufWriter, IsTerminal};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nix::sys::stat::{Mode, umask};
use tempfile::NamedTempFile;

use super::{Failure, Global};
use crate::image::Store;

/// Save images to an archive
///
/// An OCI layout with docker's manifest.json beside it, which docker, podman, skopeo and `ampoule load`
/// read. The same images give the same bytes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  ampoule save -o debian.tar debian:12\n  \
    ampoule save debian busybox | zstd > images.tar.zst")]
pub struct Args {
    /// Write to this file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Names (without a tag: all of its tags), ids or digests
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

/// Writes the archive.
pub fn run(args: &Args, global: &Global) -> Result<ExitCode, Failure> {
    let store = Store::open(&global.places().data)?;
    let Some(path) = &args.output else {
        if io::stdout().is_terminal() {
            return Err("no file for the archive: name one with -o FILE, or pipe it on".into());
        }
        store.save(&args.images, BufWriter::new(io::stdout().lock()))?;
        return Ok(ExitCode::SUCCESS);
    };
    // A device or a pipe is written to as it is.
    if fs::metadata(path).is_ok_and(|there| !there.is_file()) {
        let file = fs::OpenOptions::new().write(true).open(path);
        let file = file.map_err(|error| cannot_write(path, &error))?;
        store.save(&args.images, BufWriter::new(file))?;
        return Ok(ExitCode::SUCCESS);
    }
    whole(&store, &args.images, path)?;
    Ok(ExitCode::SUCCESS)
}

fn cannot_write(path: &Path, error: &io::Error) -> String {
    format!("cannot write {}: {error}", path.display())
}

/// Writes a file that is there as a whole, or as it was before.
fn whole(store: &Store, images: &[String], path: &Path) -> Result<(), Failure> {
    let failed = |error: io::Error| cannot_write(path, &error);
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let file = NamedTempFile::new_in(folder.unwrap_or(Path::new("."))).map_err(failed)?;
    store.save(images, BufWriter::new(file.as_file()))?;
    let mask = umask(Mode::empty());
    umask(mask);
    let mode = fs::Permissions::from_mode(0o666 & !mask.bits());
    file.as_file().set_permissions(mode).map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}
