//! Carries a plan out.

use std::sync::Barrier;
use std::thread;

use serde::Serialize;

use super::attempt::AttemptError;
use super::entrant::{Entrant, Start};
use super::interrupt::Interrupt;
use super::plan::{Turn, turns};
use crate::clock::now_us;

/// One entrant's starts of one round, all at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Round {
    /// From the first start to the last end, in microseconds.
    pub whole_us: u64,
    /// The starts.
    pub starts: Vec<Start>,
}

/// A start that failed ends the benchmark.
#[derive(Debug, thiserror::Error)]
#[error("{entrant}")]
pub struct RoundError {
    /// Whose start it was.
    pub entrant: String,
    /// Why there is no time to tell.
    #[source]
    pub source: AttemptError,
}

/// Runs `rounds` rounds of all entrants by turns, `at_once` starts a turn, and tells each turn before
/// it begins. Returns the counted rounds of each entrant.
pub fn run(
    entrants: &[Entrant],
    rounds: u32,
    at_once: u32,
    interrupt: &Interrupt,
    mut tell: impl FnMut(Turn),
) -> Result<Vec<Vec<Round>>, RoundError> {
    let mut found = vec![Vec::new(); entrants.len()];
    for turn in turns(rounds, entrants.len()) {
        let (Some(entrant), Some(found)) =
            (entrants.get(turn.entrant), found.get_mut(turn.entrant))
        else {
            continue;
        };
        tell(turn);
        let round = run_turn(entrant, turn, at_once, interrupt)
            .map_err(|source| RoundError { entrant: entrant.name.clone(), source })?;
        if turn.round.is_some() {
            found.push(round);
        }
    }
    Ok(found)
}

fn run_turn(
    entrant: &Entrant,
    turn: Turn,
    at_once: u32,
    interrupt: &Interrupt,
) -> Result<Round, AttemptError> {
    let line_up = Barrier::new(at_once as usize);
    let begin = || {
        line_up.wait();
        now_us()
    };
    let results: Vec<_> = thread::scope(|scope| {
        let one = |number: u32| {
            let label = label(turn, number);
            move || {
                let began_us = begin();
                (began_us, entrant.subject.start(&label, interrupt))
            }
        };
        let threads: Vec<_> = (0..at_once).map(|number| scope.spawn(one(number))).collect();
        threads.into_iter().map(|thread| thread.join()).collect()
    });
    let mut starts = Vec::with_capacity(results.len());
    let (mut began_us, mut ended_us) = (u64::MAX, 0);
    for result in results {
        let (began, start) = result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let start = start?;
        began_us = began_us.min(began);
        ended_us = ended_us.max(began.saturating_add(start.total_us));
        starts.push(start);
    }
    Ok(Round { whole_us: ended_us.saturating_sub(began_us), starts })
}

/// A name for containers and files that no other start has, in this benchmark or another.
fn label(turn: Turn, number: u32) -> String {
    let round = turn.round.map_or("w".to_owned(), |round| round.to_string());
    format!("bench-{}-{}-{round}-{number}", std::process::id(), turn.entrant)
}
