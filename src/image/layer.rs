//! Puts one layer's entries on the tree (OCI image-spec, layer.md).

use super::compression::Unsupported;
use super::erofs::{Content, DataWriter, WriteError, encode_xattrs};
use super::limits::{Budget, LimitError, PATH_BYTES};
use super::tar_stream::{Entry, Kind, Skip, TarError, TarStream};
use super::tree::{Attributes, Directory, InodeId, NameError, Node, ROOT, Tree, clean};

/// What marks a name as a whiteout of the rest of it.
const WHITEOUT: &[u8] = b".wh.";
/// Marks names that aufs kept for itself; of these only the opaque whiteout means something.
const WHITEOUT_META: &[u8] = b".wh..wh.";
/// Hides all that the layers below have in the directory.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Why a layer cannot be put on the others.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// the stream of entries is damaged
    #[error(transparent)]
    Tar(#[from] TarError),
    /// an entry that must not be
    #[error("the entry {entry:?} is refused")]
    Entry {
        /// its name
        entry: String,
        /// why
        #[source]
        source: EntryError,
    },
    /// one of the bounds of the load
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// a compression that cannot be undone
    #[error(transparent)]
    Compression(#[from] Unsupported),
    /// the image file could not be written
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// What is wrong with an entry.
#[derive(Debug, thiserror::Error)]
pub enum EntryError {
    /// its name, or one on its path
    #[error(transparent)]
    Name(#[from] NameError),
    /// the target of a hard link
    #[error("its link target {target:?} is invalid")]
    LinkTarget {
        /// the target
        target: String,
        /// why
        #[source]
        source: NameError,
    },
    /// a hard link to what is not there
    #[error("it is a hard link to {0:?}, which does not exist")]
    LinkMissing(String),
    /// a hard link to a directory
    #[error("it is a hard link to {0:?}, which is a directory")]
    LinkDirectory(String),
    /// a symbolic link to nowhere
    #[error("its symbolic link target is empty, too long or holds a NUL byte")]
    SymlinkTarget,
    /// something else than a directory for the root
    #[error("the root is not a directory")]
    Root,
    /// a whiteout of no name, of `.` or of `..`
    #[error("it is a whiteout of nothing")]
    Whiteout,
    /// attributes too large or too many
    #[error("its extended attributes are too large")]
    Xattrs,
}

/// One layer on its way onto the tree.
pub struct Layer<'a> {
    /// what the layers below made
    pub tree: &'a mut Tree,
    /// where data of files go
    pub data: &'a mut DataWriter,
    /// what may still be used
    pub budget: &'a mut Budget,
    /// data on their way from the layer to the image
    buffer: Box<[u8]>,
}

impl std::fmt::Debug for Layer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Layer").finish_non_exhaustive()
    }
}

impl<'a> Layer<'a> {
    /// A layer to be put on `tree`, its files' data written to `data`.
    pub fn new(tree: &'a mut Tree, data: &'a mut DataWriter, budget: &'a mut Budget) -> Self {
        Self { tree, data, budget, buffer: vec![0; 128 << 10].into_boxed_slice() }
    }

    /// Puts all entries of `stream` on the tree.
    ///
    /// # Errors
    ///
    /// The tree is useless after an error.
    pub fn apply<R: Skip>(&mut self, stream: &mut TarStream<R>) -> Result<(), LayerError> {
        self.tree.begin_layer();
        while let Some(entry) = stream.next(self.budget)? {
            self.budget.entry()?;
            self.entry(&entry, stream)?;
            for content in self.tree.take_removed() {
                self.data.discard(&content, self.budget)?;
            }
        }
        Ok(())
    }

