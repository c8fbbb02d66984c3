//! `ampoule commit`: an image of a container.

use std::process::ExitCode;

use ampoule_protocol::message::Files;
use clap::{ArgAction, Args as ClapArgs};
use jiff::Timestamp;

use super::{Failure, Global};
use crate::image::changes::Change;
use crate::image::commit::Description;
use crate::image::{Reference, Store};
use crate::sandbox::archive::{ArchiveError, Purpose, visit};
use crate::sandbox::{Options, Registry, Status, lifecycle};

/// Make an image of what a container has changed; print its id
#[derive(Debug, ClapArgs)]
#[command(after_help = "What is in volumes and other mounts is no part of it.\n\nExamples:\n  \
    ampoule commit web mine:1\n  ampoule commit -m 'with vim' -c 'CMD [\"/bin/bash\"]' box box:vim")]
pub struct Args {
    /// Who makes it
    #[arg(short, long)]
    author: Option<String>,
    /// Change of the image's configuration, as a Dockerfile's: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL,
    /// STOPSIGNAL, USER, VOLUME, WORKDIR
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<Change>,
    /// What the image's history says of it
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,
    /// Let the container stand still meanwhile
    #[arg(
        short, long, action = ArgAction::Set, default_value_t = true, num_args = 0..=1,
        require_equals = true, default_missing_value = "true"
    )]
    pause: bool,
    /// Container, by name or id
    container: String,
    /// Name of the image
    #[arg(value_name = "NAME[:TAG]")]
    name: Option<Reference>,
}

/// Makes the image and prints its id.
pub fn run(args: &Args, global: &Global) -> Result<ExitCode, Failure> {
    if let Some(name) = args.name.as_ref().filter(|name| name.digest().is_some()) {
        return Err(format!("the name of the image, {name}, has a digest").into());
    }
    let places = global.places();
    let registry = Registry::new(&places);
    let entry = registry.find(&args.container)?;
    let record = entry.record()?;
    let base = record.open_image(&places)?;
    let mut changes = of_options(&record.options)?;
    changes.extend(args.change.iter().cloned());
    let description = Description {
        name: args.name.clone(),
        author: args.author.clone(),
        message: args.message.clone(),
        command: entry.state.command.join(" "),
        changes,
        created: Timestamp::now(),
    };
    let store = Store::open(&places.data)?;
    let paused = args.pause && entry.state.status == Status::Running;
    if paused {
        lifecycle::pause(&registry, &entry.state.id, true)?;
    }
    let mut made = None;
    let visited = visit(&places, &entry.state.id, Purpose::Read, |guest, _| {
        guest.read(Files::Layer, |from| {
            made = Some(store.commit(&base, from, &description, &mut |_| ()));
            match &made {
                Some(Ok(_)) => Ok(()),
                // It is told below.
                _ => Err(ArchiveError::Changes),
            }
        })
    });
    if paused {
        // It may have ended meanwhile.
        let resumed = lifecycle::pause(&registry, &entry.state.id, false);
        visited.as_ref().ok().map_or(Ok(()), |()| resumed.map(drop))?;
    }
    if let Some(Err(error)) = made {
        return Err(error.into());
    }
    visited?;
    if let Some(Ok(id)) = made {
        println!("{id}");
    }
    Ok(ExitCode::SUCCESS)
}

/// What was said of the container when it was made is its image's from now on, as docker has it.
fn of_options(options: &Options) -> Result<Vec<Change>, Failure> {
    let mut changes = Vec::new();
    if let Some(entrypoint) = &options.entrypoint {
        let words = Some(entrypoint.clone()).filter(|entrypoint| !entrypoint.is_empty());
        changes.push(Change::Words("Entrypoint", words.into_iter().collect()));
    }
    if options.entrypoint.is_some() || !options.command.is_empty() {
        changes.push(Change::Words("Cmd", options.command.clone()));
    }
    let pairs = options.env.iter().filter_map(|pair| pair.split_once('='));
    changes.push(Change::Env(pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect()));
    let texts = [
        ("User", &options.user),
        ("WorkingDir", &options.workdir),
        ("StopSignal", &options.stop_signal),
    ];
    for (key, text) in texts {
        changes.extend(text.clone().map(|text| Change::Text(key, text)));
    }
    let labels = options.labels.iter().map(|(k, v)| (k.clone(), v.clone())).collect::<Vec<_>>();
    if !labels.is_empty() {
        changes.push(Change::Labels(labels));
    }
    Ok(changes)
}
