//! `ampoule metrics`: what sandboxes count and take, for Prometheus.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

use clap::Args as ClapArgs;
use nix::sys::socket::SockType;

use super::{Failure, Global};
use crate::metrics::serve::{Listener, serve};
use crate::metrics::{look_at_all, text};
use crate::report::chain;
use crate::sandbox::{Registry, RegistryError};
use crate::socket_file::SocketFile;

/// Tell what running sandboxes count and take of the host, in Prometheus' text format
///
/// Those of `ampoule run`, of `ampoule-oci`, and pods. Nothing is counted while nobody asks: every request
/// has each sandbox's monitor and agent asked, and its processes looked at.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:\n  ampoule metrics\n  \
    ampoule metrics --listen 127.0.0.1:9100")]
pub struct Args {
    /// Only this sandbox: a name, or the beginning of an id
    #[arg(long, value_name = "ID")]
    sandbox: Option<String>,
    /// Answer HTTP requests for /metrics at a Unix socket (unix:PATH) or a TCP address
    #[arg(long, value_name = "unix:PATH|ADDR:PORT")]
    listen: Option<Place>,
}

impl Args {
    /// Whether others ask, and it does not end by itself.
    pub fn serves(&self) -> bool {
        self.listen.is_some()
    }
}

/// Where requests come to.
#[derive(Debug, Clone)]
enum Place {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix:") {
            Some("") => Err("it has no path".into()),
            Some(path) => Ok(Self::Unix(path.into())),
            None => text.parse().map(Self::Tcp).map_err(|_| {
                "neither unix:PATH nor an address with a port, such as 127.0.0.1:9115".into()
            }),
        }
    }
}

/// Runs the verb.
pub fn run(args: Args, global: &Global) -> Result<ExitCode, Failure> {
    let registry = Registry::new(&global.places());
    let Args { sandbox, listen } = args;
    let tell = move || -> Result<String, RegistryError> {
        Ok(text::text(&look_at_all(&registry, sandbox.as_deref())?))
    };
    // The socket's file goes with it.
    let (listener, _file) = match listen {
        None => {
            io::stdout().write_all(tell()?.as_bytes())?;
            return Ok(ExitCode::SUCCESS);
        }
        Some(Place::Unix(path)) => {
            let (socket, file) = SocketFile::listen(&path, SockType::Stream)?;
            let listener = UnixListener::from(socket);
            listener.set_nonblocking(false)?;
            (Listener::Unix(listener), Some(file))
        }
        Some(Place::Tcp(address)) => (Listener::Tcp(TcpListener::bind(address)?), None),
    };
    serve(&listener, move || tell().map_err(|error| chain(&error)))?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        assert!(
            matches!("unix:/run/x.sock".parse(), Ok(Place::Unix(path)) if path == *"/run/x.sock")
        );
        assert!(matches!("[::1]:9115".parse(), Ok(Place::Tcp(_))));
        for text in ["unix:", "localhost", "9115", ""] {
            assert!(text.parse::<Place>().is_err(), "{text}");
        }
    }
}
