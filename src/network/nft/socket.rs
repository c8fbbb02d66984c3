//! The kernel's end.

use std::io;

use netlink_packet_core::NetlinkBuffer;
use netlink_sys::SocketAddr;
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::sys::socket::{setsockopt, sockopt};

use super::attributes::{self, Attributes};
use super::batch::{
    Batch, ELEMENT_DATA, ELEMENT_FLAGS, ELEMENT_KEY, ELEMENT_USERDATA, ELEMENTS, ELEMENTS_SET,
    ELEMENTS_TABLE, Element, SUBSYSTEM, Table, message,
};
use super::error::{NftError, Subject};
use super::expression::{Data, Verdict};

// `NFT_MSG_*`, and attributes of what they are about.
const GET_CHAIN: u16 = 4;
const GET_ELEMENTS: u16 = 13;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;

/// The kernel fills no more in one answer.
const ANSWER: usize = 32 << 10;

/// How often a list that changed while it was read is read again.
const READS: usize = 16;

/// A socket to the packet filter of the network namespace that it was opened in.
#[derive(Debug)]
pub struct Socket {
    socket: netlink_sys::Socket,
    answer: Vec<u8>,
}

/// A message of the kernel's.
struct Answer<'a> {
    kind: u16,
    number: u32,
    interrupted: bool,
    payload: &'a [u8],
}

impl Socket {
    /// Opens one.
    pub fn open() -> Result<Self, NftError> {
        let mut socket = netlink_sys::Socket::new(NETLINK_NETFILTER).map_err(NftError::Socket)?;
        // Errors do not repeat what they are about.
        socket.set_cap_ack(true).map_err(NftError::Socket)?;
        socket.bind_auto().map_err(NftError::Socket)?;
        Ok(Self { socket, answer: Vec::with_capacity(ANSWER) })
    }

    /// Has the kernel do all of a batch, or nothing.
    pub fn commit(&mut self, batch: &Batch) -> Result<(), NftError> {
        if batch.is_empty() {
            return Ok(());
        }
        let bytes = batch.bytes()?;
        self.make_room(bytes.len())?;
        self.send(&bytes)?;
        // All that the kernel has to say is there once it has taken the message.
        let mut acknowledged = false;
        let mut refusal = None;
        while self.receive()? {
            for answer in answers(&self.answer) {
                let answer = answer?;
                let Some(code) = error_code(&answer)? else { continue };
                let index = usize::try_from(answer.number).unwrap_or(0).saturating_sub(1);
                if code == 0 {
                    acknowledged |= index + 1 == batch.len();
                } else if refusal.is_none() {
                    refusal = Some((index, code));
                }
            }
        }
        let Some((index, code)) = refusal else {
            return if acknowledged { Ok(()) } else { Err(NftError::Answer) };
        };
        let subject = batch.subject(index).cloned().ok_or(NftError::Answer)?;
        Err(NftError::Refused { subject, index, source: io::Error::from_raw_os_error(code) })
    }

    /// Whether a table is there that has such a chain.
    pub fn has_chain(&mut self, table: Table, name: &str) -> Result<bool, NftError> {
        let mut asked = Attributes::default();
        asked.put_text(CHAIN_TABLE, table.name);
        asked.put_text(CHAIN_NAME, name);
        self.ask(GET_CHAIN, libc::NLM_F_ACK, table, &asked)?;
        while self.receive()? {
            for answer in answers(&self.answer) {
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
        while self.receive()? {
            for answer in answers(&self.answer) {
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
        self.send(&bytes.ok_or(NftError::TooLong)?)
    }

    /// Messages that are longer than the system's default are sent as well.
    fn make_room(&self, length: usize) -> Result<(), NftError> {
        if length < 64 << 10 {
            return Ok(());
        }
        setsockopt(&self.socket, sockopt::SndBufForce, &length.saturating_mul(2))
            .map_err(|error| NftError::Socket(error.into()))
    }

    /// What was left unread of earlier answers is no answer to this.
    fn send(&mut self, bytes: &[u8]) -> Result<(), NftError> {
        while self.receive()? {}
        let kernel = SocketAddr::new(0, 0);
        let sent = self.socket.send_to(bytes, &kernel, 0).map_err(NftError::Socket)?;
        if sent == bytes.len() { Ok(()) } else { Err(NftError::TooLong) }
    }

    /// Takes the next of what the kernel has said; false where that was all.
    fn receive(&mut self) -> Result<bool, NftError> {
        loop {
            self.answer.clear();
            match self.socket.recv_from(&mut self.answer, libc::MSG_DONTWAIT) {
                // Others may write to the socket, too.
                Ok((_, sender)) if sender.port_number() != 0 => (),
                Ok(_) => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                Err(error) => return Err(NftError::Socket(error)),
            }
        }
    }
}

/// The messages of an answer.
fn answers(mut bytes: &[u8]) -> impl Iterator<Item = Result<Answer<'_>, NftError>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let Ok(header) = NetlinkBuffer::new_checked(bytes) else {
            bytes = &[];
            return Some(Err(NftError::Answer));
        };
        let length = usize::try_from(header.length()).unwrap_or(usize::MAX);
        let (message, rest) = bytes.split_at_checked(length)?;
        // The last one may be without what fills it up to a multiple of four.
        let padding = (length.next_multiple_of(4) - length).min(rest.len());
        bytes = rest.get(padding..).unwrap_or_default();
        Some(Ok(Answer {
            kind: header.message_type(),
            number: header.sequence_number(),
            interrupted: header.flags() & netlink_packet_core::NLM_F_DUMP_INTR != 0,
            payload: message.get(16..).unwrap_or_default(),
        }))
    })
}

/// The error that an answer tells, 0 for an acknowledgement; none where it is another answer.
fn error_code(answer: &Answer<'_>) -> Result<Option<i32>, NftError> {
    let kind = i32::from(answer.kind);
    if kind != libc::NLMSG_ERROR && kind != libc::NLMSG_DONE {
        return Ok(None);
    }
    match answer.payload.first_chunk::<4>() {
        Some(code) => Ok(Some(i32::from_ne_bytes(*code).saturating_neg())),
        None if kind == libc::NLMSG_DONE => Ok(None),
        None => Err(NftError::Answer),
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
