//! Pods, as Kubernetes makes them: one sandbox each.

use std::io::{Read, Write};
use std::net::TcpStream;

use ampoule_cri::Streams;
use ampoule_cri::v1::{ContainerState, NamespaceMode, PodSandboxState, PortMapping};

use crate::lab;
use crate::lab::{IMAGE, Runtime, until};
use crate::pod::{Pod, WAITS};

#[test]
fn a_life_of_a_pod() {
    let lab = lab!();
    assert!(lab.cri().image_names().unwrap().iter().any(|name| name == IMAGE));
    let pod = Pod::run(&lab, "life");
    let status = lab.cri().pod_status(&pod.id).unwrap();
    assert_eq!(status.state(), PodSandboxState::SandboxReady);
    assert_eq!(status.runtime_handler, lab.runtime.handler());
    let ip = lab.cri().pod_ip(&pod.id).unwrap();
    assert!(ip.starts_with("10.213."), "{status:?}");

    let config = Pod::shell("main", &format!("echo err >&2; {WAITS}"));
    let id = pod.create(&config);
    assert_eq!(lab.cri().status(&id).unwrap().state(), ContainerState::ContainerCreated);
    lab.cri().start(&id).unwrap();
    let status = lab.cri().status(&id).unwrap();
    assert_eq!(status.state(), ContainerState::ContainerRunning);
    assert!(status.started_at > 0, "{status:?}");
    pod.says("main", "ready\n");
    // The streams do not wait for each other.
    pod.says("main", "err\n");
    let log = pod.log("main");
    assert!(log.contains(&("stderr".into(), "err\n".into())), "{log:?}");
    assert!(log.contains(&("stdout".into(), "ready\n".into())), "{log:?}");

    let done = lab.cri().exec_sync(&id, &["sh", "-c", "echo out; echo err >&2; exit 7"], 0);
    let done = done.unwrap();
    assert_eq!(
        (done.exit_code, &done.stdout[..], &done.stderr[..]),
        (7, &b"out\n"[..], &b"err\n"[..])
    );
    assert_eq!(pod.ask(&id, "hostname; cat /proc/1/comm"), "life\nsh\n");
    let resolver = pod.ask(&id, "cat /etc/resolv.conf");
    assert!(resolver.contains("nameserver 10.96.0.10"), "{resolver}");
    let refused = lab.cri().exec_sync(&id, &["no-such-program"], 0).unwrap_err();
    assert!(refused.message().contains("no-such-program"), "{refused}");
    let late = lab.cri().exec_sync(&id, &["sleep", "60"], 1).unwrap_err();
    assert_eq!(late.code() as i32, 4, "{late}");

    lab.cri().stop(&id, 30).unwrap();
    let status = pod.end_of(&id);
    assert_eq!((status.exit_code, status.reason.as_str()), (3, "Error"), "{status:?}");
    assert!(pod.output("main").ends_with("ended\n"));
    lab.cri().remove(&id).unwrap();
    lab.nothing_left(&id);
    lab.cri().stop_pod(&pod.id).unwrap();
    let status = lab.cri().pod_status(&pod.id).unwrap();
    assert_eq!(status.state(), PodSandboxState::SandboxNotready);
    // A kubelet may say it twice.
    lab.cri().stop_pod(&pod.id).unwrap();
    pod.remove();
}

#[test]
fn one_that_does_not_listen_is_killed() {
    let lab = lab!();
    let pod = Pod::run(&lab, "deaf");
    let id = pod.start(&Pod::shell("main", "trap '' TERM; echo ready; exec sleep 1000"));
    pod.says("main", "ready\n");
    lab.cri().stop(&id, 1).unwrap();
    assert_eq!(pod.end_of(&id).exit_code, 137);
    // What still runs ends with its pod.
    let id = pod.start_waiting("other");
    lab.cri().stop_pod(&pod.id).unwrap();
    assert_eq!(lab.cri().status(&id).unwrap().state(), ContainerState::ContainerExited);
    pod.remove();
}

