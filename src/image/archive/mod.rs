//! An image archive as a set of named files: a tar file, a stream or a directory.

mod docker;
mod error;
mod oci;

pub use error::ArchiveError;

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::Mode;

use super::compression::{Compression, Decoder};
use super::digest::{Digest, HashReader};
use super::limits::Budget;
use super::tar_stream::{Kind, Skip, TarError, TarStream, checksum_fits};
use super::tree::clean;

/// This machine's architecture as images name it (GOARCH).
pub const ARCHITECTURE: &str = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };

/// Symbolic links inside an archive that are followed from name to name: `docker save` writes a
/// layer that several images share once, and links to it.
const MAX_LINKS: usize = 8;

/// What an archive says about one image, checked as far as it can be without its layers.
#[derive(Debug)]
pub struct ImageSource {
    /// names it is to have
    pub names: Vec<String>,
    /// bytes of its configuration
    pub config: Vec<u8>,
    /// bytes of its manifest; none in `docker save` archives of the classic kind
    pub manifest: Option<Vec<u8>>,
    /// its layers, the lowest first
    pub layers: Vec<LayerSource>,
}

/// Where a layer is.
#[derive(Debug, Clone)]
pub struct LayerSource {
    /// its name in the archive
    pub name: String,
    /// digest of the file, where the archive states it
    pub digest: Option<Digest>,
    /// size of the file, where the archive states it
    pub size: Option<u64>,
}

/// The files of an archive.
#[derive(Debug)]
pub struct Archive {
    files: Files,
    /// Where a tar file ends that lacks the mark of its end: what is missing may be behind.
    cut: Option<u64>,
}

#[derive(Debug)]
enum Files {
    Tar { file: Arc<File>, index: HashMap<String, Place> },
    Directory(OwnedFd),
}

#[derive(Debug, Clone)]
enum Place {
    Data { offset: u64, length: u64 },
    Link(String),
}

/// One file of an archive, to be read once.
#[derive(Debug)]
pub struct Blob {
    file: Arc<File>,
    position: u64,
    end: u64,
}

impl Blob {
    /// Bytes that are left to read.
    pub fn length(&self) -> u64 {
        self.end - self.position
    }
}

impl Read for Blob {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.length()).unwrap_or(usize::MAX).min(buffer.len());
        let Some(buffer) = buffer.get_mut(..wanted).filter(|buffer| !buffer.is_empty()) else {
            return Ok(0);
        };
        let read = self.file.read_at(buffer, self.position)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.position += read as u64;
        Ok(read)
    }
}

/// A file whose contents are passed over by seeking.
struct Seeking {
    reader: BufReader<File>,
    left: u64,
}

impl Read for Seeking {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        self.left = self.left.saturating_sub(read as u64);
        Ok(read)
    }
}

impl Skip for Seeking {
    fn skip(&mut self, count: u64) -> io::Result<()> {
        if count > self.left {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= count;
        self.reader.seek_relative(i64::try_from(count).map_err(io::Error::other)?)
    }
}

impl Archive {
    /// Takes an archive from a stream, into `spool` (an empty file) as its files may come in any
    /// order. `progress` hears how many bytes were read.
    pub fn spool(
        reader: &mut impl Read,
        mut spool: File,
        budget: &mut Budget,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Self, ArchiveError> {
        let mut counted = HashReader::counting(reader);
        let (compression, sniffed) =
            Compression::sniff(&mut counted).map_err(ArchiveError::Read)?;
        let mut reader = Decoder::new(compression?, sniffed).map_err(ArchiveError::Read)?;
        let mut start = Vec::new();
        (&mut reader).take(512).read_to_end(&mut start).map_err(ArchiveError::Read)?;
        check_start(&start)?;
        spool.write_all(&start).map_err(ArchiveError::spool)?;
        let mut buffer = vec![0; 256 << 10];
        let mut total = start.len() as u64;
        loop {
            let read = match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(ArchiveError::Read(error)),
            };
            budget.unpacked(read as u64)?;
            budget.stored(read as u64)?;
            spool.write_all(buffer.get(..read).unwrap_or_default()).map_err(ArchiveError::spool)?;
            total += read as u64;
            progress(total);
        }
        spool.seek(SeekFrom::Start(0)).map_err(ArchiveError::spool)?;
        Self::index(spool, budget)
    }

    /// Takes an archive from a file as it is, if it can be: none if it is compressed or not a
    /// regular file.
    pub fn open_file(mut file: File, budget: &mut Budget) -> Result<Option<Self>, ArchiveError> {
        if !file.metadata().map_err(ArchiveError::Read)?.is_file() {
            return Ok(None);
        }
        let mut start = Vec::new();
        (&mut file).take(512).read_to_end(&mut start).map_err(ArchiveError::Read)?;
        file.seek(SeekFrom::Start(0)).map_err(ArchiveError::Read)?;
        if Compression::of(&start)? != Compression::None {
            return Ok(None);
        }
        check_start(&start)?;
        Self::index(file, budget).map(Some)
    }

    /// Takes the files of an unpacked archive.
    pub fn open_directory(path: &Path) -> Result<Self, ArchiveError> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let directory = open(path, flags, Mode::empty());
        let directory = directory.map_err(|error| ArchiveError::Read(error.into()))?;
        Ok(Self { files: Files::Directory(directory), cut: None })
    }

