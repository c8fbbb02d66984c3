//! What one sandbox tells of itself.

use std::time::Duration;

use ampoule_protocol::message::{Reply, Request, Stats};

use crate::agent::Client;
use crate::monitor::channel::Channel;
use crate::monitor::control::{MonitorEvent, MonitorRequest};
use crate::monitor::seccomp::violation;
use crate::sandbox::about::{About, Contained, Moments};
use crate::sandbox::stats::{Usage, usage_of};
use crate::sandbox::{CONTAINER, Entry, Folder, Registry, State, Status};
use crate::vmm::devices::virtio::Counts;

/// How long a monitor or an agent may take for an answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Most containers of one sandbox that are asked for.
const MOST_CONTAINERS: usize = 256;

/// Most devices that a monitor is believed to have.
const MOST_DEVICES: usize = 64;

/// What is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// The sandbox's id, as its callers know it.
    pub id: String,
    /// Its name, where it has one.
    pub name: String,
    /// The pod's name, where it is one.
    pub pod: String,
    /// Its namespace.
    pub namespace: String,
    /// Who keeps it, in a word.
    pub by: &'static str,
    keeper: i32,
    monitor: i32,
    containers: Vec<Contained>,
    moments: Moments,
}

/// What was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// Of what.
    pub subject: Subject,
    /// It runs; else it is the record of one that has ended.
    pub runs: bool,
    /// A forbidden system call has ended it.
    pub violation: bool,
    /// What it takes of the host.
    pub usage: Option<Usage>,
    /// What its devices have counted; none where its monitor did not answer.
    pub devices: Option<Vec<Counts>>,
    /// The phases of its start: names and microseconds.
    pub start: Vec<(&'static str, u64)>,
    /// What its containers use, by the guest's own account; none for one that was not answered for.
    pub containers: Vec<(Contained, Option<Stats>)>,
}

impl Subject {
    /// Whether it is the one that is meant.
    pub fn is_wanted(&self, wanted: Option<&str>) -> bool {
        wanted.is_none_or(|wanted| {
            !wanted.is_empty() && (self.id.starts_with(wanted) || self.name == wanted)
        })
    }

    /// The sandbox that this is told of.
    pub fn of(about: About) -> Self {
        let pod = about.pod.unwrap_or_default();
        Self {
            id: about.id,
            name: String::new(),
            pod: pod.name,
            namespace: pod.namespace,
            by: about.by.name(),
            keeper: about.keeper,
            monitor: about.monitor,
            containers: about.containers,
            moments: about.moments,
        }
    }

    fn of_state(state: &State) -> Self {
        let main = Contained {
            id: state.id.clone(),
            name: state.name.clone(),
            guest: CONTAINER.to_owned(),
        };
        Self {
            id: state.id.clone(),
            name: state.name.clone(),
            pod: String::new(),
            namespace: String::new(),
            by: "ampoule",
            keeper: state.keeper.unwrap_or(0),
            monitor: state.monitor.unwrap_or(0),
            // Before that there is nothing to ask for.
            containers: match state.status.is_running() {
                true => [vec![main], state.joined.clone()].concat(),
                false => Vec::new(),
            },
            moments: Moments::default(),
        }
    }
}

/// Who a sandbox is; none where it is being made, or a container is in another's.
pub fn subject(registry: &Registry, folder: &Folder) -> Option<Subject> {
    match registry.state_of(folder) {
        Some(state) if state.status == Status::Exited => None,
        // It is one of another sandbox's containers.
        Some(state) if state.guest.is_some() => None,
        Some(state) => Some(Subject::of_state(&state)),
        None => About::read(folder).map(Subject::of),
    }
}

/// The record of a sandbox that was ended for a forbidden system call.
pub fn record(entry: Entry) -> Option<Look> {
    let told = entry.state.error.as_deref().unwrap_or_default();
    if entry.state.status != Status::Exited || !violation::is_described(told) {
        return None;
    }
    Some(Look {
        subject: Subject::of_state(&entry.state),
        runs: false,
        violation: true,
        usage: None,
        devices: None,
        start: Vec::new(),
        containers: Vec::new(),
    })
}

