//! Netlink's attributes: a length, a kind and a value, each beginning at a multiple of four bytes; the
//! value may consist of attributes. Those of nf_tables have numbers in the network's order of bytes.

use netlink_packet_core::{NLA_F_NESTED, NLA_HEADER_SIZE, NlasIterator};

/// Attributes that are written one after the other.
#[derive(Debug, Default)]
pub struct Attributes {
    bytes: Vec<u8>,
    too_long: bool,
}

impl Attributes {
    /// The bytes of all of them; none where one was longer than its length can say.
    pub fn bytes(&self) -> Option<&[u8]> {
        (!self.too_long).then_some(&self.bytes)
    }

    /// One with a value.
    pub fn put(&mut self, kind: u16, value: &[u8]) {
        let start = self.begin(kind);
        self.bytes.extend_from_slice(value);
        self.end(start);
    }

    /// One with a number.
    pub fn put_u32(&mut self, kind: u16, value: u32) {
        self.put(kind, &value.to_be_bytes());
    }

    /// One with a text, which a zero ends.
    pub fn put_text(&mut self, kind: u16, text: &str) {
        let start = self.begin(kind);
        self.bytes.extend_from_slice(text.as_bytes());
        self.bytes.push(0);
        self.end(start);
    }

    /// One that consists of others.
    pub fn nest(&mut self, kind: u16, others: impl FnOnce(&mut Self)) {
        let start = self.begin(kind | NLA_F_NESTED);
        others(self);
        self.end(start);
    }

    fn begin(&mut self, kind: u16) -> usize {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        start
    }

    fn end(&mut self, start: usize) {
        let length = self.bytes.len() - start;
        match (u16::try_from(length), self.bytes.get_mut(start..start + 2)) {
            (Ok(length), Some(place)) => place.copy_from_slice(&length.to_ne_bytes()),
            _ => self.too_long = true,
        }
        self.bytes.resize(start + length.next_multiple_of(4), 0);
    }
}

/// The attributes there are, by their kind, up to the first that is none.
pub fn read(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    NlasIterator::new(bytes)
        .map_while(Result::ok)
        .map(|attribute| (attribute.kind(), attribute.into_inner(), attribute.length()))
        .map_while(|(kind, bytes, length)| {
            Some((kind, bytes.get(NLA_HEADER_SIZE..usize::from(length))?))
        })
}

/// The value of one kind.
pub fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    read(bytes).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

/// A text up to the zero that ends it.
pub fn text(value: &[u8]) -> String {
    let text = value.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}
