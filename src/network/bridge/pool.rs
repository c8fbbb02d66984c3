//! Which subnets and addresses are free. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::definition::Subnet;

/// Most addresses of a subnet that are looked at: as many containers as no host has.
const MOST: usize = 1 << 16;

/// Whether two subnets have an address in common.
pub fn overlap(one: &IpNet, other: &IpNet) -> bool {
    one.contains(&other.network()) || other.contains(&one.network())
}

/// The first subnet of `prefix` bits in `pool` that has nothing in common with those that are used.
pub fn free_subnet(pool: Ipv4Net, prefix: u8, used: &[IpNet]) -> Option<Ipv4Net> {
    // Those that are no longer than the pool itself.
    let mut all = pool.subnets(prefix.max(pool.prefix_len())).ok()?;
    all.find(|subnet| !used.iter().any(|used| overlap(used, &IpNet::V4(*subnet))))
}

/// A subnet of IPv6 that nobody else has: a unique local one (RFC 4193, 3.1) whose 40 bits of a global ID and
/// 16 bits of a subnet ID are random.
pub fn local_subnet(random: [u8; 7]) -> Ipv6Net {
    let [a, b, c, d, e, f, g] = random;
    let address = Ipv6Addr::from([0xfd, a, b, c, d, e, f, g, 0, 0, 0, 0, 0, 0, 0, 0]);
    // 64 is less than 128.
    Ipv6Net::new(address, 64).unwrap_or_default()
}

/// The first address of a subnet that nobody has.
pub fn free_address(subnet: &Subnet, used: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
    let free = |address: &IpAddr| *address != subnet.gateway && !used(*address);
    let range = subnet.range.unwrap_or(subnet.subnet);
    range.hosts().take(MOST).filter(|address| is_usable(subnet, *address).is_ok()).find(free)
}

/// Why an address that somebody names is nobody's to have.
pub fn is_usable(subnet: &Subnet, address: IpAddr) -> Result<(), &'static str> {
    if !subnet.subnet.contains(&address) {
        Err("it is not in the network's subnet")
    } else if address == subnet.gateway {
        Err("it is the gateway's")
    } else if address == subnet.subnet.network()
        || (address.is_ipv4() && address == subnet.subnet.broadcast())
    {
        Err("it is the network's own")
    } else {
        Ok(())
    }
}

/// The address of IPv6 that goes with one of IPv4: both are equally far from the beginning of their subnets.
pub fn beside(four: &Subnet, address: Ipv4Addr, six: &Subnet) -> Option<IpAddr> {
    let (IpAddr::V4(begin), IpAddr::V6(other)) = (four.subnet.network(), six.subnet.network())
    else {
        return None;
    };
    let distance = u32::from(address).checked_sub(u32::from(begin))?;
    let address = IpAddr::V6(u128::from(other).checked_add(distance.into())?.into());
    let within = six.range.unwrap_or(six.subnet).contains(&address);
    (within && is_usable(six, address).is_ok()).then_some(address)
}

/// The hardware address that goes with an address, in docker's way: whoever has the one has the other.
pub fn mac_of(address: IpAddr) -> [u8; 6] {
    let bytes = match address {
        IpAddr::V4(four) => four.octets(),
        IpAddr::V6(six) => {
            let [.., a, b, c, d] = six.octets();
            [a, b, c, d]
        }
    };
    let [a, b, c, d] = bytes;
    [0x02, 0x42, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn subnet(text: &str) -> Subnet {
        Subnet::new(text.parse().unwrap(), None, None).unwrap()
    }

    #[test]
    fn what_is_used_by_somebody_is_passed_over() {
        let pool = "10.0.0.0/22".parse().unwrap();
        let used: Vec<IpNet> = ["10.0.0.0/24", "10.0.1.128/25", "192.168.0.0/16", "fd00::/8"]
            .map(|text| text.parse().unwrap())
            .into();
        assert_eq!(free_subnet(pool, 24, &used).unwrap().to_string(), "10.0.2.0/24");
        let all = ["10.0.0.0/8".parse().unwrap()];
        assert_eq!(free_subnet(pool, 24, &all), None);
        // A pool that is smaller is one subnet.
        assert_eq!(free_subnet(pool, 16, &[]).unwrap().to_string(), "10.0.0.0/22");
    }

    #[test]
    fn addresses_begin_after_the_gateway_and_end() {
        let four = subnet("10.0.0.0/29");
        let mut used: Vec<IpAddr> = Vec::new();
        while let Some(address) = free_address(&four, |address| used.contains(&address)) {
            used.push(address);
        }
        let texts: Vec<_> = used.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]);
        let range = "10.0.0.4/30".parse().unwrap();
        let ranged = Subnet::new("10.0.0.0/24".parse().unwrap(), None, Some(range)).unwrap();
        assert_eq!(free_address(&ranged, |_| false).unwrap().to_string(), "10.0.0.5");
    }

    #[test]
    fn both_families_count_alike() {
        let (four, six) = (subnet("10.0.0.0/16"), subnet("fd00:1::/64"));
        let of = |address: &str| {
            beside(&four, address.parse().unwrap(), &six).map(|address| address.to_string())
        };
        assert_eq!(of("10.0.1.2").as_deref(), Some("fd00:1::102"));
        assert_eq!(of("10.0.0.1"), None, "the gateway's");
        assert_eq!(mac_of("10.0.1.2".parse().unwrap()), [2, 0x42, 10, 0, 1, 2]);
        assert_eq!(local_subnet([1, 2, 3, 4, 5, 6, 7]).to_string(), "fd01:203:405:607::/64");
    }

    proptest! {
        #[test]
        fn two_never_have_the_same(count in 1usize..200, prefix in 22u8..30) {
            let four = subnet(&format!("10.9.0.0/{prefix}"));
            let mut used = std::collections::HashSet::new();
            for _ in 0..count {
                let Some(address) = free_address(&four, |address| used.contains(&address)) else {
                    break;
                };
                prop_assert!(is_usable(&four, address).is_ok());
                prop_assert!(used.insert(address));
            }
            prop_assert_eq!(used.len(), count.min((1 << (32 - prefix)) - 3));
        }

        #[test]
        fn any_distance_is_an_address_of_the_subnet_or_none(four: u32, prefix in 8u8..30) {
            let subnet4 = subnet("10.0.0.0/8");
            let six = subnet(&format!("fd00::/{}", 96 + prefix));
            if let Some(address) = beside(&subnet4, four.into(), &six) {
                prop_assert!(six.subnet.contains(&address));
            }
        }
    }
}
