//! Extended attributes behind an inode (`erofs_xattr_ibody_header`, `erofs_xattr_entry`).

use super::super::limits::{NAME_BYTES, XATTR_VALUE_BYTES};

/// Size of the header in bytes.
pub const HEADER_BYTES: usize = 12;
/// The inode counts the header as one and the rest in units of four bytes, in 16 bits.
const MAX_BYTES: usize = HEADER_BYTES + 4 * (u16::MAX as usize - 1);

/// Name prefixes that are stored as a number.
const PREFIXES: [(&[u8], u8); 5] = [
    (b"user.", 1),
    (b"system.posix_acl_access", 2),
    (b"system.posix_acl_default", 3),
    (b"trusted.", 4),
    (b"security.", 6),
];

/// The attributes of one file are larger than an inode can have.
#[derive(Debug, PartialEq, Eq)]
pub struct XattrsTooLarge;

/// The body for `xattrs`, full names and values; empty if there are none. Attributes outside the
/// name spaces of Linux are left out, as no file system would take them.
pub fn encode_xattrs<'a>(
    xattrs: impl Iterator<Item = (&'a [u8], &'a [u8])>,
) -> Result<Box<[u8]>, XattrsTooLarge> {
    let mut body = Vec::new();
    for (name, value) in xattrs {
        let Some((name, index)) = split(name) else {
            continue;
        };
        if name.len() > NAME_BYTES || value.len() > XATTR_VALUE_BYTES {
            return Err(XattrsTooLarge);
        }
        if body.is_empty() {
            // Name filter, count of shared attributes, reserved: all of no use here.
            body.resize(HEADER_BYTES, 0);
        }
        body.push(u8::try_from(name.len()).map_err(|_| XattrsTooLarge)?);
        body.push(index);
        body.extend(u16::try_from(value.len()).map_err(|_| XattrsTooLarge)?.to_le_bytes());
        body.extend(name);
        body.extend(value);
        body.resize(body.len().next_multiple_of(4), 0);
        if body.len() > MAX_BYTES {
            return Err(XattrsTooLarge);
        }
    }
    Ok(body.into_boxed_slice())
}

fn split(name: &[u8]) -> Option<(&[u8], u8)> {
    PREFIXES.iter().find_map(|(prefix, index)| {
        let rest = name.strip_prefix(*prefix)?;
        // The two names of access lists are whole, the others must go on.
        let whole = !prefix.ends_with(b".");
        (rest.is_empty() == whole && !rest.contains(&0)).then_some((rest, *index))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(xattrs: &[(&[u8], &[u8])]) -> Result<Vec<u8>, XattrsTooLarge> {
        encode_xattrs(xattrs.iter().copied()).map(Vec::from)
    }

    #[test]
    fn names_are_split_and_entries_padded() {
        let body = encode(&[(b"user.ab", b"xyz"), (b"system.posix_acl_access", b"1")]).unwrap();
        assert_eq!(body[12..24], [2, 1, 3, 0, b'a', b'b', b'x', b'y', b'z', 0, 0, 0]);
        assert_eq!(body[24..], [0, 2, 1, 0, b'1', 0, 0, 0]);
        assert_eq!(encode(&[]), Ok(vec![]));
    }

    #[test]
    fn foreign_name_spaces_are_left_out() {
        for name in ["com.apple.quarantine", "user.", "system.posix_acl_accessx", "security.\0"] {
            assert_eq!(encode(&[(name.as_bytes(), b"1")]), Ok(vec![]), "{name}");
        }
    }

    #[test]
    fn what_an_inode_cannot_hold_is_refused() {
        let long = [b"user.".as_slice(), &[b'a'; 256]].concat();
        assert_eq!(encode(&[(&long, b"")]), Err(XattrsTooLarge));
        assert_eq!(encode(&[(b"user.a", &[0; 65_536])]), Err(XattrsTooLarge));
        let value = [0; 65_535];
        let names: Vec<_> = (0..5).map(|n| format!("user.{n}").into_bytes()).collect();
        let many: Vec<_> = names.iter().map(|name| (name.as_slice(), &value[..])).collect();
        assert!(encode(&many[..3]).is_ok());
        assert_eq!(encode(&many), Err(XattrsTooLarge));
    }
}
