//! How each entrant's whole times are spread: a box from the first to the third quartile, a stroke
//! at the median, lines to the least and the greatest, a point for each start unless there are many.

use svg::node::element::Group;

use super::scale::Scale;
use super::shapes::{Anchor, INK, MUTED, line, point, rectangle, text};
use super::{LEFT, RIGHT, ROW, axis, heading};
use crate::bench::report::Measured;
use crate::bench::statistics::{quantile, sorted};

/// More points would be a smear; part of them would tell something else than all.
const MOST_POINTS: usize = 300;

const OURS: (&str, &str) = ("#2f6fde", "#b9d0f7");
const OTHERS: (&str, &str) = ("#7a5c2e", "#e6d6ba");

/// Draws from `top` on; returns where it ends.
pub fn draw(entrants: &[Measured], top: f64) -> (Group, f64) {
    let most = entrants.iter().map(|entrant| entrant.total_us.max).fold(0.0, f64::max);
    let scale = Scale::new(most, LEFT, RIGHT);
    let first = top + 14.0;
    // Rows are counted in single digits.
    #[allow(clippy::cast_precision_loss)]
    let bottom = first + ROW * entrants.len() as f64;
    let mut group = Group::new()
        .add(heading(top, "Whole starts: quartiles, median, least and greatest"))
        .add(axis(&scale, first, bottom));
    let mut middle = first + ROW / 2.0;
    for entrant in entrants {
        group = group.add(row(entrant, &scale, middle));
        middle += ROW;
    }
    (group, bottom + 16.0)
}

fn row(entrant: &Measured, scale: &Scale, middle: f64) -> Group {
    let (stroke, fill) = if entrant.ours { OURS } else { OTHERS };
    let starts = entrant.rounds.iter().flat_map(|round| &round.starts);
    let times = sorted(&starts.map(|start| start.total_us).collect::<Vec<_>>());
    let at = |part| scale.place(quantile(&times, part).unwrap_or(0.0));
    let (least, low, median, high, most) = (at(0.0), at(0.25), at(0.5), at(0.75), at(1.0));
    let half = ROW / 4.0;
    let mut group = Group::new()
        .add(text(LEFT - 12.0, middle + 4.0, &entrant.name, Anchor::End, INK, 13))
        .add(line(least, middle, most, middle, stroke))
        .add(line(least, middle - half / 2.0, least, middle + half / 2.0, stroke))
        .add(line(most, middle - half / 2.0, most, middle + half / 2.0, stroke))
        .add(
            rectangle(low, middle - half, (high - low).max(1.0), half * 2.0, fill)
                .set("stroke", stroke),
        )
        .add(line(median, middle - half, median, middle + half, stroke).set("stroke-width", 3));
    for &time in times.iter().filter(|_| times.len() <= MOST_POINTS) {
        group = group.add(point(scale.place(time), middle + half + 5.0, stroke));
    }
    let label = format!("{:.1} ms", entrant.total_us.p50 / 1000.0);
    group.add(text(RIGHT + 12.0, middle + 4.0, &label, Anchor::Start, MUTED, 12))
}
