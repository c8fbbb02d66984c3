//! The structures of the disk format, little endian (Linux, fs/erofs/erofs_fs.h).

/// Where the superblock starts, in bytes.
pub const SUPER_OFFSET: usize = 1024;
/// `EROFS_SUPER_MAGIC_V1`
const MAGIC: u32 = 0xe0f5_e1e2;
/// `EROFS_FEATURE_COMPAT_SB_CHKSUM`
const SB_CHKSUM: u32 = 1;
/// `EROFS_FEATURE_COMPAT_MTIME`: times of inodes are those of the last change.
const MTIME: u32 = 2;

/// Size of an extended inode in bytes.
pub const INODE_BYTES: usize = 64;
/// Inodes are numbered by units of this many bytes from the start of the metadata.
pub const SLOT: u64 = 32;

/// What the superblock says.
#[derive(Debug)]
pub struct SuperBlock {
    pub root: u16,
    pub inodes: u64,
    pub blocks: u32,
    pub metadata_block: u32,
    pub uuid: [u8; 16],
}

impl SuperBlock {
    /// The image's first block.
    pub fn encode(&self) -> [u8; 4096] {
        let mut fields = Vec::with_capacity(128);
        fields.extend(MAGIC.to_le_bytes());
        fields.extend([0; 4]); // checksum
        fields.extend((SB_CHKSUM | MTIME).to_le_bytes());
        fields.extend([12, 0]); // block size as a power of two, extension slots
        fields.extend(self.root.to_le_bytes());
        fields.extend(self.inodes.to_le_bytes());
        fields.extend([0; 12]); // build time: the same image has the same bytes at all times
        fields.extend(self.blocks.to_le_bytes());
        fields.extend(self.metadata_block.to_le_bytes());
        fields.extend([0; 4]); // shared attributes
        fields.extend(self.uuid);
        let mut block = [0; 4096];
        let (_, from_super) = block.split_at_mut(SUPER_OFFSET);
        for (to, from) in from_super.iter_mut().zip(fields) {
            *to = from;
        }
        let checksum = crc32c(from_super).to_le_bytes();
        for (to, from) in from_super.iter_mut().skip(4).zip(checksum) {
            *to = from;
        }
        block
    }
}

/// CRC-32C as Linux has it, without the last inversion. It runs over three kilobytes an image.
fn crc32c(bytes: &[u8]) -> u32 {
    bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 0 { crc >> 1 } else { (crc >> 1) ^ 0x82f6_3b78 }
        })
    })
}

/// Where an inode's data are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// `EROFS_INODE_FLAT_PLAIN`: in blocks
    Plain = 0,
    /// `EROFS_INODE_FLAT_INLINE`: in blocks but for the end, which follows the inode
    Inline = 2,
}

/// An extended inode.
#[derive(Debug)]
pub struct DiskInode {
    pub layout: Layout,
    pub xattr_bytes: usize,
    pub mode: u16,
    pub size: u64,
    /// first block, or the device number
    pub start: u32,
    /// a number for those who cannot hold 64 bits
    pub serial: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: (i64, u32),
    pub links: u32,
}

impl DiskInode {
    /// The inode's 64 bytes.
    pub fn encode(&self) -> Vec<u8> {
        let format = 1 | (self.layout as u16) << 1;
        // The header of the attributes counts as one, the rest in units of four bytes.
        let xattr_units = self.xattr_bytes.checked_sub(super::xattr::HEADER_BYTES);
        let xattr_count = xattr_units.map_or(0, |bytes| bytes / 4 + 1);
        let mut bytes = Vec::with_capacity(INODE_BYTES);
        bytes.extend(format.to_le_bytes());
        bytes.extend(u16::try_from(xattr_count).unwrap_or(u16::MAX).to_le_bytes());
        bytes.extend(self.mode.to_le_bytes());
        bytes.extend([0; 2]);
        bytes.extend(self.size.to_le_bytes());
        bytes.extend(self.start.to_le_bytes());
        bytes.extend(self.serial.to_le_bytes());
        bytes.extend(self.uid.to_le_bytes());
        bytes.extend(self.gid.to_le_bytes());
        bytes.extend(self.mtime.0.to_le_bytes());
        bytes.extend(self.mtime.1.to_le_bytes());
        bytes.extend(self.links.to_le_bytes());
        bytes.extend([0; 16]);
        bytes
    }
}

/// The kinds of files, in the mode of an inode and in a directory entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileType {
    /// regular file
    File,
    /// directory
    Directory,
    /// character device
    Character,
    /// block device
    Block,
    /// FIFO
    Fifo,
    /// symbolic link
    Symlink,
}

impl FileType {
    /// `S_IFMT` bits
    pub fn mode(self) -> u16 {
        match self {
            Self::File => 0o100_000,
            Self::Directory => 0o040_000,
            Self::Character => 0o020_000,
            Self::Block => 0o060_000,
            Self::Fifo => 0o010_000,
            Self::Symlink => 0o120_000,
        }
    }

    /// `EROFS_FT_*`
    pub fn entry(self) -> u8 {
        match self {
            Self::File => 1,
            Self::Directory => 2,
            Self::Character => 3,
            Self::Block => 4,
            Self::Fifo => 5,
            Self::Symlink => 7,
        }
    }
}

/// A device number as Linux encodes it in 32 bits (`new_encode_dev`).
pub fn device_number(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | (major & 0xfff) << 8 | (minor & 0xf_ff00) << 12
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_castagnoli_polynomial() {
        // RFC 3720, B.4: 32 bytes of zeroes.
        assert_eq!(!crc32c(&[0; 32]), 0x8a91_36aa);
    }

    #[test]
    fn structures_have_their_sizes() {
        let inode = DiskInode {
            layout: Layout::Inline,
            xattr_bytes: 20,
            mode: 0,
            size: 0,
            start: 0,
            serial: 0,
            uid: 0,
            gid: 0,
            mtime: (-1, 0),
            links: 1,
        };
        let bytes = inode.encode();
        assert_eq!(bytes.len(), INODE_BYTES);
        assert_eq!(bytes[..4], [5, 0, 3, 0]);
        assert_eq!(device_number(0x123, 0x45678), 0x4561_2378);
    }
}
