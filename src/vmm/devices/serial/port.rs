//! The port: vm-superio's 16550A, whose output is always kept and, when asked for, printed.

use std::fs::File;
use std::io::{self, Write};
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, FromRawFd};
use std::sync::{Arc, Mutex};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use vm_superio::serial::SerialEvents;
use vm_superio::{Serial, Trigger};
use vmm_sys_util::eventfd::EventFd;

use super::state::SerialState;
use crate::vmm::config::SerialMode;
use crate::vmm::console::{Event, Ring, Scanner};
use crate::vmm::exit::lock;

const FIRST: u16 = 0x3f8;
const REGISTERS: u16 = 8;

/// Interrupt enable register.
const IER: u8 = 1;
/// Line status register.
const LSR: u8 = 5;

/// Most bytes that wait to be printed.
const PENDING_MAX: usize = 1024;

/// Which of its registers `port` is, if any.
pub fn offset(port: u16) -> Option<u8> {
    let offset = port.checked_sub(FIRST).filter(|offset| *offset < REGISTERS)?;
    u8::try_from(offset).ok()
}

/// Readable while the port's output lives on after the machine.
#[derive(Debug, Clone)]
pub struct Console(Arc<Mutex<Ring>>);

impl Console {
    /// The last output of the guest, at most 64 KiB.
    pub fn tail(&self) -> String {
        lock(&self.0).text()
    }
}

/// The serial port.
///
/// Output is printed by the line. A part of a line is printed when the guest has nothing more to
/// send for now, as it shows by setting its interrupts, which is how Linux ends a message, or by
/// asking for the line's status twice with nothing sent between.
pub struct Port {
    uart: Serial<Line, Drained, Output>,
    asked: bool,
}

impl std::fmt::Debug for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Port").finish_non_exhaustive()
    }
}

impl Port {
    /// A port whose output also goes to standard output if `mode` says so, with its registers as
    /// `state` has them.
    ///
    /// # Errors
    /// The host has no eventfds, or the state holds more input than the port does.
    pub fn new(mode: SerialMode, state: &SerialState) -> io::Result<(Self, Console)> {
        let ring = Arc::new(Mutex::new(Ring::default()));
        let output = Output {
            ring: ring.clone(),
            scanner: Scanner::default(),
            said: None,
            stdout: (mode == SerialMode::Stdio).then(Stdout::new),
        };
        let drained = match mode {
            SerialMode::Off => None,
            SerialMode::Stdio => Some(EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?),
        };
        let line = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
        let uart = Serial::from_state(&state.into(), Line(line), Drained(drained), output)
            .map_err(|error| io::Error::other(format!("{error:?}")))?;
        Ok((Self { uart, asked: false }, Console(ring)))
    }

    /// Its registers.
    pub fn save(&self) -> SerialState {
        self.uart.state().into()
    }

    /// The eventfd that raises the port's interrupt.
    pub fn line(&self) -> &EventFd {
        &self.uart.interrupt_evt().0
    }

    /// A copy of the eventfd that is written when the guest has read all input.
    pub(super) fn drained(&self) -> io::Result<Option<EventFd>> {
        self.uart.events().0.as_ref().map(EventFd::try_clone).transpose()
    }

    /// The guest reads a register.
    pub fn read(&mut self, offset: u8) -> u8 {
        if offset == LSR {
            if self.asked {
                self.uart.writer_mut().print();
            }
            self.asked = true;
        }
        self.uart.read(offset)
    }

    /// The guest writes a register; tells what the line that this ends means.
    pub fn write(&mut self, offset: u8, value: u8) -> Option<Event> {
        self.asked = false;
        if let Err(error) = self.uart.write(offset, value) {
            log::debug!("serial port: {error:?}");
        }
        let output = self.uart.writer_mut();
        if offset == IER {
            output.print();
            // Linux's console puts a message out with all interrupts off.
            if value == 0 {
                output.scanner.begin_line();
            }
        }
        output.said.take()
    }

    /// Bytes that [`Port::give`] takes at once.
    pub(super) fn room(&self) -> usize {
        self.uart.fifo_capacity()
    }

    /// Gives the guest input, at most [`Port::room`] bytes.
    pub(super) fn give(&mut self, input: &[u8]) {
        if let Err(error) = self.uart.enqueue_raw_bytes(input) {
            log::debug!("serial port: {error:?}");
        }
    }
}

/// Raises the port's interrupt line.
struct Line(EventFd);

impl Trigger for Line {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// Tells the input side that there is room again.
struct Drained(Option<EventFd>);

impl SerialEvents for Drained {
    fn buffer_read(&self) {}
    fn out_byte(&self) {}
    fn tx_lost_byte(&self) {}
    fn in_buffer_empty(&self) {
        if let Some(event) = &self.0 {
            // A counter that would overflow is readable already.
            let _ = event.write(1);
        }
    }
}

/// Standard output by whole lines.
struct Stdout {
    file: ManuallyDrop<File>,
    pending: Vec<u8>,
    /// Nobody took what waits when this thread was last asked to do something else.
    stuck: bool,
}

impl Stdout {
    fn new() -> Self {
        // SAFETY: the descriptor is not closed, so that this is no other owner; on a process
        // without a standard output, writes fail.
        let file = ManuallyDrop::new(unsafe { File::from_raw_fd(libc::STDOUT_FILENO) });
        Self { file, pending: Vec::with_capacity(PENDING_MAX), stuck: false }
    }

