//! A container comes to a network, or leaves one, while it runs or while it does not.

use super::attach::store;
use super::error::AttachError;
use super::options::{Attachment, NetworkMode};
use crate::sandbox::error::SandboxError;
use crate::sandbox::keeper_socket::{Ask, ask};
use crate::sandbox::places::Places;
use crate::sandbox::registry::Entry;

/// Puts a container on one more network.
pub fn connect(entry: &Entry, attachment: Attachment) -> Result<(), SandboxError> {
    let mut record = entry.record()?;
    let name = entry.state.name.clone();
    let attachments = networks(&mut record.options.network.mode, &name)?;
    if attachments.iter().any(|other| other.network == attachment.network) {
        let network = attachment.network;
        return Err(AttachError::AlreadyOn { container: name, network }.into());
    }
    attachments.push(attachment.clone());
    if has_guest(entry) {
        ask(&entry.folder, Ask::Connect(attachment))?;
    }
    Ok(record.write(entry.folder.container())?)
}

/// Takes a container off a network; with `force` also where its keeper cannot do it.
pub fn disconnect(entry: &Entry, network: &str, force: bool) -> Result<(), SandboxError> {
    let mut record = entry.record()?;
    let name = entry.state.name.clone();
    let attachments = networks(&mut record.options.network.mode, &name)?;
    let before = attachments.len();
    attachments.retain(|attachment| attachment.network != network);
    if attachments.len() == before {
        let network = network.to_owned();
        return Err(AttachError::NotOn { container: name, network }.into());
    }
    if has_guest(entry) {
        match ask(&entry.folder, Ask::Disconnect(network.to_owned())) {
            Err(error) if !force => return Err(error),
            _ => {}
        }
    }
    Ok(record.write(entry.folder.container())?)
}

/// Has others on its networks know a container by another name.
pub fn rename(places: &Places, id: &str, name: &str) -> Result<(), SandboxError> {
    Ok(store(places)?.rename(id, name).map_err(AttachError::from)?)
}

/// Whether there is a guest to be changed.
fn has_guest(entry: &Entry) -> bool {
    // Its agent gives interfaces to processes that stand still just as well.
    entry.state.status.is_running()
}

fn networks<'a>(
    mode: &'a mut NetworkMode,
    container: &str,
) -> Result<&'a mut Vec<Attachment>, AttachError> {
    match mode {
        NetworkMode::Networks(attachments) => Ok(attachments),
        mode => {
            let (container, mode) = (container.to_owned(), mode.word());
            Err(AttachError::OtherMode { container, mode })
        }
    }
}
