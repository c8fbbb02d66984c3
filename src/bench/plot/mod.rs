//! A report as a picture: how the times are spread, what the starts spend them on, who is quicker by
//! how much.

mod bars;
mod boxes;
mod scale;
mod shapes;

use svg::Document;
use svg::node::element::Group;

use super::machine::Kvm;
use super::report::Report;
use scale::Scale;
use shapes::{Anchor, INK, MUTED, PAPER, line, rectangle, text};

/// Width of the picture, in pixels.
const WIDTH: f64 = 900.0;

/// Where names end and the plots begin.
const LEFT: f64 = 170.0;

/// Where the plots end; numbers follow.
const RIGHT: f64 = 800.0;

/// Height of one entrant's row.
const ROW: f64 = 44.0;

/// Height of a line of text.
const LINE: f64 = 18.0;

/// Draws the report as an SVG document.
pub fn draw(report: &Report) -> String {
    let mut picture = Group::new();
    let mut y = 14.0 + LINE;
    picture = picture
        .add(text(24.0, y, &title(report), Anchor::Start, INK, 17).set("font-weight", "bold"));
    for words in subtitle(report) {
        y += LINE;
        picture = picture.add(text(24.0, y, &words, Anchor::Start, MUTED, 12));
    }
    y += 34.0;
    let (boxes, below) = boxes::draw(&report.entrants, y);
    let (bars, below) = bars::draw(&report.entrants, below + 40.0);
    picture = picture.add(boxes).add(bars);
    y = below + 34.0;
    if !report.ratios.is_empty() {
        picture =
            picture.add(heading(y, "Ratio of medians, and where it lies with 95 % confidence"));
    }
    for compared in &report.ratios {
        y += LINE + 2.0;
        let ratio = &compared.ratio;
        let names = format!("{} / {}", compared.of, compared.by);
        let numbers = format!("{:.3}   ({:.3} – {:.3})", ratio.ratio, ratio.low, ratio.high);
        picture = picture.add(text(24.0, y, &names, Anchor::Start, INK, 12));
        picture = picture.add(text(290.0, y, &numbers, Anchor::Start, INK, 12));
    }
    for missing in &report.missing {
        y += LINE + 2.0;
        let words = format!("missing: {}: {}", missing.name, missing.reason);
        picture = picture.add(text(24.0, y, &words, Anchor::Start, MUTED, 12));
    }
    let height = y + 24.0;
    let document = Document::new()
        .set("viewBox", (0.0, 0.0, WIDTH, height))
        .set("width", WIDTH)
        .set("height", height)
        .set("font-family", "system-ui, 'DejaVu Sans', sans-serif")
        .add(rectangle(0.0, 0.0, WIDTH, height, PAPER))
        .add(picture);
    format!("{document}\n")
}

fn title(report: &Report) -> String {
    let setup = &report.setup;
    let command = if setup.command.is_empty() {
        String::new()
    } else {
        format!(" {}", setup.command.join(" "))
    };
    format!("From start to end: {}{command}", setup.image)
}

fn subtitle(report: &Report) -> Vec<String> {
    let (machine, setup) = (&report.machine, &report.setup);
    let mut lines = vec![
        format!("{} runs by turns, {} at once", setup.rounds, setup.at_once),
        format!(
            "{}, {} CPUs, {} MiB, Linux {}, load {:.2}",
            machine.cpu, machine.cpus, machine.memory_mib, machine.kernel, machine.load
        ),
    ];
    if machine.kvm == Kvm::Software {
        lines.push(
            "This machine's KVM is made of software: ratios only, no absolute time means anything"
                .into(),
        );
    }
    lines
}

fn heading(y: f64, words: &str) -> svg::node::element::Text {
    text(24.0, y, words, Anchor::Start, INK, 14).set("font-weight", "bold")
}

/// Vertical lines with their times below, from `top` to `bottom`.
fn axis(scale: &Scale, top: f64, bottom: f64) -> Group {
    scale.ticks().into_iter().fold(Group::new(), |group, us| {
        let x = scale.place(us);
        let label = scale.label(us);
        group.add(line(x, top, x, bottom, "#e3e6ea")).add(text(
            x,
            bottom + 16.0,
            &label,
            Anchor::Middle,
            MUTED,
            11,
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::testing::report;
    use svg::parser::Event;

    #[test]
    fn the_picture_is_well_formed_and_names_everybody() {
        let picture = draw(&report());
        let mut open = Vec::new();
        let mut words = String::new();
        for event in svg::read(&picture).unwrap() {
            match event {
                Event::Tag(name, svg::node::element::tag::Type::Start, _) => open.push(name),
                Event::Tag(name, svg::node::element::tag::Type::End, _) => {
                    assert_eq!(open.pop(), Some(name));
                }
                Event::Text(text) => words += text,
                Event::Error(error) => panic!("{error}"),
                _ => {}
            }
        }
        assert!(open.is_empty());
        for name in ["ampoule cold", "ampoule warm", "crun", "firecracker", "kernel", "0.900"] {
            assert!(words.contains(name), "{name} is missing");
        }
        // What others say of themselves is text, whatever it holds.
        assert!(words.contains("A &lt;fast&gt; CPU") && words.contains("container &amp; exit"));
        assert!(!picture.contains("NaN") && !picture.contains("inf"));
    }
}
