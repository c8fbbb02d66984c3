//! The end of the image: inodes and directories of the finished tree.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

use super::super::limits::{Budget, LimitError};
use super::super::tree::{Inode, InodeId, Node, ROOT, Tree};
use super::data::{DataWriter, WriteError};
use super::directory::{self, Packing};
use super::format::{DiskInode, FileType, INODE_BYTES, Layout, SLOT, SuperBlock, device_number};
use super::{BLOCK, tail_bytes};

/// An inode's place in the image.
#[derive(Debug, Clone, Copy)]
struct Place {
    id: InodeId,
    /// Byte offset from the start of the metadata.
    offset: u64,
    /// Size of the data.
    size: u64,
    /// How much of the data follows the inode.
    tail: u64,
    /// First block of the rest of the data.
    start: u32,
}

/// Places of all inodes.
struct Plan {
    /// In the order in which they stand in the image.
    places: Vec<Place>,
    /// Number of each inode by [`Tree::index`]; 0 for those without a name.
    nids: Vec<u64>,
    /// The directory each directory is in, by [`Tree::index`].
    parents: Vec<InodeId>,
    /// First block of the metadata.
    metadata: u32,
    /// Bytes of metadata.
    length: u64,
}

impl DataWriter {
    /// Writes inodes and directories of `tree` behind the data and the superblock before them.
    /// The image file is complete and synced afterwards. `uuid` becomes the file system's.
    pub fn finish(
        mut self,
        tree: &Tree,
        uuid: [u8; 16],
        budget: &mut Budget,
    ) -> Result<(), WriteError> {
        let plan = plan(tree, self.next)?;
        let blocks = u64::from(plan.metadata) + plan.length.div_ceil(BLOCK);
        budget.image(blocks * BLOCK)?;
        budget.stored((blocks - u64::from(self.next)) * BLOCK)?;
        let blocks = block_number(blocks)?;
        let tails = self.tails.into_inner().map_err(io::IntoInnerError::into_error)?;
        self.image.seek(SeekFrom::Start(u64::from(self.next) * BLOCK))?;
        write_late_data(&mut self.image, tree, &plan)?;
        write_inodes(&mut self.image, tree, &plan, &tails)?;
        let image = self.image.into_inner().map_err(io::IntoInnerError::into_error)?;
        image.set_len(u64::from(blocks) * BLOCK)?;
        let root = plan.nids.get(Tree::index(ROOT)).copied().unwrap_or_default();
        let superblock = SuperBlock {
            root: u16::try_from(root).map_err(io::Error::other)?,
            inodes: plan.places.len() as u64,
            blocks,
            metadata_block: plan.metadata,
            uuid,
        };
        image.write_all_at(&superblock.encode(), 0)?;
        image.sync_all()?;
        Ok(())
    }
}

fn block_number(block: u64) -> Result<u32, WriteError> {
    let limit = LimitError::Exceeded { what: "blocks in the image", limit: u32::MAX.into() };
    u32::try_from(block).map_err(|_| limit.into())
}

/// Finds a place for every inode that has a name: first the root, then directory by directory.
/// `next` is the first block after the data of files.
fn plan(tree: &Tree, next: u32) -> Result<Plan, WriteError> {
    let mut plan = Plan {
        places: Vec::new(),
        nids: vec![0; tree.inode_count()],
        parents: vec![ROOT; tree.inode_count()],
        metadata: 0,
        // No inode has the number 0, which programs take for a deleted file.
        length: INODE_BYTES as u64,
    };
    let mut next = u64::from(next);
    let mut directories = VecDeque::from([ROOT]);
    plan.add(tree, ROOT, &mut next)?;
    while let Some(parent) = directories.pop_front() {
        let entries = tree.directory(parent).map(|directory| directory.entries.values());
        for name in entries.into_iter().flatten() {
            let index = Tree::index(name.inode);
            if plan.nids.get(index).copied() != Some(0) {
                continue;
            }
            plan.add(tree, name.inode, &mut next)?;
            if tree.directory(name.inode).is_some() {
                if let Some(slot) = plan.parents.get_mut(index) {
                    *slot = parent;
                }
                directories.push_back(name.inode);
            }
        }
    }
    plan.metadata = block_number(next)?;
    Ok(plan)
}

