//! Hardware addresses.

use super::error::NetError;

const GROUP: u8 = 0x01;
const LOCALLY_ADMINISTERED: u8 = 0x02;

/// Bytes of an address.
pub const LEN: usize = 6;

/// The address that was configured, if it can be one interface's, or else a random one.
pub fn choose(configured: Option<[u8; LEN]>) -> Result<[u8; LEN], NetError> {
    let Some(mac) = configured else {
        return random();
    };
    let [first, ..] = mac;
    if first & GROUP != 0 || mac == [0; LEN] {
        let text = mac.map(|byte| format!("{byte:02x}")).join(":");
        return Err(NetError::Mac(text));
    }
    Ok(mac)
}

/// A random address out of those that nobody assigns (IEEE 802, 9.2).
fn random() -> Result<[u8; LEN], NetError> {
    let mut mac = [0; LEN];
    getrandom::fill(&mut mac).map_err(NetError::Random)?;
    let [first, rest @ ..] = mac;
    let [a, b, c, d, e] = rest;
    Ok([first & !GROUP | LOCALLY_ADMINISTERED, a, b, c, d, e])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_addresses_are_local_single_and_different() {
        let (one, other) = (choose(None).unwrap(), choose(None).unwrap());
        for mac in [one, other] {
            assert_eq!(mac[0] & GROUP, 0);
            assert_eq!(mac[0] & LOCALLY_ADMINISTERED, LOCALLY_ADMINISTERED);
        }
        assert_ne!(one, other);
    }

    #[test]
    fn a_configured_address_is_kept_unless_it_is_a_group() {
        assert_eq!(choose(Some([2, 0, 0, 0, 0, 1])).unwrap(), [2, 0, 0, 0, 0, 1]);
        let error = choose(Some([0xff; 6])).unwrap_err();
        assert!(error.to_string().contains("ff:ff:ff:ff:ff:ff"), "{error}");
        assert!(choose(Some([0; 6])).is_err());
    }
}
