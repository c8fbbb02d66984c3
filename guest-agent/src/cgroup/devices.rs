//! Device rules: a BPF program that the kernel asks about every device that a container opens or
//! makes.
//!
//! OCI runtime specification, "Linux Container Configuration", section "Allowed Device list". The
//! last rule that speaks of an access wins; what none speaks of is denied. The program walks the
//! rules backwards and strikes off the accesses that are allowed, until none is left.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use crate::error::{Doing, Error, Result};

/// Rules that a spec may have.
const MAX_RULES: usize = 256;

const MKNOD: u8 = 1;
const READ: u8 = 2;
const WRITE: u8 = 4;
const ALL: u8 = MKNOD | READ | WRITE;

const BLOCK: u8 = 1;
const CHARACTER: u8 = 2;

/// Character devices that every container may use: major and minor.
const DEFAULT: [(u32, Option<u32>); 9] = [
    (1, Some(3)),
    (1, Some(5)),
    (1, Some(7)),
    (1, Some(8)),
    (1, Some(9)),
    (5, Some(0)),
    (5, Some(1)),
    (5, Some(2)),
    (136, None),
];

/// One rule; `None` is every one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rule {
    allow: bool,
    kind: Option<u8>,
    major: Option<u32>,
    minor: Option<u32>,
    access: u8,
}

/// The rules of one container.
#[derive(Debug, PartialEq, Eq)]
pub struct Rules(Vec<Rule>);

impl Rules {
    /// The spec's rules, and the devices that every container may use.
    ///
    /// # Errors
    /// A rule makes no sense, or there are too many.
    pub fn new(spec: &[LinuxDeviceCgroup]) -> Result<Self> {
        if spec.len() > MAX_RULES {
            return Err(Error::Invalid(format!("{} device rules", spec.len())));
        }
        let mut rules: Vec<Rule> = spec.iter().map(rule).collect::<Result<_>>()?;
        // A node that cannot be opened does no harm.
        rules.extend([BLOCK, CHARACTER].map(|kind| Rule {
            allow: true,
            kind: Some(kind),
            major: None,
            minor: None,
            access: MKNOD,
        }));
        rules.extend(DEFAULT.map(|(major, minor)| Rule {
            allow: true,
            kind: Some(CHARACTER),
            major: Some(major),
            minor,
            access: ALL,
        }));
        Ok(Self(rules))
    }

    /// Lets the container use a disk of the guest, whatever the spec's rules say.
    pub fn allow_disk(&mut self, number: libc::dev_t, read_only: bool) {
        let (major, minor) = (libc::major(number), libc::minor(number));
        let access = if read_only { MKNOD | READ } else { ALL };
        let (kind, major, minor) = (Some(BLOCK), Some(major), Some(minor));
        self.0.push(Rule { allow: true, kind, major, minor, access });
    }

    /// Puts them in force for a group, whose directory this is.
    pub fn attach(&self, group: &impl AsFd) -> Result<()> {
        let program = load(&self.compile()).doing(|| "load the device rules")?;
        attach(&program, group).doing(|| "attach the device rules")
    }

    fn compile(&self) -> Vec<Instruction> {
        let mut program = vec![
            Instruction::load(KIND, CONTEXT, 0),
            Instruction::load(ACCESS, CONTEXT, 0),
            Instruction::and(KIND, 0xffff),
            Instruction::shift_right(ACCESS, 16),
            Instruction::load(MAJOR, CONTEXT, 4),
            Instruction::load(MINOR, CONTEXT, 8),
        ];
        for rule in self.0.iter().rev() {
            program.extend(rule.compile());
        }
        program.extend([Instruction::set(RESULT, 0), Instruction::EXIT]);
        program
    }
}

fn rule(spec: &LinuxDeviceCgroup) -> Result<Rule> {
    let invalid = || Error::Invalid(format!("device rule {spec}"));
    let kind = match spec.typ().unwrap_or_default() {
        LinuxDeviceType::A => None,
        LinuxDeviceType::B => Some(BLOCK),
        LinuxDeviceType::C => Some(CHARACTER),
        LinuxDeviceType::U | LinuxDeviceType::P => return Err(invalid()),
    };
    // The kernel's numbers have 12 and 20 bits.
    let number = |value: Option<i64>| match value {
        None | Some(-1) => Ok(None),
        Some(value) => {
            u32::try_from(value).ok().filter(|n| *n < 1 << 20).map(Some).ok_or_else(invalid)
        }
    };
    let mut access = 0;
    for letter in spec.access().as_deref().unwrap_or("rwm").chars() {
        access |= match letter {
            'm' => MKNOD,
            'r' => READ,
            'w' => WRITE,
            _ => return Err(invalid()),
        };
    }
    let (major, minor) = (number(spec.major())?, number(spec.minor())?);
    Ok(Rule { allow: spec.allow(), kind, major, minor, access })
}