/// Looks at a sandbox that is kept in this folder.
pub fn look(subject: Subject, folder: &Folder) -> Look {
    let usage = usage_of(folder, subject.keeper, subject.monitor).ok().flatten();
    let (devices, moments) = ask_monitor(folder, subject.moments);
    let phases = moments.phases().into_iter();
    let containers = ask_agent(folder, &subject.containers);
    Look {
        runs: true,
        violation: false,
        usage,
        devices,
        start: phases.map(|(name, from, to)| (name, to.saturating_sub(from))).collect(),
        containers,
        subject,
    }
}

/// The moments of a start, with those that the monitor knows.
pub fn moments(folder: &Folder, moments: Moments) -> Moments {
    ask_monitor(folder, moments).1
}

/// What the monitor knows.
fn ask_monitor(folder: &Folder, mut moments: Moments) -> (Option<Vec<Counts>>, Moments) {
    let Ok(channel) = Channel::connect_within(&folder.control(), PATIENCE) else {
        return (None, moments);
    };
    let ask = |request: MonitorRequest| -> Option<MonitorEvent> {
        channel.send(&request).ok()?;
        channel.receive().ok()?
    };
    if let Some(MonitorEvent::Timings { entered_us, first_run_us }) = ask(MonitorRequest::Timings) {
        moments.monitor_us = entered_us;
        moments.first_run_us = first_run_us;
    }
    let devices = match ask(MonitorRequest::Metrics) {
        Some(MonitorEvent::Metrics { mut devices }) => {
            devices.truncate(MOST_DEVICES);
            Some(devices)
        }
        _ => None,
    };
    (devices, moments)
}

/// What the agent says of each container.
fn ask_agent(folder: &Folder, containers: &[Contained]) -> Vec<(Contained, Option<Stats>)> {
    let mut agent = match containers.is_empty() {
        true => return Vec::new(),
        false => Client::open(&folder.vsock(), PATIENCE).ok(),
    };
    let mut ask = |container: &Contained| {
        let request = Request::Stats { container: container.guest.clone() };
        let asked = agent.as_mut()?;
        let answer = asked.send(&request).and_then(|()| asked.receive());
        match answer {
            Ok(Reply::Stats(stats)) => Some(*stats),
            // It has ended since.
            Err(crate::agent::ClientError::Agent(_)) => None,
            // Whoever does not answer, or with nonsense, is not asked for the others.
            _ => {
                agent = None;
                None
            }
        }
    };
    let all = containers.iter().take(MOST_CONTAINERS);
    all.map(|container| (container.clone(), ask(container))).collect()
}

#[cfg(test)]
pub mod testing {
    use super::*;

    /// A pod of one container that nobody has answered for.
    pub fn look() -> Look {
        let container = Contained { id: "c".repeat(64), name: "web".into(), guest: "c0".into() };
        Look {
            subject: Subject {
                id: "a".repeat(64),
                name: String::new(),
                pod: "shop".into(),
                namespace: "default".into(),
                by: "containerd",
                keeper: 1,
                monitor: 2,
                containers: vec![container.clone()],
                moments: Moments::default(),
            },
            runs: true,
            violation: false,
            usage: None,
            devices: None,
            start: Vec::new(),
            containers: vec![(container, None)],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sandbox_is_meant_by_its_id_or_name() {
        let mut subject = testing::look().subject;
        subject.name = "web".into();
        for (wanted, is) in [(Some("aaa"), true), (Some("web"), true), (Some("we"), false)] {
            assert_eq!(subject.is_wanted(wanted), is, "{wanted:?}");
        }
        assert!(subject.is_wanted(None) && !subject.is_wanted(Some("")));
    }
}
