//! What a container's agent is asked about its files.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use ampoule_protocol::archive::{ChunkReader, ChunkWriter};
use ampoule_protocol::message::{Files, PathInfo, Reply, Request};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::super::error::SandboxError;
use super::super::registry::InGuest;
use super::{ArchiveError, truncated};
use crate::agent::{Client, ClientError, EXCHANGE_TIME};

/// Most bytes behind the end of an archive: what fills up its last block.
const PADDING: u64 = 1 << 20;

/// A guest with a container that has not ended.
#[derive(Debug)]
pub struct Guest {
    /// Where its agent is asked for the container.
    place: InGuest,
}

impl Guest {
    /// The one that is asked here.
    pub fn new(place: InGuest) -> Self {
        Self { place }
    }

    fn ask(&self, wanted: Files) -> Result<(Client, Reply), SandboxError> {
        let mut client = Client::open(&self.place.vsock, EXCHANGE_TIME)?;
        let container = self.place.container.clone();
        let reply = client.ask(&Request::Files { container, wanted })?;
        Ok((client, reply))
    }

    fn begin(&self, wanted: Files) -> Result<Client, SandboxError> {
        match self.ask(wanted)? {
            (client, Reply::Done) => Ok(client),
            _ => Err(ClientError::UnexpectedReply.into()),
        }
    }

    /// What is at a path; none where nothing is.
    pub fn look(&self, path: &str, follow: bool) -> Result<Option<PathInfo>, SandboxError> {
        match self.ask(Files::Look { path: path.to_owned(), follow })?.1 {
            Reply::Path { info } => Ok(info),
            _ => Err(ClientError::UnexpectedReply.into()),
        }
    }

    /// Reads what is wanted.
    pub fn read<T>(
        &self,
        wanted: Files,
        take: impl FnOnce(&mut dyn Read) -> Result<T, ArchiveError>,
    ) -> Result<T, SandboxError> {
        let mut client = self.begin(wanted)?;
        let mut chunks = ChunkReader::new(client.stream()?);
        let taken = take(&mut chunks);
        let rest = io::copy(&mut (&mut chunks).take(PADDING), &mut io::sink());
        let ended = chunks.has_ended();
        match taken {
            // Why it has not sent all of it, it says itself.
            Err(error) if ended && truncated(&error) => {
                client.receive_done()?;
                Err(error.into())
            }
            Err(error) => Err(error.into()),
            Ok(taken) => {
                rest.map_err(ArchiveError::io("read from the guest's agent"))?;
                if !ended {
                    return Err(ArchiveError::Trailing.into());
                }
                client.receive_done()?;
                Ok(taken)
            }
        }
    }

    /// Writes an archive's files to a directory.
    pub fn write(
        &self,
        path: &str,
        give: impl FnOnce(&mut dyn Write) -> Result<(), ArchiveError>,
    ) -> Result<(), SandboxError> {
        let mut client = self.begin(Files::Write { path: path.to_owned() })?;
        let mut chunks = ChunkWriter::new(Heeding(client.stream()?));
        let given = give(&mut chunks);
        let sent = given.and_then(|()| {
            chunks.finish().map(drop).map_err(ArchiveError::io("write to the guest's agent"))
        });
        match sent {
            Ok(()) => Ok(client.receive_done()?),
            Err(error) => {
                if has_answered(client.stream()?) {
                    client.receive_done()?;
                }
                Err(error.into())
            }
        }
    }
}

/// A connection that is written to until the other side has answered.
struct Heeding<'a>(&'a UnixStream);

impl Write for Heeding<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if has_answered(self.0) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn has_answered(stream: &UnixStream) -> bool {
    let mut fds = [PollFd::new(stream.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}
