//! Transactions: messages that the kernel does all of, or none.

use std::io;

use super::attributes::Attributes;
use super::error::{NftError, Refusal, Subject};
use super::expression::{Data, Expression};
use super::netlink::message;

/// `NFNL_SUBSYS_NFTABLES`.
pub(super) const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;

// `NFT_MSG_*`.
const NEW_TABLE: u16 = 0;
pub(super) const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const DELETE_CHAIN: u16 = 5;
const NEW_RULE: u16 = 6;
const DELETE_RULE: u16 = 8;
const NEW_SET: u16 = 9;
pub(super) const NEW_ELEMENT: u16 = 12;
pub(super) const DELETE_ELEMENT: u16 = 14;

// From the kernel's include/uapi/linux/netfilter/nf_tables.h.
const LIST_ELEM: u16 = 1;
pub(super) const TABLE_NAME: u16 = 1;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const SET_TABLE: u16 = 1;
const SET_NAME: u16 = 2;
const SET_FLAGS: u16 = 3;
const SET_KEY_TYPE: u16 = 4;
const SET_KEY_LEN: u16 = 5;
const SET_DATA_TYPE: u16 = 6;
const SET_DATA_LEN: u16 = 7;
const SET_ID: u16 = 10;
const SET_USERDATA: u16 = 13;
const SET_INTERVAL: u32 = 0x4;
const SET_MAP: u32 = 0x8;
pub(super) const ELEMENTS_TABLE: u16 = 1;
pub(super) const ELEMENTS_SET: u16 = 2;
pub(super) const ELEMENTS: u16 = 3;
pub(super) const ELEMENT_KEY: u16 = 1;
pub(super) const ELEMENT_DATA: u16 = 2;
pub(super) const ELEMENT_FLAGS: u16 = 3;
pub(super) const ELEMENT_USERDATA: u16 = 6;
const ELEMENT_INTERVAL_END: u32 = 1;
const TYPE_VERDICT: u32 = 0xffff_ff00;

/// Which packets a table is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Those of IPv4 and IPv6.
    Inet,
    /// Those that pass a bridge.
    Bridge,
}

impl Family {
    /// `NFPROTO_*`.
    pub(super) fn number(self) -> u8 {
        match self {
            Self::Inet => 1,
            Self::Bridge => 7,
        }
    }
}

/// A table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Table {
    /// Which packets it is about.
    pub family: Family,
    /// Its name.
    pub name: &'static str,
}

/// Where packets come to a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hook {
    /// `filter` or `nat`.
    pub kind: &'static str,
    /// `NF_INET_*` or `NF_BR_*`.
    pub number: u32,
    /// Among others there; the lowest is the first.
    pub priority: i32,
}

/// A chain. What none of its rules decides is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chain<'a> {
    /// Its name.
    pub name: &'a str,
    /// None where others call it.
    pub hook: Option<Hook>,
}

/// What one part of a key or of data is, for nft(8) to show it, with nft's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Address of IPv4.
    Address4,
    /// Address of IPv6.
    Address6,
    /// Hardware address.
    Mac,
    /// Protocol of the transport.
    Protocol,
    /// Port.
    Port,
    /// Name of an interface.
    Interface,
}

impl Kind {
    fn number(self) -> u32 {
        match self {
            Self::Address4 => 7,
            Self::Address6 => 8,
            Self::Mac => 9,
            Self::Protocol => 12,
            Self::Port => 13,
            Self::Interface => 41,
        }
    }

    /// Bytes that it takes; in keys of several parts, as registers have it.
    fn length(self) -> u32 {
        match self {
            Self::Address4 => 4,
            Self::Address6 | Self::Interface => 16,
            Self::Mac => 6,
            Self::Protocol => 1,
            Self::Port => 2,
        }
    }

    /// Number and length of several, one after the other.
    fn of(kinds: &[Self]) -> (u32, u32) {
        match kinds {
            [kind] => (kind.number(), kind.length()),
            kinds => kinds.iter().fold((0, 0), |(number, length), kind| {
                (number << 6 | kind.number(), length + kind.length().next_multiple_of(4))
            }),
        }
    }
}

/// A set, or a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Set {
    /// Its name.
    pub name: &'static str,
    /// What its keys consist of.
    pub key: &'static [Kind],
    /// What its data consist of; none for a set, nothing where they are verdicts.
    pub data: Option<&'static [Kind]>,
    /// A key is the first of many; the first that is none of them ends those.
    pub interval: bool,
}

/// An element of a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    /// Its key.
    pub key: Vec<u8>,
    /// The keys before this one, and from the last element on, are in the set.
    pub ends: bool,
    /// What a map has for it.
    pub data: Option<Data>,
    /// Whose it is.
    pub comment: Option<String>,
}

impl Element {
    /// A set's.
    pub fn new(key: Vec<u8>) -> Self {
        Self { key, ends: false, data: None, comment: None }
    }

