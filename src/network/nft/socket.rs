//! The kernel's end.

use std::io;

use super::attributes::{self, Attributes};
use super::batch::{
    Batch, ELEMENT_DATA, ELEMENT_FLAGS, ELEMENT_KEY, ELEMENT_USERDATA, ELEMENTS, ELEMENTS_SET,
    ELEMENTS_TABLE, Element, SUBSYSTEM, Table, write_elements,
};
use super::error::{NftError, Refusal, Subject};
use super::expression::{Data, Verdict};
use super::netlink::{Netlink, error_code, message};

// `NFT_MSG_*`, and attributes of what they are about.
const GET_CHAIN: u16 = 4;
const GET_ELEMENTS: u16 = 13;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;

/// How often a list that changed while it was read is read again.
const READS: usize = 16;

/// A socket to the packet filter of the network namespace that it was opened in.
#[derive(Debug)]
pub struct Socket {
    netlink: Netlink,
}

impl Socket {
    /// Opens one.
    pub fn open() -> Result<Self, NftError> {
        Ok(Self { netlink: Netlink::open()? })
    }

    /// Has the kernel do all of a batch, or nothing.
    pub fn commit(&mut self, batch: &Batch) -> Result<(), NftError> {
        match self.attempt(batch)?.first() {
            Some(refusal) => Err(batch.refused(*refusal)),
            None => Ok(()),
        }
    }

    /// Has the kernel do all of a batch, or nothing: then all that it refuses of it.
    pub fn attempt(&mut self, batch: &Batch) -> Result<Vec<Refusal>, NftError> {
        let mut refusals = Vec::new();
        if batch.is_empty() {
            return Ok(refusals);
        }
        let bytes = batch.bytes()?;
        self.netlink.make_room(bytes.len())?;
        self.netlink.send(&bytes)?;
        // All that the kernel has to say is there once it has taken the message.
        let mut acknowledged = false;
        while self.netlink.receive()? {
            for answer in self.netlink.answers() {
                let answer = answer?;
                let Some(code) = error_code(&answer)? else { continue };
                let index = usize::try_from(answer.number).unwrap_or(0).saturating_sub(1);
                if code == 0 {
                    acknowledged |= index + 1 == batch.len();
                } else {
                    refusals.push(Refusal { index, code });
                }
            }
        }
        if acknowledged || !refusals.is_empty() { Ok(refusals) } else { Err(NftError::Answer) }
    }

    /// Whether a table is there that has such a chain.
    pub fn has_chain(&mut self, table: Table, name: &str) -> Result<bool, NftError> {
        let mut asked = Attributes::default();
        asked.put_text(CHAIN_TABLE, table.name);
        asked.put_text(CHAIN_NAME, name);
        self.ask(GET_CHAIN, libc::NLM_F_ACK, table, &asked)?;
        while self.netlink.receive()? {
            for answer in self.netlink.answers() {
                match error_code(&answer?)? {
                    Some(0) => return Ok(true),
                    Some(libc::ENOENT) => return Ok(false),
                    Some(code) => {
                        let subject = Subject { verb: "show", what: "chain", name: name.into() };
                        let source = io::Error::from_raw_os_error(code);
                        return Err(NftError::Refused { subject, index: 0, source });
                    }
                    None => (),
                }
            }
        }
        Err(NftError::Answer)
    }

    /// What a set has of an element's key, where it has it.
    pub fn element(
        &mut self,
        table: Table,
        set: &str,
        element: &Element,
    ) -> Result<Option<Element>, NftError> {
        let mut asked = Attributes::default();
        write_elements(&mut asked, table, set, &element.bare());
        self.ask(GET_ELEMENTS, libc::NLM_F_ACK, table, &asked)?;
        let mut found = None;
        while self.netlink.receive()? {
            for answer in self.netlink.answers() {
                let answer = answer?;
                match error_code(&answer)? {
                    Some(0) => return Ok(found),
                    Some(libc::ENOENT) => return Ok(None),
                    Some(code) => {
                        let subject =
                            Subject { verb: "show", what: "an element of set", name: set.into() };
                        let source = io::Error::from_raw_os_error(code);
                        return Err(NftError::Refused { subject, index: 0, source });
                    }
                    None => found = read_elements(answer.payload).pop(),
                }
            }
        }
        Err(NftError::Answer)
    }

