//! What other commands ask of a container's keeper, at a socket in the sandbox's folder.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, accept4, bind, listen, socket,
};
use serde::{Deserialize, Serialize};

use super::error::SandboxError;
use super::join::{Admitted, Joining};
use super::network::Attachment;
use super::outlet;
use super::registry::Folder;
use crate::monitor::channel::{Channel, ChannelError};

/// How long a keeper waits for what whoever has connected wants.
const HEARING: Duration = Duration::from_secs(2);

/// How long a command waits for the keeper's answer: a keeper asks its guest's agent.
const ANSWER: Duration = Duration::from_secs(60);

/// Most descriptors that come with a request: those of an [`outlet::Attachment`].
const DESCRIPTORS: usize = 3;

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// Carry the container's streams to and from the sockets that come with this: output, errors, and,
    /// where there is a third, input.
    Attach,
    /// Let all processes stand still.
    Pause,
    /// The end of that.
    Resume,
    /// The next end of the container is its last: a user wants it.
    Stop,
    /// Put the container on one more network.
    Connect(Attachment),
    /// Take it off a network.
    Disconnect(String),
    /// Let another container into the sandbox. The connection stays as long as that is there.
    Join(Joining),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Done,
    Refused(String),
    Admitted(Box<Admitted>),
}

/// A socket at which a keeper is asked.
#[derive(Debug)]
pub struct KeeperSocket {
    listener: OwnedFd,
}

/// One who has asked, and is to be answered.
#[derive(Debug)]
pub struct Asked {
    /// What for.
    pub ask: Ask,
    descriptors: Vec<OwnedFd>,
    channel: Channel,
}

impl KeeperSocket {
    /// Listens in the folder.
    pub fn bind(folder: &Folder) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let listener = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
        bind(listener.as_raw_fd(), &UnixAddr::new(&folder.keeper())?)?;
        listen(&listener, Backlog::new(16)?)?;
        Ok(Self { listener })
    }

    /// The next one who asks something. Who asks for nothing that can be understood is not heard.
    pub fn next(&self) -> Option<Asked> {
        let socket = accept4(self.listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC).ok()?;
        // SAFETY: the kernel made this descriptor for this process just now.
        let channel = Channel::accepted(unsafe { OwnedFd::from_raw_fd(socket) });
        channel.set_patience(HEARING).ok()?;
        let (ask, descriptors) = channel.receive_with(DESCRIPTORS).ok()??;
        Some(Asked { ask, descriptors, channel })
    }
}

impl AsFd for KeeperSocket {
    /// Readable when somebody asks.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Asked {
    /// The sockets that came along.
    pub fn attachment(&mut self) -> Option<outlet::Attachment> {
        attachment(&mut self.descriptors)
    }

    /// The files that came along.
    pub fn files(&mut self) -> Vec<File> {
        self.descriptors.drain(..).map(File::from).collect()
    }

    /// Lets a container in: the connection that stays.
    pub fn admit(self, admitted: Admitted) -> Result<Channel, ChannelError> {
        self.channel.send(&Answer::Admitted(Box::new(admitted)))?;
        Ok(self.channel)
    }

    /// Answers; one who has gone is not waited for.
    pub fn answer<E: std::fmt::Display>(self, done: Result<(), E>) {
        let answer = match done {
            Ok(()) => Answer::Done,
            Err(error) => Answer::Refused(error.to_string()),
        };
        let _ = self.channel.send(&answer);
    }
}

/// Asks the keeper of this sandbox.
pub fn ask(folder: &Folder, ask: Ask) -> Result<(), SandboxError> {
    ask_with(&folder.keeper(), ask, &[])
}

/// Both ends of the sockets that a container's streams are carried over.
#[derive(Debug)]
pub struct Sockets {
    /// Those of who attaches.
    pub near: outlet::Attachment,
    /// Those of the keeper, in the order in which [`attachment`] takes them.
    pub far: Vec<OwnedFd>,
}

/// Sockets for a container's streams.
pub fn sockets(stdin: bool) -> io::Result<Sockets> {
    let ((stdout, output), (stderr, errors)) = (UnixStream::pair()?, UnixStream::pair()?);
    let mut far = vec![OwnedFd::from(output), errors.into()];
    let mut near = outlet::Attachment { stdout, stderr, stdin: None };
    if stdin {
        let (input, theirs) = UnixStream::pair()?;
        near.stdin = Some(input);
        far.push(theirs.into());
    }
    Ok(Sockets { near, far })
}

/// The sockets that came as these descriptors.
pub fn attachment(descriptors: &mut Vec<OwnedFd>) -> Option<outlet::Attachment> {
    let mut sockets = descriptors.drain(..).map(UnixStream::from);
    let (stdout, stderr, stdin) = (sockets.next()?, sockets.next()?, sockets.next());
    Some(outlet::Attachment { stdout, stderr, stdin })
}

/// Lets the caller have the container's streams: its ends of the sockets.
pub fn attach(folder: &Folder, stdin: bool) -> Result<outlet::Attachment, SandboxError> {
    let Sockets { near, far } =
        sockets(stdin).map_err(SandboxError::host("cannot make a socket"))?;
    let far: Vec<_> = far.iter().map(AsFd::as_fd).collect();
    ask_with(&folder.keeper(), Ask::Attach, &far)?;
    Ok(near)
}

