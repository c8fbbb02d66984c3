//! A namespace whose interfaces are a guest's.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use ampoule_protocol::message;
use rtnetlink::Handle;

use super::apply::{self, Made};
use super::error::NetworkError;
use super::inside::{self, check, inside};
use super::{plan, read};

/// An interface that was joined.
#[derive(Debug)]
pub struct Interface {
    /// What the guest is told of it.
    pub guest: message::Interface,
    /// What is plugged into [`message::Interface::slot`] of its machine.
    pub tap: File,
}

/// A namespace whose interfaces were joined. Dropped, all is undone.
#[derive(Debug)]
pub struct Joined {
    namespace: OwnedFd,
    /// By the index of the interface: its slot, and what was made.
    made: BTreeMap<u32, (u8, Made)>,
    left_out: Vec<String>,
}

/// Joins all interfaces that are in use in a namespace now.
///
/// # Errors
/// It is the host's, or one of them cannot be joined: then none is.
pub fn join(namespace: BorrowedFd<'_>) -> Result<(Joined, Vec<Interface>), NetworkError> {
    let mut joined = Joined::to(namespace)?;
    let interfaces = joined.rescan()?;
    Ok((joined, interfaces))
}

impl Joined {
    /// A namespace none of whose interfaces is joined yet.
    ///
    /// # Errors
    /// It is the host's, or none.
    pub fn to(namespace: BorrowedFd<'_>) -> Result<Self, NetworkError> {
        check(namespace)?;
        let namespace = namespace
            .try_clone_to_owned()
            .map_err(NetworkError::namespace("keep a descriptor of"))?;
        Ok(Self { namespace, made: BTreeMap::new(), left_out: Vec::new() })
    }

    /// Joins those that have come since: all of them, or none.
    pub fn rescan(&mut self) -> Result<Vec<Interface>, NetworkError> {
        let slots = self.made.iter().map(|(index, (slot, _))| (*index, *slot)).collect();
        let (new, left_out) =
            inside(self.namespace.as_fd(), async |handle| add(&handle, &slots).await)?;
        self.left_out = left_out;
        let mut interfaces = Vec::new();
        for (made, interface) in new {
            self.made.insert(made.interface, (interface.guest.slot, made));
            interfaces.push(interface);
        }
        Ok(interfaces)
    }

    /// Interfaces in use that the guest does not get, each with the reason.
    pub fn left_out(&self) -> &[String] {
        &self.left_out
    }

    /// Undoes everything. The guest is gone, or is not to have its network any more.
    pub fn leave(mut self) -> Result<(), NetworkError> {
        self.undo()
    }

    fn undo(&mut self) -> Result<(), NetworkError> {
        let made = std::mem::take(&mut self.made);
        if made.is_empty() {
            return Ok(());
        }
        inside(self.namespace.as_fd(), async |handle| {
            let mut result = Ok(());
            for (_, made) in made.into_values() {
                result = result.and(apply::leave(&handle, made).await);
            }
            result
        })
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        let _ = self.undo();
    }
}

type Added = (Vec<(Made, Interface)>, Vec<String>);

async fn add(handle: &Handle, joined: &BTreeMap<u32, u8>) -> Result<Added, NetworkError> {
    let plan = plan::plan(&read::read(handle).await?, joined)?;
    let mut all: Vec<(Made, Interface)> = Vec::new();
    for joining in plan.joining {
        match apply::join(handle, &joining).await {
            Ok((made, tap)) => all.push((made, Interface { guest: joining.interface, tap })),
            Err(error) => {
                // The first error is the one to tell.
                for (made, _) in all {
                    let _ = apply::leave(handle, made).await;
                }
                return Err(error);
            }
        }
    }
    Ok((all, plan.left_out))
}

/// Undoes what a killed keeper has left in a namespace: what has a tap of ours that nobody has open. A
/// monitor that was killed with it may take a moment to let go, for which this has `patience`.
pub fn clear(namespace: BorrowedFd<'_>, patience: Duration) -> Result<(), NetworkError> {
    check(namespace)?;
    inside(namespace, async |handle| {
        // What cannot be waited for is not.
        let _ = tokio::time::timeout(patience, inside::until_let_go(&handle)).await;
        let mut result = Ok(());
        for (tap, interface) in plan::left_behind(&read::read(&handle).await?) {
            result = result.and(apply::leave(&handle, Made { interface, tap }).await);
        }
        result
    })
}
