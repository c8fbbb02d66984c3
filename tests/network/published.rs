//! Ports of the host that lead to containers: servers that people run, under load.

use crate::lab::{GET, Lab};
use crate::needs_networks;

#[test]
fn nginx_serves_under_load() {
    needs_networks!();
    let lab = Lab::new();
    let nginx = "mkdir /var/log/nginx; echo served > /var/www/html/index.html; exec nginx -g 'daemon off; error_log stderr;'";
    let id = lab.ok(&["run", "-d", "--name", "web", "-p", "8080:80", "debian", "sh", "-c", nginx]);
    let told = lab.ok(&["port", "web"]);
    assert_eq!(told, "80/tcp -> 0.0.0.0:8080\n80/tcp -> [::]:8080\n");
    assert!(lab.ok(&["ps"]).contains("0.0.0.0:8080->80/tcp"), "{id}");
    let get = |url: &str| format!("python3 -c \"{GET}\" http://{url}/");
    // By the host itself, over its loopback and over its own address; from outside in both families.
    for url in ["127.0.0.1:8080", "192.0.2.2:8080"] {
        assert_eq!(lab.host(&get(url)), "served\n", "{url}");
    }
    for url in ["192.0.2.2:8080", "[2001:db8::2]:8080"] {
        assert_eq!(lab.outside.run(&get(url)), "served\n", "{url}");
    }
    let load = lab.outside.run("wrk -t 2 -c 32 -d 3 http://192.0.2.2:8080/");
    assert!(load.contains("requests in") && !load.contains("Socket errors"), "{load}");
    assert!(!load.contains("Non-2xx"), "{load}");
    // Nothing else of it is to be had from outside, also not by who has a route to it.
    let address = lab.settings("web")["IPAddress"].as_str().unwrap().to_owned();
    let direct = format!(
        "ip route add 10.201.0.0/16 via 192.0.2.2; \
         python3 -c \"import socket
try: socket.create_connection(('{address}', 80), 2)
except OSError: print('closed')\""
    );
    assert_eq!(lab.outside.run(&direct), "closed\n");
    lab.ok(&["rm", "-f", "web"]);
}

#[test]
fn redis_serves_under_load() {
    needs_networks!();
    let lab = Lab::new();
    let redis = ["redis-server", "--save", "", "--protected-mode", "no"];
    let options = ["run", "-d", "--name", "store", "-p", "127.0.0.1:6000-6010:6379", "debian"];
    lab.ok(&[&options[..], &redis[..]].concat());
    let port = lab.ok(&["port", "store", "6379"]);
    let port = port.trim().strip_prefix("127.0.0.1:").unwrap();
    lab.host(&format!(
        "until redis-cli -h 127.0.0.1 -p {port} ping 2> /dev/null | grep -q PONG; do sleep 0.1; done"
    ));
    let load =
        lab.host(&format!("redis-benchmark -h 127.0.0.1 -p {port} -n 2000 -c 20 -q -t set,get"));
    assert!(load.contains("SET:") && load.contains("GET:") && !load.contains("Error"), "{load}");
    // One address of the host was named: others do not lead there.
    let outside = format!(
        "python3 -c \"import socket
try: socket.create_connection(('192.0.2.2', {port}), 2)
except OSError: print('closed')\""
    );
    assert_eq!(lab.outside.run(&outside), "closed\n");
    lab.ok(&["rm", "-f", "store"]);
}

#[test]
fn udp_and_ranges_are_published() {
    needs_networks!();
    let lab = Lab::new();
    let options = ["run", "-d", "--name", "echo", "-p", "7000-7001:7000-7001/udp", "-P", "debian"];
    let server = r#"
import socket
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
one.bind(('', 7001))
print('ready', flush=True)
while True:
    data, peer = one.recvfrom(1 << 16)
    one.sendto(data[::-1], peer)
"#;
    lab.ok(&[&options[..], &["python3", "-c", server]].concat());
    let mut log = lab.spawn(&["logs", "-f", "echo"]);
    crate::support::read_until(log.stdout.as_mut().unwrap(), "ready\n");
    log.kill().unwrap();
    log.wait().unwrap();
    let ask = "python3 -c \"import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(5); s.sendto(b'abc', ('192.0.2.2', 7001)); print(s.recv(9).decode())\"";
    assert_eq!(lab.outside.run(ask), "cba\n");
    lab.ok(&["rm", "-f", "echo"]);
    assert!(lab.host("nft list ruleset").matches("7001").count() == 0);
}
