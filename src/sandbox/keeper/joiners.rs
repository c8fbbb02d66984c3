//! The containers that share this one's sandbox: let in by its keeper, and put out when they have ended or
//! their own keepers are gone.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use super::super::about::Contained;
use super::super::container::{fresh_name, put_out};
use super::super::error::SandboxError;
use super::super::join::{self, Admitted, JoinError, Joining, Leaving, Plugged};
use super::super::keeper_socket::Asked;
use super::super::launch::Sandbox;
use super::super::options::Options;
use crate::monitor::channel::Channel;
use crate::report::chain;
use crate::vmm::config::DiskConfig;
use crate::vmm::rate::RateLimiter;

/// How long the agent may take to end a container whose keeper is gone: meanwhile this keeper does nothing else.
const PUTTING_OUT: Duration = Duration::from_secs(10);

/// See the module. Dropped, they learn that the sandbox has ended.
#[derive(Debug, Default)]
pub struct Joiners {
    all: Vec<Joiner>,
    /// Slots of disks that the guest may not have let go of: they are given to nobody any more.
    spoiled: Vec<u8>,
}

#[derive(Debug)]
struct Joiner {
    /// Open for as long as its keeper wants the place.
    channel: Channel,
    place: Place,
}

/// What a container has in the sandbox.
#[derive(Debug)]
struct Place {
    /// Its name in the guest.
    container: String,
    slots: Vec<u8>,
    /// What it writes goes to one of the disks.
    layer: bool,
}

/// What those who join are told of the container that they join.
#[derive(Debug)]
pub struct Host<'a> {
    /// What was asked of it.
    pub options: &'a Options,
    /// Its host name.
    pub hostname: &'a str,
    /// Pid of its first process in the guest.
    pub init: Option<i32>,
}

