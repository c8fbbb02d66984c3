//! The thread that serves a device's queues: the host's file systems may take their time, and no
//! other device is to wait for them.
//!
//! It owns nothing. The queues are shared, under a lock that it takes for one request at a time: who
//! else has it knows that no request is being worked on. Whoever wants it is let in before the next
//! request.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, umask};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use super::metrics::FsMetrics;
use super::session::Session;
use super::source::Source;
use crate::vmm::devices::virtio::Interrupt;
use crate::vmm::devices::virtio::ring::{Ring, RingError};
use crate::vmm::exit::lock;
use crate::vmm::host::Host;

/// What there is between the driver's DRIVER_OK and its reset.
#[derive(Debug)]
pub struct Active {
    /// The queue of urgent messages, which is looked at first, and the queue of requests.
    pub rings: [Ring; 2],
    /// Guest memory.
    pub memory: GuestMemoryMmap,
    /// How the guest is interrupted.
    pub interrupt: Arc<Interrupt>,
    /// What the messages are about; none before the worker has come to it.
    pub session: Option<Session>,
}

impl Active {
    /// Whether the driver offers a request.
    fn offered(&self) -> Result<bool, RingError> {
        let mut any = false;
        for ring in &self.rings {
            any |= ring.offered()? > 0;
        }
        Ok(any)
    }

    /// Has the driver notify of its next request. `true` if there is one already.
    fn notify(&mut self) -> Result<bool, RingError> {
        let mut more = false;
        for ring in &mut self.rings {
            more |= ring.enable_notification()?;
        }
        Ok(more)
    }

    /// Whether the guest has mounted the file system.
    pub fn is_mounted(&self) -> bool {
        self.session.as_ref().is_some_and(Session::is_mounted)
    }

    /// Serves one request; tells whether there was one.
    fn serve_one(&mut self) -> Result<bool, RingError> {
        let Self { rings, memory, interrupt, session: Some(session) } = self else {
            return Ok(false);
        };
        for ring in rings.iter_mut() {
            if let Some(chain) = ring.pop()? {
                let head = chain.head_index();
                let written = session.serve(chain, memory);
                ring.push_used(head, written)?;
                // At once: who waits for this one need not wait for those behind it.
                ring.signal(interrupt)?;
                return Ok(true);
            }
        }
        Ok(false)
    }
}

#[derive(Debug, Default)]
struct State {
    active: Option<Active>,
    paused: bool,
    ended: bool,
}

/// What the device and its worker share.
#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Threads that want the lock while the worker goes from request to request.
    waiting: AtomicUsize,
    turn: Condvar,
    wake: EventFd,
    events: [EventFd; 2],
    source: Source,
    metrics: Arc<FsMetrics>,
}

