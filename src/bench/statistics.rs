//! What many times come to. Pure.
//!
//! Quantiles are interpolated between the two nearest values (type 7 of Hyndman and Fan, the
//! default of R and NumPy). The interval of a ratio is a percentile bootstrap over rounds: a round's
//! times of both sides are drawn together, so that a load that slowed both down stays in both.

use serde::Serialize;

/// Draws of the bootstrap.
const DRAWS: usize = 2000;

/// The same times give the same interval every time.
const SEED: u64 = 0x61_6d70_6f75_6c65;

/// Ends of the interval: 95 % of the draws are within.
const INTERVAL: (f64, f64) = (0.025, 0.975);

/// How times are spread, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// Number of times.
    pub count: usize,
    /// The least.
    pub min: f64,
    /// The median.
    pub p50: f64,
    /// One in ten is above.
    pub p90: f64,
    /// One in a hundred is above.
    pub p99: f64,
    /// The greatest.
    pub max: f64,
    /// The mean.
    pub mean: f64,
}

impl Spread {
    /// Of these times; `None` where there are none.
    pub fn of(times: &[u64]) -> Option<Self> {
        let sorted = sorted(times);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        Some(Self {
            count: sorted.len(),
            min,
            p50: quantile(&sorted, 0.5)?,
            p90: quantile(&sorted, 0.9)?,
            p99: quantile(&sorted, 0.99)?,
            max,
            mean: mean(&sorted),
        })
    }
}

/// A ratio of medians, and the interval in which it lies with a confidence of 95 %.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Ratio {
    /// Median of ours by median of theirs.
    pub ratio: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
}

impl Ratio {
    /// Of times by round, the same rounds on both sides; `None` where there are none, or they are
    /// zero.
    pub fn of(ours: &[Vec<u64>], theirs: &[Vec<u64>]) -> Option<Self> {
        let rounds = ours.len().min(theirs.len());
        let all: Vec<usize> = (0..rounds).collect();
        let ratio = ratio_of_medians(ours, theirs, &all)?;
        let mut random = fastrand::Rng::with_seed(SEED);
        let mut draws = Vec::with_capacity(DRAWS);
        for _ in 0..DRAWS {
            let drawn: Vec<usize> = (0..rounds).map(|_| random.usize(0..rounds)).collect();
            draws.push(ratio_of_medians(ours, theirs, &drawn)?);
        }
        draws.sort_by(f64::total_cmp);
        let (low, high) = INTERVAL;
        Some(Self { ratio, low: quantile(&draws, low)?, high: quantile(&draws, high)? })
    }
}

fn ratio_of_medians(ours: &[Vec<u64>], theirs: &[Vec<u64>], rounds: &[usize]) -> Option<f64> {
    let median = |side: &[Vec<u64>]| {
        let times: Vec<u64> =
            rounds.iter().filter_map(|&round| side.get(round)).flatten().copied().collect();
        quantile(&sorted(&times), 0.5)
    };
    let (ours, theirs) = (median(ours)?, median(theirs)?);
    (theirs > 0.0).then(|| ours / theirs)
}

/// The median; `None` of nothing.
pub fn median(times: &[u64]) -> Option<f64> {
    quantile(&sorted(times), 0.5)
}

/// The value below which this part of the sorted values lies, from 0 to 1; `None` of nothing.
pub fn quantile(sorted: &[f64], part: f64) -> Option<f64> {
    let (first, last) = (*sorted.first()?, sorted.len() - 1);
    // Within the slice by the clamp; numbers of times are far below 2^52.
    #[allow(clippy::cast_precision_loss)]
    let place = part.clamp(0.0, 1.0) * last as f64;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let below = place.floor() as usize;
    let low = sorted.get(below).copied().unwrap_or(first);
    let high = sorted.get(below + 1).copied().unwrap_or(low);
    Some(low + (high - low) * place.fract())
}

/// In order, as numbers to calculate with.
pub fn sorted(times: &[u64]) -> Vec<f64> {
    // Microseconds: 2^52 of them are a century and more.
    #[allow(clippy::cast_precision_loss)]
    let mut values: Vec<f64> = times.iter().map(|&time| time as f64).collect();
    values.sort_by(f64::total_cmp);
    values
}

#[allow(clippy::cast_precision_loss)]
fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn quantiles_are_those_of_numpy() {
        let spread = Spread::of(&[50, 10, 40, 20, 30]).unwrap();
        assert_eq!((spread.min, spread.p50, spread.max, spread.mean), (10.0, 30.0, 50.0, 30.0));
        assert!((spread.p90 - 46.0).abs() < 1e-9 && (spread.p99 - 49.6).abs() < 1e-9);
        assert_eq!(median(&[1, 2]), Some(1.5));
        assert!(Spread::of(&[]).is_none() && median(&[]).is_none());
    }

    #[test]
    fn an_equal_load_on_both_sides_leaves_the_ratio_alone() {
        // Ours takes half as long in every round, whatever the round.
        let ours: Vec<Vec<u64>> = (1..40).map(|n| vec![n * n * 10]).collect();
        let theirs: Vec<Vec<u64>> = (1..40).map(|n| vec![n * n * 20]).collect();
        let ratio = Ratio::of(&ours, &theirs).unwrap();
        assert_eq!(ratio, Ratio { ratio: 0.5, low: 0.5, high: 0.5 });
    }

    #[test]
    fn more_rounds_narrow_the_interval() {
        let noisy = |rounds: u64, base: u64| -> Vec<Vec<u64>> {
            (0..rounds).map(|n| vec![base + (n * 7919 + base * 31) % 100]).collect()
        };
        let width = |rounds| {
            let ratio = Ratio::of(&noisy(rounds, 200), &noisy(rounds, 211)).unwrap();
            assert!(ratio.low <= ratio.ratio && ratio.ratio <= ratio.high);
            ratio.high - ratio.low
        };
        assert!(width(400) < width(10) / 2.0, "{} {}", width(400), width(10));
    }

    #[test]
    fn nothing_compares_with_nothing() {
        assert!(Ratio::of(&[], &[]).is_none());
        assert!(Ratio::of(&[vec![1]], &[vec![0]]).is_none());
    }

    proptest! {
        #[test]
        fn a_spread_is_in_order(times in proptest::collection::vec(0u64..1 << 40, 1..200)) {
            let spread = Spread::of(&times).unwrap();
            let order = [spread.min, spread.p50, spread.p90, spread.p99, spread.max];
            prop_assert!(order.windows(2).all(|pair| pair[0] <= pair[1]));
            prop_assert!(spread.min <= spread.mean + 1e-6 && spread.mean <= spread.max + 1e-6);
            prop_assert_eq!(spread.count, times.len());
        }

        #[test]
        fn the_ratio_does_not_depend_on_the_unit(
            rounds in proptest::collection::vec((1u64..1000, 1u64..1000), 1..20), unit in 1u64..1000,
        ) {
            let side = |unit: u64, pick: fn(&(u64, u64)) -> u64| -> Vec<Vec<u64>> {
                rounds.iter().map(|round| vec![pick(round) * unit]).collect()
            };
            let small = Ratio::of(&side(1, |r| r.0), &side(1, |r| r.1)).unwrap();
            let large = Ratio::of(&side(unit, |r| r.0), &side(unit, |r| r.1)).unwrap();
            prop_assert!((small.ratio / large.ratio - 1.0).abs() < 1e-9);
            prop_assert!((small.high / large.high - 1.0).abs() < 1e-9);
        }
    }
}
