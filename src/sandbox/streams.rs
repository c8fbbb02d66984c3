//! Carries a process's stdio between the guest and the caller's descriptors (or a log), byte for
//! byte: one thread per stream, which ends with its stream.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use ampoule_protocol::message::Stdio;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::log::LogStream;
use super::outlet::{Attachment, Outlet};
use crate::agent::{self, ConnectError};
use crate::detach_keys::{DetachKeys, Matcher};

/// Bytes moved at a time.
const CHUNK: usize = 64 << 10;

/// Stack of a carrying thread: its chunk is on the heap.
const STACK: usize = 64 << 10;

/// Why streams could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// no connection to the guest
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// a descriptor or thread could not be had
    #[error("cannot set up the container's input and output")]
    Io(#[from] io::Error),
}

/// What a process's streams are tied to on the host.
#[derive(Debug, Clone)]
pub enum Ends {
    /// This process's own standard input, output and error.
    Own {
        /// Whether standard input is carried too.
        stdin: bool,
        /// Keys that are not passed on and let go of the process.
        keys: Option<DetachKeys>,
        /// What else hears the output.
        outlet: Option<Arc<Outlet>>,
    },
    /// A log, and whoever is attached.
    Kept(Arc<Outlet>),
    /// Files of the caller's.
    Files(Files),
}

/// Files that a process's streams are tied to; what is absent the process has as `/dev/null`.
#[derive(Debug, Clone, Default)]
pub struct Files {
    /// Whether it has an input, also a terminal's: [`Streams::take_input`] is to be fed.
    pub stdin: bool,
    /// Its output, also a terminal's.
    pub stdout: Option<Arc<OwnedFd>>,
    /// Its errors.
    pub stderr: Option<Arc<OwnedFd>>,
}

impl Ends {
    /// The caller's own streams, and nothing else.
    pub fn own(stdin: bool) -> Self {
        Self::Own { stdin, keys: None, outlet: None }
    }

    /// The same, with keys that let go of the process where its terminal is typed to.
    pub fn typed(stdin: bool, keys: Option<DetachKeys>) -> Self {
        Self::Own { stdin, keys: keys.filter(|_| stdin), outlet: None }
    }

    /// What hears the output beside the caller.
    pub fn outlet(&self) -> Option<&Arc<Outlet>> {
        match self {
            Self::Own { outlet, .. } => outlet.as_ref(),
            Self::Kept(outlet) => Some(outlet),
            Self::Files(_) => None,
        }
    }

    /// Whether input is fed later ([`Streams::take_input`]).
    fn is_fed_later(&self) -> bool {
        match self {
            Self::Own { .. } => false,
            Self::Kept(outlet) => outlet.stdin,
            Self::Files(files) => files.stdin,
        }
    }

    /// Whether each of input, output and errors is carried.
    fn carried(&self) -> [bool; 3] {
        match self {
            Self::Own { stdin, .. } => [*stdin, true, true],
            Self::Kept(outlet) => [outlet.stdin, true, true],
            Self::Files(files) => [files.stdin, files.stdout.is_some(), files.stderr.is_some()],
        }
    }

    /// Where input comes from.
    fn input(&self) -> io::Result<Option<Patient>> {
        match self {
            Self::Own { stdin: true, .. } => own(io::stdin().as_fd()).map(Some),
            Self::Own { stdin: false, .. } | Self::Kept(_) | Self::Files(_) => Ok(None),
        }
    }

    fn keys(&self) -> Option<&DetachKeys> {
        match self {
            Self::Own { keys, .. } => keys.as_ref(),
            Self::Kept(_) | Self::Files(_) => None,
        }
    }

    /// Where output goes.
    fn output(&self, which: LogStream) -> io::Result<Box<dyn Write + Send>> {
        Ok(match (self, which) {
            (Self::Own { outlet, .. }, which) => {
                let own: Box<dyn Write + Send> = match which {
                    LogStream::Stdout => Box::new(own(io::stdout().as_fd())?),
                    LogStream::Stderr => Box::new(own(io::stderr().as_fd())?),
                };
                match outlet {
                    Some(outlet) => Box::new(outlet.writer(which, Some(own))),
                    None => own,
                }
            }
            (Self::Kept(outlet), which) => Box::new(outlet.writer(which, None)),
            (Self::Files(files), which) => {
                let file = match which {
                    LogStream::Stdout => &files.stdout,
                    LogStream::Stderr => &files.stderr,
                };
                match file {
                    Some(file) => Box::new(own(file.as_fd())?),
                    None => Box::new(io::sink()),
                }
            }
        })
    }
}

