use super::*;
use proptest::prelude::*;

const MAC_HEADER: [u8; 12] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];

/// A frame of TCP over IPv4: flags, payload. TCP has 12 bytes of options.
fn v4(flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = MAC_HEADER.to_vec();
    frame.extend([8, 0]);
    frame.extend([0x45, 0, 0, 0, 0xff, 0xff, 0x40, 0, 64, 6, 0x12, 0x34, 10, 0, 0, 1, 10, 0, 0, 2]);
    frame.extend(tcp(flags));
    frame.extend(payload);
    frame
}

fn v6(flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = MAC_HEADER.to_vec();
    // With a VLAN tag.
    frame.extend([0x81, 0, 0, 7, 0x86, 0xdd]);
    frame.extend([0x60, 0, 0, 0, 0, 0, 6, 64]);
    frame.extend((0..32).collect::<Vec<u8>>());
    frame.extend(tcp(flags));
    frame.extend(payload);
    frame
}

fn tcp(flags: u8) -> Vec<u8> {
    let mut tcp = vec![0x1f, 0x90, 0, 80, 0xff, 0xff, 0xff, 0xf0, 0, 0, 0, 9, 0x80, flags];
    tcp.extend([1, 0, 0xab, 0xcd, 0, 0]);
    tcp.extend([1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
    tcp
}

fn cut(frame: &[u8], kind: Cut, size: u16, start: u16) -> Vec<Vec<u8>> {
    let segments = Segments::new(frame, kind, size, start).unwrap();
    let all: Vec<Vec<u8>> = (0..segments.count())
        .map(|index| {
            let mut out = vec![0x77];
            segments.append(index, &mut out);
            assert_eq!(out.remove(0), 0x77, "what was there stays");
            assert_eq!(out.len(), segments.len_of(index));
            out
        })
        .collect();
    assert_eq!(all.iter().map(Vec::len).sum::<usize>(), segments.bytes());
    all
}

/// As a receiver checks it: over pseudo header and segment the sum is 0.
fn check_tcp(addresses: &[u8], tcp: &[u8]) {
    let len = u32::try_from(tcp.len()).unwrap();
    let sum = Sum::default().add(addresses).add_number(6).add_number(len).add(tcp);
    assert!(matches!(sum.finish(), [0, 0]), "{:?}", sum.finish());
}

#[test]
fn ipv4_is_cut() {
    let payload: Vec<u8> = (0..3000u16).map(|i| i.to_le_bytes()[0]).collect();
    let frame = v4(TCP_CWR | TCP_PSH | TCP_FIN | 0x10, &payload);
    let segments = cut(&frame, Cut::TcpV4, 1448, 34);
    assert_eq!(segments.iter().map(Vec::len).collect::<Vec<_>>(), [1514, 1514, 66 + 104]);
    let mut joined: Vec<u8> = Vec::new();
    for (i, (segment, flags)) in segments.iter().zip([0x90, 0x10, 0x19]).enumerate() {
        let (packet, tcp) = (&segment[14..34], &segment[34..]);
        assert_eq!(segment[..14], frame[..14]);
        assert_eq!(usize::from(u16::from_be_bytes([packet[2], packet[3]])), segment.len() - 14);
        let number = 0xffff_u16.wrapping_add(u16::try_from(i).unwrap());
        assert_eq!(packet[4..6], number.to_be_bytes());
        assert_eq!(Sum::default().add(packet).finish(), [0, 0]);
        check_tcp(&packet[12..20], tcp);
        let sequence = 0xffff_fff0_u32.wrapping_add(u32::try_from(i * 1448).unwrap());
        assert_eq!(tcp[4..8], sequence.to_be_bytes());
        assert_eq!(tcp[13], flags);
        assert_eq!(tcp[20..32], frame[54..66]);
        joined.extend(&tcp[32..]);
    }
    assert_eq!(joined, payload);
}

#[test]
fn ipv6_is_cut_behind_a_vlan_tag() {
    let payload = [0x5a; 2001];
    let segments = cut(&v6(0x18, &payload), Cut::TcpV6, 1000, 58);
    assert_eq!(segments.len(), 3);
    for segment in &segments {
        let (packet, tcp) = (&segment[18..58], &segment[58..]);
        assert_eq!(usize::from(u16::from_be_bytes([packet[4], packet[5]])), tcp.len());
        check_tcp(&packet[8..40], tcp);
    }
    assert_eq!(segments[2].len(), 58 + 32 + 1);
}

#[test]
fn a_whole_segment_is_one_and_no_payload_too() {
    for payload in [&[][..], &[1], &[1; 100]] {
        assert_eq!(cut(&v4(0x18, payload), Cut::TcpV4, 100, 34).len(), 1);
    }
}

#[test]
fn what_is_not_as_it_says_is_refused() {
    let refused = |frame: &[u8], kind, size, start| {
        assert!(Segments::new(frame, kind, size, start).is_err(), "{kind:?} {size} {start}");
    };
    let good = v4(0x10, &[1; 100]);
    refused(&good, Cut::TcpV6, 50, 34);
    refused(&good, Cut::TcpV4, 0, 34);
    refused(&good, Cut::TcpV4, 50, 35);
    refused(&v6(0x10, &[1; 100]), Cut::TcpV4, 50, 58);
    for length in [0, 13, 14, 33, 34, 46, 47, 65] {
        refused(&good[..length], Cut::TcpV4, 50, 34);
    }
    for (at, value) in [(14, 0x55), (14, 0x44), (14, 0x4f), (23, 17), (46, 0x40), (46, 0xf0)] {
        let mut frame = v4(0x10, &[1; 10]);
        frame[at] = value;
        refused(&frame, Cut::TcpV4, 50, 34);
    }
}

proptest! {
    #[test]
    fn any_frame_is_cut_or_refused(
        frame in prop::collection::vec(any::<u8>(), 0..300),
        v6 in any::<bool>(),
        size in any::<u16>(),
        start in 0u16..100,
    ) {
        let kind = if v6 { Cut::TcpV6 } else { Cut::TcpV4 };
        prop_assert!(Segments::new(&frame, kind, size, start).is_err() || frame.len() > 40);
    }

    #[test]
    fn every_byte_is_sent_once(
        payload in prop::collection::vec(any::<u8>(), 0..2000),
        size in 1u16..2500,
        flags in any::<u8>(),
        is_v6 in any::<bool>(),
    ) {
        let (frame, kind, start) = if is_v6 {
            (v6(flags, &payload), Cut::TcpV6, 58)
        } else {
            (v4(flags, &payload), Cut::TcpV4, 34)
        };
        let headers = usize::from(start) + 32;
        let mut joined: Vec<u8> = Vec::new();
        for segment in cut(&frame, kind, size, start) {
            let addresses = if is_v6 { &segment[26..58] } else { &segment[26..34] };
            check_tcp(addresses, &segment[usize::from(start)..]);
            joined.extend_from_slice(&segment[headers..]);
        }
        prop_assert_eq!(joined, payload);
    }
}
