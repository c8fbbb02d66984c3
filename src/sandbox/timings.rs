//! When what happened in a start. `CLOCK_MONOTONIC` in microseconds, which all processes of the
//! host share.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

/// The moments of one container's life.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timings {
    /// The command's `main` was entered.
    pub command_us: u64,
    /// The monitor's `main` was entered.
    pub monitor_us: u64,
    /// First KVM_RUN.
    pub first_run_us: u64,
    /// The agent was ready, as the host saw it.
    pub ready_us: u64,
    /// How long the agent took for that, by the guest's own clock; 0 in a restored guest.
    pub agent_us: u64,
    /// The guest was restored from a template.
    pub warm: bool,
    /// The container's program was started.
    pub started_us: u64,
    /// It had ended, and its output was carried over.
    pub exited_us: u64,
    /// Everything was cleared away.
    pub cleared_us: u64,
}

impl Timings {
    /// Names and lengths of the phases in microseconds, in order.
    pub fn phases(&self) -> Vec<(&'static str, u64)> {
        let agent_entered_us = self.ready_us.saturating_sub(self.agent_us);
        let mut phases = vec![
            ("monitor start", self.monitor_us.saturating_sub(self.command_us)),
            ("to first KVM_RUN", self.first_run_us.saturating_sub(self.monitor_us)),
        ];
        if self.warm {
            phases.push(("agent awake", self.ready_us.saturating_sub(self.first_run_us)));
        } else {
            phases.push(("kernel", agent_entered_us.saturating_sub(self.first_run_us)));
            phases.push(("agent ready", self.ready_us.saturating_sub(agent_entered_us)));
        }
        phases.push(("container started", self.started_us.saturating_sub(self.ready_us)));
        phases.push(("exit", self.exited_us.saturating_sub(self.started_us)));
        phases.push(("cleared away", self.cleared_us.saturating_sub(self.exited_us)));
        phases
    }
}

/// One phase of a start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phase {
    /// What happened in it.
    pub name: Cow<'static, str>,
    /// How long it took, in microseconds.
    pub us: u64,
}

/// The phases of one start as `ampoule run --timings-file` writes them, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phases {
    /// The guest was restored from a template.
    pub warm: bool,
    /// The phases.
    pub phases: Vec<Phase>,
}

impl From<&Timings> for Phases {
    fn from(timings: &Timings) -> Self {
        let phase = |(name, us): (&'static str, u64)| Phase { name: name.into(), us };
        Self { warm: timings.warm, phases: timings.phases().into_iter().map(phase).collect() }
    }
}

impl fmt::Display for Timings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line =
            |name: &str, us: u64| writeln!(f, "{name:<18} {:>6}.{:03} ms", us / 1000, us % 1000);
        for (name, us) in self.phases() {
            line(name, us)?;
        }
        line("total", self.cleared_us.saturating_sub(self.command_us))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_phases_add_up_to_the_whole() {
        let timings = Timings {
            command_us: 100,
            monitor_us: 150,
            first_run_us: 400,
            ready_us: 9_000,
            agent_us: 600,
            warm: false,
            started_us: 9_500,
            exited_us: 20_000,
            cleared_us: 21_000,
        };
        let sum: u64 = timings.phases().iter().map(|(_, us)| us).sum();
        assert_eq!(sum, 20_900);
        assert!(timings.to_string().contains("kernel                  8.000 ms"));
    }

    #[test]
    fn phases_are_written_in_their_order() {
        let phases = Phases::from(&Timings { command_us: 1, monitor_us: 3, ..Timings::default() });
        let text = serde_json::to_string(&phases).unwrap();
        assert!(
            text.starts_with(r#"{"warm":false,"phases":[{"name":"monitor start","us":2},"#),
            "{text}"
        );
        assert_eq!(serde_json::from_str::<Phases>(&text).unwrap(), phases);
    }

    #[test]
    fn a_guest_that_lies_about_its_clock_breaks_nothing() {
        let timings = Timings { agent_us: u64::MAX, ready_us: 5, ..Timings::default() };
        assert_eq!(timings.phases()[2].1, 0);
    }
}