/// The streams of one process under way.
#[derive(Debug)]
pub struct Streams {
    /// Reads as closed when every output has ended.
    outputs: OwnedFd,
    failure: Arc<Mutex<Option<io::Error>>>,
    /// Readable when the keys were typed that let go of the process.
    let_go: Option<Arc<EventFd>>,
    /// One that nobody feeds yet.
    input: Option<Input>,
    /// All connections, until it is known that there is a process behind them.
    unsettled: Vec<UnixStream>,
}

/// The way to a process's input, which is fed later: whoever writes to it may have to be told first that
/// the process is there. Dropping it closes the input.
#[derive(Debug)]
pub struct Input(UnixStream);

impl Input {
    /// Feeds it to the end of `from`.
    pub fn feed(self, from: OwnedFd) -> io::Result<()> {
        carry_input(Patient(from.into()), self.0, None)
    }

    /// The same way once more.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// Feeds it with `from`, whose end is not the input's: others may feed it, too.
    pub fn share(self, from: OwnedFd) -> io::Result<()> {
        let (mut from, mut to) = (Patient(from.into()), self.0);
        thread::Builder::new().name("input".into()).stack_size(STACK).spawn(move || {
            // Whichever side ended it: there is nobody to tell.
            let _ = copy_until_closed(&mut from, &mut to, None);
        })?;
        Ok(())
    }
}

/// Held by every output's thread: the last to go closes the pipe.
type Open = Arc<OwnedFd>;

impl Streams {
    /// Names for the streams of process `process`, as a request carries them.
    pub fn names(process: &str, ends: &Ends, terminal: bool) -> Stdio {
        let name = |stream: &str| Some(format!("{process}-{stream}"));
        if terminal {
            return Stdio { terminal: name("terminal"), ..Stdio::default() };
        }
        let [stdin, stdout, stderr] = ends.carried();
        Stdio {
            stdin: stdin.then(|| name("stdin")).flatten(),
            stdout: stdout.then(|| name("stdout")).flatten(),
            stderr: stderr.then(|| name("stderr")).flatten(),
            terminal: None,
        }
    }

    /// Connects the named streams to the guest behind `vsock` and starts to carry them.
    pub fn attach(vsock: &Path, names: &Stdio, ends: &Ends) -> Result<Self, StreamError> {
        let (mut streams, open) = Self::new()?;
        let later = ends.is_fed_later();
        if let Some(name) = &names.stdout {
            let from = streams.connect(vsock, name)?;
            streams.carry_output(from, ends, LogStream::Stdout, &open)?;
        }
        if let Some(name) = &names.stderr {
            let from = streams.connect(vsock, name)?;
            streams.carry_output(from, ends, LogStream::Stderr, &open)?;
        }
        if let Some(name) = &names.stdin {
            let to = streams.connect(vsock, name)?;
            match ends.input()? {
                Some(from) => streams.carry_own(from, to, ends)?,
                None => streams.input = later.then_some(Input(to)),
            }
        }
        if let Some(name) = &names.terminal {
            let both = streams.connect(vsock, name)?;
            match ends.input()? {
                Some(from) => streams.carry_own(from, both.try_clone()?, ends)?,
                None if later => streams.input = Some(Input(both.try_clone()?)),
                None => {}
            }
            streams.carry_output(both, ends, LogStream::Stdout, &open)?;
        }
        Ok(streams)
    }

    /// Streams that somebody else has connected, who carries them between these sockets and the guest.
    pub fn over(near: Attachment, ends: &Ends) -> Result<Self, StreamError> {
        let (mut streams, open) = Self::new()?;
        streams.carry_output(near.stdout, ends, LogStream::Stdout, &open)?;
        streams.carry_output(near.stderr, ends, LogStream::Stderr, &open)?;
        if let (Some(to), Some(from)) = (near.stdin, ends.input()?) {
            streams.carry_own(from, to, ends)?;
        }
        Ok(streams)
    }

    fn new() -> Result<(Self, Open), StreamError> {
        let (outputs, open) =
            nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(io::Error::from)?;
        let (input, let_go, unsettled) = (None, None, Vec::new());
        let streams = Self { outputs, failure: Arc::default(), let_go, input, unsettled };
        Ok((streams, Arc::new(open)))
    }