#[test]
fn containers_of_a_pod_share_its_network_and_volumes() {
    let lab = lab!();
    let shared = lab.new_folder("shared-volume");
    let pod = Pod::run(&lab, "shared");
    let with_volume = |mut config: ampoule_cri::v1::ContainerConfig| {
        config.mounts.push(ampoule_cri::mount(&shared, "/shared", false));
        config
    };
    // What must be done before comes first, one after the other.
    for (name, script) in [
        ("init-1", "echo one > /shared/order; mkdir /shared/www"),
        ("init-2", "echo two >> /shared/order; cp /shared/order /shared/www/index.html"),
    ] {
        assert_eq!(pod.run_to_end(&with_volume(Pod::shell(name, script))), (0, String::new()));
    }
    let serves = "echo ready; exec httpd -f -p 8080 -h /shared/www";
    let server = pod.start(&with_volume(Pod::shell("server", serves)));
    let client = pod.start_waiting("client");
    let fetched =
        "for i in 1 2 3 4 5 6 7 8 9; do wget -q -O - http://127.0.0.1:8080/ && exit; sleep 1; done";
    assert_eq!(pod.ask(&client, fetched), "one\ntwo\n");
    let neighbour = pod.start(&with_volume(Pod::shell("neighbour", WAITS)));
    pod.ask(&server, "echo from the server > /shared/word");
    assert_eq!(pod.ask(&neighbour, "cat /shared/word"), "from the server\n");
    // Their root file systems and processes are each one's own.
    pod.ask(&client, "echo mine > /tmp/file");
    assert_eq!(pod.exec(&server, "cat /tmp/file 2> /dev/null").0, 1);
    assert!(!pod.ask(&client, "ps").contains("httpd"));

    // One is started again, and the others do not notice.
    lab.cri().stop(&server, 0).unwrap();
    pod.end_of(&server);
    lab.cri().remove(&server).unwrap();
    let mut again = with_volume(Pod::shell("server", serves));
    again.metadata.as_mut().unwrap().attempt = 1;
    again.log_path = "server_1.log".to_owned();
    let server = pod.start(&again);
    assert_eq!(pod.ask(&client, fetched), "one\ntwo\n");
    assert_eq!(pod.exec(&server, "cat /tmp/file 2> /dev/null").0, 1);
    pod.remove();
}

#[test]
fn pods_reach_each_other_and_are_reached() {
    let lab = lab!();
    let mut config = Pod::config(&lab, "served");
    config.port_mappings =
        vec![PortMapping { container_port: 8080, host_port: 28080, ..Default::default() }];
    let served = Pod::run_as(&lab, config);
    let script = "echo in the pod > /tmp/index.html; echo ready; exec httpd -f -v -p 8080 -h /tmp";
    served.start(&Pod::shell("main", script));
    served.says("main", "ready\n");
    let ip = lab.cri().pod_ip(&served.id).unwrap();
    until("the pod serves", || fetch(&format!("{ip}:8080")) == "in the pod\n");

    let asking = Pod::run(&lab, "asking");
    let id = asking.start_waiting("main");
    let other = lab.cri().pod_ip(&asking.id).unwrap();
    assert_ne!(ip, other);
    assert_eq!(asking.ask(&id, &format!("wget -q -O - http://{ip}:8080/")), "in the pod\n");
    // The pod knows its own address, and the bridge answers.
    let seen = asking.ask(&id, "ip -4 -o addr show eth0; ip route; cat /sys/class/net/eth0/mtu");
    assert!(seen.contains(&format!("{other}/24")) && seen.ends_with("\n1500\n"), "{seen}");
    let gateway = asking.ask(&id, "ip route | sed -n 's/default via \\([^ ]*\\) .*/\\1/p'");
    asking.ask(&id, &format!("ping -c 1 -W 5 {}", gateway.trim()));
    // A port of the host leads into the pod.
    let host = fetch(&format!("{}:28080", gateway.trim()));
    assert_eq!(host, "in the pod\n", "through the host's port");
    asking.remove();
    served.remove();
}

#[test]
fn a_port_is_forwarded() {
    let lab = lab!();
    let pod = Pod::run(&lab, "forwarded");
    // On all addresses, and on the loopback alone, as a program that nobody else shall reach.
    let script = "mkdir /tmp/www; echo in the pod > /tmp/www/index.html
        httpd -p 8080 -h /tmp/www; httpd -p 127.0.0.1:8081 -h /tmp/www
        echo ready; exec sleep 1000";
    pod.start(&Pod::shell("main", script));
    pod.says("main", "ready\n");
    for port in [8080, 8081] {
        let mut streams = Streams::open(&lab.cri().port_forward(&pod.id, port).unwrap()).unwrap();
        streams.send(0, b"GET / HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        while let Some((channel, bytes)) = streams.receive().unwrap() {
            // The first message of each channel is the port's number.
            if bytes.len() > 2 {
                assert_eq!(channel, 0, "{port}: {}", String::from_utf8_lossy(&bytes));
                answer.push_str(&String::from_utf8_lossy(&bytes));
            }
            if answer.ends_with("in the pod\n") {
                break;
            }
        }
        assert!(answer.ends_with("in the pod\n"), "port {port}: {answer:?}");
    }
    pod.remove();
}

