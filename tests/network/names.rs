//! What containers are called, and the files that tell them.

use crate::lab::Lab;
use crate::needs_networks;

#[test]
fn containers_of_a_users_network_find_each_other_by_name() {
    needs_networks!();
    let lab = Lab::new();
    lab.ok(&["network", "create", "front"]);
    lab.ok(&["network", "create", "back"]);
    let server = ["run", "-d", "--network", "front", "--network-alias", "www", "--name", "web"];
    lab.ok(&[&server[..], &["busybox", "sh", "-c", "while :; do nc -l -p 5000 -e /bin/cat; done"]]
        .concat());
    let ask = "for name in web www web.front WEB; do for n in 1 2 3 4 5 6 7 8 9; do echo $name | nc -w 5 $name 5000 && break; sleep 0.2; done; done";
    let asked = lab.shell(&["--network", "front"], "busybox", ask);
    asked.gives(0, "web\nwww\nweb.front\nWEB\n");
    let address = lab.settings("web")["IPAddress"].as_str().unwrap().to_owned();
    let back = format!("nslookup {address} | grep -o 'name = .*'");
    lab.shell(&["--network", "front"], "busybox", &back).gives(0, "name = web.front\n");
    // Neither its name nor itself is to be had from another network.
    let closed = format!(
        "nslookup web > /dev/null 2>&1 || echo unknown; nc -w 2 {address} 5000 < /dev/null || echo closed"
    );
    lab.shell(&["--network", "back"], "busybox", &closed).gives(0, "unknown\nclosed\n");
    let closed = format!("nc -w 2 {address} 5000 < /dev/null || echo closed");
    lab.shell(&[], "busybox", &closed).gives(0, "closed\n");
    lab.ok(&["rm", "-f", "web"]);
    lab.ok(&["network", "rm", "front", "back"]);
    assert!(lab.interfaces("amp-").is_empty());
}

#[test]
fn a_new_name_is_known_at_once() {
    needs_networks!();
    let lab = Lab::new();
    lab.ok(&["network", "create", "front"]);
    lab.ok(&["run", "-d", "--network", "front", "--name", "web", "busybox", "sleep", "inf"]);
    lab.ok(&["run", "-d", "--network", "front", "--name", "asks", "busybox", "sleep", "inf"]);
    let known = |name: &str| {
        let script = format!("nslookup {name} > /dev/null 2>&1 && echo known || echo unknown");
        lab.ok(&["exec", "asks", "sh", "-c", &script])
    };
    assert_eq!((known("web"), known("shop")), ("known\n".into(), "unknown\n".into()));
    lab.ok(&["rename", "web", "shop"]);
    assert_eq!((known("web"), known("shop")), ("unknown\n".into(), "known\n".into()));
    assert_eq!(lab.settings("shop")["Networks"]["front"]["DNSNames"][0], "shop");
    lab.ok(&["rm", "-f", "shop", "asks"]);
}

#[test]
fn files_are_dockers() {
    needs_networks!();
    let lab = Lab::new();
    let options = [
        "--hostname",
        "web",
        "--domainname",
        "example.org",
        "--dns",
        "192.0.2.53",
        "--dns-search",
        "a.example",
        "--dns-option",
        "ndots:2",
        "--add-host",
        "db:192.0.2.7",
        "--add-host",
        "host:host-gateway",
        "--ip",
        "10.201.3.4",
        "--mac-address",
        "02:11:22:33:44:55",
    ];
    let script = "cat /etc/resolv.conf /etc/hostname; grep -v ip6 /etc/hosts | grep -v ^fd; \
                  cat /sys/class/net/eth0/address; hostname";
    let expected = "nameserver 192.0.2.53\nsearch a.example\noptions ndots:2\nweb\n\
                    127.0.0.1\tlocalhost\n192.0.2.7\tdb\n10.201.0.1\thost\n\
                    10.201.3.4\tweb.example.org web\n02:11:22:33:44:55\nweb\n";
    lab.shell(&options, "busybox", script).gives(0, expected);
    // They are the container's to change, and its own mounts stand in their place.
    let mounted = ["--tmpfs", "/etc"];
    lab.shell(&mounted, "busybox", "echo x >> /etc/hosts; tail -n 1 /etc/hosts; ls /etc | wc -l")
        .gives(0, "x\n3\n");
    let none = lab.shell(
        &["--network", "none"],
        "busybox",
        "ls /sys/class/net; grep -c localhost /etc/hosts",
    );
    none.gives(0, "lo\n2\n");
}
