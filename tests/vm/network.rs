//! A network device on a tap interface, in a network namespace of the test's own.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::panic::resume_unwind;
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::geteuid;

use crate::machine::{Machine, hash, script_said, tool};
use crate::needs_sandboxes;
use crate::support::skip;

/// `nc` has an input that does not end while it receives: it would leave with it.
const SCRIPT: &str = "\
ip address add 10.7.0.2/24 dev eth0
ip link set eth0 up
cat /sys/class/net/eth0/address
ping -c 3 -A -q 10.7.0.1 | grep -o '3 packets received'
head -c 10485760 /dev/urandom > /tmp/up
sha256sum < /tmp/up
nc 10.7.0.1 5000 < /tmp/up
mkfifo /tmp/silence
exec 3<> /tmp/silence
nc 10.7.0.1 5001 <&3 > /tmp/down
sha256sum < /tmp/down
poweroff -f
";

const MAC: &str = "02:00:00:00:00:05";

#[test]
fn a_guest_is_reached_and_reaches_the_host() {
    needs_sandboxes!();
    if !geteuid().is_root() {
        return skip("needs root to make a network namespace");
    }
    // The namespace is this thread's, and that of all that it starts.
    if let Err(failure) = thread::spawn(transfer).join() {
        resume_unwind(failure);
    }
}

fn transfer() {
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    for words in [
        "tuntap add tap0 mode tap vnet_hdr",
        "address add 10.7.0.1/24 dev tap0",
        "link set tap0 up",
    ] {
        tool(Command::new("ip").args(words.split(' ')));
    }
    let mut down = vec![0; 10 << 20];
    getrandom::fill(&mut down).unwrap();
    let sent = hash(&down);

    let receiver = TcpListener::bind("10.7.0.1:5000").unwrap();
    let (tell, received) = mpsc::channel();
    thread::spawn(move || {
        let mut up = Vec::new();
        receiver.accept().unwrap().0.read_to_end(&mut up).unwrap();
        tell.send(hash(&up)).unwrap();
    });
    let sender = TcpListener::bind("10.7.0.1:5001").unwrap();
    thread::spawn(move || sender.accept().unwrap().0.write_all(&down).unwrap());

    let net = format!("tap=tap0,mac={MAC}");
    let done = Machine::new(SCRIPT).output(&["--serial", "--net", &net]);
    assert_eq!(done.code, 0, "{done:?}");
    // It has come before the guest's end, or will never.
    let up = received.recv_timeout(Duration::from_secs(10)).unwrap();
    let expected = format!("{MAC}\n3 packets received\n{up}  -\n{sent}  -\n");
    assert_eq!(script_said(&done.stdout), expected);
}
