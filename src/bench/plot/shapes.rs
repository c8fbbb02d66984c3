//! The few shapes that the picture is made of.

use svg::node::element::{Circle, Line, Rectangle, Text};

/// Colour of what is to be read.
pub const INK: &str = "#1c2430";

/// Colour of what stands beside it.
pub const MUTED: &str = "#69727f";

/// Colour behind everything.
pub const PAPER: &str = "#ffffff";

/// Which part of a text is at its place.
#[derive(Debug, Clone, Copy)]
pub enum Anchor {
    Start,
    Middle,
    End,
}

/// One line of text with its foot at `y`; what is markup in it is escaped.
pub fn text(x: f64, y: f64, words: &str, anchor: Anchor, colour: &str, size: u32) -> Text {
    let anchor = match anchor {
        Anchor::Start => "start",
        Anchor::Middle => "middle",
        Anchor::End => "end",
    };
    // XML takes no control characters, not even escaped ones.
    let words: String = words.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    Text::new(words)
        .set("x", tenths(x))
        .set("y", tenths(y))
        .set("text-anchor", anchor)
        .set("fill", colour)
        .set("font-size", size)
}

/// A filled rectangle.
pub fn rectangle(x: f64, y: f64, width: f64, height: f64, colour: &str) -> Rectangle {
    Rectangle::new()
        .set("x", tenths(x))
        .set("y", tenths(y))
        .set("width", tenths(width))
        .set("height", tenths(height))
        .set("fill", colour)
}

/// A thin line.
pub fn line(x1: f64, y1: f64, x2: f64, y2: f64, colour: &str) -> Line {
    Line::new()
        .set("x1", tenths(x1))
        .set("y1", tenths(y1))
        .set("x2", tenths(x2))
        .set("y2", tenths(y2))
        .set("stroke", colour)
}

/// A small point that others may lie on.
pub fn point(x: f64, y: f64, colour: &str) -> Circle {
    Circle::new()
        .set("cx", tenths(x))
        .set("cy", tenths(y))
        .set("r", 2.2)
        .set("fill", colour)
        .set("fill-opacity", 0.35)
}

/// More digits are seen by nobody.
fn tenths(pixels: f64) -> f64 {
    (pixels * 10.0).round() / 10.0
}
