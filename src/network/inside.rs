//! Work inside a network namespace: on a thread that enters it, and ends with the work.

use std::os::fd::{AsRawFd, BorrowedFd};

use futures_util::StreamExt;
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::fstat;
use rtnetlink::{Handle, MulticastGroup};

use super::error::NetworkError;
use super::{plan, read};

/// Has a thread do something in a namespace, with a connection to its part of the kernel.
pub fn inside<T: Send>(
    namespace: BorrowedFd<'_>,
    work: impl AsyncFnOnce(Handle) -> Result<T, NetworkError> + Send,
) -> Result<T, NetworkError> {
    let work = move || {
        setns(namespace, CloneFlags::CLONE_NEWNET).map_err(NetworkError::namespace("enter"))?;
        let failed = NetworkError::namespace("speak to");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => return Err(failed(error)),
        };
        runtime.block_on(async {
            let (connection, handle, _) = rtnetlink::new_connection().map_err(failed)?;
            // Ends with the runtime.
            tokio::spawn(connection);
            work(handle).await
        })
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("network".into());
        let thread = thread.spawn_scoped(scope, work);
        let ended = thread.map_err(NetworkError::namespace("start a thread for"))?.join();
        ended.unwrap_or_else(|_| {
            Err(NetworkError::namespace("work in")(std::io::Error::other("the thread failed")))
        })
    })
}

/// Waits until nobody has a tap of ours open any more.
pub async fn until_let_go(handle: &Handle) -> Result<(), NetworkError> {
    let links = [MulticastGroup::Link];
    let (connection, _, mut news) =
        rtnetlink::new_multicast_connection(&links).map_err(NetworkError::namespace("watch"))?;
    tokio::spawn(connection);
    while plan::is_held(&read::read(handle).await?) {
        if news.next().await.is_none() {
            break;
        }
    }
    Ok(())
}

// From the kernel's include/uapi/linux/nsfs.h.
nix::ioctl_none!(namespace_type, 0xb7, 3);

/// Refuses what is no network namespace, the one that this thread is in, and that of the machine's
/// first process.
pub fn check(namespace: BorrowedFd<'_>) -> Result<(), NetworkError> {
    // SAFETY: the request takes no argument. What is no namespace does not know it.
    let kind = unsafe { namespace_type(namespace.as_raw_fd()) };
    if kind != Ok(libc::CLONE_NEWNET) {
        return Err(NetworkError::Other);
    }
    let given = fstat(namespace).map_err(NetworkError::namespace("look at"))?;
    for path in ["/proc/thread-self/ns/net", "/proc/1/ns/net"] {
        // The machine's first process may be hidden from whoever is no root of it: what cannot be seen
        // is not what was given.
        let Ok(own) = nix::sys::stat::stat(path) else { continue };
        if (given.st_dev, given.st_ino) == (own.st_dev, own.st_ino) {
            return Err(NetworkError::Hosts);
        }
    }
    Ok(())
}
