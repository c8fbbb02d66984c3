#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::raw::c_long;

use nix::fcntl::OFlag;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::pipe2;

use super::*;
use crate::monitor::birth::{Birth, born};
use crate::monitor::spawn::CONTROL;

const ROLES: [Role; 4] = [Role::Control, Role::Vcpu, Role::Devices, Role::Shares];

/// How a thread of this role ends that makes a call, and what is told of that. One whose call is let
/// through ends with 0.
fn try_call(role: Role, call: c_long, arguments: [u64; 6]) -> (WaitStatus, String) {
    let filter = filter(role).unwrap();
    let (read, write): (OwnedFd, OwnedFd) = pipe2(OFlag::O_CLOEXEC).unwrap();
    let Some(child) = born(&Birth { flags: 0, cgroup: None }).unwrap() else {
        // System calls alone: other threads may hold the allocator.
        let [a, b, c, d, e, f] = arguments;
        // SAFETY: no call that is tried does anything with these arguments, if it is let through.
        unsafe {
            libc::dup2(write.as_raw_fd(), CONTROL);
            violation::install().unwrap();
            violation::know(role);
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
            if seccompiler::apply_filter(&filter).is_err() {
                libc::_exit(1);
            }
            libc::syscall(call, a, b, c, d, e, f);
            libc::_exit(0);
        }
    };
    drop(write);
    let status = waitpid(child, None).unwrap();
    let mut told = String::new();
    File::from(read).read_to_string(&mut told).unwrap();
    (status, told)
}

fn is_killed(role: Role, call: c_long, arguments: [u64; 6]) {
    let (status, told) = try_call(role, call, arguments);
    let name = violation::describe(i32::try_from(call).unwrap_or(-1), violation::name(Some(role)));
    assert!(matches!(status, WaitStatus::Exited(_, violation::STATUS)), "{name}: {status:?}");
    let expected = format!(
        r#"{{"event":"violation","syscall":{call},"thread":"{}"}}"#,
        violation::name(Some(role))
    );
    assert_eq!(told, expected);
}

/// Calls that no thread of a monitor may make, whatever it serves: with arguments that do nothing.
const NEVER: &[(&str, &[c_long])] = &[
    ("programs", &[libc::SYS_execve, libc::SYS_execveat, libc::SYS_memfd_create, libc::SYS_uselib]),
    ("processes", &[libc::SYS_clone, libc::SYS_clone3, libc::SYS_fork, libc::SYS_vfork]),
    (
        "others' processes",
        &[
            libc::SYS_kill,
            libc::SYS_tkill,
            libc::SYS_ptrace,
            libc::SYS_process_vm_readv,
            libc::SYS_process_vm_writev,
            libc::SYS_pidfd_open,
            libc::SYS_pidfd_getfd,
            libc::SYS_process_madvise,
            libc::SYS_kcmp,
        ],
    ),
    (
        "sockets",
        &[
            libc::SYS_socket,
            libc::SYS_socketpair,
            libc::SYS_connect,
            libc::SYS_bind,
            libc::SYS_listen,
        ],
    ),
    (
        "mounts",
        &[
            libc::SYS_mount,
            libc::SYS_umount2,
            libc::SYS_pivot_root,
            libc::SYS_chroot,
            libc::SYS_open_tree,
            libc::SYS_move_mount,
            libc::SYS_fsopen,
            libc::SYS_fsmount,
            libc::SYS_mount_setattr,
        ],
    ),
    ("namespaces", &[libc::SYS_unshare, libc::SYS_setns]),
    ("by handle", &[libc::SYS_open_by_handle_at, libc::SYS_name_to_handle_at]),
    (
        "the kernel's own",
        &[
            libc::SYS_bpf,
            libc::SYS_perf_event_open,
            libc::SYS_init_module,
            libc::SYS_finit_module,
            libc::SYS_kexec_load,
            libc::SYS_io_uring_setup,
            libc::SYS_io_uring_enter,
            libc::SYS_userfaultfd,
            libc::SYS_keyctl,
            libc::SYS_add_key,
            libc::SYS_request_key,
            libc::SYS_syslog,
            libc::SYS_modify_ldt,
            libc::SYS_iopl,
            libc::SYS_ioperm,
            libc::SYS_io_setup,
            libc::SYS_vmsplice,
            libc::SYS_fanotify_init,
            libc::SYS_inotify_init1,
        ],
    ),
    (
        "its own confinement",
        &[
            libc::SYS_seccomp,
            libc::SYS_rt_sigaction,
            libc::SYS_landlock_restrict_self,
            libc::SYS_personality,
            libc::SYS_arch_prctl,
            libc::SYS_setrlimit,
        ],
    ),
    (
        "shared memory and queues",
        &[libc::SYS_shmget, libc::SYS_shmat, libc::SYS_msgget, libc::SYS_semget, libc::SYS_mq_open],
    ),
    (
        "the host's clock, name and power",
        &[
            libc::SYS_clock_settime,
            libc::SYS_settimeofday,
            libc::SYS_sethostname,
            libc::SYS_reboot,
            libc::SYS_swapon,
            libc::SYS_acct,
            libc::SYS_quotactl,
        ],
    ),
    (
        "scheduling",
        &[
            libc::SYS_sched_setaffinity,
            libc::SYS_sched_setscheduler,
            libc::SYS_setpriority,
            libc::SYS_ioprio_set,
            libc::SYS_mlockall,
            libc::SYS_set_mempolicy,
        ],
    ),
];

