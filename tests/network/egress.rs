//! Where containers may connect to.

use crate::lab::{GET, Lab};
use crate::needs_networks;

/// Which of some addresses can be connected to.
const PROBE: &str = r#"
import socket
def try_one(name, address, port):
    try:
        socket.create_connection((address, port), 3).close()
        print(name, 'open')
    except OSError:
        print(name, 'closed')
try_one('outside', '192.0.2.1', 7)
try_one('other port', '192.0.2.1', 8)
try_one('newer', '2001:db8::1', 7)
try_one('host', '10.201.0.1', 99)
try_one('host by its other address', '192.0.2.2', 99)
"#;

#[test]
fn rules_open_what_they_say_and_close_the_rest() {
    needs_networks!();
    let lab = Lab::with_server();
    let _host = std::net::TcpListener::bind("[::]:99").unwrap();
    let probe = |rules: &[&str]| {
        let rules: Vec<&str> = rules.iter().flat_map(|rule| ["--egress", *rule]).collect();
        let told = lab.python(&rules, PROBE);
        told.lines().map(|line| line.ends_with("open")).collect::<Vec<bool>>()
    };
    assert_eq!(probe(&[]), [true, true, true, true, true]);
    assert_eq!(probe(&["none"]), [false; 5]);
    // Documentation's addresses are of the internet as far as rules go; the host is closed.
    let public = probe(&["public"]);
    assert_eq!(public[3..], [false, false], "{public:?}");
    assert_eq!(probe(&["192.0.2.1:7/tcp"]), [true, false, false, false, false]);
    assert_eq!(probe(&["192.0.2.0/24", "[2001:db8::1]:7"])[..3], [true, true, true]);
}

#[test]
fn who_may_connect_to_nobody_still_answers() {
    needs_networks!();
    let lab = Lab::with_server();
    let options = ["run", "-d", "--name", "web", "--egress", "none", "-p", "8080:80", "busybox"];
    let serve = "echo answered > /index.html; exec httpd -f -p 80 -h /";
    lab.ok(&[&options[..], &["sh", "-c", serve]].concat());
    let get = format!("python3 -c \"{GET}\" http://192.0.2.2:8080/");
    assert_eq!(lab.outside.run(&get), "answered\n");
    lab.output(&["exec", "web", "nc", "-w", "2", "192.0.2.1", "8"]).fails(1, &[]);
    lab.ok(&["rm", "-f", "web"]);
}

#[test]
fn an_internal_network_leads_nowhere() {
    needs_networks!();
    let lab = Lab::with_server();
    lab.ok(&["network", "create", "--internal", "inner"]);
    let told = lab.python(&["--network", "inner"], PROBE);
    assert!(told.starts_with("outside closed\nother port closed\nnewer closed\n"), "{told}");
    lab.ok(&["network", "create", "-o", "icc=false", "apart"]);
    let serve = ["--network", "apart", "busybox", "sleep", "inf"];
    lab.ok(&[&["run", "-d", "--name", "one"], &serve[..]].concat());
    let address = lab.settings("one")["IPAddress"].as_str().unwrap().to_owned();
    let ask = format!("ping -c 1 -W 2 -q {address} > /dev/null || echo closed");
    lab.shell(&["--network", "apart"], "busybox", &ask).gives(0, "closed\n");
    lab.ok(&["rm", "-f", "one"]);
}
