//! Queries and their answers; a server in a namespace, with somebody to ask.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::str::FromStr;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use proptest::prelude::*;

use super::*;
use crate::network::testing::Namespace;

struct Known {
    upstreams: Vec<SocketAddr>,
    many: u8,
}

impl Names for Known {
    fn addresses(&self, name: &str) -> Option<Vec<IpAddr>> {
        match name {
            "web" | "web.net" => Some(vec![[10, 9, 0, 2].into(), "fd00:9::2".parse().unwrap()]),
            "old" => Some(vec![[10, 9, 0, 3].into()]),
            "many" => Some((0..self.many).map(|n| [10, 9, 1, n].into()).collect()),
            _ => None,
        }
    }

    fn name_of(&self, address: IpAddr) -> Option<String> {
        (address == IpAddr::from([10, 9, 0, 2])).then(|| "web.net".into())
    }

    fn upstreams(&self, _client: IpAddr) -> Vec<SocketAddr> {
        self.upstreams.clone()
    }
}

const KNOWN: Known = Known { upstreams: Vec::new(), many: 0 };
const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 9, 0, 3));

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_str(name).unwrap(), kind));
    message
}

fn ask(names: &Known, query: &Message, transport: Transport) -> Message {
    match answer(&query.to_vec().unwrap(), names, CLIENT, transport) {
        Some(Answer::Reply(bytes)) => Message::from_vec(&bytes).unwrap(),
        other => panic!("{other:?}"),
    }
}

fn data(message: &Message) -> Vec<String> {
    message.answers.iter().map(|record| record.data.to_string()).collect()
}

#[test]
fn names_of_the_network_are_answered() {
    let found = |name, kind| {
        let reply = ask(&KNOWN, &query(name, kind), Transport::Udp);
        assert_eq!(
            (reply.metadata.id, reply.metadata.response_code),
            (0x1234, ResponseCode::NoError)
        );
        data(&reply)
    };
    assert_eq!(found("web.", RecordType::A), ["10.9.0.2"]);
    assert_eq!(found("WEB.Net.", RecordType::AAAA), ["fd00:9::2"]);
    assert_eq!(found("web.", RecordType::MX), Vec::<String>::new());
    assert_eq!(found("old.", RecordType::AAAA), Vec::<String>::new());
    assert_eq!(found("2.0.9.10.in-addr.arpa.", RecordType::PTR), ["web.net."]);
    // Nobody to ask.
    for name in ["example.org.", "3.0.9.10.in-addr.arpa.", "9.10.in-addr.arpa."] {
        let reply = ask(&KNOWN, &query(name, RecordType::PTR), Transport::Udp);
        assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    }
    let known = Known { upstreams: vec!["10.0.0.1:53".parse().unwrap()], many: 0 };
    let bytes = query("example.org.", RecordType::A).to_vec().unwrap();
    let forward = Answer::Forward { upstreams: known.upstreams.clone() };
    assert_eq!(answer(&bytes, &known, CLIENT, Transport::Udp), Some(forward));
}

#[test]
fn what_is_no_query_is_told_so_or_ignored() {
    let none = Message::new(7, MessageType::Query, OpCode::Query);

    assert_eq!(ask(&KNOWN, &none, Transport::Udp).metadata.response_code, ResponseCode::FormErr);
    let mut update = query("web.", RecordType::A);
    update.metadata.op_code = OpCode::Status;
    assert_eq!(ask(&KNOWN, &update, Transport::Udp).metadata.response_code, ResponseCode::NotImp);
    let reply = Message::response(7, OpCode::Query).to_vec().unwrap();
    // Whoever answers replies answers itself for ever.
    assert_eq!(answer(&reply, &KNOWN, CLIENT, Transport::Udp), None);
    assert_eq!(answer(&[0; 11], &KNOWN, CLIENT, Transport::Udp), None);
    assert_eq!(answer(&[0; 5000], &KNOWN, CLIENT, Transport::Udp), None);
}

#[test]
fn what_is_too_long_for_a_datagram_is_asked_for_again() {
    let known = Known { upstreams: Vec::new(), many: 200 };
    let mut asked = query("many.", RecordType::A);
    let reply = ask(&known, &asked, Transport::Udp);
    assert!(reply.metadata.truncation && reply.answers.is_empty());
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    asked.set_edns(edns);
    assert!(ask(&known, &asked, Transport::Udp).metadata.truncation);
    assert_eq!(ask(&known, &asked, Transport::Tcp).answers.len(), 200);
    let few = Known { upstreams: Vec::new(), many: 50 };
    assert_eq!(ask(&few, &asked, Transport::Udp).answers.len(), 50);
}

