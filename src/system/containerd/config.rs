//! The runtime in the text of a configuration of containerd. Pure; what it does not change stays as it is,
//! comments and all.
//!
//! A file of version 2 (containerd 1.6, 1.7, and 2 reads it too) is changed itself: in 1.x a file that it
//! imports does not add to a plugin's section, but replaces the whole of it. One of version 3 (2.0 and
//! later, where imported files are merged key by key) imports a file of ours.

use std::path::Path;

use toml_edit::{Array, DocumentMut, Item, Table, TableLike, value};

use super::ConfigError;
use crate::shim::RUNTIME;
use crate::system::record::Added;

/// Name of the runtime, which a RuntimeClass calls its handler.
pub const HANDLER: &str = "ampoule";

/// Annotations of pods and containers that reach the shim.
pub const ANNOTATIONS: &str = "io.ampoule.*";

/// The runtime that containerd has without a configuration.
const RUNC: (&str, &str) = ("runc", "io.containerd.runc.v2");

/// Says whose the runtime is.
const COMMENT: &str =
    "\n# Made by `ampoule system install`, undone by `ampoule system uninstall`.\n";

/// Version of a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// Of containerd 1.6 and 1.7.
    Two,
    /// Of containerd 2.
    Three,
}

impl Version {
    /// The plugin whose runtimes are those of pods.
    fn plugin(self) -> &'static str {
        match self {
            Self::Two => "io.containerd.grpc.v1.cri",
            Self::Three => "io.containerd.cri.v1.runtime",
        }
    }
}

/// Takes a configuration apart.
pub fn parse(text: &str) -> Result<(DocumentMut, Version), ConfigError> {
    let document = text.parse::<DocumentMut>()?;
    let version = match document.get("version").and_then(Item::as_integer) {
        Some(2) => Version::Two,
        Some(3) => Version::Three,
        Some(other) => return Err(ConfigError::Version(other)),
        None => return Err(ConfigError::Version(1)),
    };
    Ok((document, version))
}

/// The type of the runtime of our name, where there is one already.
pub fn runtime_type(document: &DocumentMut, version: Version) -> Option<String> {
    let runtime = runtimes(document, version)?.get(HANDLER)?;
    Some(runtime.get("runtime_type").and_then(Item::as_str).unwrap_or_default().to_owned())
}

fn runtimes(document: &DocumentMut, version: Version) -> Option<&dyn TableLike> {
    let plugin = document.get("plugins")?.get(version.plugin())?;
    plugin.get("containerd")?.get("runtimes")?.as_table_like()
}

/// Adds the runtime to a configuration that has none of our name.
pub fn add_runtime(document: &mut DocumentMut, version: Version) -> Result<Added, ConfigError> {
    let needs_runc = version == Version::Two && needs_runc(document);
    let runtimes = enter(document, &["plugins", version.plugin(), "containerd", "runtimes"])?;
    if needs_runc {
        let mut runc = Table::new();
        runc.insert("runtime_type", value(RUNC.1));
        runc.decor_mut().set_prefix("\n");
        runtimes.insert(RUNC.0, Item::Table(runc));
    }
    let mut runtime = Table::new();
    runtime.insert("runtime_type", value(RUNTIME));
    // The devices of the host are none of the guest's.
    runtime.insert("privileged_without_host_devices", value(true));
    let annotations = || value(Array::from_iter([ANNOTATIONS]));
    runtime.insert("pod_annotations", annotations());
    runtime.insert("container_annotations", annotations());
    runtime.decor_mut().set_prefix(COMMENT);
    runtimes.insert(HANDLER, Item::Table(runtime));
    Ok(Added { runtime: true, runc: needs_runc, import: false })
}

/// Whether the runtime that is used by default is one that containerd 1.x knows of itself, and forgets as
/// soon as a configuration names runtimes.
fn needs_runc(document: &DocumentMut) -> bool {
    let plugin = document.get("plugins").and_then(|plugins| plugins.get(Version::Two.plugin()));
    let containerd = plugin.and_then(|plugin| plugin.get("containerd"));
    let get = |name: &str| containerd.and_then(|containerd| containerd.get(name));
    let named = get("default_runtime_name").and_then(Item::as_str);
    let is_there = get("runtimes").and_then(|runtimes| runtimes.get(RUNC.0)).is_some();
    let whole = get("default_runtime").and_then(|runtime| runtime.get("runtime_type"));
    named.is_none_or(|name| name == RUNC.0) && !is_there && whole.is_none()
}

/// The table at the end of a path, made where it is not there, without lines of its own.
fn enter<'a>(document: &'a mut DocumentMut, path: &[&str]) -> Result<&'a mut Table, ConfigError> {
    let mut table = document.as_table_mut();
    for (depth, name) in path.iter().enumerate() {
        let next = table.entry(name).or_insert_with(|| {
            let mut table = Table::new();
            table.set_implicit(true);
            Item::Table(table)
        });
        table = next.as_table_mut().ok_or_else(|| ConfigError::Shape(path[..=depth].join(".")))?;
    }
    Ok(table)
}

/// Takes out what was added; what somebody has made of it since, beside the runtime itself, stays.
pub fn remove_runtime(document: &mut DocumentMut, version: Version, added: Added) {
    let path = ["plugins", version.plugin(), "containerd", "runtimes"];
    remove_below(document.as_table_mut(), &path, added);
}

/// Removes from the table at the end of a path; tables on the way that are left without anything, and
/// have no line of their own, go.
fn remove_below(table: &mut Table, path: &[&str], added: Added) {
    let Some((name, rest)) = path.split_first() else {
        if added.runtime {
            table.remove(HANDLER);
        }
        let runc = table.get(RUNC.0).and_then(Item::as_table);
        let is_ours = |runc: &Table| {
            let kind = runc.get("runtime_type").and_then(Item::as_str);
            runc.len() == 1 && kind == Some(RUNC.1)
        };
        if added.runc && runc.is_some_and(is_ours) {
            table.remove(RUNC.0);
        }
        return;
    };
    let Some(inner) = table.get_mut(name).and_then(Item::as_table_mut) else { return };
    remove_below(inner, rest, added);
    if inner.is_empty() && inner.is_implicit() {
        table.remove(name);
    }
}

/// The file of ours that a configuration imports.
pub fn drop_in() -> Result<String, ConfigError> {
    let mut document = "version = 3\n".parse::<DocumentMut>()?;
    add_runtime(&mut document, Version::Three)?;
    Ok(document.to_string())
}

/// Whether a configuration in `folder` imports a file, by its name or by a pattern for its folder.
pub fn imports(document: &DocumentMut, folder: &Path, file: &Path) -> bool {
    let imports = document.get("imports").and_then(Item::as_array);
    imports.into_iter().flatten().filter_map(|import| import.as_str()).any(|import| {
        let import = folder.join(import);
        import == file
            || import.parent() == file.parent()
                && import.file_name().is_some_and(|name| name == "*.toml" || name == "*")
    })
}

/// Adds a file to the imports.
pub fn add_import(document: &mut DocumentMut, file: &str) -> Result<(), ConfigError> {
    let imports = document.entry("imports").or_insert_with(|| value(Array::new()));
    imports.as_array_mut().ok_or_else(|| ConfigError::Shape("imports".into()))?.push(file);
    Ok(())
}

/// Takes a file out of the imports again.
pub fn remove_import(document: &mut DocumentMut, file: &str) {
    if let Some(imports) = document.get_mut("imports").and_then(Item::as_array_mut) {
        imports.retain(|import| import.as_str() != Some(file));
    }
}
