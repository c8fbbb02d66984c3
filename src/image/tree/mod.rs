//! The file system of an image while its layers are put on one another: a tree in memory.
//!
//! Names from layers are looked up here and nowhere else, so there is no host file system that
//! `..`, absolute names or symbolic links could reach into. Of files only the place of their data
//! is kept.

mod resolve;

pub use resolve::{NameError, clean};

use std::collections::BTreeMap;

use super::erofs::Content;
use super::limits::{Budget, LimitError};

/// An inode of the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InodeId(u32);

/// The root directory.
pub const ROOT: InodeId = InodeId(0);

/// What all kinds of inodes have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attributes {
    /// permission bits with set-user-id, set-group-id and sticky
    pub mode: u16,
    /// owner
    pub uid: u32,
    /// group
    pub gid: u32,
    /// seconds since 1970, and nanoseconds
    pub mtime: (i64, u32),
}

impl Attributes {
    /// Of directories that no layer has an entry for; fixed, so that images are reproducible.
    pub const IMPLIED: Self = Self { mode: 0o755, uid: 0, gid: 0, mtime: (0, 0) };
}

/// A file of any kind, under one or more names.
#[derive(Debug)]
pub struct Inode {
    /// owner, mode, time
    pub attributes: Attributes,
    /// extended attributes in the form of the image (`erofs::encode_xattrs`)
    pub xattrs: Box<[u8]>,
    /// names; of a directory 1
    pub links: u32,
    /// what it is
    pub node: Node,
}

/// What an inode is.
#[derive(Debug)]
pub enum Node {
    /// a directory
    Directory(Directory),
    /// a regular file
    File(Content),
    /// a symbolic link and its target
    Symlink(Box<[u8]>),
    /// a character device: major, minor
    Character(u32, u32),
    /// a block device: major, minor
    Block(u32, u32),
    /// a FIFO
    Fifo,
    /// nothing any more: the last name is gone
    Removed,
}

/// Entries of a directory by name, without `.` and `..`.
#[derive(Debug, Default)]
pub struct Directory {
    /// sorted by bytes, as EROFS wants them
    pub entries: BTreeMap<Box<[u8]>, Name>,
    /// Length of its path from the root in bytes.
    path_bytes: usize,
}

/// A name in a directory.
#[derive(Debug, Clone, Copy)]
pub struct Name {
    /// what it names
    pub inode: InodeId,
    /// the layer that put it there
    layer: u32,
}

/// The tree, and the layer that is being put on it.
#[derive(Debug)]
pub struct Tree {
    inodes: Vec<Inode>,
    layer: u32,
    removed: Vec<Content>,
}

impl Default for Tree {
    fn default() -> Self {
        let root = Inode {
            attributes: Attributes::IMPLIED,
            xattrs: Box::default(),
            links: 1,
            node: Node::Directory(Directory::default()),
        };
        Self { inodes: vec![root], layer: 0, removed: Vec::new() }
    }
}

impl Tree {
    /// Everything that is put in from now on belongs to the next layer.
    pub fn begin_layer(&mut self) {
        self.layer += 1;
    }

    /// How many inodes there ever were: ids are below.
    pub fn inode_count(&self) -> usize {
        self.inodes.len()
    }

    /// The place of `id` in a table of [`Tree::inode_count`] elements.
    pub fn index(id: InodeId) -> usize {
        id.0 as usize
    }

    /// An inode of this tree.
    ///
    /// # Panics
    ///
    /// With an id of another tree: ids come from this tree alone and stay valid for its life.
    pub fn inode(&self, id: InodeId) -> &Inode {
        &self.inodes[Self::index(id)]
    }

    /// An inode of this tree, to be changed; panics as [`Tree::inode`].
    pub fn inode_mut(&mut self, id: InodeId) -> &mut Inode {
        &mut self.inodes[Self::index(id)]
    }

    /// The directory `id`, if it is one.
    pub fn directory(&self, id: InodeId) -> Option<&Directory> {
        match &self.inode(id).node {
            Node::Directory(directory) => Some(directory),
            _ => None,
        }
    }

    fn entries_mut(&mut self, id: InodeId) -> Option<&mut BTreeMap<Box<[u8]>, Name>> {
        match &mut self.inode_mut(id).node {
            Node::Directory(directory) => Some(&mut directory.entries),
            _ => None,
        }
    }

    /// What `name` is in `directory`.
    pub fn lookup(&self, directory: InodeId, name: &[u8]) -> Option<InodeId> {
        self.directory(directory)?.entries.get(name).map(|name| name.inode)
    }

    /// Data of files whose last name is gone since the last call.
    pub fn take_removed(&mut self) -> Vec<Content> {
        std::mem::take(&mut self.removed)
    }

