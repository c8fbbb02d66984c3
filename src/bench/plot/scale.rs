//! Times as places on a horizontal axis that begins at zero.

/// About so many ticks.
const TICKS: f64 = 7.0;

/// An axis.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    most_us: f64,
    step_us: f64,
    left: f64,
    width: f64,
}

impl Scale {
    /// From zero at `left` to a round time not below `most_us` at `right`.
    pub fn new(most_us: f64, left: f64, right: f64) -> Self {
        let most_us = if most_us.is_finite() { most_us.max(1.0) } else { 1.0 };
        let step_us = round_step(most_us / TICKS);
        let most_us = (most_us / step_us).ceil() * step_us;
        Self { most_us, step_us, left, width: right - left }
    }

    /// Where a time is.
    pub fn place(&self, us: f64) -> f64 {
        self.left + self.length(us)
    }

    /// How long a time is.
    pub fn length(&self, us: f64) -> f64 {
        us / self.most_us * self.width
    }

    /// The times that have a tick, in microseconds.
    pub fn ticks(&self) -> Vec<f64> {
        let mut ticks = Vec::new();
        let mut tick = 0.0;
        // Half a step more than the end: sums of steps are not exact.
        while tick < self.most_us + self.step_us / 2.0 {
            ticks.push(tick);
            tick += self.step_us;
        }
        ticks
    }

    /// What a tick says.
    pub fn label(&self, us: f64) -> String {
        let digits = if self.step_us < 100.0 {
            2
        } else if self.step_us < 1000.0 {
            1
        } else {
            0
        };
        format!("{:.digits$} ms", us / 1000.0)
    }
}

/// The least of 1, 2, 5, 10, 20, … that is not below.
fn round_step(least: f64) -> f64 {
    let power = 10f64.powf(least.log10().floor());
    let factors = [1.0, 2.0, 5.0, 10.0];
    factors.into_iter().map(|factor| factor * power).find(|step| *step >= least).unwrap_or(least)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ticks_are_round() {
        let scale = Scale::new(47_000.0, 100.0, 200.0);
        let labels: Vec<_> = scale.ticks().iter().map(|&us| scale.label(us)).collect();
        assert_eq!(labels, ["0 ms", "10 ms", "20 ms", "30 ms", "40 ms", "50 ms"]);
        assert!((scale.place(25_000.0) - 150.0).abs() < 1e-9);
    }

    proptest! {
        #[test]
        fn every_time_has_a_place(most in 0.0f64..1e12) {
            let scale = Scale::new(most, 10.0, 20.0);
            prop_assert!((2..=12).contains(&scale.ticks().len()), "{}", scale.ticks().len());
            prop_assert!(scale.place(most) <= 20.0 + 1e-6);
        }
    }
}
