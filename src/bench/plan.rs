//! Whose turn it is. Pure.

/// The first round, in which page caches fill and templates are made, is not counted.
pub const WARM_UP_ROUNDS: u32 = 1;

/// One turn: as many starts at once as the user wants, all of one entrant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    /// Round, from 0; `None` while warming up.
    pub round: Option<u32>,
    /// Number of the entrant, from 0.
    pub entrant: usize,
}

/// All turns, each entrant once a round, always in the same order: A B A B …
pub fn turns(rounds: u32, entrants: usize) -> impl Iterator<Item = Turn> {
    let warm_up = (0..WARM_UP_ROUNDS).map(|_| None);
    let rounds = warm_up.chain((0..rounds).map(Some));
    rounds.flat_map(move |round| (0..entrants).map(move |entrant| Turn { round, entrant }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn entrants_take_turns() {
        let turns: Vec<_> = turns(2, 2).map(|turn| (turn.round, turn.entrant)).collect();
        let expected =
            [(None, 0), (None, 1), (Some(0), 0), (Some(0), 1), (Some(1), 0), (Some(1), 1)];
        assert_eq!(turns, expected);
    }

    proptest! {
        #[test]
        fn everybody_has_as_many_turns(rounds in 0u32..50, entrants in 0usize..6) {
            let turns: Vec<_> = turns(rounds, entrants).collect();
            for entrant in 0..entrants {
                let counted = turns.iter().filter(|t| t.entrant == entrant && t.round.is_some());
                prop_assert_eq!(counted.count(), rounds as usize);
            }
            // No entrant twice in a row, unless it is alone.
            if entrants > 1 {
                prop_assert!(turns.windows(2).all(|pair| pair[0].entrant != pair[1].entrant));
            }
        }
    }
}
