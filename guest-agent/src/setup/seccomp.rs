//! `linux.seccomp`: which system calls the process may make.
//!
//! libseccomp makes the filter; it is loaded as it is, but for calls that are newer than all that
//! the profile knows: they fail as they would on a kernel that lacks them, so that programs fall
//! back to older ones. Other runtimes do the same.

use std::fs::File;
use std::io::{Read, Seek};

use libseccomp::error::SeccompError;
use libseccomp::{
    ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall,
};
use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag,
    LinuxSeccompOperator, LinuxSyscall, Spec,
};

use crate::error::{Doing, Error, Result};

/// Rules beyond this are found by a tree instead of a list.
const MANY_RULES: usize = 32;

/// Arguments of a system call.
const MAX_ARGUMENTS: usize = 6;

/// Instructions that the kernel takes.
const MAX_INSTRUCTIONS: usize = 4096;

/// A filter that is ready to be loaded.
#[derive(Debug)]
pub struct Filter {
    program: Vec<libc::sock_filter>,
    flags: libc::c_ulong,
}

/// The profile of a container.
pub fn of(spec: &Spec) -> Option<LinuxSeccomp> {
    spec.linux().as_ref()?.seccomp().clone()
}

/// Refuses what no filter can be made of.
///
/// # Errors
/// [`Error::Unsupported`] for notifications: nobody in the guest listens. [`Error::Invalid`] for
/// values out of range.
pub fn check(profile: &LinuxSeccomp) -> Result<()> {
    action(profile.default_action(), profile.default_errno_ret())?;
    for rule in profile.syscalls().iter().flatten() {
        action(rule.action(), rule.errno_ret())?;
        for argument in rule.args().iter().flatten() {
            comparison(argument)?;
        }
    }
    Ok(())
}

impl Filter {
    /// Makes the filter.
    pub fn new(profile: &LinuxSeccomp) -> Result<Self> {
        check(profile)?;
        let architectures = architectures(profile);
        let mut program = compile(profile, &architectures)?;
        let default = action(profile.default_action(), profile.default_errno_ret())?;
        if hides_new_calls(default) {
            let mut whole = newer_calls(profile, &architectures);
            whole.append(&mut program);
            program = whole;
        }
        if program.len() > MAX_INSTRUCTIONS {
            let length = program.len();
            return Err(Error::Invalid(format!("linux.seccomp makes {length} instructions")));
        }
        let flags = profile.flags().iter().flatten().fold(0, |flags, flag| flags | bit(*flag));
        Ok(Self { program, flags })
    }

    /// Puts it in force for this process, for good.
    pub fn load(self) -> Result<()> {
        let action = || "load the seccomp filter";
        let program = libc::sock_fprog {
            len: u16::try_from(self.program.len()).map_err(|_| Errno::E2BIG).doing(action)?,
            filter: self.program.as_ptr().cast_mut(),
        };
        // SAFETY: seccomp reads one sock_fprog and as many instructions as that says; both outlive
        // the call.
        let result = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                self.flags,
                &raw const program,
            )
        };
        Errno::result(result).doing(action).map(drop)
    }
}

fn bit(flag: LinuxSeccompFilterFlag) -> libc::c_ulong {
    match flag {
        LinuxSeccompFilterFlag::SeccompFilterFlagLog => libc::SECCOMP_FILTER_FLAG_LOG,
        LinuxSeccompFilterFlag::SeccompFilterFlagTsync => libc::SECCOMP_FILTER_FLAG_TSYNC,
        LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
        // Of use only for those who listen, and the kernel refuses it without.
        LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => 0,
    }
}

/// Those of the profile that programs of this guest can be of. Rules for others would never be
/// asked.
fn architectures(profile: &LinuxSeccomp) -> Vec<ScmpArch> {
    let mut found = vec![ScmpArch::X8664];
    for architecture in profile.architectures().iter().flatten() {
        match architecture {
            Arch::ScmpArchX86 => found.push(ScmpArch::X86),
            Arch::ScmpArchX32 => found.push(ScmpArch::X32),
            _ => {}
        }
    }
    found
}

