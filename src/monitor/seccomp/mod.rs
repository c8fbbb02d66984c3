//! What the monitor's threads may ask of the host's kernel: by role, a short list of system calls with
//! their arguments. Whatever else a thread tries is not done, and ends the monitor, which tells its
//! keeper what it was.
//!
//! * [`lists`]: what is allowed, and why
//! * [`violation`]: the last thing that a monitor says

pub mod lists;
pub mod violation;

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};

use self::lists::{Allowed, When};
use crate::vmm::host::Role;

/// The filter of a role.
///
/// # Errors
/// The lists make no filter: a defect of this program.
pub fn filter(role: Role) -> Result<BpfProgram, BackendError> {
    compile(lists::of(role))
}

fn compile(allowed: impl Iterator<Item = Allowed>) -> Result<BpfProgram, BackendError> {
    let mut rules = BTreeMap::<i64, Vec<SeccompRule>>::new();
    for (call, when) in allowed {
        rules.entry(call).or_default().extend(conditions(when)?);
    }
    let (otherwise, allowed) = (SeccompAction::Trap, SeccompAction::Allow);
    SeccompFilter::new(rules, otherwise, allowed, TargetArch::x86_64)?.try_into()
}

/// Each is enough; none at all is no condition.
fn conditions(when: When) -> Result<Vec<SeccompRule>, BackendError> {
    let rule = |argument, operator, value| {
        // The calls that are looked at take numbers of 32 bits there: the kernel ignores the rest.
        let length = SeccompCmpArgLen::Dword;
        let condition = SeccompCondition::new(argument, length, operator, value)?;
        SeccompRule::new(vec![condition])
    };
    match when {
        When::Always => Ok(Vec::new()),
        When::Is(argument, values) => {
            values.iter().map(|value| rule(argument, SeccompCmpOp::Eq, *value)).collect()
        }
        When::Lacks(argument, bits) => Ok(vec![rule(argument, SeccompCmpOp::MaskedEq(bits), 0)?]),
    }
}

/// Puts the calling thread under its role's filter, for good.
pub fn apply(role: Role) -> io::Result<()> {
    let filter = filter(role).map_err(io::Error::other)?;
    violation::know(role);
    seccompiler::apply_filter(&filter).map_err(io::Error::other)
}

#[cfg(test)]
mod tests;
