//! What becomes of a namespace's interfaces in a guest. Pure.

use std::collections::BTreeMap;

use ampoule_protocol::message::{Cidr, Interface, Neighbour, Route};
use ampoule_protocol::network::{MAX_INTERFACES, MAX_NAME};

/// How the names of taps begin; the rest is the hexadecimal index of the interface that one is for.
const TAP: &str = "ampoule";

/// Largest MTU of a tap: Linux has 64 KiB for a frame.
const MAX_TAP_MTU: u32 = 65_521;

/// Why what is there cannot be had in a guest.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// more interfaces than a guest has
    #[error("{} are one interface too many: a guest has {MAX_INTERFACES}", .0.join(", "))]
    TooMany(Vec<String>),
    /// a name that a guest's interface cannot have
    #[error("interface {0:?} has a name that a guest's cannot have")]
    Name(String),
    /// a route over several interfaces, or several gateways
    #[error(
        "the route to {destination} over {interface} has several ways, which a guest's has not"
    )]
    SeveralWays {
        /// the interface
        interface: String,
        /// where the route leads
        destination: Cidr,
    },
}

/// What there is in a namespace.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Interfaces.
    pub links: Vec<Link>,
    /// Addresses, by the index of their interface.
    pub addresses: Vec<(u32, Cidr)>,
    /// Routes of the main table, by the index of their interface.
    pub routes: Vec<(u32, Way)>,
    /// Neighbours that are known for good, by the index of their interface.
    pub neighbours: Vec<(u32, Neighbour)>,
}

/// An interface of the namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its hardware address.
    pub mac: Vec<u8>,
    /// Its MTU.
    pub mtu: u32,
    /// Frames are Ethernet's.
    pub ethernet: bool,
    /// It leads back to the host itself.
    pub loopback: bool,
    /// It is in use.
    pub up: bool,
    /// It is part of another one, such as a bridge.
    pub enslaved: bool,
    /// Somebody is at its other end. For a tap: its program.
    pub carrier: bool,
}

impl Link {
    /// Whether it can be anybody's network.
    pub fn is_in_use(&self) -> bool {
        self.up && !self.loopback && !is_tap(&self.name)
    }
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// One way.
    One(Route),
    /// Several.
    Several(Cidr),
}

/// An interface to be joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joining {
    /// Its index.
    pub index: u32,
    /// Name of its tap.
    pub tap: String,
    /// MTU of its tap.
    pub mtu: u32,
    /// The tap is there already, of a sandbox that was killed, or of one that lives.
    pub left: Option<u32>,
    /// What the guest gets.
    pub interface: Interface,
}

/// What is to be made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Interfaces, in the order of their indices.
    pub joining: Vec<Joining>,
    /// Interfaces that are in use and that the guest does not get, each with the reason.
    pub left_out: Vec<String>,
}

/// Plans for the interfaces that are not `joined` yet, which have the guest's slots by their index.
///
/// # Errors
/// There are more of them than free slots, or something about one is nothing for a guest.
pub fn plan(seen: &Seen, joined: &BTreeMap<u32, u8>) -> Result<Plan, PlanError> {
    let mut plan = Plan::default();
    let mut links = Vec::new();
    for link in &seen.links {
        if !link.is_in_use() || joined.contains_key(&link.index) {
            continue;
        }
        match unfit(link) {
            Some(reason) => plan.left_out.push(format!("interface {}: {reason}", link.name)),
            None => links.push(link),
        }
    }
    links.sort_by_key(|link| link.index);
    let mut slots =
        (0..u8::MAX).take(MAX_INTERFACES).filter(|slot| !joined.values().any(|used| used == slot));
    for link in &links {
        let Some(slot) = slots.next() else {
            return Err(PlanError::TooMany(links.iter().map(|link| link.name.clone()).collect()));
        };
        let left = seen.links.iter().find(|other| other.name == tap_of(link.index));
        plan.joining.push(Joining {
            index: link.index,
            tap: tap_of(link.index),
            mtu: link.mtu.min(MAX_TAP_MTU),
            left: left.map(|link| link.index),
            interface: interface(seen, link, slot)?,
        });
    }
    Ok(plan)
}

/// Why an interface in use cannot be a guest's.
fn unfit(link: &Link) -> Option<&'static str> {
    let single = <[u8; 6]>::try_from(link.mac.as_slice())
        .is_ok_and(|mac| mac != [0; 6] && mac.first().is_some_and(|first| first & 1 == 0));
    if link.enslaved {
        Some("it is part of another one")
    } else if !link.ethernet {
        Some("it is no Ethernet interface, which a guest's are")
    } else if !single {
        Some("it has no hardware address")
    } else {
        None
    }
}