impl Plan {
    /// Places `id` behind the inodes before. `next` is the first free block for data that have
    /// none yet.
    fn add(&mut self, tree: &Tree, id: InodeId, next: &mut u64) -> Result<(), WriteError> {
        let inode = tree.inode(id);
        let size = data_size(inode);
        let tail = tail_bytes(size, inode.xattrs.len());
        let start = match &inode.node {
            Node::File(content) => content.start,
            Node::Directory(_) | Node::Symlink(_) => {
                let blocks = (size - tail).div_ceil(BLOCK);
                let start = if blocks > 0 { block_number(*next)? } else { 0 };
                *next += blocks;
                start
            }
            Node::Character(major, minor) | Node::Block(major, minor) => {
                device_number(*major, *minor)
            }
            Node::Fifo | Node::Removed => 0,
        };
        let head = (INODE_BYTES + inode.xattrs.len()) as u64;
        let mut offset = self.length.next_multiple_of(SLOT);
        // Neither the inode itself nor data behind it may cross the end of a block.
        let together = if tail > 0 { head + tail } else { INODE_BYTES as u64 };
        if offset % BLOCK + together > BLOCK {
            offset = offset.next_multiple_of(BLOCK);
        }
        self.length = offset + head + tail;
        if let Some(nid) = self.nids.get_mut(Tree::index(id)) {
            *nid = offset / SLOT;
        }
        self.places.push(Place { id, offset, size, tail, start });
        Ok(())
    }

    fn nid(&self, id: InodeId) -> u64 {
        self.nids.get(Tree::index(id)).copied().unwrap_or_default()
    }

    /// The data of a directory.
    fn directory(&self, tree: &Tree, id: InodeId) -> Vec<u8> {
        let parent = self.parents.get(Tree::index(id)).copied().unwrap_or(ROOT);
        let Some(directory) = tree.directory(id) else {
            return Vec::new();
        };
        let named = directory.entries.iter().map(|(name, entry)| (&**name, entry.inode));
        let entries: Vec<_> = with_dots(named, id, parent)
            .map(|(name, inode)| {
                let kind = file_type(&tree.inode(inode).node);
                directory::Entry { name, nid: self.nid(inode), kind }
            })
            .collect();
        directory::encode(&entries)
    }
}

/// `entries` and, at their places in the order, `.` and `..`.
fn with_dots<'a, T>(
    entries: impl Iterator<Item = (&'a [u8], T)>,
    own: T,
    parent: T,
) -> impl Iterator<Item = (&'a [u8], T)> {
    let dots: [(&[u8], T); 2] = [(b".", own), (b"..", parent)];
    let mut dots = dots.into_iter().peekable();
    let mut entries = entries.peekable();
    std::iter::from_fn(move || match (dots.peek(), entries.peek()) {
        (Some((dot, _)), Some((name, _))) if dot > name => entries.next(),
        (Some(_), _) => dots.next(),
        (None, _) => entries.next(),
    })
}

fn data_size(inode: &Inode) -> u64 {
    match &inode.node {
        Node::File(content) => content.size,
        Node::Symlink(target) => target.len() as u64,
        Node::Directory(directory) => {
            let mut packing = Packing::default();
            let names = directory.entries.keys().map(|name| (&**name, ()));
            for (name, ()) in with_dots(names, (), ()) {
                packing.push(name);
            }
            packing.size()
        }
        Node::Character(..) | Node::Block(..) | Node::Fifo | Node::Removed => 0,
    }
}