/// The worker of a device; dropping it ends the thread after the request that it is at.
#[derive(Debug)]
pub struct Worker {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// A worker that will be notified of requests by `events`. Its thread is made now: when a driver
    /// comes, none may be made any more.
    pub fn new(
        events: [EventFd; 2],
        source: Source,
        host: &Host,
        metrics: Arc<FsMetrics>,
    ) -> io::Result<Self> {
        let wake = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
        let shared = Shared {
            state: Mutex::default(),
            waiting: AtomicUsize::new(0),
            turn: Condvar::new(),
            wake,
            events,
            source,
            metrics,
        };
        let shared = Arc::new(shared);
        let (its, host) = (Arc::clone(&shared), host.clone());
        // Fuzz targets serve on their own thread: what they do is to be the same each time.
        if cfg!(fuzzing) {
            return Ok(Self { shared, thread: None });
        }
        let thread = Builder::new().name("fs".into()).spawn(move || its.run(&host))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Lets it work on these queues.
    pub fn activate(&mut self, active: Active) -> io::Result<()> {
        self.with(|state| state.active = Some(active));
        // Requests that were there before DRIVER_OK were notified of to nobody.
        self.shared.wake.write(1)
    }

    /// Serves all that is offered, on the calling thread.
    #[cfg(fuzzing)]
    pub fn serve(&self) {
        static PREPARED: std::sync::Once = std::sync::Once::new();
        PREPARED.call_once(|| act_for_the_guest().expect("the right to act for others"));
        for event in self.shared.events.iter().chain([&self.shared.wake]) {
            let _ = event.read();
        }
        self.shared.work(&mut Patience { window: Duration::ZERO, most: Duration::ZERO });
    }

    /// The eventfd that an activation writes.
    #[cfg(fuzzing)]
    pub fn wake(&self) -> &EventFd {
        &self.shared.wake
    }

    /// Takes the queues away.
    pub fn deactivate(&self) {
        drop(self.with(|state| state.active.take()));
    }

    /// Has it work on nothing until [`Worker::resume`].
    pub fn pause(&self) {
        self.with(|state| state.paused = true);
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.with(|state| state.paused = false);
    }

    /// Looks at the queues, between two requests; none where no driver is at work.
    pub fn look<R>(&self, look: impl FnOnce(&Active) -> R) -> Option<R> {
        self.with(|state| state.active.as_ref().map(look))
    }

    fn with<R>(&self, act: impl FnOnce(&mut State) -> R) -> R {
        self.shared.waiting.fetch_add(1, Ordering::AcqRel);
        let mut state = lock(&self.shared.state);
        self.shared.waiting.fetch_sub(1, Ordering::AcqRel);
        let result = act(&mut state);
        drop(state);
        self.shared.turn.notify_all();
        result
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.with(|state| state.ended = true);
        // Refused only by an eventfd that is at its top, and so signalled.
        let _ = self.shared.wake.write(1);
        if let Some(thread) = self.thread.take() {
            // What a panicked thread has to say, it has said.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn run(&self, host: &Host) {
        let guard = PanicGuard(self);
        if let Err(error) = act_for_the_guest() {
            log::warn!("file system device: the guest's users cannot be acted for: {error}");
        }
        let mut patience = Patience::new();
        if let Err(error) = self.source.confine(host) {
            panic!("the thread of a file system cannot be confined: {error}");
        }
        loop {
            let since = Instant::now();
            if !guard.0.wait() {
                break;
            }
            patience.slept(since.elapsed());
            if !guard.0.work(&mut patience) {
                break;
            }
        }
    }

    /// Waits for a notification.
    fn wait(&self) -> bool {
        let [urgent, requests] = &self.events;
        let events = [urgent, requests, &self.wake];
        let mut fds = events.map(|event| PollFd::new(borrow(event), PollFlags::POLLIN));
        loop {
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) => break,
                Err(nix::Error::EINTR) => {}
                Err(error) => {
                    log::error!("file system device without notifications: {error}");
                    return false;
                }
            }
        }
        for event in events {
            // Nothing to read means that it was another one; the queues say what there is to do.
            let _ = event.read();
        }
        true
    }

    /// Serves requests until there are none. `false` if the device has gone.
    fn work(&self, patience: &mut Patience) -> bool {
        let mut state = lock(&self.state);
        loop {
            while !state.ended && (state.paused || self.waiting.load(Ordering::Acquire) > 0) {
                state = self.turn.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.ended {
                return false;
            }
            let Some(active) = state.active.as_mut() else {
                return true;
            };
            if active.session.is_none() {
                match self.source.session(&active.memory, &self.metrics) {
                    Ok(session) => active.session = Some(session),
                    // The driver would wait for ever.
                    Err(error) => panic!("cannot serve a file system: {error}"),
                }
            }
            match self.advance(active, patience) {
                Ok(true) => {}
                Ok(false) => return true,
                Err(error) => self.stop(&mut state, &error),
            }
        }
    }

    /// Serves one request, or waits for one as long as there is patience. `false`: the driver will
    /// notify of the next one.
    fn advance(&self, active: &mut Active, patience: &mut Patience) -> Result<bool, RingError> {
        if active.serve_one()? {
            return Ok(true);
        }
        let waited = patience.wait(|| {
            // Somebody who wants the lock is not to wait for the guest.
            Ok(active.offered()? || self.waiting.load(Ordering::Acquire) > 0)
        })?;
        Ok(waited || active.notify()?)
    }

    /// Stops after the driver broke a ring; only a reset helps.
    fn stop(&self, state: &mut State, error: &RingError) {
        // A driver that does it again and again must not fill the host's log.
        if self.metrics.stopped.add(1) == 0 {
            log::warn!("file system device stopped: {error:?}");
        }
        give_up(state);
    }
}

/// How long the next request is waited for with open eyes.
///
/// Between the requests of a program that does one thing after the other there is less time than it
/// takes to be notified and woken: an exit of the guest, and a thread's way onto a CPU. How long it
/// pays is learnt from how long it was slept, as KVM does it for halted CPUs: not at all at first,
/// longer while requests come shortly after the thread has gone to sleep, and not at all again after
/// it has slept longer than [`MOST`]. An idle guest costs nothing, and the last request of many [`MOST`]
/// at most; one that asks again and again within that time keeps up to one CPU of the host busy.
#[derive(Debug)]
struct Patience {
    window: Duration,
    most: Duration,
}

/// The longest wait, and the first.
const MOST: Duration = Duration::from_millis(1);
const LEAST: Duration = Duration::from_micros(10);

impl Patience {
    fn new() -> Self {
        // On an only CPU the guest could not go on meanwhile.
        let several = std::thread::available_parallelism().is_ok_and(|n| n.get() > 1);
        Self { window: Duration::ZERO, most: if several { MOST } else { Duration::ZERO } }
    }