fn interface(seen: &Seen, link: &Link, slot: u8) -> Result<Interface, PlanError> {
    let fits = |c: char| c.is_ascii_graphic() && !matches!(c, '/' | ':' | '%');
    if link.name.is_empty() || link.name.len() > MAX_NAME || !link.name.chars().all(fits) {
        return Err(PlanError::Name(link.name.clone()));
    }
    let ours = |index: u32| index == link.index;
    let routes = seen.routes.iter().filter(|(index, _)| ours(*index));
    let routes = routes.map(|(_, way)| match way {
        Way::One(route) => Ok(route.clone()),
        Way::Several(destination) => {
            Err(PlanError::SeveralWays { interface: link.name.clone(), destination: *destination })
        }
    });
    let neighbours = seen.neighbours.iter().filter(|(index, _)| ours(*index));
    let addresses = seen.addresses.iter().filter(|(index, _)| ours(*index));
    Ok(Interface {
        slot,
        name: link.name.clone(),
        mac: link.mac.as_slice().try_into().unwrap_or_default(),
        mtu: Some(link.mtu.min(u32::from(u16::MAX))),
        addresses: addresses.map(|(_, address)| *address).collect(),
        routes: routes.collect::<Result<_, _>>()?,
        neighbours: neighbours.map(|(_, neighbour)| neighbour.clone()).collect(),
    })
}

/// Name of the tap of an interface. Whoever clears away what a killed keeper has left finds by it what
/// there was.
pub fn tap_of(index: u32) -> String {
    format!("{TAP}{index:x}")
}

/// The interface that a tap of this name is for; none where it is not one of ours.
pub fn interface_of(tap: &str) -> Option<u32> {
    let index = u32::from_str_radix(tap.strip_prefix(TAP)?, 16).ok()?;
    (tap_of(index) == tap).then_some(index)
}

fn is_tap(name: &str) -> bool {
    interface_of(name).is_some()
}

/// Whether somebody has one of our taps open.
pub fn is_held(seen: &Seen) -> bool {
    seen.links.iter().any(|link| link.carrier && is_tap(&link.name))
}

