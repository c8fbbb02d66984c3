//! One entry of an archive.

use std::io::{self, Read, Write};

use tar::{Builder, EntryType, Header};

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// Another name of a file of the archive.
    HardLink,
    /// A symbolic link.
    Symlink,
    /// A character device: major, minor.
    Character(u32, u32),
    /// A block device: major, minor.
    Block(u32, u32),
    /// A directory.
    Directory,
    /// A FIFO.
    Fifo,
}

/// An entry without its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name; parts apart by slashes.
    pub path: Vec<u8>,
    /// Target of a hard or symbolic link.
    pub link: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permission bits with set-user-id, set-group-id and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of the last change: seconds since 1970.
    pub mtime: i64,
    /// Bytes of a regular file.
    pub size: u64,
    /// Extended attributes: full name, value.
    pub xattrs: Vec<(String, Vec<u8>)>,
}

/// How an extended attribute is named in an extended header.
const XATTR: &str = "SCHILY.xattr.";

impl Entry {
    /// Writes it, with its data if it is a regular file: what `data` has less than [`Entry::size`] becomes
    /// zeroes, what it has more is left out.
    ///
    /// Names of any length go into PAX headers, which `tar` itself does not write them to.
    pub fn write(&self, archive: &mut Builder<impl Write>, data: impl Read) -> io::Result<()> {
        let mut header = Header::new_ustar();
        let mut pax: Vec<(String, &[u8])> = Vec::new();
        let old = header.as_old_mut();
        if !fill(&mut old.name, &self.path) {
            pax.push(("path".into(), &self.path));
        }
        if !fill(&mut old.linkname, &self.link) {
            pax.push(("linkpath".into(), &self.link));
        }
        for (name, value) in &self.xattrs {
            pax.push((format!("{XATTR}{name}"), value));
        }
        header.set_entry_type(self.entry_type());
        header.set_mode(self.mode & 0o7777);
        header.set_uid(self.uid.into());
        header.set_gid(self.gid.into());
        header.set_mtime(u64::try_from(self.mtime).unwrap_or(0));
        let size = if self.kind == Kind::File { self.size } else { 0 };
        header.set_size(size);
        let (major, minor) = match self.kind {
            Kind::Character(major, minor) | Kind::Block(major, minor) => (major, minor),
            _ => (0, 0),
        };
        header.set_device_major(major)?;
        header.set_device_minor(minor)?;
        header.set_cksum();
        if !pax.is_empty() {
            archive.append_pax_extensions(pax.iter().map(|(key, value)| (key.as_str(), *value)))?;
        }
        archive.append(&header, data.chain(io::repeat(0)).take(size))
    }

    fn entry_type(&self) -> EntryType {
        match self.kind {
            Kind::File => EntryType::Regular,
            Kind::HardLink => EntryType::Link,
            Kind::Symlink => EntryType::Symlink,
            Kind::Character(..) => EntryType::Char,
            Kind::Block(..) => EntryType::Block,
            Kind::Directory => EntryType::Directory,
            Kind::Fifo => EntryType::Fifo,
        }
    }

    /// An entry of an archive that [`Entry::write`] has made, read raw (`tar::Entries::raw`); none of what only
    /// says something about the next one, which `extended` keeps until then.
    ///
    /// # Errors
    /// It cannot be read, or is none of those.
    pub fn read(
        entry: &mut tar::Entry<'_, impl Read>,
        extended: &mut Extended,
    ) -> io::Result<Option<Self>> {
        if entry.header().entry_type() == EntryType::XHeader {
            *extended = Extended::read(entry)?;
            return Ok(None);
        }
        let Extended { path, link, xattrs } = std::mem::take(extended);
        let header = entry.header();
        let device = (header.device_major()?.unwrap_or(0), header.device_minor()?.unwrap_or(0));
        let kind = match header.entry_type() {
            EntryType::Regular => Kind::File,
            EntryType::Link => Kind::HardLink,
            EntryType::Symlink => Kind::Symlink,
            EntryType::Char => Kind::Character(device.0, device.1),
            EntryType::Block => Kind::Block(device.0, device.1),
            EntryType::Directory => Kind::Directory,
            EntryType::Fifo => Kind::Fifo,
            _ => return Err(malformed()),
        };
        let id = |id: u64| u32::try_from(id).map_err(io::Error::other);
        Ok(Some(Self {
            kind,
            mode: header.mode()? & 0o7777,
            uid: id(header.uid()?)?,
            gid: id(header.gid()?)?,
            mtime: i64::try_from(header.mtime()?).map_err(io::Error::other)?,
            size: entry.size(),
            path: path.unwrap_or_else(|| until_nul(&header.as_old().name)),
            link: link.unwrap_or_else(|| until_nul(&header.as_old().linkname)),
            xattrs,
        }))
    }
}