    fn entry<R: Skip>(
        &mut self,
        entry: &Entry,
        stream: &mut TarStream<R>,
    ) -> Result<(), LayerError> {
        let refused = |source| refuse(entry, source);
        let parts = clean(&entry.path).map_err(|error| refused(error.into()))?;
        let Some((name, parents)) = parts.split_last() else {
            return self.root(entry).map_err(refused);
        };
        if parents.iter().any(|part| part.starts_with(WHITEOUT_META)) {
            return Ok(());
        }
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            return self.whiteout(parents, name, hidden).map_err(refused);
        }
        let parent = self.tree.resolve(parents, true, self.budget);
        let parent = parent.map_err(|error| refused(error.into()))?.unwrap_or(ROOT);
        self.tree.check_room(parent, name).map_err(|error| refused(error.into()))?;
        let node = match entry.kind {
            Kind::File => Node::File(self.store(entry, stream)?),
            Kind::HardLink => return self.hard_link(entry, parent, name).map_err(refused),
            Kind::Directory => return self.directory(entry, parent, name),
            Kind::Symlink => symlink(entry).map_err(refused)?,
            Kind::Character(major, minor) => Node::Character(major, minor),
            Kind::Block(major, minor) => Node::Block(major, minor),
            Kind::Fifo => Node::Fifo,
        };
        self.insert(entry, parent, name, node)
    }

    fn insert(
        &mut self,
        entry: &Entry,
        parent: InodeId,
        name: &[u8],
        node: Node,
    ) -> Result<(), LayerError> {
        let xattrs = xattrs(entry).map_err(|error| refuse(entry, error))?;
        self.tree.insert(parent, name, attributes(entry), xattrs, node, self.budget)?;
        Ok(())
    }

    /// A directory: if there is one, its attributes are replaced and what is in it stays.
    fn directory(&mut self, entry: &Entry, parent: InodeId, name: &[u8]) -> Result<(), LayerError> {
        let there = self.tree.lookup(parent, name);
        let Some(directory) = there.filter(|id| self.tree.directory(*id).is_some()) else {
            return self.insert(entry, parent, name, Node::Directory(Directory::default()));
        };
        let xattrs = xattrs(entry).map_err(|error| refuse(entry, error))?;
        self.budget.metadata(xattrs.len())?;
        self.tree.update(Some((parent, name)), directory, attributes(entry), xattrs);
        Ok(())
    }

    /// The entry for the root itself, `./`.
    fn root(&mut self, entry: &Entry) -> Result<(), EntryError> {
        if entry.kind != Kind::Directory {
            return Err(EntryError::Root);
        }
        let xattrs = xattrs(entry)?;
        self.budget.metadata(xattrs.len()).map_err(NameError::from)?;
        self.tree.update(None, ROOT, attributes(entry), xattrs);
        Ok(())
    }

    fn whiteout(
        &mut self,
        parents: &[&[u8]],
        name: &[u8],
        hidden: &[u8],
    ) -> Result<(), EntryError> {
        if name.starts_with(WHITEOUT_META) && name != OPAQUE {
            return Ok(());
        }
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(EntryError::Whiteout);
        }
        let Some(parent) = self.tree.resolve(parents, false, self.budget)? else {
            return Ok(());
        };
        let done = if name == OPAQUE {
            self.tree.hide_below(parent, self.budget)
        } else {
            self.tree.hide(parent, hidden, self.budget)
        };
        Ok(done.map_err(NameError::from)?)
    }

    /// Writes the file's data where the image has room for them.
    fn store<R: Skip>(
        &mut self,
        entry: &Entry,
        stream: &mut TarStream<R>,
    ) -> Result<Content, LayerError> {
        let xattrs = xattrs(entry).map_err(|error| refuse(entry, error))?;
        let mut file = self.data.begin(entry.size, xattrs.len(), self.budget)?;
        for extent in &entry.extents {
            file.hole_to(extent.offset, self.budget)?;
            let mut left = extent.length;
            while left > 0 {
                let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(self.buffer.len());
                let Some(chunk) = self.buffer.get_mut(..wanted) else {
                    break;
                };
                let read = stream.read_data(chunk)?;
                let Some(chunk) = chunk.get(..read).filter(|chunk| !chunk.is_empty()) else {
                    return Err(TarError::Truncated { position: stream.position() }.into());
                };
                self.budget.unpacked(chunk.len() as u64)?;
                file.write(chunk, self.budget)?;
                left -= chunk.len() as u64;
            }
        }
        Ok(file.finish(self.budget)?)
    }

    /// Another name for a file of this layer or one below. The target's last part is not followed:
    /// a symbolic link can have two names as well.
    fn hard_link(&mut self, entry: &Entry, parent: InodeId, name: &[u8]) -> Result<(), EntryError> {
        let shown = || String::from_utf8_lossy(&entry.link).into_owned();
        let invalid = |source| EntryError::LinkTarget { target: shown(), source };
        // As docker: the target is a path from the root, with or without a leading slash.
        let parts = clean(&entry.link).map_err(invalid)?;
        let Some((last, parents)) = parts.split_last() else {
            return Err(EntryError::LinkDirectory(shown()));
        };
        let directory = self.tree.resolve(parents, false, self.budget).map_err(invalid)?;
        let target = directory.and_then(|directory| self.tree.lookup(directory, last));
        let target = target.ok_or_else(|| EntryError::LinkMissing(shown()))?;
        if self.tree.directory(target).is_some() {
            return Err(EntryError::LinkDirectory(shown()));
        }
        self.tree.link(parent, name, target, self.budget).map_err(NameError::from)?;
        // The entry's owner, mode and time become those of the file under all of its names.
        self.tree.inode_mut(target).attributes = attributes(entry);
        Ok(())
    }
}

fn refuse(entry: &Entry, source: EntryError) -> LayerError {
    match source {
        EntryError::Name(NameError::Limit(limit)) => limit.into(),
        source => LayerError::Entry { entry: entry.display(), source },
    }
}

fn symlink(entry: &Entry) -> Result<Node, EntryError> {
    let target = entry.link.as_slice();
    if target.is_empty() || target.len() > PATH_BYTES || target.contains(&0) {
        return Err(EntryError::SymlinkTarget);
    }
    Ok(Node::Symlink(target.into()))
}

fn attributes(entry: &Entry) -> Attributes {
    Attributes { mode: entry.mode, uid: entry.uid, gid: entry.gid, mtime: entry.mtime }
}

/// The entry's attributes as the image holds them. What overlayfs keeps about its own layers is no
/// part of a file and is left out: the guest puts the image under an overlayfs of its own.
fn xattrs(entry: &Entry) -> Result<Box<[u8]>, EntryError> {
    let kept = entry.xattrs.iter().filter(|(name, _)| {
        !name.starts_with(b"trusted.overlay.") && !name.starts_with(b"user.overlay.")
    });
    let kept = kept.map(|(name, value)| (name.as_slice(), value.as_slice()));
    encode_xattrs(kept).map_err(|_| EntryError::Xattrs)
}

#[cfg(test)]
mod tests;