    fn index(file: File, budget: &mut Budget) -> Result<Self, ArchiveError> {
        let length = file.metadata().map_err(ArchiveError::Read)?.len();
        let reader = file.try_clone().map_err(ArchiveError::Read)?;
        let reader = Seeking { reader: BufReader::new(reader), left: length };
        let mut stream = TarStream::new(reader);
        let mut index = HashMap::new();
        while let Some(entry) = stream.next(budget)? {
            let name = join(&entry.path).ok_or_else(|| ArchiveError::Name(entry.display()))?;
            let place = match entry.kind {
                // Nobody puts blobs into sparse files.
                Kind::File if entry.is_whole() => {
                    Place::Data { offset: stream.position(), length: entry.size }
                }
                Kind::Symlink => {
                    let parent = name.rsplit_once('/').map_or("", |(parent, _)| parent);
                    let target = String::from_utf8_lossy(&entry.link);
                    let target =
                        join(format!("{parent}/{target}").trim_start_matches('/').as_bytes());
                    Place::Link(target.ok_or_else(|| ArchiveError::Name(entry.display()))?)
                }
                Kind::HardLink => {
                    let target = join(&entry.link);
                    Place::Link(target.ok_or_else(|| ArchiveError::Name(entry.display()))?)
                }
                _ => {
                    budget.archive_file(0)?;
                    continue;
                }
            };
            let target = if let Place::Link(target) = &place { target.len() } else { 0 };
            budget.archive_file(name.len() + target + size_of::<(String, Place)>())?;
            index.insert(name, place);
        }
        let cut = (!stream.end_marked()).then_some(stream.position());
        Ok(Self { files: Files::Tar { file: Arc::new(file), index }, cut })
    }

    /// The file `name`, if there is one.
    pub fn open(&self, name: &str) -> Result<Option<Blob>, ArchiveError> {
        match &self.files {
            Files::Directory(directory) => open_beneath(directory, name),
            Files::Tar { file, index } => {
                let Some(mut name) = join(name.as_bytes()) else {
                    return Ok(None);
                };
                for _ in 0..=MAX_LINKS {
                    match index.get(&name) {
                        None => return Ok(None),
                        Some(Place::Link(target)) => name.clone_from(target),
                        Some(Place::Data { offset, length }) => {
                            return Ok(Some(Blob {
                                file: Arc::clone(file),
                                position: *offset,
                                end: offset.saturating_add(*length),
                            }));
                        }
                    }
                }
                Ok(None)
            }
        }
    }

    /// The whole of a small file, if there is one.
    fn small(&self, name: &str, budget: &mut Budget) -> Result<Option<Vec<u8>>, ArchiveError> {
        let Some(mut blob) = self.open(name)? else {
            return Ok(None);
        };
        let limit = budget.limits().json_bytes;
        if blob.length() > limit {
            return Err(ArchiveError::Large { name: name.to_owned(), limit });
        }
        budget.document(usize::try_from(blob.length()).unwrap_or(usize::MAX))?;
        let mut bytes = Vec::new();
        let cut = |source| ArchiveError::File { name: name.to_owned(), source };
        blob.read_to_end(&mut bytes).map_err(cut)?;
        Ok(Some(bytes))
    }

    /// What is wrong when the file `name` is not there.
    pub fn missing(&self, name: &str) -> ArchiveError {
        self.cut_or(ArchiveError::Missing(name.to_owned()))
    }

    fn cut_or(&self, error: ArchiveError) -> ArchiveError {
        self.cut.map_or(error, |position| TarError::Truncated { position }.into())
    }

    /// The images of the archive.
    ///
    /// Where the archive follows both layouts (`docker save` since version 25) that of OCI is
    /// read, as it states the digests of all its files.
    pub fn images(&self, budget: &mut Budget) -> Result<Vec<ImageSource>, ArchiveError> {
        if let Some(images) = oci::images(self, budget)? {
            return Ok(images);
        }
        docker::images(self, budget)?.ok_or_else(|| self.cut_or(ArchiveError::NoImage))
    }
}

/// Checks that a stream can be a tar archive by its first block.
fn check_start(start: &[u8]) -> Result<(), ArchiveError> {
    let block: Option<&[u8; 512]> = start.try_into().ok();
    let block = block.ok_or(ArchiveError::NotAnArchive)?;
    let header = tar::Header::from_byte_slice(block);
    if checksum_fits(header) { Ok(()) } else { Err(ArchiveError::NotAnArchive) }
}

/// A name of the archive in its shortest form; none if it leads out of the archive or is no text.
fn join(path: &[u8]) -> Option<String> {
    let parts = clean(path).ok()?;
    String::from_utf8(parts.join(&b'/')).ok()
}

fn open_beneath(directory: &OwnedFd, name: &str) -> Result<Option<Blob>, ArchiveError> {
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let failed = |source: io::Error| ArchiveError::File { name: name.to_owned(), source };
    let file = match openat2(directory, name, how) {
        Ok(file) => File::from(file),
        Err(nix::Error::ENOENT | nix::Error::ENOTDIR) => return Ok(None),
        Err(error) => return Err(failed(error.into())),
    };
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Ok(None);
    }
    Ok(Some(Blob { file: Arc::new(file), position: 0, end: metadata.len() }))
}