/// What a PAX header says about the entry behind it.
///
/// Read here: the crate takes a newline in a value (a name's, a capability's) for its end.
#[derive(Debug, Default)]
pub struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    xattrs: Vec<(String, Vec<u8>)>,
}

/// Most bytes of such a header.
const EXTENDED: u64 = 1 << 20;

impl Extended {
    fn read(from: impl Read) -> io::Result<Self> {
        let mut bytes = Vec::new();
        from.take(EXTENDED).read_to_end(&mut bytes)?;
        let mut extended = Self::default();
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let (key, value, behind) = record(rest).ok_or_else(malformed)?;
            match (key, key.strip_prefix(XATTR)) {
                ("path", _) => extended.path = Some(value.to_vec()),
                ("linkpath", _) => extended.link = Some(value.to_vec()),
                (_, Some(name)) => extended.xattrs.push((name.to_owned(), value.to_vec())),
                _ => {}
            }
            rest = behind;
        }
        Ok(extended)
    }
}

/// The first of some records `LENGTH KEY=VALUE\n`, and what is behind it.
fn record(bytes: &[u8]) -> Option<(&str, &[u8], &[u8])> {
    let space = bytes.iter().position(|byte| *byte == b' ')?;
    let length: usize = str::from_utf8(bytes.get(..space)?).ok()?.parse().ok()?;
    let text = bytes.get(space + 1..length)?.strip_suffix(b"\n")?;
    let equals = text.iter().position(|byte| *byte == b'=')?;
    Some((str::from_utf8(text.get(..equals)?).ok()?, text.get(equals + 1..)?, bytes.get(length..)?))
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the archive is malformed")
}

fn until_nul(field: &[u8]) -> Vec<u8> {
    field.split(|byte| *byte == 0).next().unwrap_or_default().to_vec()
}

/// Whether the text is in the field whole; else it is to be somewhere else, too.
fn fill(field: &mut [u8; 100], text: &[u8]) -> bool {
    for (to, from) in field.iter_mut().zip(text) {
        *to = *from;
    }
    text.len() < field.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(path: Vec<u8>, link: Vec<u8>, kind: Kind, size: u64) -> Entry {
        let xattrs = vec![("security.capability".into(), b"\x01\n\0".to_vec())];
        Entry { path, link, kind, mode: 0o4755, uid: 1 << 31, gid: 7, mtime: 5, size, xattrs }
    }

    fn names() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(1u8.., 1..300)
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(path in names(), link in names(), size in 0usize..2000) {
            let entries = [
                entry(path.clone(), Vec::new(), Kind::File, size as u64),
                entry(path.clone(), link, Kind::Symlink, 0),
                entry(path.clone(), Vec::new(), Kind::Character(5, 259), 0),
                entry(path, Vec::new(), Kind::Directory, 0),
            ];
            let mut archive = Builder::new(Vec::new());
            for entry in &entries {
                entry.write(&mut archive, vec![9; size + 5].as_slice()).unwrap();
            }
            let bytes = archive.into_inner().unwrap();
            let mut archive = tar::Archive::new(bytes.as_slice());
            let mut extended = Extended::default();
            let mut read = Vec::new();
            for found in archive.entries().unwrap().raw(true) {
                let mut found = found.unwrap();
                let Some(entry) = Entry::read(&mut found, &mut extended).unwrap() else { continue };
                let mut data = Vec::new();
                found.read_to_end(&mut data).unwrap();
                prop_assert_eq!(data, vec![9; usize::try_from(entry.size).unwrap()]);
                read.push(entry);
            }
            prop_assert_eq!(read, entries);
        }

        #[test]
        fn any_extended_header_is_taken_without_panic(text in "([0-9]{1,3} [a-z]{0,3}=?.{0,9}\n?){0,4}") {
            let _ = Extended::read(text.as_bytes());
        }
    }

    #[test]
    fn a_file_that_became_shorter_is_filled_up() {
        let mut archive = Builder::new(Vec::new());
        let short = entry(b"x".to_vec(), Vec::new(), Kind::File, 4);
        short.write(&mut archive, b"ab".as_slice()).unwrap();
        let bytes = archive.into_inner().unwrap();
        let mut archive = tar::Archive::new(bytes.as_slice());
        let mut data = Vec::new();
        archive.entries().unwrap().next().unwrap().unwrap().read_to_end(&mut data).unwrap();
        assert_eq!(data, b"ab\0\0");
    }
}
