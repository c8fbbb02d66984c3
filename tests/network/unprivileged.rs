//! The network that takes no privilege.

use crate::lab::{GET, Lab};
use crate::needs_networks;

// With a passt that is not too old: see docs/network.md, and tools/passt.
#[test]
fn passt_speaks_for_the_guest() {
    needs_networks!();
    let lab = Lab::with_server();
    let program = r#"
import os, socket, threading
with socket.create_connection(('192.0.2.1', 7), 20) as tcp:
    data = os.urandom(1 << 20)
    sending = threading.Thread(target=tcp.sendall, args=(data,))
    sending.start()
    got = bytearray()
    while len(got) < len(data) and (more := tcp.recv(1 << 16)):
        got += more
    sending.join()
print(len(got), bytes(got) == data)
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.settimeout(5)
udp.sendto(b'x' * 9000, ('192.0.2.1', 7))
print(len(udp.recv(1 << 16)))
print(open('/etc/resolv.conf').readline().strip())
"#;
    let told = lab.python(&["--network", "user"], program);
    assert_eq!(told, "1048576 True\n9000\nnameserver 10.0.2.3\n");
    assert!(lab.interfaces("amp").is_empty());
}

#[test]
fn its_ports_are_published_and_it_goes_with_the_container() {
    needs_networks!();
    let lab = Lab::new();
    let options = ["run", "-d", "--name", "web", "--network", "user", "-p", "8080:80", "busybox"];
    let serve = "echo served > /index.html; exec httpd -f -p 80 -h /";
    lab.ok(&[&options[..], &["sh", "-c", serve]].concat());
    assert!(lab.ok(&["port", "web"]).contains("80/tcp -> 0.0.0.0:8080"));
    let get = format!("python3 -c \"{GET}\" http://192.0.2.2:8080/");
    assert_eq!(lab.outside.run(&get), "served\n");
    lab.ok(&["rm", "-f", "web"]);
    std::net::TcpListener::bind("0.0.0.0:8080").unwrap();
}
