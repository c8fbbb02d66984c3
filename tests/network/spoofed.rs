//! A guest that says that it is somebody else.

use crate::lab::Lab;
use crate::needs_networks;

/// Sends frames of its own making to the host's UDP port 9: some as itself, others as others.
const LIAR: &str = r#"
import fcntl, socket, struct
def checksum(data):
    total = sum(struct.unpack('>%dH' % (len(data) // 2), data))
    while total >> 16: total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
raw.bind(('eth0', 0))
own = open('/sys/class/net/eth0/address').read().strip()
own = bytes.fromhex(own.replace(':', ''))
gateway = bytes.fromhex([line.split()[3] for line in open('/proc/net/arp') if '10.201.0.1 ' in line][0].replace(':', ''))
def frame(mac, source, text, kind=b'\x08\x00', tag=b''):
    payload = struct.pack('>HHHH', 9, 9, 8 + len(text), 0) + text
    head = struct.pack('>BBHHHBBH4s4s', 0x45, 0, 20 + len(payload), 0, 0, 64, 17, 0, socket.inet_aton(source), socket.inet_aton('10.201.0.1'))
    head = head[:10] + struct.pack('>H', checksum(head)) + head[12:]
    return gateway + mac + tag + kind + head + payload
plain = socket.socket()
me = socket.inet_ntoa(fcntl.ioctl(plain.fileno(), 0x8915, struct.pack('256s', b'eth0'))[20:24])
raw.send(frame(own, me, b'honest-1'))
raw.send(frame(own, '10.201.0.77', b'address!'))
raw.send(frame(own, '192.0.2.1', b'outside!'))
raw.send(frame(own, '127.0.0.1', b'loopback'))
raw.send(frame(b'\x02\x42\x0a\xc9\x00\x4d', me, b'hardware'))
raw.send(frame(own, me, b'in-a-vlan', tag=b'\x81\x00\x00\x01'))
# Answers that nobody asked for: the gateway's address is here, and so is another's.
for claimed in ['10.201.0.1', '10.201.0.77']:
    arp = struct.pack('>HHBBH6s4s6s4s', 1, 0x800, 6, 4, 2, own, socket.inet_aton(claimed), gateway, socket.inet_aton('10.201.0.1'))
    raw.send(gateway + own + b'\x08\x06' + arp)
for length in [14, 15, 33, 34, 60, 1514]:
    raw.send((gateway + own + b'\x08\x00' + b'\xff' * 1500)[:length])
raw.send(frame(own, me, b'honest-2'))
print('sent')
"#;

#[test]
fn what_a_guest_says_as_somebody_else_is_not_heard() {
    needs_networks!();
    let lab = Lab::new();
    // Makes the bridge that is listened at.
    lab.shell(&[], "busybox", "true").gives(0, "");
    let heard = std::net::UdpSocket::bind("10.201.0.1:9").unwrap();
    heard.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
    assert_eq!(lab.python(&[], LIAR), "sent\n");
    let mut all = Vec::new();
    let mut buffer = [0; 100];
    while all.last().is_none_or(|last| last != "honest-2") {
        let (length, _) = heard.recv_from(&mut buffer).unwrap();
        all.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
    }
    assert_eq!(all, ["honest-1", "honest-2"]);
    let neighbours = lab.host("ip neigh show dev ampoule0");
    assert!(!neighbours.contains("10.201.0.77 lladdr"), "{neighbours}");
}