    /// Elements of a set; none where there is no such set.
    pub fn elements(&mut self, table: Table, set: &str) -> Result<Vec<Element>, NftError> {
        for _ in 0..READS {
            if let Some(elements) = self.elements_now(table, set)? {
                return Ok(elements);
            }
        }
        Err(NftError::Answer)
    }

    /// None where they changed meanwhile.
    fn elements_now(&mut self, table: Table, set: &str) -> Result<Option<Vec<Element>>, NftError> {
        let mut asked = Attributes::default();
        asked.put_text(ELEMENTS_TABLE, table.name);
        asked.put_text(ELEMENTS_SET, set);
        self.ask(GET_ELEMENTS, libc::NLM_F_DUMP, table, &asked)?;
        let mut elements = Vec::new();
        let mut whole = true;
        let mut done = false;
        while self.netlink.receive()? {
            for answer in self.netlink.answers() {
                let answer = answer?;
                whole &= !answer.interrupted;
                match error_code(&answer)? {
                    Some(libc::ENOENT) => return Ok(Some(Vec::new())),
                    Some(0) | None if i32::from(answer.kind) == libc::NLMSG_DONE => done = true,
                    None => elements.extend(read_elements(answer.payload)),
                    Some(libc::EINTR | libc::EAGAIN) => (whole, done) = (false, true),
                    Some(code) => {
                        let subject =
                            Subject { verb: "show", what: "elements of set", name: set.into() };
                        let source = io::Error::from_raw_os_error(code);
                        return Err(NftError::Refused { subject, index: 0, source });
                    }
                }
            }
        }
        if done { Ok(whole.then_some(elements)) } else { Err(NftError::Answer) }
    }

    fn ask(
        &mut self,
        kind: u16,
        flags: libc::c_int,
        table: Table,
        attributes: &Attributes,
    ) -> Result<(), NftError> {
        let flags = u16::try_from(flags).map_err(|_| NftError::TooLong)?;
        let bytes = attributes.bytes().and_then(|attributes| {
            message(SUBSYSTEM << 8 | kind, flags, 1, table.family.number(), 0, attributes)
        });
        self.netlink.send(&bytes.ok_or(NftError::TooLong)?)
    }
}

fn read_elements(payload: &[u8]) -> Vec<Element> {
    // `struct nfgenmsg`.
    let attributes = payload.get(4..).unwrap_or_default();
    let list = attributes::find(attributes, ELEMENTS).unwrap_or_default();
    attributes::read(list).filter_map(|(_, element)| read_element(element)).collect()
}

fn read_element(element: &[u8]) -> Option<Element> {
    let find = |kind| attributes::find(element, kind);
    let key = Data::value(find(ELEMENT_KEY)?)?.to_vec();
    // Verdicts without a chain are no element's of ours; who jumps there does not matter.
    let data = find(ELEMENT_DATA).and_then(|data| match Data::chain(data) {
        Some(chain) => Some(Data::Verdict(Verdict::Goto(chain))),
        None => Data::value(data).map(|value| Data::Value(value.to_vec())),
    });
    let comment = find(ELEMENT_USERDATA).and_then(|userdata| match userdata {
        [0, length, text @ ..] => Some(attributes::text(text.get(..usize::from(*length))?)),
        _ => None,
    });
    let ends = find(ELEMENT_FLAGS).is_some_and(|flags| flags.last().is_some_and(|f| f & 1 != 0));
    Some(Element { key, ends, data, comment })
}
