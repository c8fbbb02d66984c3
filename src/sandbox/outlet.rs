//! Where a container's output goes beside its keeper's own streams: its log, and whoever is attached.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::log::{Log, LogStream, LogWriter};
use super::streams::Input;

/// Most that may be attached at once.
const MOST: usize = 64;

/// See the module.
#[derive(Debug)]
pub struct Outlet {
    log: Option<Arc<Log>>,
    /// Whether the container's input is open for whoever is attached.
    pub stdin: bool,
    attached: Mutex<Attached>,
}

#[derive(Debug, Default)]
struct Attached {
    outputs: Vec<(LogStream, UnixStream)>,
    input: Option<Input>,
    /// Of those who were attached before there was an input.
    early: Vec<UnixStream>,
}

/// The streams of one who is attached.
#[derive(Debug)]
pub struct Attachment {
    /// Takes the output, also a terminal's.
    pub stdout: UnixStream,
    /// Takes the errors.
    pub stderr: UnixStream,
    /// Gives the input.
    pub stdin: Option<UnixStream>,
}

impl Outlet {
    /// One that leads to a log, if there is one.
    pub fn new(log: Option<Log>, stdin: bool) -> Arc<Self> {
        Arc::new(Self { log: log.map(Arc::new), stdin, attached: Mutex::default() })
    }

    fn attached(&self) -> MutexGuard<'_, Attached> {
        self.attached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A writer for one of the outputs; what it is given goes to `own`, too.
    pub fn writer(
        self: &Arc<Self>,
        stream: LogStream,
        own: Option<Box<dyn Write + Send>>,
    ) -> impl Write + Send + use<> {
        let log = self.log.as_ref().map(|log| log.writer(stream));
        OutletWriter { outlet: Arc::clone(self), stream, log, own }
    }

    /// The input of the container that runs now; whoever is attached already feeds it from now on.
    ///
    /// # Errors
    ///
    /// If a thread cannot be had.
    pub fn lead_to(&self, input: Option<Input>) -> io::Result<()> {
        let mut attached = self.attached();
        attached.input = input;
        for from in std::mem::take(&mut attached.early) {
            if let Some(input) = &attached.input {
                input.try_clone()?.share(from.into())?;
            }
        }
        Ok(())
    }

    /// Lets somebody hear the output from now on, and feed the input.
    ///
    /// # Errors
    ///
    /// If there are too many already, or a thread cannot be had.
    pub fn attach(&self, new: Attachment) -> io::Result<()> {
        let mut attached = self.attached();
        if attached.outputs.len() >= 2 * MOST {
            return Err(io::Error::other("too many are attached to the container"));
        }
        match (new.stdin, &attached.input) {
            (Some(from), Some(input)) => input.try_clone()?.share(from.into())?,
            (Some(from), None) if self.stdin => attached.early.push(from),
            _ => {}
        }
        attached.outputs.push((LogStream::Stdout, new.stdout));
        attached.outputs.push((LogStream::Stderr, new.stderr));
        Ok(())
    }

    /// The container has ended: those who are attached have heard everything.
    pub fn detach_all(&self) {
        *self.attached() = Attached::default();
    }

    /// One who does not take it is not told more; the container and the others go on.
    fn tell(&self, stream: LogStream, bytes: &[u8]) {
        self.attached()
            .outputs
            .retain_mut(|(kind, socket)| *kind != stream || socket.write_all(bytes).is_ok());
    }
}

struct OutletWriter {
    outlet: Arc<Outlet>,
    stream: LogStream,
    log: Option<LogWriter>,
    own: Option<Box<dyn Write + Send>>,
}

impl Write for OutletWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Written down before anybody sees it.
        if let Some(log) = &mut self.log {
            log.write_all(bytes)?;
        }
        self.outlet.tell(self.stream, bytes);
        match &mut self.own {
            Some(own) => own.write_all(bytes).map(|()| bytes.len()),
            None => Ok(bytes.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        if let Some(log) = &mut self.log {
            log.flush()?;
        }
        self.own.as_mut().map_or(Ok(()), Write::flush)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn all_who_are_attached_hear_the_same_and_one_who_goes_is_forgotten() {
        let outlet = Outlet::new(None, false);
        let mut heard = Vec::new();
        for _ in 0..2 {
            let (ours, stdout) = UnixStream::pair().unwrap();
            let (errors, stderr) = UnixStream::pair().unwrap();
            outlet.attach(Attachment { stdout, stderr, stdin: None }).unwrap();
            heard.push((ours, errors));
        }
        let mut out = outlet.writer(LogStream::Stdout, None);
        out.write_all(b"one ").unwrap();
        let (mut gone, _) = heard.remove(0);
        let mut four = [0; 4];
        gone.read_exact(&mut four).unwrap();
        drop(gone);
        out.write_all(b"two").unwrap();
        outlet.writer(LogStream::Stderr, None).write_all(b"err").unwrap();
        outlet.detach_all();
        let (mut left, mut errors) = heard.remove(0);
        let (mut text, mut error) = (String::new(), String::new());
        left.read_to_string(&mut text).unwrap();
        errors.read_to_string(&mut error).unwrap();
        assert_eq!((&four, text.as_str(), error.as_str()), (b"one ", "one two", "err"));
    }
}