impl Rule {
    fn compile(&self) -> Vec<Instruction> {
        let verdict = if self.allow {
            vec![
                Instruction::and(ACCESS, !u32::from(self.access)),
                Instruction::skip_if_not(ACCESS, 0, 2),
                Instruction::set(RESULT, 1),
                Instruction::EXIT,
            ]
        } else {
            vec![
                Instruction::copy(SCRATCH, ACCESS),
                Instruction::and(SCRATCH, u32::from(self.access)),
                Instruction::skip_if(SCRATCH, 0, 2),
                Instruction::set(RESULT, 0),
                Instruction::EXIT,
            ]
        };
        let conditions =
            [(KIND, self.kind.map(u32::from)), (MAJOR, self.major), (MINOR, self.minor)];
        let mut rule = verdict;
        for (register, value) in conditions.into_iter().rev() {
            if let Some(value) = value {
                // At most two conditions and five instructions follow.
                let rest = i16::try_from(rule.len()).unwrap_or(i16::MAX);
                rule.insert(0, Instruction::skip_if_not(register, value, rest));
            }
        }
        rule
    }
}

const RESULT: u8 = 0;
/// `struct bpf_cgroup_dev_ctx`: access and kind, major, minor, of 32 bits each.
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const SCRATCH: u8 = 6;

/// `struct bpf_insn`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
struct Instruction {
    opcode: u8,
    /// Destination in the low half, source in the high one.
    registers: u8,
    offset: i16,
    immediate: u32,
}

impl Instruction {
    const LOAD: u8 = 0x61;
    const AND: u8 = 0x54;
    const SHIFT_RIGHT: u8 = 0x74;
    const COPY: u8 = 0xbc;
    const SET: u8 = 0xb7;
    const JUMP_UNEQUAL: u8 = 0x56;
    const JUMP_EQUAL: u8 = 0x16;
    const EXIT: Self = Self { opcode: 0x95, registers: 0, offset: 0, immediate: 0 };

    const fn load(to: u8, from: u8, offset: i16) -> Self {
        Self { opcode: Self::LOAD, registers: to | from << 4, offset, immediate: 0 }
    }

    const fn and(register: u8, immediate: u32) -> Self {
        Self { opcode: Self::AND, registers: register, offset: 0, immediate }
    }

    const fn shift_right(register: u8, immediate: u32) -> Self {
        Self { opcode: Self::SHIFT_RIGHT, registers: register, offset: 0, immediate }
    }

    const fn copy(to: u8, from: u8) -> Self {
        Self { opcode: Self::COPY, registers: to | from << 4, offset: 0, immediate: 0 }
    }

    const fn set(register: u8, immediate: u32) -> Self {
        Self { opcode: Self::SET, registers: register, offset: 0, immediate }
    }

    const fn skip_if_not(register: u8, immediate: u32, count: i16) -> Self {
        Self { opcode: Self::JUMP_UNEQUAL, registers: register, offset: count, immediate }
    }

    const fn skip_if(register: u8, immediate: u32, count: i16) -> Self {
        Self { opcode: Self::JUMP_EQUAL, registers: register, offset: count, immediate }
    }
}

/// The part of `union bpf_attr` that `BPF_PROG_LOAD` needs.
#[repr(C)]
struct LoadAttributes {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
}

/// The part of `union bpf_attr` that `BPF_PROG_ATTACH` needs.
#[repr(C)]
struct AttachAttributes {
    target: u32,
    program: u32,
    attach_type: u32,
    flags: u32,
}

fn load(program: &[Instruction]) -> nix::Result<OwnedFd> {
    const BPF_PROG_LOAD: libc::c_int = 5;
    const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
    let attributes = LoadAttributes {
        program_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        instruction_count: u32::try_from(program.len()).map_err(|_| Errno::E2BIG)?,
        instructions: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
    };
    // SAFETY: the attributes are those of BPF_PROG_LOAD; the instructions and the NUL-terminated
    // license that they point to outlive the call, which only reads them.
    let fd = unsafe { bpf(BPF_PROG_LOAD, &attributes) }?;
    // SAFETY: the kernel returned this descriptor just now (close-on-exec), nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn attach(program: &OwnedFd, group: &impl AsFd) -> nix::Result<()> {
    const BPF_PROG_ATTACH: libc::c_int = 8;
    const BPF_CGROUP_DEVICE: u32 = 6;
    /// Groups below may add rules of their own, which cannot allow more.
    const BPF_F_ALLOW_MULTI: u32 = 2;
    let number = |fd: i32| u32::try_from(fd).map_err(|_| Errno::EBADF);
    let attributes = AttachAttributes {
        target: number(group.as_fd().as_raw_fd())?,
        program: number(program.as_raw_fd())?,
        attach_type: BPF_CGROUP_DEVICE,
        flags: BPF_F_ALLOW_MULTI,
    };
    // SAFETY: the attributes are those of BPF_PROG_ATTACH and point to nothing.
    unsafe { bpf(BPF_PROG_ATTACH, &attributes) }.map(drop)
}

