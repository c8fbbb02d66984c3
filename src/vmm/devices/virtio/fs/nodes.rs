//! The numbers by which the guest knows files, and what it knows of each share.
//!
//! A number is made of a place (16 bits) and of what fuse-backend-rs numbers within one mount (47 bits,
//! and one that says that they are not the host's inode number). A place is a share and a mount in it. It
//! is given out when the guest is first told of a file there, and is free again when the guest has
//! forgotten everything of the share.
//!
//! What the guest sends is looked up here first: a number whose place is none is nothing, and any other
//! is looked up in turn by the share that it leads to, among the files that it has told the guest of.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use fuse_backend_rs::abi::fuse_abi::ROOT_ID;
use fuse_backend_rs::api::filesystem::{Context, FileSystem};

use super::share::Share;
use crate::vmm::exit::lock;

/// Bits of fuse-backend-rs' numbers: the file's, eight for the mount, and one that says what the first are.
const FILE_BITS: u32 = 47;
const FILE: u64 = (1 << FILE_BITS) - 1;
const MOUNT: u64 = 0xff;
const VIRTUAL_BIT: u32 = 55;

/// The first bit of a place in the guest's numbers.
const PLACE_BIT: u32 = 48;

/// The place of the top itself, where there is nothing else: its number is FUSE's.
const TOP: u16 = 0;

/// See the module.
pub struct Nodes {
    /// The mount at the top, which is never forgotten.
    pub top: Arc<Share>,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    places: BTreeMap<u16, Place>,
    /// By their mounts.
    shares: BTreeMap<u64, Known>,
}

/// Where a number leads.
struct Place {
    share: Arc<Share>,
    mount: u8,
}

/// What the guest knows of a share.
struct Known {
    share: Arc<Share>,
    /// How often it was told of a file, less what it has forgotten since.
    times: u64,
    /// The places of its mounts.
    places: BTreeMap<u8, u16>,
}

impl Nodes {
    /// Nothing but the top.
    pub fn new(top: Share) -> Self {
        let top = Arc::new(top);
        let place = Place { share: Arc::clone(&top), mount: 0 };
        let known = Known { share: Arc::clone(&top), times: 0, places: BTreeMap::from([(0, TOP)]) };
        let table = Table {
            places: BTreeMap::from([(TOP, place)]),
            shares: BTreeMap::from([(top.mount, known)]),
        };
        Self { top, table: Mutex::new(table) }
    }

    /// The share of a file, and its number there.
    ///
    /// # Errors
    /// `EBADF`: there is none.
    pub fn find(&self, node: u64) -> io::Result<(Arc<Share>, u64)> {
        let table = lock(&self.table);
        let place = table.places.get(&place_of(node));
        let place = place.ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))?;
        Ok((Arc::clone(&place.share), number(place.mount, node)))
    }

    /// The share of a mount, where the guest knows of it.
    pub fn share(&self, mount: u64) -> Option<Arc<Share>> {
        lock(&self.table).shares.get(&mount).map(|known| Arc::clone(&known.share))
    }

    /// The guest's number for a file that it is told of now, once more or for the first time.
    ///
    /// # Errors
    /// There are no numbers left, or the share is served anew. The file is forgotten then.
    pub fn tell(&self, share: &Arc<Share>, inode: u64) -> io::Result<u64> {
        // Nothing leads from a share to the top.
        let up = inode == ROOT_ID && share.mount != self.top.mount;
        let told = if up { Err(libc::ESTALE) } else { lock(&self.table).tell(share, inode) };
        told.map_err(|errno| {
            if inode != share.root {
                share.files.forget(&Context::default(), inode, 1);
            }
            io::Error::from_raw_os_error(errno)
        })
    }

    /// The guest has forgotten a file as often as that.
    pub fn forget(&self, node: u64, times: u64) {
        let Ok((share, inode)) = self.find(node) else { return };
        if inode != share.root {
            share.files.forget(&Context::default(), inode, times);
        }
        self.untell(&share, times);
    }

    /// The guest was not told after all, and the share has forgotten the file.
    pub fn untell(&self, share: &Share, times: u64) {
        let gone = lock(&self.table).untell(share.mount, times, self.top.mount);
        // Closing its files may take its time.
        drop(gone);
    }

    /// The guest has forgotten everything.
    pub fn clear(&self) {
        let mut table = lock(&self.table);
        let top = self.top.mount;
        table.places.retain(|_, place| place.share.mount == top);
        let (kept, gone): (BTreeMap<_, _>, BTreeMap<_, _>) =
            std::mem::take(&mut table.shares).into_iter().partition(|(mount, _)| *mount == top);
        table.shares = kept;
        drop(table);
        drop(gone);
    }

    /// How many shares the guest knows of, with the top, and how many places.
    #[cfg(test)]
    pub fn count(&self) -> (usize, usize) {
        let table = lock(&self.table);
        (table.shares.len(), table.places.len())
    }
}