#[test]
fn processes_can_be_shared() {
    let lab = lab!();
    let mut config = Pod::config(&lab, "one-tree");
    let shared = |options: &mut Option<ampoule_cri::v1::NamespaceOption>| {
        options.as_mut().unwrap().set_pid(NamespaceMode::Pod);
    };
    let security = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
    shared(&mut security.namespace_options);
    let pod = Pod::run_as(&lab, config);
    let start = |name: &str, script: &str| {
        let mut config = Pod::shell(name, script);
        let security = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
        shared(&mut security.namespace_options);
        let id = pod.start(&config);
        pod.says(name, "ready\n");
        id
    };
    let one = start("one", "echo ready; exec sleep 1111");
    let other = start("other", WAITS);
    let seen = pod.ask(&other, "ps; echo I am $$");
    assert!(seen.contains("sleep 1111") && !seen.contains("I am 1\n"), "{seen}");
    pod.ask(&other, "kill -9 $(pidof sleep)");
    assert_eq!(pod.end_of(&one).exit_code, 137);
    pod.remove();
}

#[test]
fn streams_and_terminals() {
    let lab = lab!();
    let pod = Pod::run(&lab, "streams");
    let id = pod.start_waiting("main");
    let url =
        lab.cri().exec(&id, &["sh", "-c", "echo err >&2; read a; echo got $a; exit 9"], false);
    let mut streams = Streams::open(&url.unwrap()).unwrap();
    streams.input(b"word\n").unwrap();
    let ended = streams.end().unwrap();
    assert_eq!(ended.code, Ok(9), "{ended:?}{}", lab.told());
    assert_eq!((&ended.stdout[..], &ended.stderr[..]), (&b"got word\n"[..], &b"err\n"[..]));

    let mut streams = Streams::open(&lab.cri().exec(&id, &["sh"], true).unwrap()).unwrap();
    streams.resize(101, 33).unwrap();
    streams.input(b"sleep 1; stty size; tty; exit 4\n").unwrap();
    let shown = streams.until("/dev/pts/0\r\n").unwrap();
    assert!(shown.contains("33 101\r\n"), "{shown}");
    assert_eq!(streams.end().unwrap().code, Ok(4));

    // A container with a terminal and a standard input, as `kubectl run -it` has one.
    let mut config = Pod::shell("asks", "read name; tty; echo hello $name; exit 6");
    (config.tty, config.stdin, config.stdin_once) = (true, true, true);
    let id = pod.start(&config);
    let mut streams = Streams::open(&lab.cri().attach(&id, true).unwrap()).unwrap();
    streams.input(b"you\n").unwrap();
    let shown = streams.until("hello you\r\n").unwrap();
    assert!(shown.contains("/dev/pts/0\r\n"), "{shown}");
    assert_eq!(pod.end_of(&id).exit_code, 6);
    pod.remove();
}

#[test]
fn the_hosts_network_is_refused_by_name() {
    let lab = lab!();
    if lab.runtime == Runtime::Runc {
        return;
    }
    let mut config = Pod::config(&lab, "host-network");
    let security = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
    security.namespace_options.as_mut().unwrap().set_network(NamespaceMode::Node);
    let refused = lab.cri().run_pod(&config, lab.runtime.handler()).unwrap_err();
    assert!(refused.message().contains("hostNetwork"), "{refused}");
}

/// What a server at this address has at `/`.
fn fetch(address: &str) -> String {
    let mut read = String::new();
    let mut exchange = || {
        let mut stream = TcpStream::connect(address)?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        stream.read_to_string(&mut read)
    };
    match exchange() {
        Ok(_) => read.split("\r\n\r\n").nth(1).unwrap_or_default().to_owned(),
        Err(error) => error.to_string(),
    }
}
