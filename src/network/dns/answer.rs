//! What is answered to a query, and what is asked of others. Pure; the one place where queries are read.

use std::net::{IpAddr, SocketAddr};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use super::Names;

/// Longest query: names are 255 bytes at most, and what clients add is short.
pub const MAX_QUERY: usize = 4096;

/// What a datagram may have where its client says nothing else, and what it may have at most: that much
/// passes everywhere in one piece.
const SHORT: u16 = 512;
const LONG: u16 = 1232;

/// How long a name may be remembered, in seconds: containers come and go.
const TIME_TO_LIVE: u32 = 5;

/// How a query came, and its reply goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// In datagrams, which are short.
    Udp,
    /// In a stream.
    Tcp,
}

/// What a query leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// This reply.
    Reply(Vec<u8>),
    /// These are asked, one after the other.
    Forward {
        /// Who.
        upstreams: Vec<SocketAddr>,
    },
}

/// What is answered to a client's query; nothing to what is none.
pub fn answer(
    query: &[u8],
    names: &dyn Names,
    client: IpAddr,
    transport: Transport,
) -> Option<Answer> {
    let asked = read(query)?;
    let [question] = &asked.queries[..] else {
        return reply(&asked, transport, ResponseCode::FormErr, Vec::new());
    };
    if asked.metadata.op_code != OpCode::Query {
        return reply(&asked, transport, ResponseCode::NotImp, Vec::new());
    }
    if question.query_class() == DNSClass::IN
        && let Some(records) = own(question, names)
    {
        return reply(&asked, transport, ResponseCode::NoError, records);
    }
    let upstreams = names.upstreams(client);
    if upstreams.is_empty() {
        return reply(&asked, transport, ResponseCode::ServFail, Vec::new());
    }
    Some(Answer::Forward { upstreams })
}

/// The reply to a query that nobody has answered.
pub fn failure(query: &[u8], transport: Transport) -> Option<Vec<u8>> {
    match reply(&read(query)?, transport, ResponseCode::ServFail, Vec::new())? {
        Answer::Reply(bytes) => Some(bytes),
        Answer::Forward { .. } => None,
    }
}

/// Whether a message replies to a query: its number is `id`, and it repeats the question.
pub fn is_reply(message: &[u8], query: &[u8], id: u16) -> bool {
    let read = |bytes: &[u8]| Message::from_vec(bytes).ok();
    let (Some(message), Some(query)) = (read(message), read(query)) else { return false };
    message.metadata.message_type == MessageType::Response
        && message.metadata.id == id
        && message.queries == query.queries
}

fn read(query: &[u8]) -> Option<Message> {
    let query = query.get(..query.len().min(MAX_QUERY + 1)).filter(|q| q.len() <= MAX_QUERY)?;
    Message::from_vec(query).ok().filter(|m| m.metadata.message_type == MessageType::Query)
}

/// Records of a name or an address of the network's; nothing where it is not one.
fn own(question: &Query, names: &dyn Names) -> Option<Vec<Record>> {
    let record = |data| Record::from_rdata(question.name().clone(), TIME_TO_LIVE, data);
    let kind = question.query_type();
    if kind == RecordType::PTR {
        let network = question.name().parse_arpa_name().ok()?;
        let whole = network.prefix_len() == network.max_prefix_len();
        let name = names.name_of(network.addr()).filter(|_| whole)?;
        let name = Name::from_ascii(format!("{name}.")).ok()?;
        return Some(vec![record(RData::PTR(PTR(name)))]);
    }
    let name = question.name().to_lowercase().to_ascii();
    let addresses = names.addresses(name.trim_end_matches('.'))?;
    let records = addresses.into_iter().filter_map(|address| match (address, kind) {
        (IpAddr::V4(address), RecordType::A | RecordType::ANY) => Some(RData::A(A(address))),
        (IpAddr::V6(address), RecordType::AAAA | RecordType::ANY) => {
            Some(RData::AAAA(AAAA(address)))
        }
        // There is such a name, which has nothing of the kind.
        _ => None,
    });
    Some(records.map(record).collect())
}

fn reply(
    asked: &Message,
    transport: Transport,
    code: ResponseCode,
    records: Vec<Record>,
) -> Option<Answer> {
    let mut message = Message::response(asked.metadata.id, asked.metadata.op_code);
    message.metadata.recursion_desired = asked.metadata.recursion_desired;
    message.metadata.recursion_available = true;
    message.metadata.authoritative = code == ResponseCode::NoError;
    message.metadata.response_code = code;
    message.add_queries(asked.queries.iter().take(1).cloned());
    message.add_answers(records);
    if asked.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(LONG);
        message.set_edns(edns);
    }
    let bytes = message.to_vec().ok()?;
    let limit = match transport {
        Transport::Tcp => u16::MAX,
        Transport::Udp if asked.edns.is_some() => asked.max_payload().clamp(SHORT, LONG),
        Transport::Udp => SHORT,
    };
    if bytes.len() <= usize::from(limit) {
        return Some(Answer::Reply(bytes));
    }
    message.answers.clear();
    message.metadata.truncation = true;
    Some(Answer::Reply(message.to_vec().ok()?))
}