    /// A map's.
    pub fn with(key: Vec<u8>, data: Data) -> Self {
        Self { data: Some(data), ..Self::new(key) }
    }

    /// The end of an interval.
    pub fn end(key: Vec<u8>) -> Self {
        Self { ends: true, ..Self::new(key) }
    }

    /// What it is known by: data and comment do not matter to that.
    pub(super) fn bare(&self) -> Self {
        Self { data: None, comment: None, ..self.clone() }
    }

    fn write(&self, a: &mut Attributes) {
        a.nest(ELEMENT_KEY, |a| Data::Value(self.key.clone()).write(a));
        if let Some(data) = &self.data {
            a.nest(ELEMENT_DATA, |a| data.write(a));
        }
        if self.ends {
            a.put_u32(ELEMENT_FLAGS, ELEMENT_INTERVAL_END);
        }
        if let Some(comment) = &self.comment {
            // As nft has it: kind 0, a length, and the text with its end.
            let length = u8::try_from(comment.len() + 1).unwrap_or(u8::MAX);
            let mut userdata = vec![0, length];
            userdata.extend(comment.bytes().chain([0]).take(length.into()));
            a.put(ELEMENT_USERDATA, &userdata);
        }
    }
}

/// One element of a set, as all messages about elements have it.
pub(super) fn write_elements(a: &mut Attributes, table: Table, set: &str, element: &Element) {
    a.put_text(ELEMENTS_TABLE, table.name);
    a.put_text(ELEMENTS_SET, set);
    a.nest(ELEMENTS, |a| a.nest(LIST_ELEM, |a| element.write(a)));
}

/// What the kernel is asked to do as one.
#[derive(Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    subjects: Vec<Subject>,
    /// Where the last message begins.
    last: usize,
    too_long: bool,
}

impl Batch {
    /// How many messages there are.
    pub fn len(&self) -> usize {
        self.subjects.len()
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.subjects.is_empty()
    }

    /// The error that a refusal of one of its messages is.
    pub fn refused(&self, Refusal { index, code }: Refusal) -> NftError {
        let source = io::Error::from_raw_os_error(code);
        match self.subjects.get(index) {
            Some(subject) => NftError::Refused { subject: subject.clone(), index, source },
            None => NftError::Answer,
        }
    }

    /// Makes a table, if it is missing.
    pub fn add_table(&mut self, table: Table) {
        let subject = Subject { verb: "add", what: "table", name: table.name.into() };
        self.message(NEW_TABLE, libc::NLM_F_CREATE, table, subject, |a| {
            a.put_text(TABLE_NAME, table.name);
        });
    }

    /// Removes a table with all that is in it.
    pub fn delete_table(&mut self, table: Table) {
        let subject = Subject { verb: "delete", what: "table", name: table.name.into() };
        self.message(DELETE_TABLE, 0, table, subject, |a| a.put_text(TABLE_NAME, table.name));
    }

    /// Makes a chain, if it is missing.
    pub fn add_chain(&mut self, table: Table, chain: Chain<'_>) {
        let subject = Subject { verb: "add", what: "chain", name: chain.name.into() };
        self.message(NEW_CHAIN, libc::NLM_F_CREATE, table, subject, |a| {
            a.put_text(CHAIN_TABLE, table.name);
            a.put_text(CHAIN_NAME, chain.name);
            let Some(hook) = chain.hook else { return };
            a.nest(CHAIN_HOOK, |a| {
                a.put_u32(HOOK_NUMBER, hook.number);
                a.put_u32(HOOK_PRIORITY, hook.priority.cast_unsigned());
            });
            // NF_ACCEPT.
            a.put_u32(CHAIN_POLICY, 1);
            a.put_text(CHAIN_TYPE, hook.kind);
        });
    }

    /// Removes a chain with its rules.
    pub fn delete_chain(&mut self, table: Table, name: &str) {
        let subject = Subject { verb: "delete", what: "chain", name: name.into() };
        self.message(DELETE_CHAIN, 0, table, subject, |a| {
            a.put_text(CHAIN_TABLE, table.name);
            a.put_text(CHAIN_NAME, name);
        });
    }

    /// Removes all rules of a chain.
    pub fn flush_chain(&mut self, table: Table, name: &str) {
        let subject = Subject { verb: "delete", what: "rules of chain", name: name.into() };
        self.message(DELETE_RULE, 0, table, subject, |a| {
            a.put_text(RULE_TABLE, table.name);
            a.put_text(RULE_CHAIN, name);
        });
    }

    /// Adds a rule at the end of a chain.
    pub fn add_rule(&mut self, table: Table, chain: &str, rule: &[Expression]) {
        let subject = Subject { verb: "add", what: "a rule of chain", name: chain.into() };
        let flags = libc::NLM_F_CREATE | libc::NLM_F_APPEND;
        self.message(NEW_RULE, flags, table, subject, |a| {
            a.put_text(RULE_TABLE, table.name);
            a.put_text(RULE_CHAIN, chain);
            a.nest(RULE_EXPRESSIONS, |a| {
                for expression in rule {
                    a.nest(LIST_ELEM, |a| expression.write(a));
                }
            });
        });
    }

