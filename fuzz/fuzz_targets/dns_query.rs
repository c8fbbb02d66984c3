//! Queries for names, as guests send them.
#![no_main]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ampoule::network::dns::{Answer, Names, Transport, answer};
use libfuzzer_sys::fuzz_target;

/// Somebody with a name of one letter, and many addresses.
struct One;

impl Names for One {
    fn addresses(&self, name: &str) -> Option<Vec<IpAddr>> {
        assert!(!name.bytes().any(|byte| byte.is_ascii_uppercase()), "{name}");
        (name.len() == 1).then(|| (0..200).map(|n| [10, 0, 0, n].into()).collect())
    }

    fn name_of(&self, address: IpAddr) -> Option<String> {
        address.is_ipv4().then(|| "one.net".into())
    }

    fn upstreams(&self, _client: IpAddr) -> Vec<SocketAddr> {
        Vec::new()
    }
}

fuzz_target!(|query: &[u8]| {
    let client = Ipv4Addr::new(10, 0, 0, 1).into();
    for (transport, most) in [(Transport::Udp, 1232), (Transport::Tcp, 65535)] {
        match answer(query, &One, client, transport) {
            Some(Answer::Reply(reply)) => {
                assert!(reply.len() <= most);
                // The number, and that it is a reply.
                assert_eq!(reply.get(..2), query.get(..2));
                assert!(reply.get(2).is_some_and(|flags| flags & 0x80 != 0));
            }
            Some(Answer::Forward { .. }) => panic!("there is nobody to ask"),
            None => (),
        }
    }
});
