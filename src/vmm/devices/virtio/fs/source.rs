//! What a device serves: the top of an export, or nothing in an empty slot.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use vm_memory::GuestMemoryMmap;

use super::budget::Budget;
use super::error::FsError;
use super::export;
use super::guard::Guard;
use super::metrics::FsMetrics;
use super::session::Session;
use crate::vmm::config::{Export, FsConfig};
use crate::vmm::host::{Host, Role};

/// See the module.
#[derive(Debug)]
pub struct Source {
    /// None in an empty slot.
    root: Option<Arc<OwnedFd>>,
    /// Its entries come and go.
    changing: bool,
}

impl Source {
    /// What a configuration names, opened here where it is not open yet.
    pub fn of(config: &FsConfig) -> Result<Self, FsError> {
        let root = match (config.opened.get(), &config.export) {
            (Some(root), _) => Some(Arc::clone(root)),
            (None, Some(export)) => Some(Arc::new(export::open(&config.tag, export)?)),
            (None, None) => None,
        };
        Ok(Self { root, changing: config.export == Some(Export::Given) })
    }

    /// Takes from the calling thread what it does not need to serve this.
    pub fn confine(&self, host: &Host) -> io::Result<()> {
        host.confine(if self.root.is_some() { Role::Shares } else { Role::Devices })
    }

    /// A session with a driver.
    pub fn session(
        &self,
        memory: &GuestMemoryMmap,
        metrics: &Arc<FsMetrics>,
    ) -> io::Result<Session> {
        let guard = match &self.root {
            Some(root) => {
                let budget = Budget::new()?;
                Some(Guard::new(Arc::clone(root), self.changing, budget, Arc::clone(metrics))?)
            }
            None => None,
        };
        Session::new(guard, memory, Arc::clone(metrics)).map_err(io::Error::other)
    }
}
