//! Metrics by HTTP/1.1, for scrapers: one request to a connection, which is closed after its answer. What
//! comes is taken apart by `httparse`; a server that does more has more to attack.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::text::MEDIA_TYPE;

/// Longest request, in bytes.
const LONGEST: usize = 8 << 10;

/// Most lines of one.
const MOST_HEADERS: usize = 64;

/// How long one may take to come, and its answer to be taken.
const PATIENCE: Duration = Duration::from_secs(5);

/// Most clients at a time; who comes then is turned away.
const MOST_CLIENTS: usize = 16;

/// Stack of a client's thread.
const STACK: usize = 256 << 10;

/// Where requests come from.
#[derive(Debug)]
pub enum Listener {
    /// A Unix socket.
    Unix(UnixListener),
    /// A TCP port.
    Tcp(TcpListener),
}

/// A client's connection.
trait Client: Read + Write + Send {
    fn set_patience(&self, patience: Duration) -> io::Result<()>;
    fn finish(&self);
}

impl Client for UnixStream {
    fn set_patience(&self, patience: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(patience))?;
        self.set_write_timeout(Some(patience))
    }

    fn finish(&self) {
        let _ = self.shutdown(Shutdown::Write);
    }
}

impl Client for TcpStream {
    fn set_patience(&self, patience: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(patience))?;
        self.set_write_timeout(Some(patience))
    }

    fn finish(&self) {
        let _ = self.shutdown(Shutdown::Write);
    }
}

impl Listener {
    fn accept(&self) -> io::Result<Box<dyn Client>> {
        Ok(match self {
            Self::Unix(listener) => Box::new(listener.accept()?.0),
            Self::Tcp(listener) => Box::new(listener.accept()?.0),
        })
    }
}