    /// Learns from how long there was no request.
    fn slept(&mut self, time: Duration) {
        self.window = if time > self.most {
            Duration::ZERO
        } else {
            (self.window * 2).max(LEAST).min(self.most)
        };
    }

    /// Waits until `over`, if that is soon.
    fn wait<E>(&self, mut over: impl FnMut() -> Result<bool, E>) -> Result<bool, E> {
        if self.window.is_zero() {
            return Ok(false);
        }
        let begun = Instant::now();
        loop {
            if over()? {
                return Ok(true);
            }
            if begun.elapsed() >= self.window {
                return Ok(false);
            }
            std::hint::spin_loop();
        }
    }
}

fn give_up(state: &mut State) {
    let Some(Active { interrupt, .. }) = state.active.take() else {
        return;
    };
    if let Err(error) = interrupt.needs_reset() {
        log::debug!("file system device: interrupt not raised: {error}");
    }
}

/// Tells the guest if the thread panics: nobody would do its work.
struct PanicGuard<'a>(&'a Shared);

impl Drop for PanicGuard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            give_up(&mut lock(&self.0.state));
        }
    }
}

/// Has the calling thread alone make files with the modes that the guest asks for, for the guest's
/// users.
fn act_for_the_guest() -> io::Result<()> {
    // The mask is the process's otherwise.
    unshare(CloneFlags::CLONE_FS)?;
    umask(Mode::empty());
    // fuse-backend-rs makes files as the guest's user. What that user may do the guest's kernel has
    // decided, who knows the user's other groups and capabilities: the thread keeps its own.
    // SAFETY: no memory is involved.
    let kept = unsafe { libc::prctl(libc::PR_SET_SECUREBITS, libc::SECBIT_NO_SETUID_FIXUP) };
    if kept < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn borrow(event: &EventFd) -> BorrowedFd<'_> {
    // SAFETY: the descriptor is the event's, which is borrowed for as long.
    unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn over(answer: bool) -> impl FnMut() -> Result<bool, ()> {
        move || Ok(answer)
    }

    #[test]
    fn nothing_is_waited_for_until_requests_come_soon() {
        let mut patience = Patience { window: Duration::ZERO, most: MOST };
        // Not even looked at.
        assert_eq!(patience.wait(|| Err(())), Ok(false));
        patience.slept(Duration::from_secs(1));
        assert_eq!(patience.wait(|| Err(())), Ok(false));
        patience.slept(Duration::from_micros(50));
        assert_eq!(patience.window, LEAST);
        for _ in 0..10 {
            patience.slept(Duration::from_micros(50));
        }
        assert_eq!(patience.window, MOST);
        assert_eq!(patience.wait(over(true)), Ok(true));
        let begun = Instant::now();
        assert_eq!(patience.wait(over(false)), Ok(false));
        assert!(begun.elapsed() >= MOST);
        patience.slept(MOST * 2);
        assert!(patience.window.is_zero());
    }

    #[test]
    fn on_an_only_cpu_nothing_is_ever_waited_for() {
        let mut patience = Patience { window: Duration::ZERO, most: Duration::ZERO };
        patience.slept(Duration::ZERO);
        assert_eq!(patience.wait(|| Err(())), Ok(false));
    }
}
