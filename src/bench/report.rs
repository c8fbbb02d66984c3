//! What a benchmark found: everything that tables, plots and files are made of.

use std::borrow::Cow;

use serde::Serialize;

use super::entrant::{Entrant, Span};
use super::machine::Machine;
use super::peers::Missing;
use super::plan::WARM_UP_ROUNDS;
use super::rounds::Round;
use super::statistics::{Ratio, Spread, median};

/// Of the file; another one means that fields have changed.
const FORMAT: u32 = 1;

/// What was started, and how often.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Setup {
    /// The image as the user named it.
    pub image: String,
    /// Its id.
    pub image_id: String,
    /// The command in it; empty for the image's own.
    pub command: Vec<String>,
    /// Rounds that were counted.
    pub rounds: u32,
    /// Rounds before them.
    pub warm_up_rounds: u32,
    /// Starts at once.
    pub at_once: u32,
}

impl Setup {
    /// With this program's number of rounds to warm up.
    pub fn new(image: &crate::image::Image, options: &crate::sandbox::Options) -> Self {
        Self {
            image: options.image.clone(),
            image_id: image.id.to_string(),
            command: options.command.clone(),
            rounds: 0,
            warm_up_rounds: WARM_UP_ROUNDS,
            at_once: 0,
        }
    }
}

/// The whole.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Version of this format.
    pub format: u32,
    /// Where it was measured.
    pub machine: Machine,
    /// What.
    pub setup: Setup,
    /// Who took part.
    pub entrants: Vec<Measured>,
    /// Who could not.
    pub missing: Vec<Missing>,
    /// Ours by theirs, and our ways of starting by each other.
    pub ratios: Vec<Compared>,
}

/// One entrant's times.
#[derive(Debug, Clone, Serialize)]
pub struct Measured {
    /// Its name.
    pub name: String,
    /// What one start of it does.
    pub does: &'static str,
    /// Its version.
    pub version: String,
    /// How much of a container's life one start of it is.
    pub span: Span,
    /// Whether it is this program.
    pub ours: bool,
    /// How its whole times are spread.
    pub total_us: Spread,
    /// The median of each phase, in order.
    pub phases: Vec<PhaseMedian>,
    /// Starts that were done in a second: the median of the rounds.
    pub starts_per_second: f64,
    /// Everything.
    pub rounds: Vec<Round>,
}

/// The median of a phase.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PhaseMedian {
    /// Its name.
    pub name: Cow<'static, str>,
    /// Its median in microseconds.
    pub p50_us: f64,
}

/// A ratio, of whose times by whose.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Compared {
    /// Above the line.
    pub of: String,
    /// Below it.
    pub by: String,
    /// The ratio.
    #[serde(flatten)]
    pub ratio: Ratio,
}

impl Report {
    /// Of the rounds of each entrant, in the same order.
    pub fn of(
        machine: Machine,
        setup: Setup,
        entrants: Vec<Entrant>,
        rounds: Vec<Vec<Round>>,
        missing: Vec<Missing>,
    ) -> Self {
        let entrants: Vec<_> = entrants.into_iter().zip(rounds).filter_map(measured).collect();
        let ratios = compared(&entrants);
        Self { format: FORMAT, machine, setup, entrants, missing, ratios }
    }
}

fn measured((entrant, rounds): (Entrant, Vec<Round>)) -> Option<Measured> {
    let Entrant { name, does, version, span, ours, .. } = entrant;
    let totals: Vec<u64> = totals(&rounds).concat();
    let total_us = Spread::of(&totals)?;
    let starts_per_second = throughput(&rounds)?;
    let phases = phases(&rounds);
    Some(Measured { name, does, version, span, ours, total_us, phases, starts_per_second, rounds })
}

/// Whole times, by round.
fn totals(rounds: &[Round]) -> Vec<Vec<u64>> {
    let of = |round: &Round| round.starts.iter().map(|start| start.total_us).collect();
    rounds.iter().map(of).collect()
}

/// Of all starts; phases are those of the first, which has the same as the others.
fn phases(rounds: &[Round]) -> Vec<PhaseMedian> {
    let starts = || rounds.iter().flat_map(|round| &round.starts);
    let Some(first) = starts().next() else {
        return Vec::new();
    };
    let of = |(place, phase): (usize, &crate::sandbox::timings::Phase)| {
        let times = starts().filter_map(|start| start.phases.get(place));
        let times: Vec<u64> = times.map(|phase| phase.us).collect();
        Some(PhaseMedian { name: phase.name.clone(), p50_us: median(&times)? })
    };
    first.phases.iter().enumerate().filter_map(of).collect()
}

fn throughput(rounds: &[Round]) -> Option<f64> {
    let at_once = rounds.first()?.starts.len();
    let whole_us: Vec<u64> = rounds.iter().map(|round| round.whole_us.max(1)).collect();
    // So many starts at once are far below 2^52.
    #[allow(clippy::cast_precision_loss)]
    let starts = at_once as f64;
    Some(starts * 1e6 / median(&whole_us)?)
}

