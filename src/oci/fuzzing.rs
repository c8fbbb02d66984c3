//! What fuzz targets reach of the runtime: what it reads from files, without what it then does.

use std::path::Path;

use ampoule_protocol::message::Reply;
use oci_spec::runtime::Process;

use super::translate::{self, Translated};
use super::{OciError, bundle, ps, record::Record, stats::Event, update};

/// A container's `config.json`, divided between host and guest. Paths are looked at as they are.
pub fn config(file: &Path, bundle: &Path) -> Result<Translated, OciError> {
    let spec = bundle::read(file)?;
    let directory = |_: &Path| translate::look(Path::new("/"));
    Ok(translate::translate(spec, bundle, "", directory)?)
}

/// A process, as `exec --process` gets it.
pub fn process(file: &Path) -> Result<Process, OciError> {
    Ok(bundle::read_process(file)?)
}

/// `linux.resources`, as `update --resources` gets it, over those of a container.
pub fn resources(file: &str, before: &Path) -> Result<(), OciError> {
    update::fuzzing(file, &bundle::read(before)?)
}

/// A container's record.
pub fn record(bytes: &[u8]) -> serde_json::Result<()> {
    let record: Record = serde_json::from_slice(bytes)?;
    serde_json::to_vec(&record.told()).map(drop)
}

/// What is printed of an agent's reply.
pub fn printed(reply: Reply) -> String {
    match reply {
        Reply::Processes { pids, table } => ps::fuzzing(&pids, &table),
        Reply::Stats(stats) => serde_json::to_string(&Event::stats("c", *stats)).expect("JSON"),
        _ => String::new(),
    }
}
