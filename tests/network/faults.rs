//! Bridges that are removed, rules that are flushed, keepers that are killed.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::lab::Lab;
use crate::needs_networks;

#[test]
fn a_bridge_that_was_removed_is_there_again_with_those_who_were_on_it() {
    needs_networks!();
    let lab = Lab::new();
    lab.ok(&["run", "-d", "--name", "web", "busybox", "sleep", "inf"]);
    lab.host("ip link del ampoule0");
    lab.shell(&[], "busybox", "ping -c 1 -q -W 5 10.201.0.2 | grep -c ' 0%'").gives(0, "1\n");
    lab.ok(&["rm", "-f", "web"]);
}

#[test]
fn rules_that_were_flushed_are_put_back_while_containers_run() {
    needs_networks!();
    let lab = Lab::new();
    lab.ok(&["run", "-d", "--name", "web", "-p", "8080:80", "busybox", "httpd", "-f", "-p", "80"]);
    lab.ok(&["run", "-d", "--name", "other", "-p", "8081:80", "busybox", "sleep", "inf"]);
    lab.host("nft flush ruleset");
    let has =
        |text: &str| format!("while ! nft list ruleset | grep -q '{text}'; do sleep 0.05; done");
    for text in ["8080", "8081", "10.201.0.2", "10.201.0.3", "meta nfproto ipv6 drop"] {
        lab.host(&has(text));
    }
    lab.shell(&[], "busybox", "ping -c 1 -q -W 5 10.201.0.1 | grep -c ' 0%'").gives(0, "1\n");
    lab.ok(&["rm", "-f", "web", "other"]);
    let rules = lab.host("nft list ruleset");
    assert!(!rules.contains("8080") && !rules.contains("10.201.0.2"), "{rules}");
}

#[test]
fn what_a_killed_keeper_left_is_cleared_away_by_the_next_command() {
    needs_networks!();
    let lab = Lab::new();
    lab.ok(&["run", "-d", "--name", "web", "-p", "8080:80", "busybox", "sleep", "inf"]);
    let told = lab.ok(&["inspect", "web"]);
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    let keeper = i32::try_from(told[0]["Ampoule"]["Keeper"].as_i64().unwrap()).unwrap();
    kill(Pid::from_raw(keeper), Signal::SIGKILL).unwrap();
    lab.output(&["wait", "web"]);
    lab.host("while ip -o link | grep -q 'amp[0-9a-f]*:'; do sleep 0.05; done");
    lab.ok(&["rm", "-f", "web"]);
    let rules = lab.host("nft list ruleset");
    assert!(!rules.contains("8080") && !rules.contains("10.201.0.2"), "{rules}");
    // Its port and its address are free.
    let options = ["--ip", "10.201.0.2", "-p", "8080:80"];
    lab.shell(&options, "busybox", "hostname -i | grep -o 10.201.0.2").gives(0, "10.201.0.2\n");
}