/// Asks for a place in this sandbox, with the disks: the connection that stays as long as the place is wanted.
pub fn join(
    folder: &Folder,
    joining: Joining,
    disks: &[BorrowedFd<'_>],
) -> Result<(Channel, Admitted), SandboxError> {
    match converse(&folder.keeper(), &Ask::Join(joining), disks)? {
        (channel, Answer::Admitted(admitted)) => Ok((channel, *admitted)),
        _ => Err(unexpected()),
    }
}

fn ask_with(path: &Path, ask: Ask, descriptors: &[BorrowedFd<'_>]) -> Result<(), SandboxError> {
    match converse(path, &ask, descriptors)? {
        (_, Answer::Done) => Ok(()),
        _ => Err(unexpected()),
    }
}

fn converse(
    path: &Path,
    ask: &Ask,
    descriptors: &[BorrowedFd<'_>],
) -> Result<(Channel, Answer), SandboxError> {
    let channel = Channel::connect_within(path, ANSWER).map_err(unreachable)?;
    channel.send_with(ask, descriptors)?;
    match channel.receive()? {
        Some(Answer::Refused(message)) => Err(SandboxError::KeeperRefused(message)),
        Some(answer) => Ok((channel, answer)),
        None => Err(unreachable(Errno::ECONNRESET.into())),
    }
}

fn unreachable(source: io::Error) -> SandboxError {
    SandboxError::host("cannot reach the container's keeper")(source)
}

fn unexpected() -> SandboxError {
    SandboxError::host("the container's keeper answers something else than it was asked")(
        io::ErrorKind::InvalidData.into(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vmm::rate::RateLimiter;
    use std::io::{Read, Write};
    use std::thread;

    fn folder() -> (tempfile::TempDir, Folder) {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder { path: dir.path().to_owned(), record: dir.path().to_owned() };
        (dir, folder)
    }

    /// Waits until somebody asks.
    fn asked(socket: &KeeperSocket) -> Asked {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::NONE).unwrap();
        socket.next().unwrap()
    }

    #[test]
    fn what_is_asked_is_answered() {
        let (_dir, folder) = folder();
        let socket = KeeperSocket::bind(&folder).unwrap();
        thread::scope(|scope| {
            let asking = scope.spawn(|| (ask(&folder, Ask::Pause), ask(&folder, Ask::Resume)));
            let first = asked(&socket);
            assert_eq!(first.ask, Ask::Pause);
            first.answer(Ok::<_, io::Error>(()));
            asked(&socket).answer(Err(io::Error::other("not now")));
            let (paused, resumed) = asking.join().unwrap();
            paused.unwrap();
            assert!(resumed.unwrap_err().to_string().contains("not now"));
        });
    }

    #[test]
    fn streams_are_handed_over() {
        let (_dir, folder) = folder();
        let socket = KeeperSocket::bind(&folder).unwrap();
        thread::scope(|scope| {
            let asking = scope.spawn(|| attach(&folder, true).unwrap());
            let mut asked = asked(&socket);
            let mut theirs = asked.attachment().unwrap();
            asked.answer(Ok::<_, io::Error>(()));
            let mut ours = asking.join().unwrap();
            theirs.stdout.write_all(b"out").unwrap();
            ours.stdin.take().unwrap().write_all(b"in").unwrap();
            let mut three = [0; 3];
            ours.stdout.read_exact(&mut three).unwrap();
            let mut two = [0; 2];
            theirs.stdin.unwrap().read_exact(&mut two).unwrap();
            assert_eq!((&three, &two), (b"out", b"in"));
        });
    }

    #[test]
    fn a_place_is_held_by_its_connection() {
        let (_dir, folder) = folder();
        let socket = KeeperSocket::bind(&folder).unwrap();
        let size = crate::sandbox::join::Size::of(&crate::sandbox::Options::default());
        let joining = Joining {
            id: "1".into(),
            name: "n".into(),
            size,
            layer: false,
            rate: RateLimiter::NONE,
        };
        let image = crate::sandbox::join::Plugged { serial: "disk2".into(), sectors: 8 };
        let admitted = Admitted {
            container: "join-1".into(),
            init: 7,
            hostname: "h".into(),
            files: vec!["hosts".into()],
            image,
            layer: None,
            memory_mib: 512,
            vcpus: 1,
        };
        thread::scope(|scope| {
            let file = tempfile::tempfile().unwrap();
            let (folder, wanted) = (&folder, joining.clone());
            let asking = scope.spawn(move || join(folder, wanted, &[file.as_fd()]).unwrap());
            let mut asked = asked(&socket);
            assert_eq!((asked.ask.clone(), asked.files().len()), (Ask::Join(joining), 1));
            let place = asked.admit(admitted.clone()).unwrap();
            let (theirs, told) = asking.join().unwrap();
            assert_eq!(told, admitted);
            drop(theirs);
            assert!(place.receive::<String>().unwrap().is_none());
        });
    }

    #[test]
    fn nonsense_is_not_heard() {
        let (_dir, folder) = folder();
        let socket = KeeperSocket::bind(&folder).unwrap();
        let channel = Channel::connect(&folder.keeper()).unwrap();
        channel.send(&"frobnicate").unwrap();
        assert!(socket.next().is_none());
        drop(Channel::connect(&folder.keeper()).unwrap());
        assert!(socket.next().is_none());
    }
}
