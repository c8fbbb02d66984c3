//! Network namespaces of a test's own.

use std::fs::File;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sched::{CloneFlags, setns, unshare};

/// A network namespace that goes with its descriptor.
pub struct Namespace(pub File);

impl Namespace {
    /// A new one.
    pub fn new() -> Self {
        let made = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        Self(made.join().unwrap())
    }

    /// A new one, where there are rights and programs for it.
    pub fn possible(programs: &[&str]) -> Option<Self> {
        let has = |program: &&str| {
            Command::new(program)
                .arg("-V")
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .is_ok()
        };
        if nix::unistd::geteuid().is_root() && programs.iter().all(has) {
            return Some(Self::new());
        }
        let name = std::thread::current().name().unwrap_or("?").to_owned();
        println!("skipped: {name}: needs root, {}", programs.join(", "));
        None
    }

    /// Where it is found while it is there.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// Runs a shell script in it: what it wrote.
    #[track_caller]
    pub fn run(&self, script: &str) -> String {
        let output = Command::new("nsenter")
            .args([&format!("--net={}", self.path()), "sh", "-ec", script])
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        assert!(output.status.success(), "{script}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Does something on a thread inside it.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let entered = || {
                setns(self.0.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
                work()
            };
            scope.spawn(entered).join().unwrap()
        })
    }

    /// A socket of UDP.
    pub fn socket(&self, address: &str) -> UdpSocket {
        self.within(|| UdpSocket::bind(address).unwrap())
    }

    /// Tells everybody who connects which address it sees, and whoever sends a datagram, too.
    pub fn serve(&self, address: &str) {
        let (listener, socket) = self
            .within(|| (TcpListener::bind(address).unwrap(), UdpSocket::bind(address).unwrap()));
        // Both end with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let seen = stream.peer_addr().unwrap().ip().to_string();
                let _ = std::io::Write::write_all(&mut stream, seen.as_bytes());
            }
        });
        std::thread::spawn(move || {
            loop {
                let (_, peer) = socket.recv_from(&mut [0; 64]).unwrap();
                let _ = socket.send_to(peer.ip().to_string().as_bytes(), peer);
            }
        });
    }

    /// Connects: the address that the other side sees, or why not.
    pub fn tcp(&self, to: &str) -> Result<IpAddr, std::io::ErrorKind> {
        let to: SocketAddr = to.parse().unwrap();
        let answer = self.within(|| {
            let mut stream = TcpStream::connect_timeout(&to, Duration::from_millis(400))?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            let mut text = String::new();
            std::io::Read::read_to_string(&mut stream, &mut text)?;
            Ok(text.parse().unwrap())
        });
        answer.map_err(|error: std::io::Error| error.kind())
    }

    /// Sends a datagram: the address that the other side sees, or why not.
    pub fn udp(&self, to: &str) -> Result<IpAddr, std::io::ErrorKind> {
        let to: SocketAddr = to.parse().unwrap();
        let answer = self.within(|| {
            let own = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(own)?;
            socket.set_read_timeout(Some(Duration::from_millis(400)))?;
            socket.connect(to)?;
            socket.send(b"hello")?;
            let mut text = [0; 64];
            let length = socket.recv(&mut text)?;
            Ok(String::from_utf8_lossy(&text[..length]).parse().unwrap())
        });
        answer.map_err(|error: std::io::Error| error.kind())
    }
}