/// Answers every request with what `tell` says, until nobody can be let in any more.
pub fn serve(
    listener: &Listener,
    tell: impl Fn() -> Result<String, String> + Send + Sync + 'static,
) -> io::Result<()> {
    let tell = Arc::new(tell);
    let clients = Arc::new(AtomicUsize::new(0));
    loop {
        let client = match listener.accept() {
            Ok(client) => client,
            Err(error) if is_the_clients(&error) => continue,
            Err(error) => return Err(error),
        };
        if clients.fetch_add(1, Ordering::Relaxed) >= MOST_CLIENTS {
            clients.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let (tell, done) = (Arc::clone(&tell), Arc::clone(&clients));
        let life = move || {
            let mut client = client;
            // It is its client's loss.
            let _ = attend(client.as_mut(), &*tell);
            done.fetch_sub(1, Ordering::Relaxed);
        };
        let thread = thread::Builder::new().name("metrics".into()).stack_size(STACK);
        if thread.spawn(life).is_err() {
            clients.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Whether it is a client that has gone, and others may come.
fn is_the_clients(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted)
}

fn attend(client: &mut dyn Client, tell: &dyn Fn() -> Result<String, String>) -> io::Result<()> {
    client.set_patience(PATIENCE)?;
    let answer = match read(client)? {
        Asked::Metrics { body } => match tell() {
            Ok(text) => answer("200 OK", MEDIA_TYPE, &text, body),
            Err(error) => plain("500 Internal Server Error", &error),
        },
        Asked::Nothing => return Ok(()),
        Asked::Elsewhere => plain("404 Not Found", "metrics are at /metrics"),
        Asked::Otherwise => plain("405 Method Not Allowed", "metrics are read by GET"),
        Asked::Nonsense => plain("400 Bad Request", "that is not understood"),
    };
    client.write_all(answer.as_bytes())?;
    client.finish();
    Ok(())
}

/// What a client wants.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    /// What there is to tell; or only how long it is.
    Metrics { body: bool },
    /// Another path.
    Elsewhere,
    /// Another method.
    Otherwise,
    /// Nothing: it has gone.
    Nothing,
    /// Something that is no request, or too long a one.
    Nonsense,
}

fn read(client: &mut dyn Client) -> io::Result<Asked> {
    let until = Instant::now() + PATIENCE;
    let mut request = Vec::with_capacity(1024);
    let mut part = [0; 1024];
    while request.len() < LONGEST && Instant::now() < until {
        let n = client.read(&mut part)?;
        if n == 0 {
            return Ok(if request.is_empty() { Asked::Nothing } else { Asked::Nonsense });
        }
        request.extend_from_slice(&part[..n]);
        if let Some(asked) = understand(&request) {
            return Ok(asked);
        }
    }
    Ok(Asked::Nonsense)
}

/// None where there is more to come.
fn understand(bytes: &[u8]) -> Option<Asked> {
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(httparse::Status::Partial) => return None,
        Ok(httparse::Status::Complete(_)) => {}
        Err(_) => return Some(Asked::Nonsense),
    }
    let path = request.path.unwrap_or_default();
    let path = path.split_once('?').map_or(path, |(path, _)| path);
    Some(match request.method {
        _ if !["/", "/metrics"].contains(&path) => Asked::Elsewhere,
        Some("GET") => Asked::Metrics { body: true },
        Some("HEAD") => Asked::Metrics { body: false },
        _ => Asked::Otherwise,
    })
}

fn plain(status: &str, text: &str) -> String {
    answer(status, "text/plain; charset=utf-8", &format!("{text}\n"), true)
}

fn answer(status: &str, media_type: &str, text: &str, body: bool) -> String {
    let length = text.len();
    let text = if body { text } else { "" };
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {media_type}\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{text}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes of these bytes.
    fn asked(bytes: &'static [u8]) -> String {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        let writer = thread::spawn(move || {
            // Whoever has heard enough closes.
            let _ = ours.write_all(bytes);
            let _ = ours.shutdown(Shutdown::Write);
            let mut text = String::new();
            let _ = ours.read_to_string(&mut text);
            text
        });
        let _ = attend(&mut theirs, &|| Ok("ampoule_x 1\n".into()));
        drop(theirs);
        writer.join().unwrap()
    }

    #[test]
    fn metrics_are_read_by_get() {
        let text = asked(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
        assert!(
            text.contains("Content-Length: 12\r\n") && text.ends_with("\r\n\r\nampoule_x 1\n"),
            "{text}"
        );
        let text = asked(b"HEAD / HTTP/1.0\r\n\r\n");
        assert!(text.contains("Content-Length: 12\r\n") && text.ends_with("\r\n\r\n"), "{text}");
    }

    #[test]
    fn all_else_is_refused() {
        for (request, status) in [
            (&b"GET /other HTTP/1.1\r\n\r\n"[..], "404"),
            (b"POST /metrics HTTP/1.1\r\n\r\n", "405"),
            (b"nonsense\r\n\r\n", "400"),
            (b"GET /metrics HTTP/1.1\r\n", "400"),
            (b"\xff\xfe\x00\x00\r\n\r\n", "400"),
            (Box::leak(vec![b'a'; 1 << 20].into_boxed_slice()), ""),
        ] {
            let text = asked(request);
            let refused = text.starts_with(&format!("HTTP/1.1 {status}"));
            assert!(refused || status.is_empty() && text.is_empty(), "{request:.40?}: {text}");
        }
        assert_eq!(asked(b""), "");
    }

    #[test]
    fn several_are_answered_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.sock");
        let listener = Listener::Unix(UnixListener::bind(&path).unwrap());
        thread::spawn(move || serve(&listener, || Err("no".into())));
        // One that says nothing holds up nobody.
        let _silent = UnixStream::connect(&path).unwrap();
        for _ in 0..20 {
            let mut client = UnixStream::connect(&path).unwrap();
            client.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
            let mut text = String::new();
            client.read_to_string(&mut text).unwrap();
            assert!(text.starts_with("HTTP/1.1 500") && text.ends_with("\r\n\r\nno\n"), "{text}");
        }
    }
}