/// Each of ours by each that comes after it and does the same.
fn compared(entrants: &[Measured]) -> Vec<Compared> {
    let mut ratios = Vec::new();
    for (place, ours) in entrants.iter().enumerate().filter(|(_, entrant)| entrant.ours) {
        let same = |other: &&Measured| other.span == ours.span;
        for other in entrants.iter().skip(place + 1).filter(same) {
            let ratio = Ratio::of(&totals(&ours.rounds), &totals(&other.rounds));
            let names = (ours.name.clone(), other.name.clone());
            ratios.extend(ratio.map(|ratio| Compared { of: names.0, by: names.1, ratio }));
        }
    }
    ratios
}

#[cfg(test)]
pub mod testing {
    use super::*;
    use crate::bench::attempt::AttemptError;
    use crate::bench::entrant::{Start, Subject};
    use crate::bench::interrupt::Interrupt;
    use crate::bench::machine::Kvm;
    use crate::sandbox::timings::Phase;

    /// One whose times are made up by the test.
    #[derive(Debug)]
    pub struct Scripted(pub u64);

    impl Subject for Scripted {
        fn start(&self, label: &str, _: &Interrupt) -> Result<Start, AttemptError> {
            if label.ends_with("-1-0") && self.0 == u64::MAX {
                return Err(AttemptError::Interrupted);
            }
            Ok(start(self.0, &[]))
        }
    }

    /// An entrant with that.
    pub fn entrant(name: &str, ours: bool, subject: Scripted) -> Entrant {
        let (name, version) = (name.to_owned(), "1 <2>".to_owned());
        let (does, span, subject) = ("starts & ends", Span::Whole, Box::new(subject));
        Entrant { name, does, version, span, ours, subject }
    }

    /// A start of these phases.
    pub fn start(total_us: u64, phases: &[(&'static str, u64)]) -> Start {
        let phase = |&(name, us): &(&'static str, u64)| Phase { name: name.into(), us };
        Start { total_us, phases: phases.iter().map(phase).collect() }
    }

    /// Of three entrants, one without phases, and one missing.
    pub fn report() -> Report {
        let machine = Machine {
            cpu: "A <fast> CPU".into(),
            cpus: 2,
            memory_mib: 4096,
            kernel: "6.12".into(),
            kvm: Kvm::Software,
            governor: None,
            load: 0.5,
        };
        let setup = Setup {
            image: "busybox".into(),
            image_id: "sha256:00".into(),
            command: vec!["true".into()],
            rounds: 9,
            warm_up_rounds: WARM_UP_ROUNDS,
            at_once: 1,
        };
        let rounds = |scale: u64, phases: &[(&'static str, u64)]| -> Vec<Round> {
            let round = |n: u64| {
                let total = scale * (1000 + n * n * 20);
                Round { whole_us: total + 10, starts: vec![start(total, phases)] }
            };
            (0..9).map(round).collect()
        };
        let cold = [("monitor start", 3000), ("kernel", 150_000), ("container & exit", 30_000)];
        let warm = [("monitor start", 2500), ("restore", 4000), ("container & exit", 9000)];
        let entrants = vec![
            entrant("ampoule cold", true, Scripted(1)),
            entrant("ampoule warm", true, Scripted(1)),
            entrant("crun", false, Scripted(1)),
        ];
        let rounds = vec![rounds(200, &cold), rounds(18, &warm), rounds(20, &[])];
        let missing = Missing { name: "firecracker".into(), reason: "there is no <vmm>".into() };
        Report::of(machine, setup, entrants, rounds, vec![missing])
    }
}

#[cfg(test)]
mod tests {
    use super::testing::report;

    #[test]
    fn ours_are_compared_with_all_others_once() {
        let report = report();
        let pairs: Vec<_> =
            report.ratios.iter().map(|ratio| (ratio.of.as_str(), ratio.by.as_str())).collect();
        let expected =
            [("ampoule cold", "ampoule warm"), ("ampoule cold", "crun"), ("ampoule warm", "crun")];
        assert_eq!(pairs, expected);
        assert!((report.ratios[2].ratio.ratio - 0.9).abs() < 1e-9);
    }

    #[test]
    fn the_file_holds_every_start() {
        let json = serde_json::to_value(report()).unwrap();
        assert_eq!(json["format"], 1);
        assert_eq!(json["machine"]["kvm"], "software");
        assert_eq!(json["entrants"][0]["rounds"].as_array().unwrap().len(), 9);
        let start = &json["entrants"][0]["rounds"][0]["starts"][0];
        assert_eq!(start["total_us"], 200_000);
        assert_eq!(start["phases"][1]["name"], "kernel");
        assert_eq!(json["missing"][0]["name"], "firecracker");
        assert_eq!(json["ratios"][2]["by"], "crun");
        let per_second = json["entrants"][2]["starts_per_second"].as_f64().unwrap();
        // The median whole: 20 × 1320 µs and 10.
        assert!((per_second - 1e6 / 26_410.0).abs() < 1e-6, "{per_second}");
    }
}
