//! A network namespace that is made before there is a container for it: in a template, once for all guests.
//!
//! The machine's first device is in it as `eth0`, and up: its driver has its buffers. It is silent, as nobody
//! has said yet who it is: it has no address of its own making either.

use std::fs::{self, File};
use std::sync::{Mutex, PoisonError};

use ampoule_protocol::message::Interface;
use nix::sched::{CloneFlags, setns, unshare};

use super::{Inside, device, open_netlink};
use crate::error::{Doing, Result};
use crate::{setup, thread};

/// Which device is in it.
pub const SLOT: u8 = 0;

/// What that is called there.
const NAME: &str = Interface::FIRST;

/// How an interface comes by the address that it needs to talk to its neighbours (`addr_gen_mode` of the
/// kernel's Documentation/networking/ip-sysctl.rst): out of its hardware address, or not at all.
const BY_HARDWARE: &str = "0";
const NONE: &str = "1";

/// The namespace, and what has become of it.
#[derive(Debug)]
pub struct Prepared(Mutex<State>);

#[derive(Debug)]
enum State {
    /// There is none.
    None,
    /// It is nobody's yet.
    Ready(File),
    /// It is this container's, which has not been told its addresses.
    Given(String),
}

impl Prepared {
    /// None.
    pub const fn new() -> Self {
        Self(Mutex::new(State::None))
    }

    /// Makes it, in a guest that has such a device.
    pub fn make(&self) -> Result<()> {
        let Ok(device) = device(SLOT) else { return Ok(()) };
        let outside = open_netlink()?;
        // It is the thread's alone, which ends: its file holds it.
        let namespace = thread::run("network", || -> Result<File> {
            unshare(CloneFlags::CLONE_NEWNET).doing(|| "make a network namespace")?;
            setup::loopback_up()?;
            let inside = Inside::open()?;
            inside.take(&outside, device, SLOT, NAME)?;
            set_generation(NONE)?;
            inside.bring_up(inside.index(NAME)?, NAME)?;
            Ok(inside.namespace)
        })
        .doing(|| "start a thread")??;
        *self.state() = State::Ready(namespace);
        Ok(())
    }

    /// Gives the device back, which somebody else wants.
    pub fn let_go(&self) -> Result<()> {
        let mut state = self.state();
        if let State::Ready(namespace) = &*state {
            thread::run("network", || {
                setns(namespace, CloneFlags::CLONE_NEWNET)
                    .doing(|| "join the network namespace")?;
                Inside::open()?.give_back(SLOT, NAME)
            })
            .doing(|| "start a thread")??;
            *state = State::None;
        }
        Ok(())
    }

    /// Gives it to a container, which is going to be told its addresses. Only one can have it.
    pub fn give_to(&self, container: &str) -> Option<File> {
        let mut state = self.state();
        match std::mem::replace(&mut *state, State::None) {
            State::Ready(namespace) => {
                *state = State::Given(container.to_owned());
                Some(namespace)
            }
            other => {
                *state = other;
                None
            }
        }
    }

    /// Whether this container has it, and has not been asked for before.
    pub fn is_new_in(&self, container: &str) -> bool {
        let mut state = self.state();
        let given = matches!(&*state, State::Given(to) if to == container);
        if given {
            *state = State::None;
        }
        given
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Has the interface, whose namespace the calling thread is in, speak for itself.
pub fn wake() -> Result<()> {
    set_generation(BY_HARDWARE)
}

/// Of the calling thread's namespace.
fn set_generation(mode: &str) -> Result<()> {
    let path = format!("/proc/sys/net/ipv6/conf/{NAME}/addr_gen_mode");
    match fs::write(&path, mode) {
        // A kernel that does not speak the newer protocol.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.doing(|| format!("set {path}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_container_has_it_and_is_set_up_once() {
        let prepared = Prepared::new();
        assert!(prepared.give_to("none").is_none());
        *prepared.state() = State::Ready(File::open("/proc/self/ns/net").unwrap());
        assert!(!prepared.is_new_in("a"));
        assert!(prepared.give_to("a").is_some() && prepared.give_to("b").is_none());
        assert!(!prepared.is_new_in("b"));
        assert!(prepared.is_new_in("a") && !prepared.is_new_in("a"));
    }
}