    /// What `asked` says of the process that these are for: where there is none, nobody will ever take the
    /// connections up, and those who carry them are told so.
    pub fn settle<T, E>(&mut self, asked: Result<T, E>) -> Result<T, E> {
        for socket in std::mem::take(&mut self.unsettled) {
            if asked.is_err() {
                // Fails only where the guest was faster.
                let _ = socket.shutdown(Shutdown::Both);
            }
        }
        asked
    }

    /// A connection to the guest, for the stream of this name.
    fn connect(&mut self, vsock: &Path, name: &str) -> Result<UnixStream, StreamError> {
        let stream = agent::stream(vsock, name)?;
        self.unsettled.push(stream.try_clone()?);
        Ok(stream)
    }

    /// Carries this process's own input, in which keys may be looked for.
    fn carry_own(&mut self, from: Patient, to: UnixStream, ends: &Ends) -> io::Result<()> {
        let Some(keys) = ends.keys() else { return carry_input(from, to, None) };
        let let_go = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC)?);
        self.let_go = Some(Arc::clone(&let_go));
        carry_input(from, to, Some(Watch { matcher: Matcher::new(keys.clone()), let_go }))
    }

    /// Readable when the keys were typed that let go of the process; none where none are looked for.
    pub fn let_go(&self) -> Option<BorrowedFd<'_>> {
        self.let_go.as_deref().map(AsFd::as_fd)
    }

    /// The input that nobody feeds yet, if there is one.
    pub fn take_input(&mut self) -> Option<Input> {
        self.input.take()
    }

    /// Why output was lost on the host's side, if it was: a full disk, not a closed pipe.
    pub fn failure(&self) -> Option<io::Error> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn carry_output(
        &self,
        mut from: UnixStream,
        ends: &Ends,
        which: LogStream,
        open: &Open,
    ) -> io::Result<()> {
        let mut to = ends.output(which)?;
        let open = Arc::clone(open);
        let failure = Arc::clone(&self.failure);
        thread::Builder::new().name("output".into()).stack_size(STACK).spawn(move || {
            if let Err(error) = copy(&mut from, to.as_mut()) {
                // The program in the guest sees a closed pipe, as it would here.
                let _ = from.shutdown(Shutdown::Both);
                if error.kind() != io::ErrorKind::BrokenPipe {
                    failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                }
            }
            drop(to);
            drop(open);
        })?;
        Ok(())
    }
}

impl AsFd for Streams {
    /// Hung up when every output has been carried to its end.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.outputs.as_fd()
    }
}

/// The thread is not waited for: it may sit in a read of a terminal when the process has ended.
fn carry_input(mut from: Patient, mut to: UnixStream, mut watch: Option<Watch>) -> io::Result<()> {
    thread::Builder::new().name("input".into()).stack_size(STACK).spawn(move || {
        // Whichever side ended it: the program reads an end of file, the writer has no reader left.
        let _ = copy_until_closed(&mut from, &mut to, watch.as_mut());
        let _ = to.shutdown(Shutdown::Write);
    })?;
    Ok(())
}

/// Looks for keys in an input, and tells when they were typed.
struct Watch {
    matcher: Matcher,
    let_go: Arc<EventFd>,
}

/// A descriptor of this process, without the standard library's buffer and lock on it.
fn own(fd: BorrowedFd<'_>) -> io::Result<Patient> {
    Ok(Patient(fd.try_clone_to_owned()?.into()))
}

/// A file whose reads and writes wait, also where somebody who shares it has made it non-blocking.
struct Patient(File);

impl Patient {
    fn until<T>(
        &mut self,
        events: PollFlags,
        mut act: impl FnMut(&mut File) -> io::Result<T>,
    ) -> io::Result<T> {
        loop {
            match act(&mut self.0) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    wait(&mut [PollFd::new(self.0.as_fd(), events)])?;
                }
                done => return done,
            }
        }
    }
}

impl Read for Patient {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.until(PollFlags::POLLIN, |file| file.read(bytes))
    }
}