impl Table {
    fn tell(&mut self, share: &Arc<Share>, inode: u64) -> Result<u64, i32> {
        let new = || Known { share: Arc::clone(share), times: 0, places: BTreeMap::new() };
        let mount = mount_in(inode);
        let known = self.shares.get(&share.mount);
        if known.is_some_and(|known| !Arc::ptr_eq(&known.share, share)) {
            return Err(libc::ESTALE);
        }
        let place = match known.and_then(|known| known.places.get(&mount)) {
            Some(place) => *place,
            None => self.free_place().ok_or(libc::ENFILE)?,
        };
        let known = self.shares.entry(share.mount).or_insert_with(new);
        known.times = known.times.saturating_add(1);
        if known.places.insert(mount, place).is_none() {
            self.places.insert(place, Place { share: Arc::clone(share), mount });
        }
        Ok(u64::from(place) << PLACE_BIT | file_in(inode))
    }

    fn untell(&mut self, mount: u64, times: u64, top: u64) -> Option<(Known, Vec<Place>)> {
        let known = self.shares.get_mut(&mount)?;
        known.times = known.times.saturating_sub(times);
        if known.times > 0 || mount == top {
            return None;
        }
        let known = self.shares.remove(&mount)?;
        let places = known.places.values().filter_map(|place| self.places.remove(place)).collect();
        Some((known, places))
    }

    fn free_place(&self) -> Option<u16> {
        let mut next = TOP;
        for used in self.places.keys() {
            if *used != next {
                break;
            }
            next = next.checked_add(1)?;
        }
        Some(next)
    }
}

/// Whether two files of one share are in different mounts: a share's numbers begin with them. Of the top
/// itself that cannot be said, nor need it: what is mounted there is another share.
pub fn in_different_mounts(one: u64, other: u64) -> bool {
    ![one, other].contains(&ROOT_ID) && mount_in(one) != mount_in(other)
}

fn place_of(node: u64) -> u16 {
    let [.., low, high] = node.to_le_bytes();
    u16::from_le_bytes([low, high])
}

/// The mount in fuse-backend-rs' number for a file.
fn mount_in(inode: u64) -> u8 {
    let [mount, ..] = (inode >> FILE_BITS & MOUNT).to_le_bytes();
    mount
}

/// The rest of it.
fn file_in(inode: u64) -> u64 {
    inode & FILE | (inode >> VIRTUAL_BIT & 1) << FILE_BITS
}

/// fuse-backend-rs' number for the guest's.
fn number(mount: u8, node: u64) -> u64 {
    node & FILE | u64::from(mount) << FILE_BITS | (node >> FILE_BITS & 1) << VIRTUAL_BIT
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_number_is_found_again_by_its_parts(inode in 0..1u64 << 56, place: u16) {
            let node = u64::from(place) << PLACE_BIT | file_in(inode);
            prop_assert_eq!(place_of(node), place);
            prop_assert_eq!(number(mount_in(inode), node), inode);
        }
    }

    #[test]
    fn the_top_has_the_number_that_fuse_gives_it() {
        assert_eq!((place_of(ROOT_ID), number(0, ROOT_ID)), (TOP, ROOT_ID));
    }
}
