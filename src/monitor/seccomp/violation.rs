//! A system call that a thread may not make. The kernel does not carry it out, and has the thread run a
//! handler instead, which tells the keeper what it was and ends the process.
//!
//! Whoever has taken over a thread cannot do without it: the handler cannot be exchanged, no list has
//! rt_sigaction, and a thread that blocks the signal is killed by it.

use std::cell::Cell;
use std::io::{self, Write};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use crate::monitor::spawn::CONTROL;
use crate::vmm::host::Role;

/// Exit status of a monitor that has made a forbidden call: 128 and the number of SIGSYS, as a shell
/// tells of who is killed by it.
pub const STATUS: i32 = 128 + libc::SIGSYS;

thread_local! {
    /// The calling thread's, once it is confined. Without a destructor: reading it in a signal's handler
    /// is reading memory.
    static ROLE: Cell<Option<Role>> = const { Cell::new(None) };
}

/// Remembers what the calling thread does.
pub fn know(role: Role) {
    ROLE.set(Some(role));
}

/// Has violations told from here on.
pub fn install() -> io::Result<()> {
    let handler = SigHandler::SigAction(tell);
    let action = SigAction::new(handler, SaFlags::SA_SIGINFO, SigSet::empty());
    // SAFETY: the handler makes system calls alone, and touches nothing but its thread's own memory.
    unsafe { sigaction(Signal::SIGSYS, &action) }?;
    Ok(())
}

extern "C" fn tell(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel gives a whole siginfo to a handler with SA_SIGINFO.
    let call = unsafe { call(info) };
    let mut message = [0u8; 96];
    let role = name(ROLE.get());
    let mut rest = &mut message[..];
    // No allocation: a number and fixed words. There is room for all of them.
    let _ = write!(rest, r#"{{"event":"violation","syscall":{call},"thread":"{role}"}}"#);
    let left = rest.len();
    let len = message.len() - left;
    // SAFETY: the bytes are there; a control socket that is gone is nobody to tell.
    unsafe {
        libc::write(CONTROL, message.as_ptr().cast(), len);
        libc::_exit(STATUS);
    }
}

/// `si_syscall`, which libc's `siginfo_t` does not name.
///
/// # Safety
/// `info` is of a SIGSYS, and whole.
unsafe fn call(info: *const libc::siginfo_t) -> i32 {
    // Three ints, padding, the address of the call, its number (sigaction(2), "si_syscall").
    const AT: usize = 24;
    // SAFETY: within the structure, which has 128 bytes; all of them are plain data.
    unsafe { info.cast::<u8>().add(AT).cast::<i32>().read() }
}

/// What the keeper reads of a thread.
pub fn name(role: Option<Role>) -> &'static str {
    match role {
        Some(Role::Control) => "control",
        Some(Role::Vcpu) => "vcpu",
        Some(Role::Devices) => "devices",
        Some(Role::Shares) => "shares",
        None => "start",
    }
}

/// The name of a call, for people.
pub fn describe(syscall: i32, thread: &str) -> String {
    let number = usize::try_from(syscall).ok();
    let name = number.and_then(syscalls::Sysno::new).map_or("unknown", |call| call.name());
    format!("{KILLED} the {thread} thread made the forbidden system call {name} ({syscall})")
}

/// The beginning of what is told.
const KILLED: &str = "its monitor was killed:";

/// Whether that is what somebody was told.
pub fn is_described(text: &str) -> bool {
    text.contains(KILLED)
}
