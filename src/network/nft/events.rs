//! What others do to the packet filter, as far as it matters to those whose tables are there.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use super::attributes;
use super::batch::{DELETE_ELEMENT, DELETE_TABLE, NEW_ELEMENT, SUBSYSTEM, TABLE_NAME};
use super::error::NftError;
use super::netlink::{Answer, Netlink};

/// `NFNLGRP_NFTABLES`.
pub(in crate::network) const GROUP: u32 = 7;

/// `NFT_MSG_NEWGEN`, which follows every transaction.
const NEW_GENERATION: u16 = 15;

/// What was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// Nothing that matters.
    Nothing,
    /// A table of the name is gone.
    Gone,
    /// More was told than there was room for.
    Overrun,
}

/// A socket that hears of tables that are removed, in the network namespace that it was opened in.
#[derive(Debug)]
pub struct Events {
    netlink: Netlink,
}

impl Events {
    /// Hears all from here on.
    pub fn open() -> Result<Self, NftError> {
        let mut netlink = Netlink::open()?;
        pass_over_elements(netlink.as_fd()).map_err(NftError::Socket)?;
        netlink.join(GROUP)?;
        Ok(Self { netlink })
    }

    /// Takes all that was told so far: whether a table of this name went.
    pub fn heard(&mut self, table: &str) -> Result<Heard, NftError> {
        let mut heard = Heard::Nothing;
        loop {
            match self.netlink.receive() {
                Ok(false) => return Ok(heard),
                Ok(true) => {}
                Err(NftError::Socket(error)) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    heard = Heard::Overrun;
                    continue;
                }
                Err(error) => return Err(error),
            }
            for told in self.netlink.answers() {
                if heard == Heard::Nothing && is_end_of(&told?, table) {
                    heard = Heard::Gone;
                }
            }
        }
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.netlink.as_fd()
    }
}

fn is_end_of(told: &Answer<'_>, table: &str) -> bool {
    let name = told.payload.get(4..).and_then(|all| attributes::find(all, TABLE_NAME));
    told.kind == SUBSYSTEM << 8 | DELETE_TABLE
        && name.is_some_and(|name| attributes::text(name) == table)
}

/// Has the kernel not wake this process for what begins with an element of a set, or is the end of a
/// transaction: every start and stop of a container is that, which all the others would wake for. Whoever
/// removes tables does not begin with single elements.
fn pass_over_elements(socket: BorrowedFd<'_>) -> io::Result<()> {
    // Loads are in the network's order of bytes, kinds in the host's.
    let loaded = |kind: u16| u32::from(u16::from_be_bytes((SUBSYSTEM << 8 | kind).to_ne_bytes()));
    let code = |code: u32| u16::try_from(code).unwrap_or(0);
    let step = |of, jt, jf, k| libc::sock_filter { code: code(of), jt, jf, k };
    let is = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let mut program = [
        // The kind of the first message.
        step(libc::BPF_LD | libc::BPF_H | libc::BPF_ABS, 0, 0, 4),
        step(is, 3, 0, loaded(NEW_ELEMENT)),
        step(is, 2, 0, loaded(DELETE_ELEMENT)),
        step(is, 1, 0, loaded(NEW_GENERATION)),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
    ];
    let filter = libc::sock_fprog {
        len: u16::try_from(program.len()).unwrap_or(0),
        filter: program.as_mut_ptr(),
    };
    let length = libc::socklen_t::try_from(size_of_val(&filter)).unwrap_or(0);
    // SAFETY: the value is as long as it is said to be, and the program that it leads to lives meanwhile.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const filter).cast(),
            length,
        )
    };
    nix::errno::Errno::result(done).map(drop).map_err(io::Error::from)
}