fn action(action: LinuxSeccompAction, value: Option<u32>) -> Result<ScmpAction> {
    let value = match value.map(u16::try_from) {
        None => libc::EPERM.unsigned_abs().try_into().unwrap_or(1),
        Some(Ok(value)) => value,
        Some(Err(_)) => {
            return Err(Error::Invalid(format!("linux.seccomp: errnoRet {value:?}")));
        }
    };
    Ok(match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => {
            ScmpAction::KillThread
        }
        LinuxSeccompAction::ScmpActKillProcess => ScmpAction::KillProcess,
        LinuxSeccompAction::ScmpActTrap => ScmpAction::Trap,
        LinuxSeccompAction::ScmpActErrno => ScmpAction::Errno(value.into()),
        LinuxSeccompAction::ScmpActTrace => ScmpAction::Trace(value),
        LinuxSeccompAction::ScmpActLog => ScmpAction::Log,
        LinuxSeccompAction::ScmpActAllow => ScmpAction::Allow,
        LinuxSeccompAction::ScmpActNotify => {
            return Err(Error::Unsupported("linux.seccomp: SCMP_ACT_NOTIFY".into()));
        }
    })
}

fn comparison(argument: &LinuxSeccompArg) -> Result<ScmpArgCompare> {
    let index = u32::try_from(argument.index())
        .ok()
        .filter(|_| argument.index() < MAX_ARGUMENTS)
        .ok_or_else(|| {
        Error::Invalid(format!("linux.seccomp: argument {}", argument.index()))
    })?;
    let (value, second) = (argument.value(), argument.value_two().unwrap_or(0));
    let (operator, value) = match argument.op() {
        LinuxSeccompOperator::ScmpCmpNe => (ScmpCompareOp::NotEqual, value),
        LinuxSeccompOperator::ScmpCmpLt => (ScmpCompareOp::Less, value),
        LinuxSeccompOperator::ScmpCmpLe => (ScmpCompareOp::LessOrEqual, value),
        LinuxSeccompOperator::ScmpCmpEq => (ScmpCompareOp::Equal, value),
        LinuxSeccompOperator::ScmpCmpGe => (ScmpCompareOp::GreaterEqual, value),
        LinuxSeccompOperator::ScmpCmpGt => (ScmpCompareOp::Greater, value),
        LinuxSeccompOperator::ScmpCmpMaskedEq => (ScmpCompareOp::MaskedEqual(value), second),
    };
    Ok(ScmpArgCompare::new(index, operator, value))
}

fn compile(profile: &LinuxSeccomp, architectures: &[ScmpArch]) -> Result<Vec<libc::sock_filter>> {
    let default = action(profile.default_action(), profile.default_errno_ret())?;
    let mut context = ScmpFilterContext::new(default).map_err(failed)?;
    for architecture in architectures {
        if !context.is_arch_present(*architecture).map_err(failed)? {
            context.add_arch(*architecture).map_err(failed)?;
        }
    }
    let rules = profile.syscalls().as_deref().unwrap_or_default();
    if rules.iter().map(|rule| rule.names().len()).sum::<usize>() > MANY_RULES {
        context.set_ctl_optimize(2).map_err(failed)?;
    }
    for rule in rules {
        add_rule(&mut context, rule, default)?;
    }
    let action = || "compile the seccomp filter";
    let mut file = File::from(memfd_create("seccomp", MFdFlags::MFD_CLOEXEC).doing(action)?);
    context.export_bpf(&file).map_err(failed)?;
    let mut bytes = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut bytes)).doing(action)?;
    Ok(bytes.chunks_exact(8).filter_map(instruction).collect())
}

/// `struct sock_filter`, in the byte order of this machine.
fn instruction(bytes: &[u8]) -> Option<libc::sock_filter> {
    let (code, rest) = bytes.split_first_chunk()?;
    let ([jt, jf], rest) = rest.split_first_chunk()?;
    let (k, _) = rest.split_first_chunk()?;
    let (code, k) = (u16::from_ne_bytes(*code), u32::from_ne_bytes(*k));
    Some(libc::sock_filter { code, jt: *jt, jf: *jf, k })
}

