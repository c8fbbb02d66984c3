//! A benchmark's report for a terminal.

use std::fmt::Write;

use crate::bench::machine::{Kvm, Machine};
use crate::bench::report::{Measured, Report};
use crate::cli::table::Table;

/// The whole report.
pub fn tables(report: &Report) -> String {
    let mut text = machine(&report.machine);
    text += &setup(report);
    for missing in &report.missing {
        // Writing to a string cannot fail; the same below.
        let _ = writeln!(text, "missing: {}: {}", missing.name, missing.reason);
    }
    let _ = write!(text, "\n{}", totals(&report.entrants));
    for measured in report.entrants.iter().filter(|measured| !measured.phases.is_empty()) {
        let _ = write!(text, "\n{}", phases(measured));
    }
    if !report.ratios.is_empty() {
        let _ = write!(text, "\n{}", ratios(report));
    }
    text
}

fn machine(machine: &Machine) -> String {
    let Machine { cpu, cpus, memory_mib, kernel, kvm, governor, load } = machine;
    let governor = governor.as_ref().map_or(String::new(), |name| format!(", governor {name}"));
    let kvm = match kvm {
        Kvm::Real => "real",
        Kvm::Software => "made of software: ratios only, no absolute time means anything",
        Kvm::Interpreted => "interprets guest kernels: no figure means anything",
        Kvm::None => "none",
    };
    format!(
        "machine: {cpu}, {cpus} CPUs, {memory_mib} MiB, Linux {kernel}{governor}, load {load:.2}\n\
         KVM:     {kvm}\n"
    )
}

fn setup(report: &Report) -> String {
    let setup = &report.setup;
    let command = if setup.command.is_empty() {
        "its own command".to_owned()
    } else {
        setup.command.join(" ")
    };
    let mut text = format!(
        "image:   {} ({}): {command}\nruns:    {} each, {} at once, by turns, after {} to warm up\n",
        setup.image, setup.image_id, setup.rounds, setup.at_once, setup.warm_up_rounds
    );
    for entrant in &report.entrants {
        let _ = writeln!(text, "{}: {} ({})", entrant.name, entrant.does, entrant.version);
    }
    text
}

/// A number in the right half of its column.
fn milliseconds(us: f64) -> String {
    format!("{:>8.1}", us / 1000.0)
}

fn totals(entrants: &[Measured]) -> Table {
    let right = |heading: &str| format!("{heading:>8}");
    let headings = ["MIN", "P50", "P90", "P99", "MAX", "MEAN"].map(right);
    let mut all = vec!["WHOLE, MS"];
    all.extend(headings.iter().map(String::as_str));
    all.push("STARTS/S");
    let mut table = Table::new(&all);
    for Measured { name, total_us: t, starts_per_second, .. } in entrants {
        let times = [t.min, t.p50, t.p90, t.p99, t.max, t.mean].map(milliseconds);
        let name = std::iter::once(name.clone());
        table.row(name.chain(times).chain([format!("{starts_per_second:>8.2}")]));
    }
    table
}

fn phases(measured: &Measured) -> Table {
    let heading = format!("{}: PHASES, MS", measured.name.to_uppercase());
    let mut table = Table::new(&[&heading, &format!("{:>8}", "P50")]);
    for phase in &measured.phases {
        table.row([phase.name.to_string(), milliseconds(phase.p50_us)]);
    }
    table
}

fn ratios(report: &Report) -> Table {
    let mut table = Table::new(&["RATIO OF MEDIANS", "", "95 % WITHIN"]);
    for compared in &report.ratios {
        let ratio = &compared.ratio;
        table.row([
            format!("{} / {}", compared.of, compared.by),
            format!("{:.3}", ratio.ratio),
            format!("{:.3} – {:.3}", ratio.low, ratio.high),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::testing::report;

    #[test]
    fn everything_that_was_found_is_told() {
        let text = tables(&report());
        for words in [
            "A <fast> CPU, 2 CPUs, 4096 MiB, Linux 6.12, load 0.50",
            "ratios only",
            "missing: firecracker: there is no <vmm>",
            "STARTS/S",
            "AMPOULE COLD: PHASES, MS",
            "ampoule warm / crun",
            "0.900",
        ] {
            assert!(text.contains(words), "{words:?} is missing in\n{text}");
        }
        // crun says nothing of its phases.
        assert!(!text.contains("CRUN: PHASES"));
    }
}
