//! When what happened in a start. `CLOCK_MONOTONIC` in microseconds, which all processes of the
//! host share.

use std::fmt;

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
    /// How long the agent took for that, by the guest's own clock.
    pub agent_us: u64,
    /// The container's program was started.
    pub started_us: u64,
    /// It had ended, and its output was carried over.
    pub exited_us: u64,
    /// Everything was cleared away.
    pub cleared_us: u64,
}

impl Timings {
    /// Names and lengths of the phases in microseconds, in order.
    pub fn phases(&self) -> [(&'static str, u64); 7] {
        let agent_entered_us = self.ready_us.saturating_sub(self.agent_us);
        [
            ("monitor start", self.monitor_us.saturating_sub(self.command_us)),
            ("to first KVM_RUN", self.first_run_us.saturating_sub(self.monitor_us)),
            ("kernel", agent_entered_us.saturating_sub(self.first_run_us)),
            ("agent ready", self.ready_us.saturating_sub(agent_entered_us)),
            ("container started", self.started_us.saturating_sub(self.ready_us)),
            ("exit", self.exited_us.saturating_sub(self.started_us)),
            ("cleared away", self.cleared_us.saturating_sub(self.exited_us)),
        ]
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
            started_us: 9_500,
            exited_us: 20_000,
            cleared_us: 21_000,
        };
        let sum: u64 = timings.phases().iter().map(|(_, us)| us).sum();
        assert_eq!(sum, 20_900);
        assert!(timings.to_string().contains("kernel                  8.000 ms"));
    }

    #[test]
    fn a_guest_that_lies_about_its_clock_breaks_nothing() {
        let timings = Timings { agent_us: u64::MAX, ready_us: 5, ..Timings::default() };
        assert_eq!(timings.phases()[2].1, 0);
    }
}
