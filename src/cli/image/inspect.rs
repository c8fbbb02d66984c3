//! `ampoule image inspect`: all that is known of images.

use std::process::ExitCode;

use serde::Serialize;
use serde_json::{Value, json};

use super::super::format::Format;
use super::super::{Failure, Global, report};
use crate::image::{Image, Reference, Store};

/// Show all that is known of images, as JSON
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  ampoule image inspect debian\n  \
    ampoule image inspect -f '{{json .Config.Env}}' debian")]
pub struct Args {
    /// How to show them: json (an object a line), or a template such as {{.Size}}; an array where nothing is asked
    #[arg(short, long, value_name = "FORMAT", default_value = "", hide_default_value = true)]
    format: Format,
    /// Names, ids, starts of ids or digests
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

/// An image, with docker's names for its parts, in docker's order.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    id: String,
    repo_tags: Vec<String>,
    repo_digests: Vec<String>,
    parent: String,
    comment: String,
    created: Option<String>,
    docker_version: String,
    author: String,
    config: Value,
    architecture: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    variant: Option<String>,
    os: String,
    size: u64,
    graph_driver: Value,
    #[serde(rename = "RootFS")]
    root_fs: Value,
    metadata: Value,
}

/// Prints the images; one that is not there does not keep the others.
pub fn run(args: &Args, global: &Global) -> Result<ExitCode, Failure> {
    let store = Store::open(&global.places().data)?;
    let (mut found, mut failed) = (Vec::new(), None);
    for text in &args.images {
        match store.get(text) {
            Ok(image) => found.push(inspected(&image)?),
            Err(error) => {
                // The last failure is told by the caller.
                if let Some(before) = failed.replace(error) {
                    report(&before);
                }
            }
        }
    }
    print!("{}", args.format.inspect(&found)?);
    failed.map_or(Ok(ExitCode::SUCCESS), |error| Err(error.into()))
}

fn inspected(image: &Image) -> Result<Inspected, Failure> {
    // As the image has it, with what this program does not know of.
    let document: Value = serde_json::from_slice(image.config_bytes())?;
    let text = |key: &str| document[key].as_str().unwrap_or_default().to_owned();
    let (tags, digests): (Vec<&Reference>, Vec<&Reference>) =
        image.references.iter().partition(|name| name.tag().is_some());
    let familiar = |names: Vec<&Reference>| names.into_iter().map(Reference::familiar).collect();
    let last = document["history"].as_array().and_then(|steps| steps.last());
    let comment = last.and_then(|step| step["comment"].as_str()).unwrap_or_default();
    Ok(Inspected {
        id: image.id.to_string(),
        repo_tags: familiar(tags),
        repo_digests: familiar(digests),
        parent: String::new(),
        comment: comment.to_owned(),
        created: document["created"].as_str().map(str::to_owned),
        docker_version: text("docker_version"),
        author: text("author"),
        config: document["config"].clone(),
        architecture: text("architecture"),
        variant: document["variant"].as_str().map(str::to_owned),
        os: text("os"),
        size: image.size,
        graph_driver: json!({"Name": "erofs", "Data": {"File": image.rootfs}}),
        root_fs: json!({"Type": "layers", "Layers": document["rootfs"]["diff_ids"]}),
        metadata: json!({}),
    })
}
