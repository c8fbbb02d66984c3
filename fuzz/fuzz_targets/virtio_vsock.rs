//! A guest's stream sockets. The other side's first byte says who of eight clients acts, the second
//! what it does: connects, writes the rest, reads, closes one half or all; or a host's listener (port
//! 1024, at `v_1024`) takes the guest's next connection in that client's place.
#![no_main]

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Once;

use ampoule::vmm::config::VsockConfig;
use ampoule::vmm::devices::virtio::mmio::SharedDevice;
use ampoule::vmm::devices::virtio::vsock::Vsock;
use ampoule_fuzz::guest::{self, Host};
use ampoule_fuzz::host::{folder, ignore_broken_pipes};
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

struct Clients {
    folder: TempDir,
    listener: UnixListener,
    clients: [Option<UnixStream>; 8],
}

impl Clients {
    fn new() -> Self {
        let folder = folder();
        let listener = UnixListener::bind(folder.path().join("v_1024")).expect("a listener");
        listener.set_nonblocking(true).expect("a listener");
        Self { folder, listener, clients: Default::default() }
    }

    fn connect(&self) -> Option<UnixStream> {
        let client = UnixStream::connect(self.folder.path().join("v")).ok()?;
        client.set_nonblocking(true).ok()?;
        Some(client)
    }

    fn accept(&self) -> Option<UnixStream> {
        let (client, _) = self.listener.accept().ok()?;
        client.set_nonblocking(true).ok()?;
        Some(client)
    }
}

impl Host for Clients {
    fn device(&mut self) -> SharedDevice {
        let uds_path = self.folder.path().join("v");
        let config = VsockConfig { guest_cid: 3, uds_path, listener: None, ports: None };
        guest::shared(Vsock::new(&config).expect("a device"))
    }

    fn act(&mut self, bytes: &[u8]) {
        let [who, what, rest @ ..] = bytes else { return };
        let who = usize::from(who % 8);
        match what % 7 {
            0 => self.clients[who] = self.connect(),
            1 => self.clients[who] = self.accept(),
            2 => self.clients[who] = None,
            what => {
                let Some(client) = &mut self.clients[who] else { return };
                // What fails is the device's doing as often as not.
                let _ = match what {
                    3 => client.write(rest).map(drop),
                    4 => client.read(&mut [0; 4096]).map(drop),
                    5 => client.shutdown(Shutdown::Write),
                    _ => client.shutdown(Shutdown::Read),
                };
            }
        }
    }
}

fuzz_target!(|input: &[u8]| {
    static INIT: Once = Once::new();
    INIT.call_once(ignore_broken_pipes);
    guest::run(input, &mut Clients::new());
});
