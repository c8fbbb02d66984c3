//! An end to every conversation: a peer that drips a byte now and then gets no more time than one
//! that says nothing.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// A socket whose reads and writes, all together, end by a moment.
#[derive(Debug)]
pub struct Timed<'a> {
    socket: &'a UnixStream,
    until: Instant,
}

impl<'a> Timed<'a> {
    /// Gives the socket this long from now.
    pub fn new(socket: &'a UnixStream, time: Duration) -> Self {
        Self { socket, until: Instant::now() + time }
    }

    /// What is left of the time; an error where nothing is.
    pub fn left(&self) -> io::Result<Duration> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
    }
}

/// A socket's own time-out is reported as if it did not block.
fn timed_out(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::WouldBlock { io::ErrorKind::TimedOut.into() } else { error }
}

impl Read for Timed<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.socket.set_read_timeout(Some(self.left()?))?;
        (&mut &*self.socket).read(into).map_err(timed_out)
    }
}

impl Write for Timed<'_> {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.socket.set_write_timeout(Some(self.left()?))?;
        (&mut &*self.socket).write(from).map_err(timed_out)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::thread;

    #[test]
    fn a_peer_that_drips_gets_no_more_time_than_a_silent_one() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (stop, stopped) = mpsc::channel::<()>();
        let dripper = thread::spawn(move || {
            // Until the test is over, at intervals shorter than the time.
            while stopped.recv_timeout(Duration::from_millis(10)).is_err() {
                if theirs.write_all(b"x").is_err() {
                    return;
                }
            }
        });
        let mut timed = Timed::new(&ours, Duration::from_millis(100));
        let error = io::copy(&mut timed, &mut io::sink()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        stop.send(()).unwrap();
        dripper.join().unwrap();
    }

    #[test]
    fn a_peer_that_does_not_read_ends_a_write() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let mut timed = Timed::new(&ours, Duration::from_millis(50));
        let error = timed.write_all(&vec![0; 8 << 20]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
