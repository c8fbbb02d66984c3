//! When a machine's vCPUs run, and how it ends: the first reason wins, every thread is told.

use std::marker::PhantomData;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::{io, ptr};

use kvm_ioctls::VcpuFd;
use vmm_sys_util::errno;
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

use crate::vmm::console::Event;
use crate::vmm::vcpu::VcpuError;

/// How a guest came to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// It switched itself off.
    PowerOff,
    /// It asked for a restart.
    Reset,
    /// Its kernel died.
    GuestPanic {
        /// the kernel's own words
        message: String,
    },
    /// It was stopped from outside.
    Stopped,
}

/// A machine that could not run on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// a vCPU
    #[error(transparent)]
    Vcpu(#[from] VcpuError),
    /// a processor of the guest gave up: a fault came up while it handled a fault that it could not
    /// handle (AMD APM volume 2, 15.14.3, "shutdown")
    #[error("the guest crashed: a triple fault on vCPU {vcpu}")]
    TripleFault {
        /// index of the vCPU
        vcpu: u8,
    },
    /// the device thread's event loop
    #[error("the device thread cannot wait for events")]
    Events(#[source] event_manager::Error),
    /// a thread has more rights than its work needs, and has not begun with it
    #[error("the {thread} thread cannot be confined")]
    Unconfined {
        /// which thread
        thread: &'static str,
        /// why not
        #[source]
        source: io::Error,
    },
    /// a defect of this program
    #[error("the {thread} thread panicked")]
    Panicked {
        /// which thread
        thread: &'static str,
    },
}

/// The end of one machine, shared by all its threads.
#[derive(Debug)]
pub struct Ending {
    outcome: Mutex<Option<Result<Exit, RunError>>>,
    panic: Mutex<Option<String>>,
    /// The guest's kernel has said that it restarts.
    restarting: AtomicBool,
    ended: AtomicBool,
    /// Whether the vCPUs are to rest, and whoever waits for them to go on.
    paused: Mutex<bool>,
    changed: Condvar,
    /// What a vCPU thread looks at between two exits: `ended` or `paused`.
    halted: AtomicBool,
    /// Written once and never read, so that everyone who polls it sees it.
    event: EventFd,
    vcpus: Mutex<Vec<Kick>>,
}

impl Ending {
    /// A machine that has not ended. Installs the handler of the signal that kicks vCPU threads.
    pub fn new() -> io::Result<Self> {
        install_kick()?;
        Ok(Self {
            outcome: Mutex::default(),
            panic: Mutex::default(),
            restarting: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            paused: Mutex::new(false),
            changed: Condvar::new(),
            halted: AtomicBool::new(false),
            event: EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?,
            vcpus: Mutex::default(),
        })
    }

    /// Ends the machine unless it has ended before.
    pub fn end(&self, outcome: Result<Exit, RunError>) {
        lock(&self.outcome).get_or_insert(outcome);
        self.ended.store(true, Ordering::SeqCst);
        // Its counter cannot overflow from a write per reason.
        let _ = self.event.write(1);
        let paused = lock(&self.paused);
        self.halted.store(true, Ordering::SeqCst);
        self.changed.notify_all();
        drop(paused);
        self.kick();
    }

    /// Has every vCPU thread leave KVM_RUN and come to [`Ending::may_run`].
    pub fn pause(&self) {
        let mut paused = lock(&self.paused);
        *paused = true;
        self.halted.store(true, Ordering::SeqCst);
        drop(paused);
        self.kick();
    }

    /// Lets the vCPU threads go on.
    pub fn resume(&self) {
        let mut paused = lock(&self.paused);
        *paused = false;
        // An end stays an end.
        self.halted.store(self.ended(), Ordering::SeqCst);
        self.changed.notify_all();
    }

    /// Waits while the machine is paused; whether it goes on then, rather than having ended.
    pub fn may_run(&self) -> bool {
        let mut paused = lock(&self.paused);
        while *paused && !self.ended() {
            paused = self.changed.wait(paused).unwrap_or_else(PoisonError::into_inner);
        }
        !self.ended()
    }

    /// Whether a vCPU thread is to leave its loop: the machine is paused or has ended.
    pub fn halted(&self) -> bool {
        self.halted.load(Ordering::SeqCst)
    }

    fn kick(&self) {
        for vcpu in lock(&self.vcpus).iter() {
            vcpu.kick();
        }
    }

    /// The guest restarts: which is also the last thing that a kernel does that has died.
    pub fn reset(&self) {
        let exit = match lock(&self.panic).take() {
            Some(message) => Exit::GuestPanic { message },
            None => Exit::Reset,
        };
        self.end(Ok(exit));
    }

    /// The guest's processor gave up. That is a reset where the guest's kernel has announced one,
    /// or has died: it is the last of the ways in which Linux restarts a PC (`reboot=t`).
    pub fn triple_fault(&self, vcpu: u8) {
        if lock(&self.panic).is_some() || self.restarting.load(Ordering::SeqCst) {
            return self.reset();
        }
        self.end(Err(RunError::TripleFault { vcpu }));
    }

    /// The guest said something of meaning on its serial port.
    pub fn guest_said(&self, event: Event) {
        match event {
            Event::PoweredOff => self.end(Ok(Exit::PowerOff)),
            Event::Restarting => self.restarting.store(true, Ordering::SeqCst),
            Event::Panicked(message) => {
                lock(&self.panic).get_or_insert(message);
            }
            Event::PanicEnded => self.reset(),
        }
    }

    /// Whether the machine has ended.
    pub fn ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    /// Readable for good as soon as the machine has ended.
    pub fn event(&self) -> RawFd {
        self.event.as_raw_fd()
    }

    /// Takes the outcome; there is none before the end.
    pub fn take_outcome(&self) -> Option<Result<Exit, RunError>> {
        lock(&self.outcome).take()
    }

    /// Makes the calling thread, which runs `fd`, leave KVM_RUN when the machine is paused or ends.
    /// To be called before [`Ending::may_run`] is first asked: what comes later kicks, what came
    /// before is seen.
    pub fn enroll<'a>(&'a self, fd: &mut VcpuFd) -> Enrolled<'a> {
        // SAFETY: the fields of the mapped kvm_run are plain memory; no reference is made.
        let immediate_exit = unsafe { &raw mut (*ptr::from_mut(fd.get_kvm_run())).immediate_exit };
        // SAFETY: pthread_self has no preconditions.
        let thread = unsafe { libc::pthread_self() };
        let immediate_exit = immediate_exit.cast();
        lock(&self.vcpus).push(Kick { thread, immediate_exit });
        Enrolled { ending: self, thread, immediate_exit, not_send: PhantomData }
    }
}