impl Write for Patient {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.until(PollFlags::POLLOUT, |file| file.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn wait(fds: &mut [PollFd<'_>]) -> io::Result<()> {
    match poll(fds, PollTimeout::NONE) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Until the end of `from`, whose failure is an end too: the guest is gone, and the keeper tells.
fn copy(from: &mut dyn Read, to: &mut dyn Write) -> io::Result<()> {
    let mut chunk = vec![0u8; CHUNK];
    loop {
        match from.read(&mut chunk) {
            Ok(0) => return to.flush(),
            Ok(n) => to.write_all(&chunk[..n])?,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return to.flush(),
        }
    }
}

/// The same, until the other side takes no more, also where nothing comes that it could refuse.
fn copy_until_closed(
    from: &mut Patient,
    to: &mut UnixStream,
    mut watch: Option<&mut Watch>,
) -> io::Result<()> {
    let mut chunk = vec![0u8; CHUNK];
    loop {
        let mut fds = [
            PollFd::new(from.0.as_fd(), PollFlags::POLLIN),
            PollFd::new(to.as_fd(), PollFlags::empty()),
        ];
        wait(&mut fds)?;
        if fds[1].any() == Some(true) {
            return Ok(());
        }
        if fds[0].any() == Some(true) {
            let count = from.read(&mut chunk)?;
            let read = chunk.get(..count).unwrap_or_default();
            let Some(Watch { matcher, let_go }) = watch.as_deref_mut() else {
                match count {
                    0 => return Ok(()),
                    _ => to.write_all(read)?,
                }
                continue;
            };
            if count == 0 {
                return to.write_all(&matcher.rest());
            }
            let mut on = Vec::with_capacity(count);
            let typed = matcher.take(read, &mut on);
            to.write_all(&on)?;
            if typed {
                let_go.write(1)?;
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_replaces_the_three_streams() {
        let own = Ends::own(true);
        let names = Streams::names("p", &own, true);
        assert_eq!(names.terminal.as_deref(), Some("p-terminal"));
        assert!(names.stdin.is_none() && names.stdout.is_none() && names.stderr.is_none());
    }

    #[test]
    fn stdin_is_carried_only_where_asked() {
        let names = Streams::names("p", &Ends::own(false), false);
        assert!(names.stdin.is_none());
        assert_eq!(names.stdout.as_deref(), Some("p-stdout"));
    }

    #[test]
    fn what_somebody_made_non_blocking_is_waited_for() {
        let (mut far, socket) = UnixStream::pair().unwrap();
        socket.set_nonblocking(true).unwrap();
        let mut near = own(socket.as_fd()).unwrap();
        let much = vec![7u8; 4 << 20];
        let peer = thread::spawn(move || {
            // Until this gets to it there is nothing to read and soon no room to write.
            far.write_all(b"hello").unwrap();
            let mut got = Vec::new();
            far.read_to_end(&mut got).unwrap();
            got
        });
        let mut word = [0u8; 5];
        near.read_exact(&mut word).unwrap();
        near.write_all(&much).unwrap();
        drop((near, socket));
        assert_eq!(&word, b"hello");
        assert_eq!(peer.join().unwrap(), much);
    }

    #[test]
    fn keys_are_not_passed_on_and_are_told() {
        for (pieces, passed_on, told) in [
            (&["ab\x10", "c"][..], "ab\x10c", false),
            (&["ab\x10", "\x11"], "ab", true),
            (&["ab\x10"], "ab\x10", false),
        ] {
            let (mut keyboard, near) = UnixStream::pair().unwrap();
            let (mut program, to) = UnixStream::pair().unwrap();
            let let_go = Arc::new(EventFd::from_flags(EfdFlags::EFD_NONBLOCK).unwrap());
            let matcher = Matcher::new(DetachKeys::default());
            let watch = Watch { matcher, let_go: Arc::clone(&let_go) };
            carry_input(own(near.as_fd()).unwrap(), to, Some(watch)).unwrap();
            for piece in pieces {
                keyboard.write_all(piece.as_bytes()).unwrap();
            }
            drop((keyboard, near));
            let mut got = String::new();
            // Ends when the carrying thread has told what it has to.
            program.read_to_string(&mut got).unwrap();
            assert_eq!((got.as_str(), let_go.read().is_ok()), (passed_on, told));
        }
    }

    #[test]
    fn a_failed_write_is_told_and_a_failed_read_is_an_end() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let error = copy(&mut &b"x"[..], &mut Full).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        struct Gone;
        impl Read for Gone {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::ErrorKind::ConnectionReset.into())
            }
        }
        assert!(copy(&mut Gone, &mut Vec::new()).is_ok());
    }
}