fn add_rule(
    context: &mut ScmpFilterContext,
    rule: &LinuxSyscall,
    default: ScmpAction,
) -> Result<()> {
    let action = action(rule.action(), rule.errno_ret())?;
    if action == default {
        return Ok(());
    }
    let comparisons: Vec<ScmpArgCompare> =
        rule.args().iter().flatten().map(comparison).collect::<Result<_>>()?;
    let indices: Vec<usize> = rule.args().iter().flatten().map(|a| a.index()).collect();
    let is_repeated =
        indices.iter().any(|i| indices.iter().filter(|other| *other == i).count() > 1);
    for name in rule.names() {
        // Profiles name calls of all kernels and architectures.
        let Ok(call) = ScmpSyscall::from_name(name) else {
            continue;
        };
        let added = if comparisons.is_empty() {
            context.add_rule(action, call).map(drop)
        } else if is_repeated {
            // Two conditions on one argument are alternatives.
            comparisons.iter().try_for_each(|comparison| {
                context.add_rule_conditional(action, call, &[*comparison]).map(drop)
            })
        } else {
            context.add_rule_conditional(action, call, &comparisons).map(drop)
        };
        added.map_err(|e| {
            Error::system(format!("add the seccomp rule for {name}"), std::io::Error::other(e))
        })?;
    }
    Ok(())
}

/// Whether a program could not tell a call that is forbidden from one that is not there.
fn hides_new_calls(default: ScmpAction) -> bool {
    let passes = matches!(default, ScmpAction::Allow | ScmpAction::Log | ScmpAction::Trace(_));
    !passes && default != ScmpAction::Errno(libc::ENOSYS)
}

/// Set in the number of a call of the x32 kind.
const X32_BIT: u32 = 1 << 30;

/// What comes before the filter: calls whose number is above all of the profile's fail with
/// `ENOSYS`.
fn newer_calls(profile: &LinuxSeccomp, architectures: &[ScmpArch]) -> Vec<libc::sock_filter> {
    const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
    const AUDIT_ARCH_I386: u32 = 0x4000_0003;
    /// Offsets in `struct seccomp_data`.
    const NUMBER: u32 = 0;
    const ARCHITECTURE: u32 = 4;
    let last = |architecture| {
        architectures.contains(&architecture).then(|| last_call(profile, architecture)).flatten()
    };
    // Each section is left at its end, with the call's number loaded or not: the filter loads what
    // it needs.
    let section = |audit: u32, checks: Vec<libc::sock_filter>| {
        let mut section = vec![load(ARCHITECTURE)];
        let rest = u8::try_from(checks.len() + 1).unwrap_or(u8::MAX);
        section.extend([jump(libc::BPF_JEQ, audit, 0, rest), load(NUMBER)]);
        section.extend(checks);
        section
    };
    let absent = || statement(libc::BPF_RET, libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs());
    let mut wide = Vec::new();
    // Without a rule for one kind, its calls are all the filter's.
    let x32 = last(ScmpArch::X32).map(|last| last | X32_BIT);
    if let Some(last) = x32 {
        wide.extend([jump(libc::BPF_JGT, last, 0, 1), absent()]);
    }
    if let Some(last) = last(ScmpArch::X8664) {
        wide.extend([
            jump(libc::BPF_JGE, X32_BIT, 2, 0),
            jump(libc::BPF_JGT, last, 0, 1),
            absent(),
        ]);
    }
    let narrow = last(ScmpArch::X86).map(|last| vec![jump(libc::BPF_JGT, last, 0, 1), absent()]);
    let mut program = Vec::new();
    if !wide.is_empty() {
        program.extend(section(AUDIT_ARCH_X86_64, wide));
    }
    program.extend(narrow.into_iter().flat_map(|checks| section(AUDIT_ARCH_I386, checks)));
    program
}

/// The highest number of a call that the profile names.
fn last_call(profile: &LinuxSeccomp, architecture: ScmpArch) -> Option<u32> {
    let names = profile.syscalls().iter().flatten().flat_map(LinuxSyscall::names);
    names
        .filter_map(|name| ScmpSyscall::from_name_by_arch(name, architecture).ok())
        // Negative ones stand for calls that the architecture lacks.
        .filter_map(|call| u32::try_from(call.as_raw_syscall()).ok())
        .map(|number| number & !X32_BIT)
        .max()
}

