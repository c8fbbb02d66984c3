//! A network device on a tap interface, in a network namespace of the test's own.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::panic::resume_unwind;
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

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
ls -d /sys/class/net/eth0/queues/rx-* | grep -c .
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
    in_own_network(|| transfer("vnet_hdr", "1"));
}

#[test]
fn a_guest_with_two_cpus_has_two_pairs_of_queues() {
    in_own_network(|| transfer("vnet_hdr multi_queue", "2"));
}

#[test]
fn a_tap_with_one_queue_serves_a_guest_with_two_pairs() {
    in_own_network(|| transfer("vnet_hdr", "2"));
}

/// Runs a test in a network namespace: this thread's, and that of all that it starts.
fn in_own_network(test: impl FnOnce() + Send + 'static) {
    needs_sandboxes!();
    if !geteuid().is_root() {
        return skip("needs root to make a network namespace");
    }
    let thread = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        test();
    });
    if let Err(failure) = thread.join() {
        resume_unwind(failure);
    }
}

fn lay(words: &[&str]) {
    for words in words {
        tool(Command::new("ip").args(words.split(' ')));
    }
}

fn transfer(kind: &str, vcpus: &str) {
    lay(&[
        &format!("tuntap add tap0 mode tap {kind}"),
        "address add 10.7.0.1/24 dev tap0",
        "link set tap0 up",
    ]);
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
    let done = Machine::new(SCRIPT).output(&["--serial", "--vcpus", vcpus, "--net", &net]);
    assert_eq!(done.code, 0, "{done:?}");
    // It has come before the guest's end, or will never.
    let up = received.recv_timeout(Duration::from_secs(10)).unwrap();
    let expected = format!("{MAC}\n{vcpus}\n3 packets received\n{up}  -\n{sent}  -\n");
    assert_eq!(script_said(&done.stdout), expected);
}

/// One transfer each way, of which the host measures the time.
const TIMED: &str = "\
ip address add 10.7.0.2/24 dev eth0
ip link set eth0 up
head -c 524288 /dev/zero | nc 10.7.0.1 5000
mkfifo /tmp/silence
exec 3<> /tmp/silence
nc 10.7.0.1 5001 <&3 | wc -c
poweroff -f
";

#[test]
fn rates_are_kept_in_both_directions() {
    in_own_network(|| {
        lay(&[
            "tuntap add tap0 mode tap vnet_hdr",
            "address add 10.7.0.1/24 dev tap0",
            "link set tap0 up",
        ]);
        // Half a MiB each way: a limit that is six times as high takes less than half of the time, whatever else
        // there is to it.
        let slow = timed("tap=tap0,tx-bps=96k,rx-bps=96k");
        let fast = timed("tap=tap0,tx-bps=576k,rx-bps=576k");
        for (slow, fast) in slow.into_iter().zip(fast) {
            assert!(slow > 2 * fast, "{slow:?} against {fast:?}");
            // What was sent above what a full bucket held took its time.
            assert!(slow > Duration::from_secs(4), "{slow:?}");
        }
    });
}

/// How long the transfers from and to a guest with this network device take.
fn timed(net: &str) -> [Duration; 2] {
    let from = TcpListener::bind("10.7.0.1:5000").unwrap();
    let to = TcpListener::bind("10.7.0.1:5001").unwrap();
    let host = thread::spawn(move || {
        let (mut client, _) = from.accept().unwrap();
        let begin = Instant::now();
        let mut bytes = Vec::new();
        client.read_to_end(&mut bytes).unwrap();
        let took = begin.elapsed();
        assert_eq!(bytes.len(), 512 << 10);
        // The guest's `nc` goes when its other end has.
        drop(client);
        let (mut client, _) = to.accept().unwrap();
        let begin = Instant::now();
        client.write_all(&bytes).unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        // Until the guest has taken everything, and closes.
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
        [took, begin.elapsed()]
    });
    let done = Machine::new(TIMED).output(&["--serial", "--net", net]);
    assert_eq!((done.code, script_said(&done.stdout).as_str()), (0, "524288\n"), "{done:?}");
    host.join().unwrap()
}

/// By passt: the host's own address, and its gateway's for the host.
const BY_PASST: &str = "\
ip address add 10.9.0.1/24 dev eth0
ip link set eth0 up
ip route add default via 10.9.0.2
head -c 3145728 /dev/urandom > /tmp/up
sha256sum < /tmp/up
nc 10.9.0.2 5000 < /tmp/up
mkfifo /tmp/silence
exec 3<> /tmp/silence
nc 10.9.0.2 5001 <&3 | sha256sum
poweroff -f
";

#[test]
fn passt_carries_frames_over_a_socket() {
    in_own_network(|| {
        if Command::new("passt").arg("--version").output().is_err() {
            return skip("needs passt");
        }
        lay(&[
            "link set lo up",
            "tuntap add up0 mode tap",
            "address add 10.9.0.1/24 dev up0",
            "link set up0 up",
            "route add default via 10.9.0.2",
        ]);
        let machine = Machine::new(BY_PASST);
        let socket = machine.path("passt");
        // It is in the background when the socket is there.
        let mut passt = Command::new("passt");
        passt.args(["--one-off", "--quiet", "--runas", "0:0", "-4", "-t", "none", "-u", "none"]);
        tool(passt.arg("--socket").arg(&socket));
        let down = vec![0x5a; 3 << 20];
        let sent = hash(&down);
        let receiver = TcpListener::bind("127.0.0.1:5000").unwrap();
        let received = thread::spawn(move || {
            let mut up = Vec::new();
            receiver.accept().unwrap().0.read_to_end(&mut up).unwrap();
            hash(&up)
        });
        let sender = TcpListener::bind("127.0.0.1:5001").unwrap();
        thread::spawn(move || sender.accept().unwrap().0.write_all(&down).unwrap());
        let net = format!("stream={},mac={MAC}", socket.display());
        let done = machine.output(&["--serial", "--vcpus", "2", "--net", &net]);
        assert_eq!(done.code, 0, "{done:?}");
        let said = script_said(&done.stdout);
        let up = said.split_once(' ').unwrap().0.to_owned();
        assert_eq!(said, format!("{up}  -\n{sent}  -\n"));
        assert_eq!(received.join().unwrap(), up);
    });
}
