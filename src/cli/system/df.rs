//! `ampoule system df`: what takes how much of the host's storage.

use std::process::ExitCode;

use clap::Args as ClapArgs;
use serde_json::json;

use super::super::format::{Format, List};
use super::super::occupied::occupied;
use super::super::{Failure, Global, size};
use crate::build;
use crate::image::Store;
use crate::sandbox::template::Templates;
use crate::sandbox::{Registry, images_of, mounts};
use crate::volume::VolumeStore;

/// Show what images, containers, volumes and templates take of the host's storage
///
/// Reclaimable is what `ampoule system prune --all --volumes` and `ampoule template prune` can take away:
/// what belongs to no container, and containers that do not run. Layers that images share are counted
/// once.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:\n  ampoule system df\n  \
    ampoule system df --format '{{.Type}}: {{.Reclaimable}}'")]
pub struct Args {
    /// How to show it: table, json (an object a line, with sizes in bytes), or a template such as {{.Type}}
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: Format,
}

const LIST: List = List {
    fields: &[
        ("Type", "TYPE"),
        ("TotalCount", "TOTAL"),
        ("Active", "ACTIVE"),
        ("Size", "SIZE"),
        ("Reclaimable", "RECLAIMABLE"),
    ],
    columns: &["Type", "TotalCount", "Active", "Size", "Reclaimable"],
};

struct Row {
    kind: &'static str,
    total: usize,
    active: usize,
    bytes: u64,
    reclaimable: u64,
}

/// Runs the verb.
pub fn run(args: &Args, global: &Global) -> Result<ExitCode, Failure> {
    let bytes = matches!(args.format, Format::Json);
    let told = |row: &Row| {
        let Row { kind, total, active, .. } = row;
        let (size, reclaimable) = match bytes {
            true => (json!(row.bytes), json!(row.reclaimable)),
            false => (json!(size::decimal(row.bytes)), json!(row.reclaimable_in_words())),
        };
        json!({
            "Type": kind, "TotalCount": total, "Active": active, "Size": size,
            "Reclaimable": reclaimable,
        })
    };
    let rows: Vec<_> = rows(global)?.iter().map(told).collect();
    print!("{}", args.format.list(&LIST, &rows)?);
    Ok(ExitCode::SUCCESS)
}

impl Row {
    fn reclaimable_in_words(&self) -> String {
        // Of nothing there is no share.
        let share = self.reclaimable.saturating_mul(100).checked_div(self.bytes).unwrap_or(0);
        format!("{} ({share}%)", size::decimal(self.reclaimable))
    }
}

fn rows(global: &Global) -> Result<Vec<Row>, Failure> {
    let places = global.places();
    let entries = Registry::new(&places).list()?;
    let used = images_of(&entries);
    let all = Store::open(&places.data)?.list()?;
    let blobs = occupied(&places.data.join("blobs"));
    let sum = |sizes: &mut dyn Iterator<Item = u64>| sizes.fold(0, u64::saturating_add);
    let (active, idle): (Vec<_>, Vec<_>) =
        all.iter().partition(|image| used.contains_key(&image.id));
    let idle_bytes = sum(&mut idle.iter().map(|image| image.size));
    let images = Row {
        kind: "Images",
        total: all.len(),
        active: active.len(),
        bytes: sum(&mut all.iter().map(|image| image.size)).saturating_add(blobs),
        // Layers are shared: they can be told from each other only where no image stays.
        reclaimable: idle_bytes.saturating_add(if active.is_empty() { blobs } else { 0 }),
    };
    let (mut bytes, mut reclaimable, mut running) = (0u64, 0u64, 0);
    for entry in &entries {
        let taken = occupied(entry.folder.container());
        bytes = bytes.saturating_add(taken);
        match entry.folder.is_kept() {
            true => running += 1,
            false => reclaimable = reclaimable.saturating_add(taken),
        }
    }
    let containers =
        Row { kind: "Containers", total: entries.len(), active: running, bytes, reclaimable };
    let mounted = mounts::users(&entries);
    let all = VolumeStore::new(&places.data).list()?;
    let (mut bytes, mut reclaimable, mut active) = (0u64, 0u64, 0);
    for volume in &all {
        let taken = occupied(&volume.mountpoint);
        bytes = bytes.saturating_add(taken);
        match mounted.contains_key(&volume.name) {
            true => active += 1,
            false => reclaimable = reclaimable.saturating_add(taken),
        }
    }
    let volumes = Row { kind: "Local Volumes", total: all.len(), active, bytes, reclaimable };
    let bytes = occupied(&places.templates());
    let total = Templates::new(places.templates()).list()?.len();
    let templates = Row { kind: "Templates", total, active: 0, bytes, reclaimable: bytes };
    let bytes = occupied(&build::cache(&places));
    let total = usize::from(bytes > 0);
    let builds = Row { kind: "Build Cache", total, active: 0, bytes, reclaimable: bytes };
    Ok(vec![images, containers, volumes, templates, builds])
}
