//! Network namespaces of a test's own.

use std::fs::File;
use std::io::Read;
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd};
use std::process::{Command, Stdio};
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};

/// Returns from the calling test, as skipped, where there are no sandboxes, or no programs to lay a
/// network with.
#[macro_export]
macro_rules! needs_networks {
    () => {
        $crate::needs_sandboxes!();
        if !$crate::support::namespaces::has_tools() {
            return $crate::support::skip("needs ip, tc and nsenter");
        }
    };
}

/// Whether there is what networks are laid with.
pub fn has_tools() -> bool {
    ["ip", "tc", "nsenter"]
        .iter()
        .all(|tool| Command::new(tool).arg("-V").stdout(Stdio::null()).status().is_ok())
}

/// A network namespace; it goes with its descriptor.
pub struct Namespace(pub File);

impl Namespace {
    pub fn new() -> Self {
        let made = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        Self(made.join().unwrap())
    }

    /// That of a process.
    pub fn of(pid: i32) -> Self {
        Self(File::open(format!("/proc/{pid}/ns/net")).unwrap())
    }

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
        thread::scope(|scope| {
            let entered = || {
                setns(self.0.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
                work()
            };
            scope.spawn(entered).join().unwrap()
        })
    }

    /// Listens at an address, as soon as it is there.
    pub fn listener(&self, address: &str) -> TcpListener {
        self.within(|| {
            loop {
                match TcpListener::bind(address) {
                    Err(error) if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => {
                        thread::yield_now();
                    }
                    bound => return bound.unwrap(),
                }
            }
        })
    }

    /// What there is of interfaces and of what is done to frames.
    pub fn state(&self) -> String {
        let all = self
            .run("ip -o link | cut -d: -f2; tc qdisc show; ip -o addr show scope global; ip route");
        all.replace(" linkdown", "")
    }
}

/// A bridge in a namespace of its own, which others are joined to.
pub struct Bridge(pub Namespace);

impl Bridge {
    pub fn new() -> Self {
        let far = Namespace::new();
        far.run(
            "ip link set lo up; ip link add br0 type bridge; ip link set br0 up
             ip addr add 10.5.0.1/24 dev br0; ip addr add fd00:5::1/64 dev br0 nodad",
        );
        Self(far)
    }

    /// Connects a namespace by an interface of this name and number.
    pub fn connect(&self, namespace: &Namespace, name: &str, number: u8) {
        self.0.run(&format!(
            "ip link add port{number} mtu 1400 type veth peer name {name} mtu 1400 \
                 address 02:00:00:00:05:{number:02x} netns {}
             ip link set port{number} master br0 up",
            namespace.path()
        ));
        namespace.run(&format!(
            "ip addr add 10.5.0.{number}/24 dev {name}; ip addr add fd00:5::{number}/64 dev {name} nodad
             ip link set {name} up"
        ));
    }
}

/// Takes one connection to its end.
pub fn take(listener: TcpListener) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut text = String::new();
        listener.accept().unwrap().0.read_to_string(&mut text).unwrap();
        text
    })
}