    fn push(&mut self, byte: u8) {
        self.pending.push(byte);
        if byte == b'\n' || self.pending.len() >= PENDING_MAX {
            self.print();
        }
    }

    /// Prints what waits. What nobody can take is dropped; the ring has it.
    fn print(&mut self) {
        self.stuck = false;
        let mut printed = 0;
        while let Some(rest) = self.pending.get(printed..).filter(|rest| !rest.is_empty()) {
            match self.file.write(rest) {
                Ok(count) => printed += count,
                // The one signal that comes here ends or pauses the machine: after a pause, the
                // rest is printed with what comes next.
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {
                    self.stuck = true;
                    break;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    let mut fds = [PollFd::new(self.file.as_fd(), PollFlags::POLLOUT)];
                    if poll(&mut fds, PollTimeout::NONE).is_err() {
                        self.stuck = true;
                        break;
                    }
                }
                Err(_) => printed = self.pending.len(),
            }
        }
        self.pending.drain(..printed.min(self.pending.len()));
    }
}

struct Output {
    ring: Arc<Mutex<Ring>>,
    scanner: Scanner,
    said: Option<Event>,
    stdout: Option<Stdout>,
}

impl Output {
    fn print(&mut self) {
        if let Some(stdout) = &mut self.stdout {
            stdout.print();
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut ring = lock(&self.ring);
        for byte in bytes {
            ring.push(*byte);
            self.said = self.said.take().or(self.scanner.push(*byte));
        }
        drop(ring);
        if let Some(stdout) = &mut self.stdout {
            bytes.iter().for_each(|byte| stdout.push(*byte));
        }
        Ok(bytes.len())
    }

    /// The port asks for it after every byte: see [`Port`] for when it is done.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        // An end is not to wait for a reader that does not read.
        if self.stdout.as_ref().is_some_and(|stdout| !stdout.stuck) {
            self.print();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_ports_belong_to_it() {
        assert_eq!(offset(0x3f7), None);
        assert_eq!(offset(0x3f8), Some(0));
        assert_eq!(offset(0x3ff), Some(7));
        assert_eq!(offset(0x400), None);
    }

    #[test]
    fn input_raises_the_line_and_reading_all_tells() {
        let (mut port, _) = Port::new(SerialMode::Stdio, &SerialState::default()).unwrap();
        let drained = port.drained().unwrap().unwrap();
        port.write(1, 1);
        port.give(b"ab");
        assert_eq!(port.line().read().unwrap(), 1);
        assert_eq!(port.read(0), b'a');
        assert!(drained.read().is_err());
        assert_eq!(port.read(0), b'b');
        assert_eq!(drained.read().unwrap(), 1);
    }

    #[test]
    fn a_kernels_message_is_heard_behind_an_unended_line() {
        let (mut port, _) = Port::new(SerialMode::Off, &SerialState::default()).unwrap();
        let say = |text: &str, port: &mut Port| {
            text.bytes().fold(None, |said, byte| port.write(0, byte).or(said))
        };
        assert_eq!(say("$ ", &mut port), None);
        port.write(1, 0);
        assert_eq!(say("reboot: Power down\n", &mut port), Some(Event::PoweredOff));
    }

    #[test]
    fn output_that_waits_for_its_reader_outlives_a_pause() {
        use std::io::Read;
        use std::os::unix::thread::JoinHandleExt;

        // Installs the handler of the kick.
        let _ending = crate::vmm::exit::Ending::new().unwrap();
        let (reader, writer) = nix::unistd::pipe().unwrap();
        let mut reader = File::from(reader);
        let file = ManuallyDrop::new(File::from(writer));
        let full = nix::fcntl::fcntl(&*file, nix::fcntl::FcntlArg::F_GETPIPE_SZ).unwrap();
        let mut filler = vec![0; usize::try_from(full).unwrap()];
        (&*file).write_all(&filler).unwrap();

        let mut stdout = Stdout { file, pending: Vec::new(), stuck: false };
        let prints = std::thread::spawn(move || {
            b"a line\n".iter().for_each(|byte| stdout.push(*byte));
            stdout
        });
        while !prints.is_finished() {
            // SAFETY: the thread is not joined yet.
            unsafe { libc::pthread_kill(prints.as_pthread_t(), vmm_sys_util::signal::SIGRTMIN()) };
            std::thread::yield_now();
        }
        let mut stdout = prints.join().unwrap();
        assert!(stdout.stuck);
        reader.read_exact(&mut filler).unwrap();
        stdout.print();
        let mut line = [0; 7];
        reader.read_exact(&mut line).unwrap();
        assert_eq!(&line, b"a line\n");
        drop(ManuallyDrop::into_inner(stdout.file));
    }
}
