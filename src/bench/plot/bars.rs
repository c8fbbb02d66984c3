//! What each entrant's starts spend their time on: the medians of the phases, one after the other.

use std::collections::HashMap;

use svg::node::element::Group;

use super::scale::Scale;
use super::shapes::{Anchor, INK, MUTED, rectangle, text};
use super::{LEFT, LINE, RIGHT, ROW, WIDTH, axis, heading};
use crate::bench::report::Measured;

/// Told apart by most eyes; the first ones again where there are more phases.
const COLOURS: [&str; 10] = [
    "#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#ee8866", "#44bb99",
    "#99ddff", "#bbbbbb",
];

/// Of who says nothing of its phases.
const WHOLE: &str = "#d5d9df";

/// Width of a letter of the legend, about.
const LETTER: f64 = 6.6;

/// Draws from `top` on; returns where it ends.
pub fn draw(entrants: &[Measured], top: f64) -> (Group, f64) {
    let scale = Scale::new(entrants.iter().map(length).fold(0.0, f64::max), LEFT, RIGHT);
    let colours = colours(entrants);
    let first = top + 14.0;
    // Rows are counted in single digits.
    #[allow(clippy::cast_precision_loss)]
    let bottom = first + ROW * entrants.len() as f64;
    let mut group = Group::new()
        .add(heading(top, "Phases: the median of each"))
        .add(axis(&scale, first, bottom));
    let mut middle = first + ROW / 2.0;
    for entrant in entrants {
        group = group.add(bar(entrant, &scale, &colours, middle));
        middle += ROW;
    }
    let (legend, below) = legend(&colours, bottom + 24.0 + LINE);
    (group.add(legend), below)
}

/// Of a whole bar, in microseconds.
fn length(entrant: &Measured) -> f64 {
    if entrant.phases.is_empty() {
        return entrant.total_us.p50;
    }
    entrant.phases.iter().map(|phase| phase.p50_us).sum()
}

/// A colour for each phase, in the order in which they come up.
fn colours(entrants: &[Measured]) -> Vec<(&str, &'static str)> {
    let mut colours: Vec<(&str, &'static str)> = Vec::new();
    let mut palette = COLOURS.into_iter().cycle();
    for phase in entrants.iter().flat_map(|entrant| &entrant.phases) {
        if !colours.iter().any(|(name, _)| *name == phase.name) {
            colours.extend(palette.next().map(|colour| (phase.name.as_ref(), colour)));
        }
    }
    colours
}

fn bar(entrant: &Measured, scale: &Scale, colours: &[(&str, &'static str)], middle: f64) -> Group {
    let colours: HashMap<_, _> = colours.iter().copied().collect();
    let (top, height) = (middle - ROW / 4.0, ROW / 2.0);
    let name = text(LEFT - 12.0, middle + 4.0, &entrant.name, Anchor::End, INK, 13);
    let mut group = Group::new().add(name);
    let mut at = 0.0;
    for phase in &entrant.phases {
        let colour = colours.get(phase.name.as_ref()).copied().unwrap_or(WHOLE);
        let width = scale.length(phase.p50_us);
        group = group.add(rectangle(scale.place(at), top, width, height, colour));
        at += phase.p50_us;
    }
    if entrant.phases.is_empty() {
        at = entrant.total_us.p50;
        group = group.add(rectangle(scale.place(0.0), top, scale.length(at), height, WHOLE));
    }
    let label = format!("{:.1} ms", at / 1000.0);
    group.add(text(RIGHT + 12.0, middle + 4.0, &label, Anchor::Start, MUTED, 12))
}

fn legend(colours: &[(&str, &'static str)], top: f64) -> (Group, f64) {
    let mut group = Group::new();
    let (mut x, mut y) = (LEFT, top);
    for &(name, colour) in colours.iter().chain(&[("whole, no phases told", WHOLE)]) {
        // Names are counted in tens of letters.
        #[allow(clippy::cast_precision_loss)]
        let width = 34.0 + LETTER * name.chars().count() as f64;
        if x + width > WIDTH - 20.0 {
            (x, y) = (LEFT, y + LINE);
        }
        group = group.add(rectangle(x, y - 10.0, 12.0, 12.0, colour)).add(text(
            x + 18.0,
            y,
            name,
            Anchor::Start,
            INK,
            12,
        ));
        x += width;
    }
    (group, y)
}
