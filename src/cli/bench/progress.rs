//! Says on a terminal how far a benchmark has come.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::bench::plan::{Turn, WARM_UP_ROUNDS};

/// A line on standard error, where that is a terminal.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// Of so many rounds and entrants.
    pub fn new(rounds: u32, entrants: usize) -> Self {
        let turns = (u64::from(rounds) + u64::from(WARM_UP_ROUNDS)) * entrants as u64;
        let bar = ProgressBar::with_draw_target(Some(turns), ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{pos}/{len} {bar:30} {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self { bar }
    }

    /// A turn begins.
    pub fn tell(&self, turn: Turn, name: &str) {
        let note = if turn.round.is_none() { " (warming up)" } else { "" };
        self.bar.set_message(format!("{name}{note}"));
        self.bar.inc(1);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