fn file_type(node: &Node) -> FileType {
    match node {
        Node::Directory(_) => FileType::Directory,
        Node::File(_) | Node::Removed => FileType::File,
        Node::Symlink(_) => FileType::Symlink,
        Node::Character(..) => FileType::Character,
        Node::Block(..) => FileType::Block,
        Node::Fifo => FileType::Fifo,
    }
}

/// Writes the blocks of directories and symbolic links.
fn write_late_data(out: &mut impl Write, tree: &Tree, plan: &Plan) -> io::Result<()> {
    for place in &plan.places {
        if place.size == place.tail {
            continue;
        }
        let directory;
        let data: &[u8] = match &tree.inode(place.id).node {
            Node::Directory(_) => {
                directory = plan.directory(tree, place.id);
                &directory
            }
            Node::Symlink(target) => target,
            _ => continue,
        };
        let in_blocks = usize::try_from(place.size - place.tail).map_err(io::Error::other)?;
        let data = data.get(..in_blocks).unwrap_or_default();
        out.write_all(data)?;
        pad(out, data.len() as u64, (data.len() as u64).next_multiple_of(BLOCK))?;
    }
    Ok(())
}

/// Writes inodes, attributes and tails.
fn write_inodes(out: &mut impl Write, tree: &Tree, plan: &Plan, tails: &File) -> io::Result<()> {
    let mut position = 0;
    for (serial, place) in plan.places.iter().enumerate() {
        pad(out, position, place.offset)?;
        let inode = tree.inode(place.id);
        out.write_all(&disk_inode(tree, inode, place, serial).encode())?;
        out.write_all(&inode.xattrs)?;
        let tail = tail(tree, plan, place, tails)?;
        out.write_all(&tail)?;
        position = place.offset + (INODE_BYTES + inode.xattrs.len() + tail.len()) as u64;
    }
    pad(out, position, position.next_multiple_of(BLOCK))
}

fn disk_inode(tree: &Tree, inode: &Inode, place: &Place, serial: usize) -> DiskInode {
    let links = match &inode.node {
        Node::Directory(directory) => {
            let below = directory.entries.values();
            let directories = below.filter(|name| tree.directory(name.inode).is_some()).count();
            u32::try_from(directories).unwrap_or(u32::MAX).saturating_add(2)
        }
        _ => inode.links,
    };
    DiskInode {
        layout: if place.tail > 0 { Layout::Inline } else { Layout::Plain },
        xattr_bytes: inode.xattrs.len(),
        mode: file_type(&inode.node).mode() | inode.attributes.mode,
        size: place.size,
        start: place.start,
        serial: u32::try_from(serial + 1).unwrap_or(u32::MAX),
        uid: inode.attributes.uid,
        gid: inode.attributes.gid,
        mtime: inode.attributes.mtime,
        links,
    }
}

/// The end of an inode's data that goes behind it.
fn tail(tree: &Tree, plan: &Plan, place: &Place, tails: &File) -> io::Result<Vec<u8>> {
    let length = usize::try_from(place.tail).map_err(io::Error::other)?;
    let end_of = |data: &[u8]| data.get(data.len() - length.min(data.len())..).map(<[u8]>::to_vec);
    Ok(match &tree.inode(place.id).node {
        Node::File(content) => {
            let mut data = vec![0; length];
            if let Some(offset) = content.tail {
                tails.read_exact_at(&mut data, offset)?;
            }
            data
        }
        Node::Directory(_) if length > 0 => {
            end_of(&plan.directory(tree, place.id)).unwrap_or_default()
        }
        Node::Symlink(target) => end_of(target).unwrap_or_default(),
        _ => Vec::new(),
    })
}

/// Writes zeroes from `position` to `end`.
fn pad(out: &mut impl Write, position: u64, end: u64) -> io::Result<()> {
    io::copy(&mut io::Read::take(io::repeat(0), end.saturating_sub(position)), out)?;
    Ok(())
}