/// # Safety
/// `attributes` are those of the command, and what they point to is as the command needs it.
unsafe fn bpf<T>(command: libc::c_int, attributes: &T) -> nix::Result<i32> {
    // SAFETY: the pointer and the size are those of one live value; the rest is the caller's.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>())
    };
    Errno::result(result).and_then(|fd| i32::try_from(fd).map_err(|_| Errno::EBADF))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What the kernel does with the program.
    fn interpret(program: &[Instruction], kind: u8, access: u8, major: u32, minor: u32) -> bool {
        let context = [u32::from(access) << 16 | u32::from(kind), major, minor];
        let mut registers = [0u32; 11];
        let mut at = 0;
        loop {
            let i = program[at];
            at += 1;
            let (to, from) = (usize::from(i.registers & 15), usize::from(i.registers >> 4));
            let skip = usize::try_from(i.offset).unwrap();
            match i.opcode {
                Instruction::LOAD => registers[to] = context[skip / 4],
                Instruction::AND => registers[to] &= i.immediate,
                Instruction::SHIFT_RIGHT => registers[to] >>= i.immediate,
                Instruction::COPY => registers[to] = registers[from],
                Instruction::SET => registers[to] = i.immediate,
                Instruction::JUMP_UNEQUAL if registers[to] != i.immediate => at += skip,
                Instruction::JUMP_EQUAL if registers[to] == i.immediate => at += skip,
                Instruction::JUMP_UNEQUAL | Instruction::JUMP_EQUAL => {}
                0x95 => return registers[0] == 1,
                other => panic!("{other:#x}"),
            }
        }
    }

    /// What the specification says, access by access.
    fn expected(rules: &Rules, kind: u8, access: u8, major: u32, minor: u32) -> bool {
        [MKNOD, READ, WRITE].into_iter().filter(|bit| access & bit != 0).all(|bit| {
            let speaks = |rule: &&Rule| {
                rule.access & bit != 0
                    && rule.kind.is_none_or(|k| k == kind)
                    && rule.major.is_none_or(|m| m == major)
                    && rule.minor.is_none_or(|m| m == minor)
            };
            rules.0.iter().rfind(speaks).is_some_and(|rule| rule.allow)
        })
    }

    fn rules(json: &str) -> Result<Rules> {
        Rules::new(&serde_json::from_str::<Vec<LinuxDeviceCgroup>>(json).unwrap())
    }

    #[test]
    fn only_the_default_devices_are_open_unasked() {
        let program = rules(r#"[{"allow": false, "access": "rwm"}]"#).unwrap().compile();
        assert!(interpret(&program, CHARACTER, READ | WRITE, 1, 3));
        assert!(interpret(&program, CHARACTER, READ | WRITE, 136, 7));
        assert!(interpret(&program, BLOCK, MKNOD, 254, 0));
        assert!(!interpret(&program, BLOCK, READ, 254, 0));
        assert!(!interpret(&program, CHARACTER, READ, 1, 1));
    }

    #[test]
    fn accesses_may_be_allowed_one_by_one() {
        let json = r#"[{"allow": true, "type": "c", "major": 10, "minor": 229, "access": "r"},
                       {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "w"}]"#;
        let program = rules(json).unwrap().compile();
        assert!(interpret(&program, CHARACTER, READ | WRITE, 10, 229));
        assert!(!interpret(&program, CHARACTER, READ, 10, 228));
    }

    #[test]
    fn rules_that_make_no_sense_are_refused() {
        for json in [
            r#"[{"allow": true, "access": "x"}]"#,
            r#"[{"allow": true, "type": "p"}]"#,
            r#"[{"allow": true, "major": -2}]"#,
            r#"[{"allow": true, "minor": 99999999}]"#,
        ] {
            assert!(matches!(rules(json), Err(Error::Invalid(_))), "{json}");
        }
    }

    fn any_rule() -> impl Strategy<Value = Rule> {
        let some = |values: std::ops::Range<u32>| prop::option::of(values);
        (any::<bool>(), prop::option::of(1u8..3), some(0..3), some(0..3), 0u8..8).prop_map(
            |(allow, kind, major, minor, access)| Rule { allow, kind, major, minor, access },
        )
    }

    proptest! {
        #[test]
        fn the_program_does_what_the_rules_say(
            list in prop::collection::vec(any_rule(), 0..8),
            kind in 1u8..3, access in 1u8..8, major in 0u32..3, minor in 0u32..3,
        ) {
            let rules = Rules(list);
            let program = rules.compile();
            prop_assert_eq!(
                interpret(&program, kind, access, major, minor),
                expected(&rules, kind, access, major, minor)
            );
        }
    }
}
