//! Files of a container, on their way to the host and from it.
//!
//! The container's processes may change all of it meanwhile: names are looked up within its root, and files are
//! used by descriptor.

mod changes;
mod read;
mod write;

use std::io;

use ampoule_protocol::archive::{ChunkReader, ChunkWriter, Contents, walk};
use ampoule_protocol::frame::{self, FrameError};
use ampoule_protocol::message::{Files, PathInfo, Reply};
use nix::errno::Errno;
use nix::fcntl::{OFlag, readlinkat};
use nix::sys::stat::{SFlag, fstat};

use crate::error::{Doing, Error, Result};
use crate::transport::Connection;
use crate::{Agent, container};

/// What is at a path of a container.
pub fn look(agent: &Agent, container: &str, path: &str, follow: bool) -> Result<Option<PathInfo>> {
    let root = container::root(agent, container)?;
    let action = || format!("look at {path}");
    let file = match root.open_in(absolute(path), flags(follow)) {
        Err(Errno::ENOENT) => return Ok(None),
        file => file.doing(action)?,
    };
    let kind = walk::kind(&fstat(&file).doing(action)?);
    let link = match kind {
        SFlag::S_IFLNK => Some(readlinkat(&file, "").doing(action)?.to_string_lossy().into_owned()),
        _ => None,
    };
    Ok(Some(PathInfo { directory: kind == SFlag::S_IFDIR, link }))
}

/// Answers a request that the connection then carries files for.
pub fn serve(
    agent: &Agent,
    container: &str,
    wanted: &Files,
    connection: &Connection,
) -> std::result::Result<(), FrameError> {
    let reply = |result: Result<()>| {
        let reply = result.map_or_else(|error| Reply::Error(error.into()), |()| Reply::Done);
        frame::write(&mut &*connection, &reply)
    };
    let given = match wanted {
        Files::Look { .. } => return Ok(()),
        Files::Read { path, follow } => {
            let opened = container::root(agent, container).and_then(|root| {
                root.open_in(absolute(path), flags(*follow)).doing(|| format!("open {path}"))
            });
            give(connection, opened, |file, to| read::pack(file, Contents::Attributes, to))
        }
        Files::Layer => {
            let upper = container::layer(agent, container).and_then(|layer| {
                let upper = layer.upper.try_clone();
                upper.doing(|| "open the container's layer")
            });
            give(connection, upper, |upper, to| read::pack(upper, Contents::Layer, to))
        }
        Files::Changes => give(connection, container::layer(agent, container), |layer, to| {
            changes::tell(&layer, to)
        }),
        Files::Write { path } => {
            let place = container::root(agent, container)
                .and_then(|root| write::place(root, absolute(path).as_ref()));
            let mut chunks = ChunkReader::new(connection);
            let taken = match place {
                Ok(place) => {
                    reply(Ok(()))?;
                    write::unpack(place, &mut chunks)
                }
                Err(error) => return reply(Err(error)),
            };
            reply(taken)?;
            // What still comes is thrown away: a connection that is closed under it could lose the answer. It
            // may end before its time: the host has heard enough.
            let _ = io::copy(&mut chunks, &mut io::sink());
            return Ok(());
        }
    };
    reply(given?)
}

/// Says that what is wanted comes, and gives it.
fn give<T>(
    connection: &Connection,
    ready: Result<T>,
    give: impl FnOnce(T, &mut dyn io::Write) -> Result<()>,
) -> std::result::Result<Result<()>, FrameError> {
    let ready = match ready {
        Ok(ready) => ready,
        Err(error) => return Ok(Err(error)),
    };
    frame::write(&mut &*connection, &Reply::Done)?;
    let mut chunks = ChunkWriter::new(connection);
    let given = give(ready, &mut chunks);
    chunks.finish().map_err(FrameError::Io)?;
    Ok(given)
}

fn flags(follow: bool) -> OFlag {
    if follow { OFlag::O_PATH } else { OFlag::O_PATH | OFlag::O_NOFOLLOW }
}

/// A path of a container is one from its root.
fn absolute(path: &str) -> String {
    format!("/{path}")
}

/// A failure with its chain in one line, in place of one kind of it for each side.
fn failed(error: &dyn std::error::Error) -> Error {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        message = format!("{message}: {cause}");
        source = cause.source();
    }
    Error::WrongState(message)
}
