//! What cannot be had, and how that is told.

use crate::lab::Lab;
use crate::needs_networks;

#[test]
fn what_somebody_else_has_is_refused_by_name() {
    needs_networks!();
    let lab = Lab::new();
    let run = |options: &[&str]| lab.shell(options, "busybox", "true");
    let _taken = std::net::TcpListener::bind("0.0.0.0:8080").unwrap();
    run(&["-p", "8080:80"]).fails(125, &["0.0.0.0:8080", "port is already allocated"]);
    // Of a range another one is taken.
    run(&["-p", "8080-8081:80"]).gives(0, "");
    run(&["-p", "203.0.113.9:80:80"]).fails(125, &["cannot bind 203.0.113.9:80"]);
    lab.ok(&["run", "-d", "--name", "web", "--ip", "10.201.0.9", "busybox", "sleep", "inf"]);
    run(&["--ip", "10.201.0.9"]).fails(125, &["Address already in use", "10.201.0.9"]);
    run(&["--ip", "10.201.0.1"]).fails(125, &["10.201.0.1", "gateway"]);
    run(&["--ip", "10.9.9.9"]).fails(125, &["not in the network's subnet"]);
    lab.ok(&["rm", "-f", "web"]);
    let create = |subnet: &str| lab.output(&["network", "create", "--subnet", subnet, "clash"]);
    create("10.201.128.0/17").fails(125, &["overlaps", "10.201.0.0/16", "network bridge"]);
    create("192.0.2.128/25").fails(125, &["overlaps", "192.0.2.0/24", "the host"]);
    create("10.0.0.0/31").fails(125, &["no room"]);
    lab.output(&["network", "create", "bridge"]).fails(125, &["already exists"]);
    lab.output(&["network", "create", "none"]).fails(125, &["none"]);
    lab.output(&["network", "rm", "bridge"]).fails(125, &["pre-defined"]);
    assert_eq!(lab.interfaces("amp"), ["ampoule0"]);
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_is_made() {
    needs_networks!();
    let lab = Lab::new();
    let run = |options: &[&str]| lab.shell(options, "busybox", "true");
    run(&["--network", "nothing"]).fails(125, &["network nothing not found"]);
    run(&["--network", "host"]).fails(125, &["kernel of its own"]);
    run(&["--network", "none", "--network", "bridge"]).fails(125, &["stands alone"]);
    run(&["--network", "none", "-p", "80"]).fails(125, &["--publish"]);
    run(&["--network", "none", "--ip", "10.0.0.1"]).fails(125, &["--ip"]);
    run(&["--network", "netns:/nowhere"]).fails(125, &["/nowhere"]);
    run(&["--network", "container:nobody"]).fails(125, &["nobody"]);
    run(&["-p", "x"]).fails(125, &["invalid publish"]);
    run(&["--egress", "everything"]).fails(125, &["everything"]);
    run(&["--mac-address", "01:00:00:00:00:00"]).fails(125, &["single interface"]);
    assert!(lab.interfaces("amp").is_empty());
    assert_eq!(lab.left(), Vec::<String>::new());
}
