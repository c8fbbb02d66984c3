//! What a [`Wake`] asks for, checked: the one place where it is.

use ampoule_protocol::message::Wake;
use nix::sys::time::TimeSpec;

use crate::error::{Error, Result};
use crate::identity::{BootId, MachineId};
use crate::random::Seed;

/// Longest host name that Linux takes, in bytes.
const MAX_HOSTNAME: usize = 64;

/// A request that holds what it promises.
pub struct Waking {
    /// For the kernel's pool.
    pub seed: Seed,
    /// The wall clock.
    pub realtime: TimeSpec,
    /// The guest's machine id.
    pub machine_id: MachineId,
    /// The boot id that containers see.
    pub boot_id: BootId,
    /// The host name of the guest and its containers.
    pub hostname: String,
}

impl Waking {
    /// # Errors
    /// Something is not of the form that [`Wake`] says, or is of no use to a guest.
    pub fn check(request: Wake) -> Result<Self> {
        // First, since this wipes the text whatever else is wrong.
        let seed = Seed::parse(request.seed)?;
        check_hostname(&request.hostname)?;
        Ok(Self {
            seed,
            realtime: time(request.realtime_ns)?,
            machine_id: MachineId::parse(&request.machine_id)?,
            boot_id: BootId::parse(&request.boot_id)?,
            hostname: request.hostname,
        })
    }
}

fn time(nanoseconds: u64) -> Result<TimeSpec> {
    const NANOSECONDS: u64 = 1_000_000_000;
    let invalid = |_| Error::Invalid(format!("a wall clock of {nanoseconds} ns"));
    let seconds = i64::try_from(nanoseconds / NANOSECONDS).map_err(invalid)?;
    let rest = i64::try_from(nanoseconds % NANOSECONDS).map_err(invalid)?;
    Ok(TimeSpec::new(seconds, rest))
}

/// Letters, digits, `-`, `_` and `.`, not starting with one of the last three.
fn check_hostname(name: &str) -> Result<()> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let valid = (1..=MAX_HOSTNAME).contains(&name.len())
        && !name.starts_with(['-', '_', '.'])
        && name.chars().all(allowed);
    if valid { Ok(()) } else { Err(Error::Invalid(format!("host name {name:?}"))) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn request() -> Wake {
        Wake {
            seed: "5a".repeat(Wake::SEED_BYTES),
            realtime_ns: 1_700_000_000_123_456_789,
            machine_id: "0123456789abcdef0123456789abcdef".into(),
            boot_id: "01234567-89ab-4def-8123-456789abcdef".into(),
            hostname: "web-1".into(),
        }
    }

    #[test]
    fn a_whole_request_is_taken() {
        let waking = Waking::check(request()).unwrap();
        assert_eq!(waking.seed.bytes(), [0x5a; 64]);
        assert_eq!(waking.realtime, TimeSpec::new(1_700_000_000, 123_456_789));
        assert_eq!(waking.hostname, "web-1");
    }

    #[test]
    fn each_part_is_checked() {
        let changes: [fn(&mut Wake); 10] = [
            |wake| wake.seed.truncate(126),
            |wake| wake.seed.push_str("00"),
            |wake| wake.seed.replace_range(..2, "+1"),
            |wake| wake.machine_id.push('0'),
            |wake| wake.machine_id.replace_range(..1, "g"),
            |wake| wake.boot_id.retain(|c| c != '-'),
            |wake| wake.boot_id.replace_range(..8, "0123456-"),
            |wake| wake.hostname.clear(),
            |wake| wake.hostname = "a/b".into(),
            |wake| wake.hostname = "a".repeat(65),
        ];
        for (n, change) in changes.iter().enumerate() {
            let mut request = request();
            change(&mut request);
            assert!(matches!(Waking::check(request), Err(Error::Invalid(_))), "change {n}");
        }
    }

    proptest! {
        #[test]
        fn any_request_is_taken_or_refused(
            texts in prop::collection::vec(".{0,140}", 4),
            realtime_ns: u64,
        ) {
            let [seed, machine_id, boot_id, hostname] = texts.try_into().unwrap();
            let wake = Wake { seed, realtime_ns, machine_id, boot_id, hostname };
            prop_assert!(Waking::check(wake).is_err());
        }

        #[test]
        fn any_wall_clock_is_a_time(nanoseconds: u64) {
            let time = time(nanoseconds).unwrap();
            let seconds = u128::try_from(time.tv_sec()).unwrap();
            let rest = u128::try_from(time.tv_nsec()).unwrap();
            prop_assert_eq!(seconds * 1_000_000_000 + rest, u128::from(nanoseconds));
        }

        #[test]
        fn host_names_without_surprises_pass(name in "[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}") {
            prop_assert!(check_hostname(&name).is_ok());
        }
    }
}
