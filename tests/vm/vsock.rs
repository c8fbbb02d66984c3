//! Connections between guest and host, by whom they are made.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::thread;

use tempfile::TempDir;

use crate::machine::{Machine, hash, script_said, tool};
use crate::needs_sandboxes;
use crate::support::{code, read_until};

/// Connections at once.
const MANY: usize = 100;

/// A machine whose script has the program `vsock-pipe`.
fn machine(script: &str) -> Machine {
    let folder = TempDir::new().unwrap();
    let program = folder.path().join("vsock-pipe");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vm/vsock-pipe.c");
    tool(Command::new("cc").args(["-O1", "-static", "-o"]).arg(&program).arg(source));
    Machine::with_programs(script, &[&program])
}

/// Answers everyone who calls the host's port `port`.
fn listen(machine: &Machine, port: u32, answer: fn(Vec<u8>) -> String) {
    let listener = UnixListener::bind(machine.path(&format!("vsock_{port}"))).unwrap();
    thread::spawn(move || {
        for caller in listener.incoming() {
            let mut caller = caller.unwrap();
            thread::spawn(move || {
                let mut said = Vec::new();
                caller.read_to_end(&mut said).unwrap();
                caller.write_all(answer(said).as_bytes()).unwrap();
            });
        }
    });
}

#[test]
fn a_guest_calls_the_host() {
    needs_sandboxes!();
    let machine = machine(
        "\
vsock-pipe dial 9 true 2> /tmp/refused || grep -o 'connect: .*' /tmp/refused
mkdir /tmp/many
for i in $(seq 100); do
    vsock-pipe dial 2000 sh -c \"echo call $i; vsock-pipe shut; cat > /tmp/many/$i\" &
done
wait
for i in $(seq 100); do
    read -r answer < /tmp/many/$i
    [ \"$answer\" = \"heard call $i\" ] || echo \"call $i: $answer\"
done
head -c 10485760 /dev/urandom > /tmp/much
sha256sum < /tmp/much
vsock-pipe dial 2001 sh -c 'cat /tmp/much; vsock-pipe shut; cat > /tmp/hash'
cat /tmp/hash
poweroff -f
",
    );
    listen(&machine, 2000, |said| format!("heard {}", String::from_utf8_lossy(&said)));
    listen(&machine, 2001, |said| format!("{} of {} bytes\n", hash(&said), said.len()));
    let done = machine.output(&["--serial", "--vsock", "vsock"]);
    assert_eq!(done.code, 0, "{done:?}");
    let said = script_said(&done.stdout);
    let lines: Vec<_> = said.lines().collect();
    let [refused, sent, received] = lines[..] else { panic!("{done:?}") };
    assert_eq!(refused, "connect: Connection reset by peer");
    let sent = sent.strip_suffix("  -").unwrap();
    assert_eq!(received, format!("{sent} of {} bytes", 10 << 20));
}

/// Calls the guest's port; none where the guest refuses.
fn call(machine: &Machine, port: u32) -> Option<UnixStream> {
    let mut stream = UnixStream::connect(machine.path("vsock")).unwrap();
    writeln!(stream, "CONNECT {port}").unwrap();
    let mut answer = Vec::new();
    while answer.last() != Some(&b'\n') {
        let mut byte = [0];
        if stream.read(&mut byte).unwrap() == 0 {
            assert!(answer.is_empty(), "{}", String::from_utf8_lossy(&answer));
            return None;
        }
        answer.extend(byte);
    }
    assert!(answer.starts_with(b"OK "), "{}", String::from_utf8_lossy(&answer));
    Some(stream)
}

#[test]
fn a_host_calls_the_guest() {
    needs_sandboxes!();
    let machine = machine("vsock-pipe serve 7 cat\necho ready\nread -r line\npoweroff -f\n");
    let mut child = machine.spawn(&["--serial", "--vsock", "vsock"]);
    read_until(child.stdout.as_mut().unwrap(), "ready\n");

    assert!(call(&machine, 9).is_none(), "nobody listens there");

    let mut sent = vec![0; 10 << 20];
    getrandom::fill(&mut sent).unwrap();
    let mut much = call(&machine, 7).unwrap();
    let mut to_guest = much.try_clone().unwrap();
    let received = thread::scope(|scope| {
        scope.spawn(|| {
            to_guest.write_all(&sent).unwrap();
            to_guest.shutdown(Shutdown::Write).unwrap();
        });
        let mut received = Vec::new();
        much.read_to_end(&mut received).unwrap();
        received
    });
    assert_eq!((received.len(), hash(&received)), (sent.len(), hash(&sent)));

    let many: Vec<_> = (0..MANY).map(|_| call(&machine, 7).unwrap()).collect();
    for (index, mut stream) in many.iter().enumerate() {
        write!(stream, "call {index}").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
    }
    for (index, mut stream) in many.iter().enumerate() {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, format!("call {index}"));
    }

    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    assert_eq!(code(child.wait().unwrap()), 0);
    assert!(!machine.path("vsock").exists());
}
