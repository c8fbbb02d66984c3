//! Many pods at the same time.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::thread;

use crate::lab;
use crate::lab::until;
use crate::pod::Pod;

/// How many pods are there at once.
const PODS: usize = 20;
/// How many are made at once: the host of the tests has two processors.
const MAKERS: usize = 4;

#[test]
fn twenty_pods_at_once() {
    let lab = lab!(own);
    let pods = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for maker in 0..MAKERS {
            let (lab, pods) = (&lab, &pods);
            scope.spawn(move || {
                for number in (maker..PODS).step_by(MAKERS) {
                    let pod = Pod::run(lab, &format!("many-{number}"));
                    let id = pod.start_waiting("main");
                    pods.lock().unwrap().push((pod, id));
                }
            });
        }
    });
    let pods = pods.into_inner().unwrap();
    let addresses: BTreeSet<String> =
        pods.iter().map(|(pod, _)| lab.cri().pod_ip(&pod.id).unwrap()).collect();
    assert_eq!(addresses.len(), PODS, "{addresses:?}");
    assert_eq!(lab.links().len(), PODS);
    for (pod, id) in &pods {
        let name = &pod.config.hostname;
        assert_eq!(pod.ask(id, "hostname"), format!("{name}\n"));
    }
    let waiting = Mutex::new(pods);
    thread::scope(|scope| {
        for _ in 0..MAKERS {
            scope.spawn(|| {
                loop {
                    let next = waiting.lock().unwrap().pop();
                    let Some((pod, _)) = next else { break };
                    pod.remove();
                }
            });
        }
    });
    until("no process is left", || lab.processes().is_empty());
    until("no link is left", || lab.links().is_empty());
    assert_eq!(lab.machines(), Vec::<String>::new());
}
