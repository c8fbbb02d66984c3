//! Which system calls each thread may make, with what it makes them for. What is not here ends the
//! monitor.
//!
//! A call that is here for several roles has its reason in the first. Numbers of arguments count from 0.

use std::os::raw::c_long;

use crate::vmm::host::Role;

/// When a call is allowed.
#[derive(Debug, Clone, Copy)]
pub enum When {
    /// With any arguments.
    Always,
    /// If this argument is one of these.
    Is(u8, &'static [u64]),
    /// If this argument has none of these bits.
    Lacks(u8, u64),
}

use When::{Always, Is, Lacks};

/// A call and when it is allowed.
pub type Allowed = (c_long, When);

const EXEC: u64 = libc::PROT_EXEC as u64;

/// What the Rust runtime and the C library need of any thread, and the shared ways of telling each
/// other something.
const ALL: &[Allowed] = &[
    // Memory of its own: never executable.
    (libc::SYS_brk, Always),
    (libc::SYS_mmap, Lacks(2, EXEC)),
    (libc::SYS_mprotect, Lacks(2, EXEC)),
    (libc::SYS_mremap, Always),
    (libc::SYS_munmap, Always),
    // Given back: a heap that shrinks, a stack that is left, pages of the balloon's. Of a guest whose
    // touched pages are made ready: huge pages or not.
    (libc::SYS_madvise, Is(2, MADVICE)),
    // Locks and condition variables.
    (libc::SYS_futex, Always),
    (libc::SYS_sched_yield, Always),
    // Eventfds, the control socket, the console.
    (libc::SYS_read, Always),
    (libc::SYS_write, Always),
    (libc::SYS_close, Always),
    // Where the vDSO cannot tell the time.
    (libc::SYS_clock_gettime, Is(0, &[0, 1, 4, 6, 7])),
    // A kick: a signal whose handler does nothing; to threads of its own.
    (libc::SYS_rt_sigreturn, Always),
    (libc::SYS_rt_sigprocmask, Always),
    (libc::SYS_restart_syscall, Always),
    (libc::SYS_getpid, Always),
    (libc::SYS_gettid, Always),
    (libc::SYS_tgkill, Always),
    // A thread's, and the process's end.
    (libc::SYS_sigaltstack, Always),
    (libc::SYS_exit, Always),
    (libc::SYS_exit_group, Always),
];

const MADVICE: &[u64] = &[
    libc::MADV_DONTNEED as u64,
    libc::MADV_FREE as u64,
    libc::MADV_REMOVE as u64,
    libc::MADV_HUGEPAGE as u64,
    libc::MADV_NOHUGEPAGE as u64,
];

// KVM's and other drivers' ioctls, from the kernel's include/uapi/linux.
const KVM_RUN: u64 = 0xae80;
const KVM_GET_REGS: u64 = 0x8090_ae81;
const KVM_GET_SREGS: u64 = 0x8138_ae83;
const KVM_GET_FPU: u64 = 0x81a0_ae8c;
const KVM_GET_LAPIC: u64 = 0x8400_ae8e;
const KVM_GET_MSRS: u64 = 0xc008_ae88;
const KVM_GET_MP_STATE: u64 = 0x8004_ae98;
const KVM_GET_VCPU_EVENTS: u64 = 0x8040_ae9f;
const KVM_GET_DEBUGREGS: u64 = 0x8080_aea1;
const KVM_GET_XSAVE: u64 = 0x9000_aea4;
const KVM_GET_XSAVE2: u64 = 0x9000_aecf;
const KVM_GET_XCRS: u64 = 0x8188_aea6;
const KVM_GET_TSC_KHZ: u64 = 0xaea3;
const KVM_KVMCLOCK_CTRL: u64 = 0xaead;
const KVM_GET_IRQCHIP: u64 = 0xc208_ae62;
const KVM_GET_CLOCK: u64 = 0x8030_ae7c;
const KVM_GET_MSR_INDEX_LIST: u64 = 0xc004_ae02;
const KVM_CHECK_EXTENSION: u64 = 0xae03;
const TUNSETOFFLOAD: u64 = 0x4004_54d0;
const BLKDISCARD: u64 = 0x1277;
const BLKZEROOUT: u64 = 0x127f;

/// Runs a vCPU, and does what a write to a device's register asks for: making its queues ready, or
/// putting it back to its beginning, which closes connections.
const VCPU: &[Allowed] = &[
    (
        libc::SYS_ioctl,
        // The registers are told where KVM gives up.
        Is(1, &[KVM_RUN, KVM_GET_REGS, TUNSETOFFLOAD]),
    ),
    // A device that becomes ready, or is reset, has its sockets watched or not.
    (libc::SYS_epoll_ctl, Always),
    (libc::SYS_timerfd_settime, Always),
];

/// Serves the queues of block, network, socket, entropy and balloon devices, and the serial port.
const DEVICES: &[Allowed] = &[
    // The event loop.
    (libc::SYS_epoll_create1, Always),
    (libc::SYS_eventfd2, Always),
    (libc::SYS_epoll_ctl, Always),
    (libc::SYS_epoll_wait, Always),
    (libc::SYS_epoll_pwait, Always),
    (libc::SYS_timerfd_settime, Always),
    // Block: requests and flushes; discard and write zeroes, of files and of devices.
    (libc::SYS_pread64, Always),
    (libc::SYS_pwrite64, Always),
    (libc::SYS_preadv, Always),
    (libc::SYS_pwritev, Always),
    (libc::SYS_fdatasync, Always),
    (libc::SYS_fsync, Always),
    (libc::SYS_fallocate, Always),
    (libc::SYS_ioctl, Is(1, &[BLKDISCARD, BLKZEROOUT, libc::FIONBIO, libc::TCGETS])),
    // Net: frames, header and payload in one call. Vsock: payload, with what is left of a buffer.
    (libc::SYS_readv, Always),
    (libc::SYS_writev, Always),
    // Vsock: clients that come, say what they want, and go. Nothing here can make a socket or give it
    // an address.
    (libc::SYS_accept4, Always),
    (libc::SYS_recvfrom, Always),
    (libc::SYS_recvmsg, Always),
    (libc::SYS_sendto, Is(4, &[0])),
    (libc::SYS_sendmsg, Always),
    (libc::SYS_shutdown, Always),
    // The entropy device's source.
    (libc::SYS_getrandom, Always),
    // A file system without anything in it waits for its queues.
    (libc::SYS_poll, Always),
];

/// Looks after the machine.
const CONTROL: &[Allowed] = &[
    // Waits for the keeper, other commands, and the machine's end.
    (libc::SYS_poll, Always),
    // Takes requests with their files, and answers.
    (libc::SYS_accept4, Always),
    (libc::SYS_recvmsg, Always),
    (libc::SYS_sendmsg, Always),
    // Writes a snapshot, and the pages that a start has touched.
    (libc::SYS_pwrite64, Always),
    (libc::SYS_pread64, Always),
    (libc::SYS_ftruncate, Always),
    (libc::SYS_statx, Is(2, &[libc::AT_EMPTY_PATH as u64])),
    (libc::SYS_fcntl, Is(1, &[libc::F_DUPFD_CLOEXEC as u64, libc::F_GETFD as u64])),
    (
        libc::SYS_ioctl,
        Is(
            1,
            &[
                KVM_GET_REGS,
                KVM_GET_SREGS,
                KVM_GET_FPU,
                KVM_GET_LAPIC,
                KVM_GET_MSRS,
                KVM_GET_MP_STATE,
                KVM_GET_VCPU_EVENTS,
                KVM_GET_DEBUGREGS,
                KVM_GET_XSAVE,
                KVM_GET_XSAVE2,
                KVM_GET_XCRS,
                KVM_GET_TSC_KHZ,
                KVM_KVMCLOCK_CTRL,
                KVM_GET_IRQCHIP,
                KVM_GET_CLOCK,
                KVM_GET_MSR_INDEX_LIST,
                KVM_CHECK_EXTENSION,
                // A tap that is plugged into a running machine.
                TUNSETOFFLOAD,
            ],
        ),
    ),
];

/// Serves a file system: what a guest may ask of the files under one directory.
const SHARES: &[Allowed] = &[
    (libc::SYS_poll, Always),
    // As which of the guest's users, with which of its own capabilities.
    (libc::SYS_setresuid, Always),
    (libc::SYS_setresgid, Always),
    (libc::SYS_capget, Always),
    (libc::SYS_capset, Always),
    (libc::SYS_prctl, Is(0, &[libc::PR_CAPBSET_READ as u64])),
    (libc::SYS_umask, Always),
    // Names. Never to execute.
    (libc::SYS_openat, Always),
    (libc::SYS_statx, Always),
    (libc::SYS_newfstatat, Always),
    (libc::SYS_fstat, Always),
    (libc::SYS_mkdirat, Always),
    (libc::SYS_mknodat, Always),
    (libc::SYS_symlinkat, Always),
    (libc::SYS_linkat, Always),
    (libc::SYS_unlinkat, Always),
    (libc::SYS_renameat, Always),
    (libc::SYS_renameat2, Always),
    (libc::SYS_readlinkat, Always),
    (libc::SYS_getdents64, Always),
    (libc::SYS_fchmod, Always),
    (libc::SYS_fchmodat, Always),
    (libc::SYS_fchown, Always),
    (libc::SYS_fchownat, Always),
    (libc::SYS_utimensat, Always),
    (libc::SYS_faccessat, Always),
    (libc::SYS_getxattr, Always),
    (libc::SYS_fgetxattr, Always),
    (libc::SYS_setxattr, Always),
    (libc::SYS_fsetxattr, Always),
    (libc::SYS_listxattr, Always),
    (libc::SYS_flistxattr, Always),
    (libc::SYS_removexattr, Always),
    (libc::SYS_fremovexattr, Always),
    (libc::SYS_statfs, Always),
    (libc::SYS_fstatfs, Always),
    // Contents.
    (libc::SYS_lseek, Always),
    (libc::SYS_pread64, Always),
    (libc::SYS_preadv, Always),
    (libc::SYS_preadv2, Always),
    (libc::SYS_readv, Always),
    (libc::SYS_pwrite64, Always),
    (libc::SYS_pwritev, Always),
    (libc::SYS_pwritev2, Always),
    (libc::SYS_writev, Always),
    (libc::SYS_ftruncate, Always),
    (libc::SYS_fallocate, Always),
    (libc::SYS_copy_file_range, Always),
    (libc::SYS_fsync, Always),
    (libc::SYS_fdatasync, Always),
    (libc::SYS_fcntl, Always),
    (libc::SYS_dup, Always),
    // How many descriptors there may be.
    (libc::SYS_prlimit64, Is(2, &[0])),
    (libc::SYS_getrandom, Always),
];

/// What a role may do, beside what all may.
fn own(role: Role) -> &'static [Allowed] {
    match role {
        Role::Control => CONTROL,
        Role::Vcpu => VCPU,
        Role::Devices => DEVICES,
        Role::Shares => SHARES,
    }
}

/// Everything that a role may do.
pub fn of(role: Role) -> impl Iterator<Item = Allowed> {
    ALL.iter().chain(own(role)).copied()
}
