//! `ampoule system df`: what takes how much of the host's storage.

use std::process::ExitCode;

use clap::{Args as ClapArgs, ValueEnum};
use serde_json::json;

use super::super::occupied::occupied;
use super::super::table::Table;
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
pub struct Args {
    /// Form of the list; json is one object a line, with sizes in bytes
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
}

struct Row {
    kind: &'static str,
    total: usize,
    active: usize,
    bytes: u64,
    reclaimable: u64,
}

/// Runs the verb.
pub fn run(args: &Args, global: &Global) -> Result<ExitCode, Failure> {
    let rows = rows(global)?;
    if args.format == Format::Json {
        for row in rows {
            let Row { kind, total, active, bytes, reclaimable } = row;
            let told = json!({
                "Type": kind, "TotalCount": total, "Active": active, "Size": bytes,
                "Reclaimable": reclaimable,
            });
            println!("{told}");
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new(&["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"]);
    for row in rows {
        // Of nothing there is no share.
        let share = row.reclaimable.saturating_mul(100).checked_div(row.bytes).unwrap_or(0);
        let reclaimable = format!("{} ({share}%)", size::decimal(row.reclaimable));
        let (total, active) = (row.total.to_string(), row.active.to_string());
        table.row([row.kind.to_owned(), total, active, size::decimal(row.bytes), reclaimable]);
    }
    print!("{table}");
    Ok(ExitCode::SUCCESS)
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
