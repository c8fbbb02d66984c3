//! Has one socket take the connections to every port of a network namespace's own addresses: a BPF
//! program that is asked when the kernel looks for a listening socket (`BPF_PROG_TYPE_SK_LOOKUP`, Linux
//! 5.9).
//!
//! The crates that load BPF programs bring a compiler's output with them, and parsers for it: this one
//! has a dozen instructions.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

// From the kernel's include/uapi/linux/bpf.h.
const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_MAP_TYPE_SOCKMAP: u32 = 15;
const BPF_PROG_TYPE_SK_LOOKUP: u32 = 30;
const BPF_SK_LOOKUP: u32 = 36;
const BPF_PSEUDO_MAP_FD: u8 = 1;
const BPF_FUNC_MAP_LOOKUP_ELEM: i32 = 1;
const BPF_FUNC_SK_RELEASE: i32 = 86;
const BPF_FUNC_SK_ASSIGN: i32 = 124;
/// `SK_PASS`: the kernel goes on, with the socket that was assigned, if one was.
const SK_PASS: i32 = 1;
/// Offset of `protocol` in `struct bpf_sk_lookup`.
const PROTOCOL: i16 = 12;

/// `struct bpf_insn`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Instruction {
    code: u8,
    /// Destination in the low, source in the high half.
    registers: u8,
    offset: i16,
    immediate: i32,
}

const fn instruction(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers: to | from << 4, offset, immediate }
}

const fn set(register: u8, immediate: i32) -> Instruction {
    instruction(0xb7, register, 0, 0, immediate)
}

const fn copy(to: u8, from: u8) -> Instruction {
    instruction(0xbf, to, from, 0, 0)
}

const fn call(function: i32) -> Instruction {
    instruction(0x85, 0, 0, 0, function)
}

/// Assigns the map's one socket to whatever is of TCP; leaves all else to the kernel.
const fn program(map: RawFd) -> [Instruction; 19] {
    [
        copy(6, 1),
        // Other protocols: to the end.
        instruction(0x61, 2, 6, PROTOCOL, 0),
        instruction(0x55, 2, 0, 14, libc::IPPROTO_TCP),
        // The key, 0, on the stack.
        instruction(0x62, 10, 0, -4, 0),
        // The map, in two parts.
        instruction(0x18, 1, BPF_PSEUDO_MAP_FD, 0, map),
        instruction(0, 0, 0, 0, 0),
        copy(2, 10),
        instruction(0x07, 2, 0, 0, -4),
        call(BPF_FUNC_MAP_LOOKUP_ELEM),
        // No socket: to the end.
        instruction(0x15, 0, 0, 7, 0),
        copy(7, 0),
        copy(1, 6),
        copy(2, 7),
        set(3, 0),
        call(BPF_FUNC_SK_ASSIGN),
        // The reference that the lookup took.
        copy(1, 7),
        call(BPF_FUNC_SK_RELEASE),
        set(0, SK_PASS),
        instruction(0x95, 0, 0, 0, 0),
    ]
}

/// Connections go to the socket for as long as this lives.
#[derive(Debug)]
pub struct Lookup {
    _link: OwnedFd,
}

/// Has `listener`, a socket that listens for TCP in `namespace`, take all connections that are made to
/// the namespace's own addresses.
///
/// # Errors
/// The kernel has no such programs, or the caller may not load one (`CAP_BPF` or root, `CAP_NET_ADMIN`).
pub fn take_all(namespace: BorrowedFd<'_>, listener: BorrowedFd<'_>) -> io::Result<Lookup> {
    // Keys of 4 bytes, values of 8, one entry.
    let map = bpf(BPF_MAP_CREATE, &[BPF_MAP_TYPE_SOCKMAP, 4, 8, 1])?;
    let map = owned(map);
    let (key, value) = (0u32, u64::from(listener.as_raw_fd().unsigned_abs()));
    let update = [
        words(u64::from(map.as_raw_fd().unsigned_abs())),
        words(&raw const key as u64),
        words(&raw const value as u64),
        words(0),
    ];
    bpf(BPF_MAP_UPDATE_ELEM, update.as_flattened())?;
    let instructions = program(map.as_raw_fd());
    let licence = c"Apache-2.0";
    let count = u32::try_from(instructions.len()).unwrap_or(0);
    let mut load = [0u32; 18];
    load[0] = BPF_PROG_TYPE_SK_LOOKUP;
    load[1] = count;
    load[2..4].copy_from_slice(&words(instructions.as_ptr() as u64));
    load[4..6].copy_from_slice(&words(licence.as_ptr() as u64));
    // `expected_attach_type`, after the verifier's log, the kernel's version, flags, name and interface.
    load[17] = BPF_SK_LOOKUP;
    let program = owned(bpf(BPF_PROG_LOAD, &load)?);
    let link = [
        program.as_raw_fd().unsigned_abs(),
        namespace.as_raw_fd().unsigned_abs(),
        BPF_SK_LOOKUP,
        0,
    ];
    Ok(Lookup { _link: owned(bpf(BPF_LINK_CREATE, &link)?) })
}

/// A number as the two words that `union bpf_attr` has it in.
fn words(number: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = number.to_ne_bytes();
    [u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h])]
}

/// bpf(2), with the beginning of its `union bpf_attr`; the rest is zero.
fn bpf(command: libc::c_int, attributes: &[u32]) -> io::Result<RawFd> {
    // SAFETY: the kernel reads as many bytes as there are, and what they point to, which the callers
    // keep alive; it writes nothing there.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, attributes.as_ptr(), size_of_val(attributes))
    };
    let result = Errno::result(result)?;
    RawFd::try_from(result).map_err(io::Error::other)
}

/// A descriptor that the kernel has just made.
fn owned(descriptor: RawFd) -> OwnedFd {
    // SAFETY: it came from a command that makes one for its caller, and nobody else has it.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use std::process::Command;
    use std::thread;

    use nix::sched::{CloneFlags, unshare};

    #[test]
    fn connections_to_every_port_reach_the_one_socket() {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: BPF programs take root");
            return;
        }
        let looked_up = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let up = Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap();
            assert!(up.success());
            let namespace = File::open("/proc/thread-self/ns/net").unwrap();
            let listener = TcpListener::bind("[::]:0").unwrap();
            let _lookup = take_all(namespace.as_fd(), listener.as_fd())?;
            for address in ["127.0.0.1:80", "[::1]:4321"] {
                let _client = TcpStream::connect(address).unwrap();
                let (served, _) = listener.accept().unwrap();
                let port: u16 = address.rsplit_once(':').unwrap().1.parse().unwrap();
                assert_eq!(served.local_addr().unwrap().port(), port);
            }
            io::Result::Ok(())
        });
        match looked_up.join().unwrap() {
            // The kernel of this machine has none.
            Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => {
                println!("skipped: {error}")
            }
            result => result.unwrap(),
        }
    }
}