impl Joiners {
    /// Each is readable when its container is to be put out.
    pub fn channels(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.all.iter().map(|joiner| joiner.channel.as_fd())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether something that they write goes to disks.
    pub fn have_layers(&self) -> bool {
        self.all.iter().any(|joiner| joiner.place.layer)
    }

    /// Lets a container in, if there is room, and answers.
    pub fn admit(
        &mut self,
        mut asked: Asked,
        joining: &Joining,
        sandbox: &mut Sandbox,
        host: &Host<'_>,
    ) {
        let files = asked.files();
        match self.make_room(files, joining, sandbox, host) {
            Err(error) => asked.answer(Err::<(), _>(error)),
            Ok((place, admitted)) => match asked.admit(admitted) {
                Ok(channel) => self.all.push(Joiner { channel, place }),
                // It has gone meanwhile.
                Err(_) => self.clear(place, sandbox),
            },
        }
    }

    fn make_room(
        &mut self,
        files: Vec<File>,
        joining: &Joining,
        sandbox: &mut Sandbox,
        host: &Host<'_>,
    ) -> Result<(Place, Admitted), SandboxError> {
        let shape = host.options.shape();
        joining.size.fits(shape.memory_mib, shape.vcpus)?;
        let name = || sandbox.state.name.clone();
        let init = host.init.ok_or_else(|| JoinError::NoProcess(name()))?;
        let wanted = 1 + usize::from(joining.layer);
        if files.len() != wanted {
            return Err(JoinError::Disks(files.len()).into());
        }
        let free = self.free(shape.slots.disks, sandbox.state.layer);
        if free.len() < wanted {
            return Err(JoinError::NoSlot { container: name(), wanted, free: free.len() }.into());
        }
        let mut place =
            Place { container: fresh_name("join")?, slots: Vec::new(), layer: joining.layer };
        // Written down before it is there: whoever forks the guest sees it.
        sandbox.state.joined.push(Contained {
            id: joining.id.clone(),
            name: joining.name.clone(),
            guest: place.container.clone(),
        });
        match plug(files, &free, joining.rate, &mut place, sandbox) {
            Ok((image, layer)) => {
                let admitted = Admitted {
                    container: place.container.clone(),
                    init,
                    hostname: host.hostname.to_owned(),
                    files: join::files(host.options),
                    image,
                    layer,
                    memory_mib: shape.memory_mib,
                    vcpus: shape.vcpus,
                };
                Ok((place, admitted))
            }
            Err(error) => {
                self.clear(place, sandbox);
                Err(error)
            }
        }
    }

    /// Slots that nobody has: behind that of the image and, where there is one, that of the layer.
    fn free(&self, slots: u8, layer: bool) -> Vec<u8> {
        let taken = |slot: &u8| {
            self.spoiled.contains(slot)
                || self.all.iter().any(|joiner| joiner.place.slots.contains(slot))
        };
        (1 + u8::from(layer)..slots).filter(|slot| !taken(slot)).collect()
    }

    /// Puts the one out whose channel has something to say: that it goes, or that its keeper is gone.
    pub fn part(&mut self, index: usize, sandbox: &mut Sandbox) {
        if index >= self.all.len() {
            return;
        }
        let Joiner { channel, place } = self.all.swap_remove(index);
        let told = channel.receive::<Leaving>();
        self.clear(place, sandbox);
        if matches!(told, Ok(Some(Leaving::Leave))) {
            let _ = channel.send(&Leaving::Left);
        }
    }

    /// Ends a container, and takes its disks out.
    fn clear(&mut self, place: Place, sandbox: &mut Sandbox) {
        let Place { container, slots, .. } = place;
        let ended = put_out(&sandbox.machine.vsock(), &container, PUTTING_OUT);
        for slot in slots {
            let unplugged = sandbox.machine.guest.unplug_disk(slot);
            if ended.is_err() || unplugged.is_err() {
                // What the guest has not let go of is not to become another's file under its feet.
                self.spoiled.push(slot);
            }
            if let Err(error) = unplugged {
                log::warn!("{}", chain(&error));
            }
        }
        if let Err(error) = ended {
            log::warn!("{}", chain(&error));
        }
        sandbox.state.joined.retain(|joined| joined.guest != container);
        if let Err(error) = sandbox.write_state() {
            log::warn!("{}", chain(&error));
        }
    }
}

/// Plugs the disks of a container in: the image's, and the layer's where there is one.
fn plug(
    files: Vec<File>,
    free: &[u8],
    rate_limiter: RateLimiter,
    place: &mut Place,
    sandbox: &mut Sandbox,
) -> Result<(Plugged, Option<Plugged>), SandboxError> {
    sandbox.write_state()?;
    let mut plugged = Vec::with_capacity(2);
    for (mut file, slot) in files.into_iter().zip(free) {
        let serial = format!("disk{slot}");
        let disk = DiskConfig {
            read_only: plugged.is_empty(),
            serial: Some(serial.clone()),
            rate_limiter,
            ..DiskConfig::default()
        };
        let sectors = sandbox.machine.guest.plug_file(*slot, &mut file, &disk)?;
        place.slots.push(*slot);
        plugged.push(Plugged { serial, sectors });
    }
    let mut plugged = plugged.into_iter();
    let image = plugged.next().ok_or(JoinError::Disks(0))?;
    Ok((image, plugged.next()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(slots: &[u8]) -> Joiner {
        let (channel, _) = Channel::pair().unwrap();
        let place = Place { container: "join-1".into(), slots: slots.to_vec(), layer: false };
        Joiner { channel, place }
    }

    #[test]
    fn slots_are_those_that_nobody_has() {
        let mut joiners = Joiners::default();
        assert_eq!(joiners.free(4, true), [2, 3]);
        // Nothing is in the slot of a layer that there is none of.
        assert_eq!(joiners.free(4, false), [1, 2, 3]);
        assert_eq!(joiners.free(1, false), [0u8; 0]);
        joiners.all.push(with(&[1, 3]));
        assert_eq!(joiners.free(4, false), [2]);
        joiners.spoiled.push(2);
        assert_eq!(joiners.free(4, false), [0u8; 0]);
    }
}