    /// Puts a new inode at `name`, in place of whatever is there.
    pub fn insert(
        &mut self,
        parent: InodeId,
        name: &[u8],
        attributes: Attributes,
        xattrs: Box<[u8]>,
        mut node: Node,
        budget: &mut Budget,
    ) -> Result<InodeId, LimitError> {
        let target = if let Node::Symlink(target) = &node { target.len() } else { 0 };
        let own = size_of::<Inode>() + size_of::<Name>();
        budget.metadata(own + name.len() + target + xattrs.len())?;
        if let Node::Directory(directory) = &mut node {
            let above = self.directory(parent).map_or(0, |parent| parent.path_bytes);
            directory.path_bytes = above + 1 + name.len();
        }
        // Entries are bounded far below 2^32.
        let id = InodeId(u32::try_from(self.inodes.len()).unwrap_or(u32::MAX));
        self.inodes.push(Inode { attributes, xattrs, links: 0, node });
        self.link(parent, name, id, budget)?;
        Ok(id)
    }

    /// Gives `inode` the name `name`, in place of whatever is there.
    pub fn link(
        &mut self,
        parent: InodeId,
        name: &[u8],
        inode: InodeId,
        budget: &mut Budget,
    ) -> Result<(), LimitError> {
        budget.metadata(size_of::<Name>() + name.len())?;
        // The new link counts before the old one goes: they may be the same file.
        self.inode_mut(inode).links += 1;
        self.remove(parent, name, budget)?;
        let layer = self.layer;
        if let Some(entries) = self.entries_mut(parent) {
            entries.insert(name.into(), Name { inode, layer });
        }
        Ok(())
    }

    /// Gives a directory new attributes; what is in it stays.
    pub fn update(
        &mut self,
        parent: Option<(InodeId, &[u8])>,
        id: InodeId,
        attributes: Attributes,
        xattrs: Box<[u8]>,
    ) {
        let layer = self.layer;
        let entry = parent.and_then(|(parent, name)| self.entries_mut(parent)?.get_mut(name));
        if let Some(name) = entry {
            name.layer = layer;
        }
        let inode = self.inode_mut(id);
        inode.attributes = attributes;
        inode.xattrs = xattrs;
    }

    /// Takes `name` away with all that is below.
    pub fn remove(
        &mut self,
        parent: InodeId,
        name: &[u8],
        budget: &mut Budget,
    ) -> Result<(), LimitError> {
        let Some(name) = self.entries_mut(parent).and_then(|entries| entries.remove(name)) else {
            return Ok(());
        };
        let mut gone = vec![name.inode];
        while let Some(id) = gone.pop() {
            budget.steps(1)?;
            let inode = self.inode_mut(id);
            inode.links = inode.links.saturating_sub(1);
            if inode.links > 0 {
                continue;
            }
            inode.xattrs = Box::default();
            match std::mem::replace(&mut inode.node, Node::Removed) {
                Node::Directory(directory) => {
                    gone.extend(directory.entries.into_values().map(|name| name.inode));
                }
                Node::File(content) => self.removed.push(content),
                _ => {}
            }
        }
        Ok(())
    }

    /// Hides what the layers below put at `name` (a whiteout): what the layer itself put there,
    /// before or after the whiteout, stays (image-spec, layer.md "Whiteouts").
    pub fn hide(
        &mut self,
        parent: InodeId,
        name: &[u8],
        budget: &mut Budget,
    ) -> Result<(), LimitError> {
        let found = self.directory(parent).and_then(|directory| directory.entries.get(name));
        let Some(found) = found.copied() else {
            return Ok(());
        };
        if self.directory(found.inode).is_none() {
            return if found.layer == self.layer {
                Ok(())
            } else {
                self.remove(parent, name, budget)
            };
        }
        self.hide_below(found.inode, budget)?;
        if found.layer == self.layer {
            return Ok(());
        }
        if self.directory(found.inode).is_none_or(|directory| directory.entries.is_empty()) {
            return self.remove(parent, name, budget);
        }
        // The layer has put something below without an entry for the directory itself.
        self.update(Some((parent, name)), found.inode, Attributes::IMPLIED, Box::default());
        Ok(())
    }

    /// Hides what the layers below put into a directory (an opaque whiteout).
    pub fn hide_below(&mut self, top: InodeId, budget: &mut Budget) -> Result<(), LimitError> {
        // Directories below, each after the one it is in; then from the deepest up.
        let mut found: Vec<(InodeId, Box<[u8]>, Name)> = Vec::new();
        let mut next = Some(top);
        let mut at = 0;
        while let Some(directory) = next {
            let entries = self.directory(directory).map(|directory| &directory.entries);
            for (name, entry) in entries.into_iter().flatten() {
                budget.steps(1)?;
                found.push((directory, name.clone(), *entry));
            }
            next = loop {
                let Some((.., entry)) = found.get(at) else {
                    break None;
                };
                at += 1;
                if self.directory(entry.inode).is_some() {
                    break Some(entry.inode);
                }
            };
        }
        for (parent, name, entry) in found.into_iter().rev() {
            if entry.layer == self.layer {
                continue;
            }
            match self.directory(entry.inode) {
                Some(directory) if !directory.entries.is_empty() => {
                    let implied = Attributes::IMPLIED;
                    self.update(Some((parent, &name)), entry.inode, implied, Box::default());
                }
                _ => self.remove(parent, &name, budget)?,
            }
        }
        Ok(())
    }
}