proptest! {
    #[test]
    fn any_bytes_are_answered_or_ignored(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        if let Some(Answer::Reply(reply)) = answer(&bytes, &KNOWN, CLIENT, Transport::Udp) {
            prop_assert!(reply.len() <= 1232);
            prop_assert_eq!(&reply[..2], &bytes[..2]);
        }
    }

    #[test]
    fn a_changed_query_is_answered_or_ignored(at in 0..64usize, to: u8) {
        let mut bytes = query("web.net.", RecordType::A).to_vec().unwrap();
        let length = bytes.len();
        bytes[at % length] = to;
        let _ = answer(&bytes, &KNOWN, CLIENT, Transport::Tcp);
    }
}

/// Replies twice to each query: first with another number, as somebody does who guesses.
fn upstream(namespace: &Namespace) {
    let answer = |query: &[u8], guess: bool| {
        let query = Message::from_vec(query).unwrap();
        let id = query.metadata.id.wrapping_add(guess.into());
        let mut reply = Message::response(id, OpCode::Query);
        reply.add_query(query.queries[0].clone());
        let address =
            RData::A(hickory_proto::rr::rdata::A::new(1, 1, 1, if guess { 9 } else { 1 }));
        reply.add_answer(hickory_proto::rr::Record::from_rdata(
            query.queries[0].name().clone(),
            9,
            address,
        ));
        reply.to_vec().unwrap()
    };
    let (udp, tcp) = namespace.within(|| {
        (UdpSocket::bind("127.0.0.9:53").unwrap(), TcpListener::bind("127.0.0.9:53").unwrap())
    });
    std::thread::spawn(move || {
        loop {
            let mut buffer = [0; 512];
            let (length, client) = udp.recv_from(&mut buffer).unwrap();
            for guess in [true, false] {
                udp.send_to(&answer(&buffer[..length], guess), client).unwrap();
            }
        }
    });
    std::thread::spawn(move || {
        loop {
            let mut stream = tcp.accept().unwrap().0;
            let mut length = [0; 2];
            stream.read_exact(&mut length).unwrap();
            let mut query = vec![0; u16::from_be_bytes(length).into()];
            stream.read_exact(&mut query).unwrap();
            let reply = answer(&query, false);
            let length = u16::try_from(reply.len()).unwrap().to_be_bytes();
            stream.write_all(&[&length[..], &reply].concat()).unwrap();
        }
    });
}

#[test]
fn servers_answer_side_by_side_and_ask_others() {
    let Some(namespace) = Namespace::possible(&["ip", "nsenter"]) else { return };
    namespace.run("ip link set lo up");
    upstream(&namespace);
    let known = Known {
        // Nobody is at the first.
        upstreams: vec!["127.0.0.8:53".parse().unwrap(), "127.0.0.9:53".parse().unwrap()],
        many: 0,
    };
    let names: Arc<dyn Names + Send + Sync> = Arc::new(known);
    let gateways = [IpAddr::from([127, 0, 0, 1]), "::1".parse().unwrap()];
    let start = || namespace.within(|| DnsServer::start(&gateways, Arc::clone(&names)).unwrap());
    let (one, two) = (start(), start());
    let check = || {
        for (server, own) in [("127.0.0.1:53", "127.0.0.1:0"), ("[::1]:53", "[::1]:0")] {
            for n in 0..8 {
                for (name, found) in [("web.", "10.9.0.2"), ("example.org.", "1.1.1.1")] {
                    let bytes = query(name, RecordType::A).to_vec().unwrap();
                    let socket = namespace.socket(own);
                    socket.set_read_timeout(Some(Duration::from_secs(8))).unwrap();
                    socket.send_to(&bytes, server).unwrap();
                    let mut buffer = [0; 512];
                    let length = socket.recv(&mut buffer).unwrap();
                    let reply = Message::from_vec(&buffer[..length]).unwrap();
                    assert_eq!(
                        (reply.metadata.id, data(&reply)),
                        (0x1234, vec![found.into()]),
                        "{n}"
                    );
                    let mut stream = namespace.within(|| TcpStream::connect(server).unwrap());
                    let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
                    stream.write_all(&[&length[..], &bytes].concat()).unwrap();
                    let mut length = [0; 2];
                    stream.read_exact(&mut length).unwrap();
                    let mut reply = vec![0; u16::from_be_bytes(length).into()];
                    stream.read_exact(&mut reply).unwrap();
                    assert_eq!(data(&Message::from_vec(&reply).unwrap()), [found]);
                }
            }
        }
    };
    check();
    drop(one);
    check();
    drop(two);
    let refused = namespace.within(|| TcpStream::connect("127.0.0.1:53"));
    assert_eq!(refused.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
}
