//! Containers that come to networks and leave them, and that are started again.

use crate::lab::Lab;
use crate::needs_networks;

#[test]
fn a_running_container_comes_and_goes() {
    needs_networks!();
    let lab = Lab::new();
    lab.ok(&["network", "create", "--subnet", "198.51.100.0/24", "back"]);
    lab.ok(&["run", "-d", "--name", "web", "busybox", "sleep", "inf"]);
    lab.ok(&["network", "connect", "--ip", "198.51.100.9", "back", "web"]);
    let addresses = "ip -o -4 address | awk '{ print $2, $4 }'";
    let exec = ["exec", "web", "sh", "-c", addresses];
    assert_eq!(lab.ok(&exec), "lo 127.0.0.1/8\neth0 10.201.0.2/16\neth1 198.51.100.9/24\n");
    lab.ok(&["exec", "web", "ping", "-c", "1", "-W", "5", "-q", "-I", "eth1", "198.51.100.1"]);
    assert!(lab.ok(&["network", "inspect", "back"]).contains("198.51.100.9/24"));
    lab.output(&["network", "connect", "back", "web"]).fails(125, &["already attached"]);
    lab.output(&["network", "rm", "back"]).fails(125, &["active endpoints"]);
    let hosts = ["exec", "web", "sh", "-c", "grep -o '^[0-9.]*' /etc/hosts"];
    assert_eq!(lab.ok(&hosts), "127.0.0.1\n10.201.0.2\n198.51.100.9\n");
    let way_out = ["exec", "web", "sh", "-c", "ip route get 192.0.2.1 | grep -o 'via.*dev eth.'"];
    assert_eq!(lab.ok(&way_out), "via 10.201.0.1 dev eth0\n");
    lab.ok(&["network", "disconnect", "bridge", "web"]);
    assert_eq!(lab.ok(&exec), "lo 127.0.0.1/8\neth1 198.51.100.9/24\n");
    // The network that is left leads everywhere.
    assert_eq!(lab.ok(&hosts), "127.0.0.1\n198.51.100.9\n");
    assert_eq!(lab.ok(&way_out), "via 198.51.100.1 dev eth1\n");
    lab.ok(&["exec", "web", "ping", "-c", "1", "-W", "5", "-q", "192.0.2.1"]);
    // It is where it was left when it is started again.
    lab.ok(&["restart", "-t", "1", "web"]);
    assert_eq!(lab.ok(&exec), "lo 127.0.0.1/8\neth0 198.51.100.9/24\n");
    lab.output(&["network", "disconnect", "bridge", "web"]).fails(125, &["not connected"]);
    lab.ok(&["rm", "-f", "web"]);
    lab.ok(&["network", "rm", "back"]);
}

#[test]
fn networks_are_listed_and_pruned() {
    needs_networks!();
    let lab = Lab::new();
    lab.ok(&["network", "create", "--label", "tier=web", "front"]);
    lab.ok(&["network", "create", "back"]);
    lab.ok(&["create", "--name", "web", "--network", "front", "busybox", "true"]);
    assert_eq!(lab.ok(&["network", "ls", "-q", "--filter", "label=tier"]).lines().count(), 1);
    let told = lab.ok(&["network", "ls", "--format", "json"]);
    assert!(told.contains(r#""Name":"front""#) && told.contains(r#""Driver":"bridge""#), "{told}");
    // One that a container is to be on stays, though that has never run.
    assert_eq!(lab.ok(&["network", "prune", "-f"]), "Deleted Networks:\nback\n");
    assert!(lab.ok(&["ps", "-aq", "--filter", "network=front"]).lines().count() == 1);
    lab.ok(&["rm", "web"]);
    lab.ok(&["network", "rm", "front"]);
    lab.output(&["network", "rm", "front"]).fails(125, &["network front not found"]);
}

#[test]
fn many_start_at_once_and_each_has_an_address_of_its_own() {
    needs_networks!();
    let lab = Lab::new();
    let children: Vec<_> = (0..8)
        .map(|_| lab.spawn(&["run", "--rm", "busybox", "sh", "-c", "hostname -i; sleep 2"]))
        .collect();
    let outputs: Vec<_> = children.into_iter().map(|c| c.wait_with_output().unwrap()).collect();
    let mut addresses: Vec<String> =
        outputs.iter().map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).collect();
    assert!(outputs.iter().all(|output| output.status.success()), "{outputs:?}");
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), 8, "{addresses:?}");
    assert_eq!(lab.interfaces("amp"), ["ampoule0"]);
}
