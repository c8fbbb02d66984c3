//! Clears away what killed keepers have left, and sets aside what cannot be trusted.

use std::fs;

use jiff::Timestamp;
use nix::fcntl::FlockArg;

use super::super::mounts;
use super::super::state::{State, StateError, Status};
use super::error::file;
use super::{Registry, RegistryError, is_id, make_folder, remove_tree};
use crate::monitor::group;

/// A container whose state cannot be trusted.
#[derive(Debug)]
pub struct Damaged {
    /// Its id.
    pub id: String,
    /// What is wrong with it.
    pub error: StateError,
}

impl Registry {
    /// Clears away what killed keepers have left: folders, names, containers that were to go with their
    /// end. A container whose state is damaged is moved to [`super::Places::damaged`].
    pub fn sweep(&self) -> Result<(), RegistryError> {
        let Ok(_clearing) = self.lock_all(FlockArg::LockExclusive) else {
            return Ok(());
        };
        group::sweep();
        for folder in self.run_folders()? {
            if !folder.is_kept() {
                remove_tree(&folder.path)?;
            }
        }
        for id in self.ids()? {
            self.sweep_container(&id)?;
        }
        let containers = self.places.containers();
        self.unlink(|_, owner| !is_id(owner) || !containers.join(owner).exists())
    }

    fn sweep_container(&self, id: &str) -> Result<(), RegistryError> {
        let folder = self.folder(id);
        if folder.is_kept() {
            return Ok(());
        }
        match State::read(&folder.state()) {
            Ok(state) if state.keeper.is_none() => Ok(()),
            Ok(state) if state.remove => {
                self.forget(&folder, id)?;
                mounts::remove_own(self, &state.mounts);
                Ok(())
            }
            Ok(state) if state.status == Status::Exited => Ok(()),
            Ok(state) => Ok(killed(state).write(&folder.state())?),
            // Its keeper was killed before it was written: there was nothing yet.
            Err(error) if error.is_missing() => self.forget(&folder, id),
            Err(error) if error.is_worthless() => {
                let aside = self.places.damaged();
                make_folder(&aside)?;
                let target = aside.join(id);
                remove_tree(&target)?;
                fs::rename(&folder.record, &target).map_err(file("move", &folder.record))
            }
            // Another version's, or one that could not be read now.
            Err(_) => Ok(()),
        }
    }
}

/// The state of a container whose keeper was killed.
pub(super) fn killed(mut state: State) -> State {
    state.status = Status::Exited;
    state.exit_code = Some(137);
    state.finished = Some(Timestamp::now());
    state.error = Some("its keeper was killed".into());
    // Those who shared its sandbox have ended with it, or it with the one that it shared.
    state.joined.clear();
    state.guest = None;
    state
}