    /// Makes a set, if it is missing.
    pub fn add_set(&mut self, table: Table, set: Set) {
        let subject = Subject { verb: "add", what: "set", name: set.name.into() };
        let id = u32::try_from(self.subjects.len()).unwrap_or(u32::MAX);
        self.message(NEW_SET, libc::NLM_F_CREATE, table, subject, |a| {
            a.put_text(SET_TABLE, table.name);
            a.put_text(SET_NAME, set.name);
            let interval = if set.interval { SET_INTERVAL } else { 0 };
            let map = if set.data.is_some() { SET_MAP } else { 0 };
            a.put_u32(SET_FLAGS, interval | map);
            let (kind, length) = Kind::of(set.key);
            a.put_u32(SET_KEY_TYPE, kind);
            a.put_u32(SET_KEY_LEN, length);
            match set.data {
                Some([]) => a.put_u32(SET_DATA_TYPE, TYPE_VERDICT),
                Some(data) => {
                    let (kind, length) = Kind::of(data);
                    a.put_u32(SET_DATA_TYPE, kind);
                    a.put_u32(SET_DATA_LEN, length);
                }
                None => (),
            }
            a.put_u32(SET_ID, id);
            // nft's, so that it shows what is in it: kinds 0 and 1 are the order of bytes of keys and of
            // data, the host's (1) or the network's (2).
            let order = |kinds: &[Kind]| if kinds == [Kind::Interface] { 1u32 } else { 2 };
            let mut userdata = vec![0, 4];
            userdata.extend(order(set.key).to_ne_bytes());
            if let Some(data) = set.data.filter(|data| !data.is_empty()) {
                userdata.extend([1, 4]);
                userdata.extend(order(data).to_ne_bytes());
            }
            a.put(SET_USERDATA, &userdata);
        });
    }

    /// Adds an element, if it is missing. One that is there with other data is refused.
    pub fn add_element(&mut self, table: Table, set: &str, element: &Element) {
        self.element(table, set, element, NEW_ELEMENT, libc::NLM_F_CREATE, "add");
    }

    /// Adds an element, which is refused where it is there.
    pub fn add_new_element(&mut self, table: Table, set: &str, element: &Element) {
        let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        self.element(table, set, element, NEW_ELEMENT, flags, "add");
    }

    /// Removes an element, which is refused where it is not there.
    pub fn delete_element(&mut self, table: Table, set: &str, element: &Element) {
        self.element(table, set, &element.bare(), DELETE_ELEMENT, 0, "delete");
    }

    /// One message each, so that a refusal tells which it was.
    fn element(
        &mut self,
        table: Table,
        set: &str,
        element: &Element,
        kind: u16,
        flags: libc::c_int,
        verb: &'static str,
    ) {
        let subject = Subject { verb, what: "an element of set", name: set.into() };
        self.message(kind, flags, table, subject, |a| write_elements(a, table, set, element));
    }

    fn message(
        &mut self,
        kind: u16,
        flags: libc::c_int,
        table: Table,
        subject: Subject,
        attributes: impl FnOnce(&mut Attributes),
    ) {
        let mut written = Attributes::default();
        attributes(&mut written);
        self.last = self.bytes.len();
        self.subjects.push(subject);
        let message = written.bytes().and_then(|bytes| {
            let flags = u16::try_from(flags).ok()?;
            // The batch's first message has number 0.
            let number = u32::try_from(self.subjects.len()).ok()?;
            message(SUBSYSTEM << 8 | kind, flags, number, table.family.number(), 0, bytes)
        });
        match message {
            Some(message) => self.bytes.extend(message),
            None => self.too_long = true,
        }
    }

    /// What is sent: all messages between a beginning and an end, whose last one is acknowledged.
    pub(super) fn bytes(&self) -> Result<Vec<u8>, NftError> {
        if self.too_long {
            return Err(NftError::TooLong);
        }
        let bracket = |kind| message(kind, 0, 0, 0, SUBSYSTEM, &[]).ok_or(NftError::TooLong);
        let mut bytes = bracket(BATCH_BEGIN)?;
        // Flags are the third number of a header, of two bytes, after one of four and one of two.
        let flags = bytes.len() + self.last + 6;
        bytes.extend(&self.bytes);
        if let Some(flag) = bytes.get_mut(flags..flags + 2).and_then(|f| f.first_chunk_mut::<2>()) {
            let acknowledge = u16::try_from(libc::NLM_F_ACK).unwrap_or(0);
            *flag = (u16::from_ne_bytes(*flag) | acknowledge).to_ne_bytes();
        }
        bytes.extend(bracket(BATCH_END)?);
        Ok(bytes)
    }
}