/// A vCPU thread that can be kicked for as long as this lives; drop it before the `VcpuFd`.
#[derive(Debug)]
pub struct Enrolled<'a> {
    ending: &'a Ending,
    thread: libc::pthread_t,
    immediate_exit: *const AtomicU8,
    not_send: PhantomData<*const ()>,
}

impl Enrolled<'_> {
    /// Whether KVM_RUN is to come back without running the guest: as a kick has it until this says
    /// otherwise. Look at [`Ending::halted`] after taking it back: a kick may have come before.
    pub fn set_immediate_exit(&self, on: bool) {
        // SAFETY: points into the mapping of the VcpuFd, which outlives this (see the type).
        unsafe { (*self.immediate_exit).store(on.into(), Ordering::SeqCst) }
    }
}

impl Drop for Enrolled<'_> {
    fn drop(&mut self) {
        lock(&self.ending.vcpus).retain(|vcpu| vcpu.thread != self.thread);
    }
}

#[derive(Debug)]
struct Kick {
    thread: libc::pthread_t,
    /// `immediate_exit` in the vCPU's mapped `kvm_run`.
    immediate_exit: *const AtomicU8,
}

// SAFETY: the pointer is only used for atomic stores, and only while the vCPU's thread, which owns
// the mapping, is enrolled.
unsafe impl Send for Kick {}

impl Kick {
    fn kick(&self) {
        // SAFETY: `Enrolled` removes this entry, under the lock that the caller holds, before the
        // mapping and the thread go.
        unsafe {
            (*self.immediate_exit).store(1, Ordering::SeqCst);
            libc::pthread_kill(self.thread, SIGRTMIN());
        }
    }
}

extern "C" fn interrupt(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

/// Installs, once in a process, the handler of the signal that makes a vCPU thread leave a system
/// call. It does nothing: that it is delivered is enough.
fn install_kick() -> Result<(), errno::Error> {
    static INSTALLED: OnceLock<Result<(), errno::Error>> = OnceLock::new();
    *INSTALLED.get_or_init(|| register_signal_handler(SIGRTMIN(), interrupt))
}

/// Locks a mutex; one that a panicking thread left behind too, since that panic ends the machine
/// and what is locked afterwards only serves to tear it down.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_wins() {
        let ending = Ending::new().unwrap();
        assert!(!ending.ended());
        ending.end(Ok(Exit::PowerOff));
        ending.end(Ok(Exit::Stopped));
        assert!(ending.ended());
        assert!(matches!(ending.take_outcome(), Some(Ok(Exit::PowerOff))));
    }

    #[test]
    fn a_pause_holds_until_it_is_over_or_the_machine_ends() {
        for end in [false, true] {
            let ending = Ending::new().unwrap();
            ending.pause();
            assert!(ending.halted());
            std::thread::scope(|scope| {
                let waits = scope.spawn(|| ending.may_run());
                if end {
                    ending.end(Ok(Exit::Stopped))
                } else {
                    ending.resume()
                }
                assert_eq!(waits.join().unwrap(), !end);
            });
            assert_eq!(ending.halted(), end);
        }
    }

    #[test]
    fn a_triple_fault_is_a_failure_unless_a_restart_was_announced() {
        let after = |event: Option<Event>| {
            let ending = Ending::new().unwrap();
            if let Some(event) = event {
                ending.guest_said(event);
            }
            ending.triple_fault(2);
            ending.take_outcome().unwrap()
        };
        assert!(matches!(after(None), Err(RunError::TripleFault { vcpu: 2 })));
        assert!(matches!(after(Some(Event::Restarting)), Ok(Exit::Reset)));
        let died = after(Some(Event::Panicked("why".into())));
        assert!(matches!(died, Ok(Exit::GuestPanic { .. })));
    }

    #[test]
    fn a_reset_after_a_panic_is_the_panics_end() {
        for last in [None, Some(Event::PanicEnded)] {
            let ending = Ending::new().unwrap();
            ending.guest_said(Event::Panicked("first".into()));
            ending.guest_said(Event::Panicked("second".into()));
            assert!(!ending.ended());
            match last {
                Some(event) => ending.guest_said(event),
                None => ending.reset(),
            }
            let Some(Ok(exit)) = ending.take_outcome() else { panic!("ended") };
            assert_eq!(exit, Exit::GuestPanic { message: "first".into() });
        }
    }
}
