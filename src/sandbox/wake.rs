//! What makes a restored guest another one than its twins.

use std::time::{SystemTime, UNIX_EPOCH};

use ampoule_protocol::message::Wake;

use super::error::SandboxError;

/// A fresh identity for a guest of this host name.
pub fn wake(hostname: &str) -> Result<Wake, SandboxError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(Wake {
        seed: hex(&random::<{ Wake::SEED_BYTES }>()?),
        realtime_ns: u64::try_from(now.as_nanos()).unwrap_or(u64::MAX),
        machine_id: hex(&random::<16>()?),
        boot_id: uuid(random()?),
        hostname: hostname.to_owned(),
    })
}

fn random<const N: usize>() -> Result<[u8; N], SandboxError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .map_err(std::io::Error::other)
        .map_err(SandboxError::host("cannot get random bytes for the guest"))?;
    Ok(bytes)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A random UUID (RFC 9562, 5.4).
fn uuid(mut bytes: [u8; 16]) -> String {
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let digits = hex(&bytes);
    [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_wakes_are_alike() {
        let (one, other) = (wake("a").unwrap(), wake("a").unwrap());
        assert_ne!(one.seed, other.seed);
        assert_ne!(one.machine_id, other.machine_id);
        assert_ne!(one.boot_id, other.boot_id);
        assert_eq!((one.seed.len(), one.machine_id.len()), (2 * Wake::SEED_BYTES, 32));
    }

    #[test]
    fn a_uuid_tells_that_it_is_random() {
        assert_eq!(uuid([0xff; 16]), "ffffffff-ffff-4fff-bfff-ffffffffffff");
    }
}