fn load(offset: u32) -> libc::sock_filter {
    statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset)
}

fn statement(code: u32, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: u16::try_from(code).unwrap_or(u16::MAX), jt: 0, jf: 0, k }
}

fn jump(condition: u32, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { jt, jf, ..statement(libc::BPF_JMP | condition | libc::BPF_K, k) }
}

fn failed(error: SeccompError) -> Error {
    Error::system("make the seccomp filter", std::io::Error::other(error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const X86_64: u32 = 0xc000_003e;
    const I386: u32 = 0x4000_0003;
    const ABSENT: u32 = libc::SECCOMP_RET_ERRNO | 38;

    fn filter(json: Value) -> Result<Filter> {
        Filter::new(&serde_json::from_value(json).unwrap())
    }

    /// What the kernel does with the program.
    fn ask(filter: &Filter, architecture: u32, number: u32, arguments: [u64; 6]) -> u32 {
        let mut data = vec![number, architecture, 0, 0];
        let halves = |a: u64| [a & 0xffff_ffff, a >> 32].map(|half| u32::try_from(half).unwrap());
        data.extend(arguments.into_iter().flat_map(halves));
        let (mut at, mut value) = (0usize, 0u32);
        loop {
            let i = filter.program[at];
            at += 1;
            let jump = |is: bool| usize::from(if is { i.jt } else { i.jf });
            match u32::from(i.code) {
                0x20 => value = data[i.k as usize / 4],
                0x54 => value &= i.k,
                0x05 => at += i.k as usize,
                0x15 => at += jump(value == i.k),
                0x25 => at += jump(value > i.k),
                0x35 => at += jump(value >= i.k),
                0x45 => at += jump(value & i.k != 0),
                0x06 => return i.k,
                other => panic!("{other:#x}"),
            }
        }
    }

    fn number(name: &str, architecture: ScmpArch) -> u32 {
        let call = ScmpSyscall::from_name_by_arch(name, architecture).unwrap();
        u32::try_from(call.as_raw_syscall()).unwrap()
    }

    fn strict() -> Value {
        json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32",
                              "SCMP_ARCH_AARCH64", "SCMP_ARCH_S390", "SCMP_ARCH_LOONGARCH64"],
            "syscalls": [{"names": ["read", "openat2", "no_such_call"], "action": "SCMP_ACT_ALLOW"}],
        })
    }

    #[test]
    fn the_host_tells_of_what_a_filter_is_made_of() {
        use ampoule_protocol::features as told;
        for name in told::SECCOMP_ACTIONS {
            assert!(filter(json!({"defaultAction": name})).is_ok(), "{name}");
        }
        assert!(!told::SECCOMP_ACTIONS.contains(&"SCMP_ACT_NOTIFY"));
        for name in told::SECCOMP_OPERATORS {
            let argument = json!({"index": 0, "value": 1, "op": name});
            assert!(comparison(&serde_json::from_value(argument).unwrap()).is_ok(), "{name}");
        }
        let profile = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": told::SECCOMP_ARCHITECTURES,
            "flags": told::SECCOMP_FLAGS,
        });
        let profile: LinuxSeccomp = serde_json::from_value(profile).unwrap();
        let mut found = architectures(&profile);
        found.dedup();
        assert_eq!(found.len(), told::SECCOMP_ARCHITECTURES.len());
        let effective = profile.flags().iter().flatten().filter(|flag| bit(**flag) != 0).count();
        assert_eq!(effective, told::SECCOMP_EFFECTIVE_FLAGS.len());
    }

    #[test]
    fn calls_newer_than_the_profile_are_not_there() {
        let filter = filter(strict()).unwrap();
        for (audit, architecture, bit) in [
            (X86_64, ScmpArch::X8664, 0),
            (I386, ScmpArch::X86, 0),
            (X86_64, ScmpArch::X32, X32_BIT),
        ] {
            let asked = |number: u32| ask(&filter, audit, number | bit, [0; 6]);
            let number = |name| number(name, architecture) & !X32_BIT;
            assert_eq!(asked(number("read")), libc::SECCOMP_RET_ALLOW, "{architecture:?}");
            assert_eq!(asked(number("openat2")), libc::SECCOMP_RET_ALLOW, "{architecture:?}");
            assert_eq!(asked(number("openat2") - 1), libc::SECCOMP_RET_ERRNO | 1);
            assert_eq!(asked(number("openat2") + 1), ABSENT, "{architecture:?}");
        }
    }

    #[test]
    fn nothing_is_hidden_from_what_is_allowed_or_absent_anyway() {
        for (default, value) in [
            ("SCMP_ACT_ALLOW", None),
            ("SCMP_ACT_LOG", None),
            ("SCMP_ACT_TRACE", Some(7)),
            ("SCMP_ACT_ERRNO", Some(38)),
        ] {
            let mut json = strict();
            json["defaultAction"] = json!(default);
            json["defaultErrnoRet"] = json!(value);
            json["syscalls"][0]["action"] = json!("SCMP_ACT_KILL_PROCESS");
            let result = ask(&filter(json).unwrap(), X86_64, 500, [0; 6]);
            let expected = action(serde_json::from_value(json!(default)).unwrap(), value).unwrap();
            let expected = match expected {
                ScmpAction::Allow => libc::SECCOMP_RET_ALLOW,
                ScmpAction::Log => libc::SECCOMP_RET_LOG,
                ScmpAction::Trace(value) => libc::SECCOMP_RET_TRACE | u32::from(value),
                _ => ABSENT,
            };
            assert_eq!(result, expected, "{default}");
        }
    }

    #[test]
    fn architectures_that_are_not_named_are_killed() {
        let mut json = strict();
        json["architectures"] = json!(["SCMP_ARCH_X86_64"]);
        let filter = filter(json).unwrap();
        assert_eq!(ask(&filter, I386, 3, [0; 6]), libc::SECCOMP_RET_KILL_THREAD);
    }

    #[test]
    fn arguments_and_many_rules_reach_the_program() {
        let names: Vec<String> = (0..400)
            .filter_map(|n| ScmpSyscall::from_raw_syscall(n).get_name().ok())
            .filter(|name| name != "personality")
            .collect();
        assert!(names.len() > 300);
        let condition = json!([{"index": 0, "op": "SCMP_CMP_MASKED_EQ", "value": 0xff00_0000_00ffu64,
                                "valueTwo": 8}]);
        let filter = filter(json!({
            "defaultAction": "SCMP_ACT_KILL_PROCESS",
            "flags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_TSYNC",
                      "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],
            "syscalls": [{"names": names, "action": "SCMP_ACT_ALLOW"},
                         {"names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": condition}],
        }))
        .unwrap();
        let asked = |argument: u64| {
            ask(&filter, X86_64, number("personality", ScmpArch::X8664), [argument, 0, 0, 0, 0, 0])
        };
        assert_eq!(asked(0xf08), libc::SECCOMP_RET_ALLOW);
        assert_eq!(asked(9), libc::SECCOMP_RET_KILL_PROCESS);
        assert_eq!(asked(0x1_0000_0000_0008), libc::SECCOMP_RET_ALLOW);
        assert_eq!(asked(0x0100_0000_0008), libc::SECCOMP_RET_KILL_PROCESS);
        assert_eq!(filter.flags, 0b111);
    }

    #[test]
    fn what_no_filter_can_be_made_of_is_refused() {
        let mut notify = strict();
        notify["syscalls"][0]["action"] = json!("SCMP_ACT_NOTIFY");
        assert!(matches!(filter(notify), Err(Error::Unsupported(_))));
        let mut errno = strict();
        errno["defaultErrnoRet"] = json!(70_000);
        assert!(matches!(filter(errno), Err(Error::Invalid(_))));
        let mut argument = strict();
        argument["syscalls"][0]["args"] = json!([{"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}]);
        assert!(matches!(filter(argument), Err(Error::Invalid(_))));
    }
}