/// Taps without a sandbox, and the interfaces that they are for.
pub fn left_behind(seen: &Seen) -> Vec<(u32, u32)> {
    let taps = seen.links.iter().filter(|link| !link.carrier);
    taps.filter_map(|tap| Some((tap.index, interface_of(&tap.name)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn link(index: u32, name: &str) -> Link {
        Link {
            index,
            name: name.to_owned(),
            mac: vec![2, 0, 0, 0, 0, 1],
            mtu: 1500,
            ethernet: true,
            loopback: false,
            up: true,
            enslaved: false,
            carrier: true,
        }
    }

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn an_interface_is_the_guests_with_all_that_belongs_to_it() {
        let route = Route {
            destination: cidr("0.0.0.0/0"),
            gateway: Some("10.0.0.1".parse().unwrap()),
            source: None,
            metric: None,
            scope: 0,
            on_link: false,
        };
        let seen = Seen {
            links: vec![
                Link { loopback: true, ..link(1, "lo") },
                link(7, "eth0"),
                Link { up: false, ..link(2, "tunl0") },
                Link { ethernet: false, ..link(9, "wg0") },
                Link { enslaved: true, ..link(10, "port") },
            ],
            addresses: vec![(7, cidr("10.0.0.2/24")), (1, cidr("127.0.0.1/8"))],
            routes: vec![(7, Way::One(route.clone())), (9, Way::Several(cidr("::/0")))],
            neighbours: Vec::new(),
        };
        let plan = plan(&seen, &BTreeMap::new()).unwrap();
        let [joining] = plan.joining.as_slice() else { panic!("{plan:?}") };
        assert_eq!((joining.index, joining.tap.as_str(), joining.left), (7, "ampoule7", None));
        assert_eq!(joining.interface.addresses, [cidr("10.0.0.2/24")]);
        assert_eq!(joining.interface.routes, [route]);
        assert_eq!(plan.left_out.len(), 2, "{:?}", plan.left_out);
        assert!(plan.left_out.iter().any(|text| text.contains("wg0")));
    }

    #[test]
    fn later_ones_take_the_slots_that_are_free() {
        let links = (1..=3).map(|n| link(n, &format!("e{n}"))).collect();
        let seen = Seen { links, ..Seen::default() };
        let joined = BTreeMap::from([(2, 0), (77, 2)]);
        let plan = plan(&seen, &joined).unwrap();
        let slots: Vec<_> = plan.joining.iter().map(|j| (j.index, j.interface.slot)).collect();
        assert_eq!(slots, [(1, 1), (3, 3)]);
    }

    #[test]
    fn what_is_nothing_for_a_guest_is_refused_by_name() {
        let five = (1..=5).map(|n| link(n, &format!("e{n}"))).collect();
        let error = plan(&Seen { links: five, ..Seen::default() }, &BTreeMap::new()).unwrap_err();
        assert!(error.to_string().contains("e5"), "{error}");
        let ways = Seen {
            links: vec![link(1, "e")],
            routes: vec![(1, Way::Several(cidr("10.0.0.0/8")))],
            ..Seen::default()
        };
        let error = plan(&ways, &BTreeMap::new()).unwrap_err();
        assert!(error.to_string().contains("10.0.0.0/8 over e "), "{error}");
        let named = Seen { links: vec![link(1, "a%d")], ..Seen::default() };
        assert!(matches!(plan(&named, &BTreeMap::new()), Err(PlanError::Name(_))));
    }

    #[test]
    fn taps_of_those_who_live_are_left_alone() {
        let links = vec![
            link(3, "eth0"),
            Link { carrier: false, ..link(4, "ampoule3") },
            link(5, "ampoule9"),
            Link { carrier: false, ..link(6, "ampoule03") },
        ];
        let seen = Seen { links, ..Seen::default() };
        assert_eq!(left_behind(&seen), [(4, 3)]);
        let plan = plan(&seen, &BTreeMap::new()).unwrap();
        let names: Vec<_> = plan.joining.iter().map(|j| (j.index, j.left)).collect();
        assert_eq!(names, [(3, Some(4)), (6, None)]);
    }

    fn links() -> impl Strategy<Value = Vec<Link>> {
        let parts = ("[a-z]{1,8}", any::<[bool; 4]>(), 68u32..100_000, any::<[u8; 6]>());
        prop::collection::vec(parts, 0..6).prop_map(|parts| {
            type Parts = (String, [bool; 4], u32, [u8; 6]);
            let link = |(n, (name, flags, mtu, mac)): (usize, Parts)| {
                let [up, ethernet, loopback, enslaved] = flags;
                let (index, mac) = (u32::try_from(n).unwrap() + 1, mac.to_vec());
                let carrier = true;
                Link { index, name, mac, mtu, ethernet, loopback, up, enslaved, carrier }
            };
            parts.into_iter().enumerate().map(link).collect()
        })
    }

    proptest! {
        #[test]
        fn names_of_taps_are_names_and_lead_back(index: u32) {
            let name = tap_of(index);
            prop_assert!(name.len() <= MAX_NAME);
            prop_assert_eq!(interface_of(&name), Some(index));
        }

        #[test]
        fn any_name_is_one_of_ours_or_not(name in ".{0,20}") {
            if let Some(index) = interface_of(&name) {
                prop_assert_eq!(tap_of(index), name);
            }
        }

        #[test]
        fn each_interface_is_joined_once_or_named_or_not_in_use(
            links in links(),
            addresses in prop::collection::vec((1u32..8, any::<std::net::IpAddr>()), 0..12),
        ) {
            let addresses: Vec<_> =
                addresses.into_iter().map(|(n, ip)| (n, Cidr::new(ip, 32).unwrap())).collect();
            let seen = Seen { links: links.clone(), addresses, ..Seen::default() };
            let Ok(plan) = plan(&seen, &BTreeMap::new()) else {
                prop_assert!(links.len() > MAX_INTERFACES);
                return Ok(());
            };
            let used = links.iter().filter(|link| link.up && !link.loopback).count();
            prop_assert_eq!(plan.joining.len() + plan.left_out.len(), used);
            let mut slots: Vec<_> = plan.joining.iter().map(|j| j.interface.slot).collect();
            slots.dedup();
            prop_assert_eq!(slots.len(), plan.joining.len());
            for joining in &plan.joining {
                let own = seen.addresses.iter().filter(|(index, _)| *index == joining.index);
                prop_assert_eq!(own.count(), joining.interface.addresses.len());
                prop_assert!(joining.mtu <= MAX_TAP_MTU);
            }
            // Once they are joined, there is nothing more to do.
            let joined = plan.joining.iter().map(|j| (j.index, j.interface.slot)).collect();
            prop_assert!(super::plan(&seen, &joined).unwrap().joining.is_empty());
        }
    }
}
