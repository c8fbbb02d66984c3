//! Archives made by hand, and images read back by a reader that is not ours.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::process::Command;

use erofs_rs::EroFS;
use erofs_rs::backend::SliceImage;

use super::digest::{Digest, HashReader};
use super::erofs::DataWriter;
use super::layer::{Layer, LayerError};
use super::limits::{Budget, Limits};
use super::tar_stream::TarStream;
use super::tree::Tree;

/// One entry of a tar archive.
#[derive(Debug)]
pub struct Item {
    header: tar::Header,
    pax: Vec<(Vec<u8>, Vec<u8>)>,
    data: Vec<u8>,
}

impl Item {
    /// An entry of the type `kind`, mode 0644. A name beyond 100 bytes goes into a PAX header.
    pub fn new(kind: u8, path: &str) -> Self {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::new(kind));
        for (to, from) in header.as_old_mut().name.iter_mut().zip(path.bytes()) {
            *to = from;
        }
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(0);
        header.set_device_major(0).unwrap();
        header.set_device_minor(0).unwrap();
        let item = Self { header, pax: Vec::new(), data: Vec::new() };
        if path.len() > 100 { item.pax("path", path.as_bytes()) } else { item }
    }

    pub fn file(path: &str, data: impl AsRef<[u8]>) -> Self {
        let mut item = Self::new(b'0', path);
        item.data = data.as_ref().to_vec();
        item.header.set_size(item.data.len() as u64);
        item
    }

    pub fn directory(path: &str) -> Self {
        Self::new(b'5', path).mode(0o755)
    }

    pub fn symlink(path: &str, target: &str) -> Self {
        Self::new(b'2', path).mode(0o777).link(target)
    }

    pub fn hard_link(path: &str, target: &str) -> Self {
        Self::new(b'1', path).link(target)
    }

    pub fn link(mut self, target: &str) -> Self {
        if target.len() > 100 {
            return self.pax("linkpath", target.as_bytes());
        }
        self.header.set_link_name_literal(target).unwrap();
        self
    }

    pub fn mode(mut self, mode: u32) -> Self {
        self.header.set_mode(mode);
        self
    }

    pub fn owner(mut self, uid: u64, gid: u64) -> Self {
        self.header.set_uid(uid);
        self.header.set_gid(gid);
        self
    }

    pub fn device(mut self, major: u32, minor: u32) -> Self {
        self.header.set_device_major(major).unwrap();
        self.header.set_device_minor(minor).unwrap();
        self
    }

    pub fn pax(mut self, key: &str, value: &[u8]) -> Self {
        self.pax.push((key.into(), value.into()));
        self
    }

    pub fn header(mut self, change: impl FnOnce(&mut tar::Header)) -> Self {
        change(&mut self.header);
        self
    }

    fn write(mut self, out: &mut Vec<u8>) {
        if !self.pax.is_empty() {
            let body: Vec<u8> =
                self.pax.iter().flat_map(|(key, value)| record(key, value)).collect();
            let mut header = Self::new(b'x', "pax").header;
            header.set_size(body.len() as u64);
            header.set_cksum();
            out.extend(header.as_bytes());
            out.extend(padded(&body));
        }
        self.header.set_cksum();
        out.extend(self.header.as_bytes());
        out.extend(padded(&self.data));
    }
}

/// A PAX record, its own length in front.
fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = [b" ", key, b"=", value, b"\n"].concat();
    let length = (1..).find(|length: &usize| length.to_string().len() + rest.len() == *length);
    [length.unwrap().to_string().into_bytes(), rest].concat()
}

fn padded(data: &[u8]) -> Vec<u8> {
    let mut data = data.to_vec();
    data.resize(data.len().next_multiple_of(512), 0);
    data
}

/// A tar archive of `items`.
pub fn archive(items: impl IntoIterator<Item = Item>) -> Vec<u8> {
    let mut out = Vec::new();
    items.into_iter().for_each(|item| item.write(&mut out));
    out.extend([0; 1024]);
    out
}

/// A file of an image as the other reader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// type and permission bits
    pub mode: u32,
    pub owner: (u32, u32),
    pub mtime: (i64, u32),
    pub links: u32,
    pub inode: u64,
    /// of a regular file, or the target of a symbolic link
    pub data: Vec<u8>,
    pub device: Option<(u32, u32)>,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

pub type Files = BTreeMap<String, Found>;

/// All files of an image by their paths, the root as `/`.
pub fn read_image(image: &[u8]) -> Files {
    let reader = EroFS::new(SliceImage::new(image)).unwrap();
    let root = reader.get_inode(reader.super_block().root_inode_id()).unwrap();
    let below = reader.walk_dir("/").unwrap().map(|entry| {
        let entry = entry.unwrap();
        (String::from_utf8_lossy(entry.dir_entry.path().as_bytes()).into_owned(), entry.inode)
    });
    let all = std::iter::once(("/".to_owned(), root)).chain(below);
    all.map(|(path, inode)| {
        let mut data = Vec::new();
        if inode.is_file() {
            reader.open_inode_file(inode).unwrap().read_to_end(&mut data).unwrap();
        } else if inode.is_symlink() {
            data = reader.read_link_inode(inode).unwrap().into_vec();
        }
        let permissions = std::os::unix::fs::PermissionsExt::mode(&inode.permissions());
        let found = Found {
            mode: inode.file_type().as_raw_mode() | permissions & 0o7777,
            owner: (inode.uid(), inode.gid()),
            mtime: inode.modified_unix(),
            links: inode.nlink(),
            inode: inode.id(),
            data,
            device: inode.device(),
            xattrs: reader.xattrs_inode(inode).unwrap(),
        };
        (path, found)
    })
    .collect()
}

/// Puts layers on one another within `limits`; the image's bytes.
pub fn flatten_within(layers: &[Vec<u8>], limits: Limits) -> Result<Vec<u8>, LayerError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    let mut budget = Budget::new(limits, folder.path());
    let tails = tempfile::tempfile_in(folder.path()).unwrap();
    let mut data = DataWriter::new(File::create_new(&path).unwrap(), tails)?;
    let mut tree = Tree::default();
    for layer in layers {
        let mut stream = TarStream::new(HashReader::counting(&**layer));
        Layer::new(&mut tree, &mut data, &mut budget).apply(&mut stream)?;
    }
    data.finish(&tree, Digest::of(b"").uuid(), &mut budget)?;
    check_with_fsck(&path);
    Ok(fs::read(path).unwrap())
}

/// Puts layers on one another and reads the image.
pub fn flatten(layers: &[Vec<u8>]) -> Result<Files, LayerError> {
    flatten_within(layers, Limits::default()).map(|image| read_image(&image))
}

/// Lets erofs-utils check an image, where they are installed.
fn check_with_fsck(image: &Path) {
    let Ok(output) = Command::new("fsck.erofs").arg(image).output() else {
        return;
    };
    assert!(output.status.success(), "fsck.erofs: {}", String::from_utf8_lossy(&output.stderr));
}