#[test]
fn no_thread_does_what_a_monitor_never_does() {
    for role in ROLES {
        for call in NEVER.iter().flat_map(|(_, calls)| *calls) {
            is_killed(role, *call, [u64::MAX; 6]);
        }
    }
}

#[test]
fn only_who_serves_files_opens_any_or_changes_users() {
    for role in [Role::Control, Role::Vcpu, Role::Devices] {
        for call in [
            libc::SYS_open,
            libc::SYS_openat,
            libc::SYS_openat2,
            libc::SYS_creat,
            libc::SYS_unlinkat,
            libc::SYS_renameat2,
            libc::SYS_linkat,
            libc::SYS_mkdirat,
            libc::SYS_getdents64,
            libc::SYS_setxattr,
            libc::SYS_setresuid,
            libc::SYS_setresgid,
            libc::SYS_capset,
            libc::SYS_prctl,
        ] {
            is_killed(role, call, [u64::MAX; 6]);
        }
    }
    for call in [libc::SYS_open, libc::SYS_openat2, libc::SYS_setuid, libc::SYS_setgroups] {
        is_killed(Role::Shares, call, [u64::MAX; 6]);
    }
    is_killed(Role::Shares, libc::SYS_prctl, [libc::PR_SET_SECCOMP as u64, 0, 0, 0, 0, 0]);
}

#[test]
fn no_memory_becomes_executable() {
    let exec = (libc::PROT_READ | libc::PROT_EXEC) as u64;
    for role in ROLES {
        is_killed(role, libc::SYS_mmap, [0, 4096, exec, 0x22, u64::MAX, 0]);
        is_killed(role, libc::SYS_mprotect, [0, 4096, exec, 0, 0, 0]);
        // KSM would tell what other guests have in memory.
        is_killed(role, libc::SYS_madvise, [0, 4096, libc::MADV_MERGEABLE as u64, 0, 0, 0]);
    }
}

#[test]
fn drivers_are_asked_for_what_is_listed_alone() {
    const KVM_CREATE_VM: u64 = 0xae01;
    const KVM_SET_USER_MEMORY_REGION: u64 = 0x4020_ae46;
    const KVM_SET_MSRS: u64 = 0x4008_ae89;
    for role in ROLES {
        for request in [
            KVM_CREATE_VM,
            KVM_SET_USER_MEMORY_REGION,
            KVM_SET_MSRS,
            libc::TIOCSTI,
            libc::TIOCLINUX,
        ] {
            is_killed(role, libc::SYS_ioctl, [99, request, 0, 0, 0, 0]);
        }
    }
    // Running a vCPU is for its thread.
    is_killed(Role::Devices, libc::SYS_ioctl, [99, 0xae80, 0, 0, 0, 0]);
    is_killed(Role::Control, libc::SYS_ioctl, [99, 0xae80, 0, 0, 0, 0]);
    let (status, told) = try_call(Role::Vcpu, libc::SYS_ioctl, [99, 0xae80, 0, 0, 0, 0]);
    assert_eq!((status, told.as_str()), (WaitStatus::Exited(pid(status), 0), ""));
}

fn pid(status: WaitStatus) -> nix::unistd::Pid {
    status.pid().unwrap()
}

#[test]
fn calls_by_another_name_are_no_way_round() {
    // The x32 names of what is allowed.
    const X32: c_long = 0x4000_0000;
    for role in ROLES {
        is_killed(role, X32 | libc::SYS_getpid, [0; 6]);
        is_killed(role, X32 | libc::SYS_read, [0; 6]);
        is_killed(role, 9999, [0; 6]);
    }
}

#[test]
fn the_figures_in_the_docs_are_those_of_the_lists() {
    let docs = include_str!("../../../docs/security.md");
    for (role, most) in
        [(Role::Control, 31), (Role::Vcpu, 27), (Role::Devices, 50), (Role::Shares, usize::MAX)]
    {
        let calls: BTreeSet<_> = lists::of(role).map(|(call, _)| call).collect();
        assert!(calls.len() <= most, "{role:?}: {}", calls.len());
        let row = format!("| `{}` | {} | ", violation::name(Some(role)), calls.len());
        assert!(docs.contains(&row), "docs/security.md has no row {row:?}");
    }
}
