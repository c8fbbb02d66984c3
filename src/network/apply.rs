//! What is made in a namespace, and undone. Everything here runs on a thread inside it.

use std::fs::File;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec};

use super::error::{NetworkError, refusal};
use super::plan::Joining;
use crate::vmm::devices::virtio::net::{self, NetError};

/// `ETH_P_ALL`, in the order of bytes that filters have it.
const ALL_PROTOCOLS: u16 = 0x0003u16.to_be();

/// What the kernel has the highest priority among filters for.
const PRIORITY: u16 = 1;

/// An interface that was joined: all that is needed to undo it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Made {
    /// Index of the interface.
    pub interface: u32,
    /// Index of its tap.
    pub tap: u32,
}

/// Joins an interface with a tap, which is open; on failure nothing of it is left.
pub async fn join(handle: &Handle, joining: &Joining) -> Result<(Made, File), NetworkError> {
    let name = &joining.interface.name;
    let tap = net::open(&joining.tap).map_err(|error| match error {
        // Whoever has it open lives.
        NetError::Busy { .. } => NetworkError::Taken(name.clone()),
        error => NetworkError::Tap(error),
    })?;
    let index = match joining.left {
        Some(left) => left,
        None => nix::net::if_::if_nametoindex(joining.tap.as_str())
            .map_err(NetworkError::namespace("find a new interface in"))?,
    };
    let made = Made { interface: joining.index, tap: index };
    if joining.left.is_some() {
        // A killed sandbox's, which may have come this far or that. The tap itself is as good as new.
        drop_ingress(handle, made.interface).await;
        drop_ingress(handle, made.tap).await;
    }
    match connect(handle, joining, made, &tap).await {
        Ok(()) => Ok((made, tap)),
        Err((error, ours)) => {
            if ours {
                drop_ingress(handle, made.interface).await;
            }
            // The first error is the one to tell.
            let _ = handle.link().del(made.tap).execute().await;
            Err(error)
        }
    }
}

/// Failures say, too, whether the interface's queueing discipline is one of ours.
async fn connect(
    handle: &Handle,
    joining: &Joining,
    made: Made,
    tap: &File,
) -> Result<(), (NetworkError, bool)> {
    let name = &joining.interface.name;
    let not_yet = |error| (error, false);
    // It stays when a keeper is killed, and tells whoever clears away what was made.
    persist(tap).map_err(NetworkError::namespace("keep an interface in")).map_err(not_yet)?;
    // The host has nothing to say on it. One without the newer protocol has no such file.
    let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{}/disable_ipv6", joining.tap), "1");
    let up = LinkMessageBuilder::<LinkUnspec>::new().index(made.tap).mtu(joining.mtu).up().build();
    let set = handle.link().set(up).execute().await;
    set.map_err(|error| not_yet(failed("set up", &joining.tap, &error)))?;

    let added = handle.qdisc().add(index(made.interface)).ingress().execute().await;
    added.map_err(|error| not_yet(ingress_error(name, &error)))?;
    let connected = async {
        let added = handle.qdisc().add(index(made.tap)).ingress().execute().await;
        added.map_err(|error| failed("take what comes in at", &joining.tap, &error))?;
        redirect(handle, made.interface, made.tap, name).await?;
        redirect(handle, made.tap, made.interface, &joining.tap).await
    };
    connected.await.map_err(|error| (error, true))
}

/// All that comes in at one interface goes out at the other.
async fn redirect(handle: &Handle, from: u32, to: u32, name: &str) -> Result<(), NetworkError> {
    let filter = handle.traffic_filter(index(from)).add().parent(0xffff_0000);
    let filter = filter.priority(PRIORITY).protocol(ALL_PROTOCOLS).redirect(to);
    let added = match filter {
        Ok(filter) => filter.execute().await,
        Err(error) => Err(error),
    };
    added.map_err(|error| failed("redirect what comes in at", name, &error))
}

/// Undoes what was made of an interface. What is gone already is no failure: who lays a network takes
/// it away, too.
pub async fn leave(handle: &Handle, made: Made) -> Result<(), NetworkError> {
    drop_ingress(handle, made.interface).await;
    match handle.link().del(made.tap).execute().await {
        Err(error) if refusal(&error).raw_os_error() != Some(libc::ENODEV) => {
            Err(NetworkError::kernel("remove a tap interface", &error))
        }
        _ => Ok(()),
    }
}

/// Fails where there is none.
async fn drop_ingress(handle: &Handle, interface: u32) {
    let mut request = handle.qdisc().del(index(interface));
    request.message_mut().header.parent = netlink_packet_route::tc::TcHandle::INGRESS;
    let _ = request.execute().await;
}

fn persist(tap: &File) -> Result<(), Errno> {
    // SAFETY: TUNSETPERSIST takes its argument by value.
    let set = unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETPERSIST, 1) };
    Errno::result(set).map(drop)
}

fn ingress_error(name: &str, error: &rtnetlink::Error) -> NetworkError {
    match refusal(error).raw_os_error() {
        Some(libc::EEXIST | libc::EBUSY) => NetworkError::Ingress(name.to_owned()),
        _ => failed("take what comes in at", name, error),
    }
}

fn failed(what: &str, name: &str, error: &rtnetlink::Error) -> NetworkError {
    NetworkError::kernel(format!("{what} interface {name}"), error)
}

/// Indices are positive in the kernel's own type.
fn index(index: u32) -> i32 {
    index.cast_signed()
}
