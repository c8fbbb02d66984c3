//! The name server of networks: names of their containers; all else is asked of others.
//!
//! * [`answer`](mod@answer): what is answered; pure
//! * [`bounds`]: what one client may take of it; pure
//! * `serve`: sockets

pub mod answer;
pub mod bounds;
mod serve;
#[cfg(test)]
mod tests;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::oneshot;
use tokio::task::LocalSet;

pub use answer::{Answer, Transport, answer};

/// What is known of names on a network.
pub trait Names {
    /// Addresses of the container that has this name, in lower case and without a dot at the end; none
    /// where no container has it.
    fn addresses(&self, name: &str) -> Option<Vec<IpAddr>>;
    /// Name of the container that has this address.
    fn name_of(&self, address: IpAddr) -> Option<String>;
    /// Who is asked for all else that this client asks for.
    fn upstreams(&self, client: IpAddr) -> Vec<SocketAddr>;
}

/// A name server. It answers for as long as this lives.
#[derive(Debug)]
pub struct DnsServer {
    /// Whose end ends the thread.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl DnsServer {
    /// Answers at port 53 of these addresses, which the caller's network namespace has. Others may do so,
    /// too, for the same names.
    pub fn start(
        gateways: &[IpAddr],
        names: Arc<dyn Names + Send + Sync>,
    ) -> io::Result<DnsServer> {
        let sockets: io::Result<Vec<_>> =
            gateways.iter().map(|gateway| serve::Sockets::open((*gateway, 53).into())).collect();
        let sockets = sockets?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let work = move || {
            // Its tasks end with it.
            let tasks = LocalSet::new();
            tasks.block_on(&runtime, async {
                match serve::serve(sockets, names) {
                    Ok(()) => drop(stopped.await),
                    Err(error) => log::warn!("no names are answered: {error}"),
                }
            });
        };
        let thread = std::thread::Builder::new().name("dns".into()).spawn(work)?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
