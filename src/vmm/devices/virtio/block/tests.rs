use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::sync::Arc;

use proptest::prelude::*;
use tempfile::TempDir;
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_WRITE_ZEROES,
};
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::vmm::config::DiskConfig;
use crate::vmm::devices::virtio::testing::{
    Buffer, DATA, Driver, interrupt, memory, raised, readable, writable,
};
use crate::vmm::devices::virtio::{Activation, Interrupt, VirtioDevice};

mod plug;

const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPP: u8 = 2;
/// A status that no device writes.
const UNTOUCHED: u8 = 0xaa;

const HEADER: u64 = DATA;
const STATUS: u64 = DATA + 0x100;
const PAYLOAD: u64 = DATA + 0x1000;

/// A device with its driver.
struct Machine {
    _folder: TempDir,
    path: PathBuf,
    block: Block,
    driver: Driver,
    interrupt: Arc<Interrupt>,
}

fn config(path: PathBuf, read_only: bool) -> DiskConfig {
    DiskConfig {
        path: Some(path),
        read_only,
        serial: Some("disk-0001".to_owned()),
        ..DiskConfig::default()
    }
}

fn machine(size: u64, read_only: bool) -> Machine {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    File::create(&path).unwrap().set_len(size).unwrap();
    let block = Block::new(&config(path.clone(), read_only)).unwrap();
    let memory = memory();
    let driver = Driver::new(&memory, 0, 256);
    let mut machine = Machine { _folder: folder, path, block, driver, interrupt: interrupt() };
    let features = machine.block.device_features();
    machine.activate(features);
    machine
}

impl Machine {
    fn activate(&mut self, features: u64) {
        let activation = Activation {
            memory: self.driver.memory.clone(),
            queues: vec![self.driver.queue(true)],
            features,
            interrupt: Arc::clone(&self.interrupt),
        };
        self.block.activate(activation).unwrap();
    }

    fn header(&self, kind: u32, sector: u64) {
        self.driver.write(HEADER, &kind.to_le_bytes());
        self.driver.write(HEADER + 4, &[0; 4]);
        self.driver.write(HEADER + 8, &sector.to_le_bytes());
        self.driver.write(STATUS, &[UNTOUCHED]);
    }

    /// Sends a request with this payload, and returns its status and used length.
    fn request(&mut self, kind: u32, sector: u64, payload: &[Buffer]) -> (u8, u32) {
        self.header(kind, sector);
        let mut chain = vec![readable(HEADER, 16)];
        chain.extend_from_slice(payload);
        chain.push(writable(STATUS, 1));
        self.driver.offer(&chain);
        self.block.process_queue();
        let used = self.driver.used();
        assert_eq!(used.len(), 1);
        (self.driver.read(STATUS, 1)[0], used[0].1)
    }

    /// Sends a list of ranges: sector, sectors, flags.
    fn ranges(&mut self, kind: u32, ranges: &[(u64, u32, u32)]) -> u8 {
        let mut list = Vec::new();
        for (sector, sectors, flags) in ranges {
            list.extend_from_slice(&sector.to_le_bytes());
            list.extend_from_slice(&sectors.to_le_bytes());
            list.extend_from_slice(&flags.to_le_bytes());
        }
        self.driver.write(PAYLOAD, &list);
        let len = u32::try_from(list.len()).unwrap();
        self.request(kind, 0, &[readable(PAYLOAD, len)]).0
    }

    fn file(&self) -> Vec<u8> {
        fs::read(&self.path).unwrap()
    }
}

fn feature(bit: u32) -> u64 {
    1 << bit
}

#[test]
fn writes_and_reads_go_through_the_file_in_many_segments() {
    let mut m = machine(8192, false);
    let text: Vec<u8> = (0..1024u32).map(|i| i.to_le_bytes()[0] ^ 0x5a).collect();
    m.driver.write(PAYLOAD, &text);
    let out = [readable(PAYLOAD, 100), readable(PAYLOAD + 100, 412), readable(PAYLOAD + 512, 512)];
    assert_eq!(m.request(1, 3, &out), (OK, 1));
    assert_eq!(&m.file()[1536..2560], &text[..]);

    let into = [writable(PAYLOAD + 5000, 24), writable(PAYLOAD + 6000, 1000)];
    assert_eq!(m.request(0, 3, &into), (OK, 1025));
    assert_eq!(m.driver.read(PAYLOAD + 5000, 24), text[..24]);
    assert_eq!(m.driver.read(PAYLOAD + 6000, 1000), text[24..]);

    let metrics = m.block.metrics();
    assert_eq!((metrics.reads.get(), metrics.read_bytes.get()), (1, 1024));
    assert_eq!((metrics.writes.get(), metrics.written_bytes.get()), (1, 1024));
    assert_eq!(serde_json::to_value(&*metrics).unwrap()["written_bytes"], 1024);
}

#[test]
fn framing_is_the_drivers_choice() {
    let mut m = machine(8192, false);
    fs::write(&m.path, [0x77; 8192]).unwrap();
    // The header in three parts, and the status in the same descriptor as the data.
    m.header(0, 1);
    let table = DATA + 0x800;
    m.driver.offer_indirect(
        table,
        &[
            readable(HEADER, 3),
            readable(HEADER + 3, 9),
            readable(HEADER + 12, 4),
            writable(PAYLOAD, 513),
        ],
    );
    m.block.process_queue();
    assert_eq!(m.driver.used(), [(0, 513)]);
    let mut expected = vec![0x77; 512];
    expected.push(OK);
    assert_eq!(m.driver.read(PAYLOAD, 513), expected);
}

#[test]
fn requests_beyond_the_end_are_errors() {
    let mut m = machine(4096, false);
    let sector = [writable(PAYLOAD, 512)];
    assert_eq!(m.request(0, 7, &sector).0, OK);
    assert_eq!(m.request(0, 8, &sector), (IOERR, 0));
    assert_eq!(m.request(0, u64::MAX, &sector).0, IOERR);
    assert_eq!(m.request(0, u64::MAX / 512, &sector).0, IOERR);
    assert_eq!(m.request(0, 7, &[writable(PAYLOAD, 1024)]).0, IOERR);
    assert_eq!(m.request(1, 8, &[readable(PAYLOAD, 512)]), (IOERR, 1));
    assert_eq!(m.request(0, 0, &[writable(PAYLOAD, 511)]).0, IOERR);
    assert_eq!(m.request(1, 0, &[readable(PAYLOAD, 513)]).0, IOERR);
    assert_eq!(m.file().len(), 4096);
    assert_eq!(m.block.metrics().refused.get(), 7);
}

#[test]
fn a_size_between_sectors_ends_in_zeroes_and_grows_when_written() {
    let mut m = machine(0x1000, false);
    fs::write(&m.path, [0x11; 1000]).unwrap();
    drop(m.block);
    m.block = Block::new(&config(m.path.clone(), false)).unwrap();
    m.driver = Driver::new(&memory(), 0, 256);
    m.activate(m.block.device_features());
    let mut capacity = [0; 8];
    m.block.read_config(0, &mut capacity);
    assert_eq!(u64::from_le_bytes(capacity), 2);

    m.driver.write(PAYLOAD, &[0xff; 1024]);
    assert_eq!(m.request(0, 0, &[writable(PAYLOAD, 1024)]).0, OK);
    let mut expected = vec![0x11; 1000];
    expected.resize(1024, 0);
    assert_eq!(m.driver.read(PAYLOAD, 1024), expected);

    assert_eq!(m.request(1, 1, &[readable(PAYLOAD, 512)]).0, OK);
    assert_eq!(m.file().len(), 1024);
}

#[test]
fn a_file_that_is_cut_is_an_error_not_zeroes() {
    let mut m = machine(4096, false);
    File::options().write(true).open(&m.path).unwrap().set_len(512).unwrap();
    assert_eq!(m.request(0, 0, &[writable(PAYLOAD, 1024)]).0, IOERR);
    assert_eq!(m.block.metrics().host_errors.get(), 1);
}

#[test]
fn a_read_only_disk_is_not_written() {
    let mut m = machine(4096, true);
    let features = m.block.device_features();
    assert_eq!(features & feature(VIRTIO_BLK_F_RO), feature(VIRTIO_BLK_F_RO));
    assert_eq!(
        features
            & (feature(VIRTIO_BLK_F_FLUSH)
                | feature(VIRTIO_BLK_F_DISCARD)
                | feature(VIRTIO_BLK_F_WRITE_ZEROES)),
        0
    );
    m.driver.write(PAYLOAD, &[1; 512]);
    assert_eq!(m.request(1, 0, &[readable(PAYLOAD, 512)]).0, IOERR);
    assert_eq!(m.ranges(11, &[(0, 8, 0)]), UNSUPP);
    assert_eq!(m.ranges(13, &[(0, 8, 0)]), UNSUPP);
    assert_eq!(m.request(0, 0, &[writable(PAYLOAD, 512)]).0, OK);
    assert_eq!(m.file(), [0; 4096]);

    // Nor by a driver that claims what was not offered.
    m.block.reset();
    m.driver = Driver::new(&memory(), 0, 256);
    m.activate(u64::MAX);
    assert_eq!(m.ranges(11, &[(0, 8, 0)]), IOERR);
    assert_eq!(m.ranges(13, &[(0, 8, 0)]), IOERR);
}

#[test]
fn flushes_and_ids_are_answered() {
    let mut m = machine(4096, false);
    assert_eq!(m.request(4, 0, &[]), (OK, 1));
    assert_eq!(m.request(8, 0, &[writable(PAYLOAD, 20)]), (OK, 21));
    assert_eq!(m.driver.read(PAYLOAD, 20), b"disk-0001\0\0\0\0\0\0\0\0\0\0\0");
    assert_eq!(m.request(8, 0, &[writable(PAYLOAD, 19)]).0, IOERR);
    assert_eq!(m.request(8, 0, &[writable(PAYLOAD, 64)]), (OK, 20));
    for unknown in [2, 3, 5, 10, 14, 99, u32::MAX] {
        assert_eq!(m.request(unknown, 0, &[]).0, UNSUPP, "{unknown}");
    }
    let metrics = m.block.metrics();
    assert_eq!((metrics.flushes.get(), metrics.ids.get(), metrics.unsupported.get()), (1, 2, 7));
}

#[test]
fn discards_give_the_storage_back() {
    let mut m = machine(1 << 20, false);
    fs::write(&m.path, vec![0x33; 1 << 20]).unwrap();
    let before = fs::metadata(&m.path).unwrap().blocks();
    assert_eq!(m.ranges(11, &[(0, 1024, 0), (1024, 512, 0)]), OK);
    let after = fs::metadata(&m.path).unwrap();
    assert!(after.blocks() + 1500 <= before, "{before} -> {}", after.blocks());
    assert_eq!(after.len(), 1 << 20);
    let file = m.file();
    assert!(file[..1536 * 512].iter().all(|&byte| byte == 0));
    assert!(file[1536 * 512..].iter().all(|&byte| byte == 0x33));
}

#[test]
fn zeroes_are_written_with_and_without_unmap() {
    for flags in [0, 1] {
        let mut m = machine(1 << 20, false);
        fs::write(&m.path, vec![0x33; 1 << 20]).unwrap();
        assert_eq!(m.ranges(13, &[(3, 400, flags)]), OK);
        let file = m.file();
        assert_eq!(file.len(), 1 << 20);
        for (i, byte) in file.iter().enumerate() {
            let zeroed = (3 * 512..403 * 512).contains(&i);
            assert_eq!(*byte, if zeroed { 0 } else { 0x33 }, "byte {i}");
        }
    }
}

#[test]
fn range_lists_are_held_to_their_limits() {
    let mut m = machine(1 << 20, false);
    for kind in [11, 13] {
        assert_eq!(m.request(kind, 0, &[]).0, IOERR, "no range at all");
        assert_eq!(m.ranges(kind, &[(2048, 1, 0)]), IOERR, "beyond the end");
        assert_eq!(m.ranges(kind, &[(u64::MAX, 2, 0)]), IOERR);
        assert_eq!(m.ranges(kind, &[(0, u32::MAX, 0)]), IOERR);
        assert_eq!(m.ranges(kind, &[(0, 8, 2)]), UNSUPP, "an unknown flag");
        assert_eq!(m.request(kind, 0, &[readable(PAYLOAD, 15)]).0, IOERR);
        assert_eq!(m.ranges(kind, &[(5, 0, 0)]), OK, "nothing is no error");
    }
    assert_eq!(m.ranges(11, &[(0, 8, 1)]), UNSUPP, "unmap is not for discards");
    assert_eq!(m.ranges(11, &[(0, 8, 0); 16]), OK);
    assert_eq!(m.ranges(11, &[(0, 8, 0); 17]), IOERR);
    assert_eq!(m.ranges(13, &[(0, 8, 0); 2]), IOERR);
}

#[test]
fn chains_that_are_no_request_come_back() {
    let mut m = machine(4096, false);
    m.header(0, 0);
    // No status; a short header; a broken chain.
    m.driver.offer(&[readable(HEADER, 16)]);
    m.driver.offer(&[readable(HEADER, 15), writable(STATUS, 1)]);
    m.driver.offer(&[readable(HEADER, 16), writable(PAYLOAD, 0)]);
    m.block.process_queue();
    assert_eq!(m.driver.used(), [(0, 0), (1, 1), (3, 0)]);
    assert_eq!(m.driver.read(STATUS, 1), [IOERR]);
    assert_eq!(m.block.metrics().malformed.get(), 3);
    assert_eq!(m.request(4, 0, &[]).0, OK, "the device goes on");
}

#[test]
fn a_broken_ring_stops_the_device_until_a_reset() {
    let mut m = machine(4096, false);
    m.driver.set_available(1000);
    m.block.process_queue();
    assert_eq!(m.block.metrics().stopped.get(), 1);
    m.block.process_queue();
    assert_eq!(m.block.metrics().stopped.get(), 1);
    m.block.reset();
    m.driver = Driver::new(&memory(), 0, 256);
    m.activate(0);
    assert_eq!(m.request(4, 0, &[]).0, OK);
}

#[test]
fn one_interrupt_answers_a_whole_queue() {
    let mut m = machine(4096, false);
    for _ in 0..50 {
        m.header(4, 0);
        m.driver.offer(&[readable(HEADER, 16), writable(STATUS, 1)]);
    }
    m.block.process_queue();
    assert_eq!(m.driver.used().len(), 50);
    assert_eq!(raised(&m.interrupt), 1);
    assert!(m.block.queue_events()[0].read().is_ok(), "activation looks at the queue by itself");
}

#[test]
fn the_configuration_space_is_the_specifications() {
    let m = machine(1 << 20, false);
    let mut space = [0xff; 64];
    m.block.read_config(0, &mut space);
    let word = |at: usize| u32::from_le_bytes(space[at..at + 4].try_into().unwrap());
    assert_eq!(space[..8], 2048u64.to_le_bytes());
    assert_eq!(word(12), 254, "seg_max");
    assert_eq!(word(20), 512, "blk_size");
    assert_eq!(space[24], 3, "physical_block_exp");
    assert_eq!(space[34], 1, "num_queues");
    assert_eq!((word(36), word(40), word(44)), (1 << 23, 16, 8), "discard");
    assert_eq!((word(48), word(52), space[56]), (1 << 15, 1, 1), "write zeroes");
    assert_eq!(space[57..], [0; 7]);
}

#[test]
fn a_disk_that_cannot_be_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let error = |config: &DiskConfig| Block::new(config).unwrap_err();

    let missing = error(&config(path("missing"), true));
    assert!(matches!(missing, BlockError::Open { .. }));
    assert!(missing.to_string().contains("/missing"), "{missing}");
    assert!(matches!(error(&config(folder.path().into(), true)), BlockError::NotADisk { .. }));
    assert!(matches!(error(&config(folder.path().into(), false)), BlockError::NotADisk { .. }));
    assert!(matches!(error(&config("/dev/null".into(), true)), BlockError::NotADisk { .. }));
    nix::unistd::mkfifo(&path("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(matches!(error(&config(path("pipe"), true)), BlockError::NotADisk { .. }));
    File::create(path("empty")).unwrap();
    assert!(matches!(error(&config(path("empty"), true)), BlockError::Empty { .. }));

    fs::write(path("disk"), [0; 512]).unwrap();
    for serial in ["", "123456789012345678901", "blank s", "é"] {
        let config = DiskConfig { serial: Some(serial.into()), ..config(path("disk"), true) };
        assert!(matches!(error(&config), BlockError::Serial { .. }), "{serial}");
    }
    let whole =
        DiskConfig { serial: Some("12345678901234567890".into()), ..config(path("disk"), true) };
    assert!(Block::new(&whole).is_ok());
}

#[test]
fn a_disk_has_one_writer_or_many_readers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    fs::write(&path, [0; 512]).unwrap();
    let open = |read_only| Block::new(&config(path.clone(), read_only));
    let readers = (open(true).unwrap(), open(true).unwrap());
    let error = open(false).unwrap_err();
    assert!(matches!(error, BlockError::InUse { .. }));
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    drop(readers);
    let writer = open(false).unwrap();
    assert!(matches!(open(true), Err(BlockError::InUse { .. })));
    assert!(matches!(open(false), Err(BlockError::InUse { .. })));
    drop(writer);
    open(true).unwrap();
}

#[test]
fn the_file_is_not_inherited() {
    let m = machine(512, false);
    let inode = fs::metadata(&m.path).unwrap().ino();
    let mut seen = 0;
    for entry in fs::read_dir("/proc/self/fd").unwrap() {
        let fd = entry.unwrap().file_name().into_string().unwrap();
        let ours = fs::metadata(format!("/proc/self/fd/{fd}"))
            .is_ok_and(|metadata| metadata.ino() == inode && metadata.is_file());
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap_or_default();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        if ours && let Some(flags) = flags {
            let flags = i32::from_str_radix(flags.trim(), 8).unwrap();
            assert_ne!(flags & libc::O_CLOEXEC, 0);
            seen += 1;
        }
    }
    assert!(seen >= 1);
}

proptest! {
    /// Whatever header, payload and framing: a status or a malformed chain, and the file keeps its
    /// size.
    #[test]
    fn hostile_requests(
        kind in prop_oneof![0..16u32, any::<u32>()],
        sector in prop_oneof![0..12u64, any::<u64>()],
        payload in prop::collection::vec(any::<u8>(), 0..600),
        reads in prop::collection::vec(1..700u32, 0..5),
        writes in prop::collection::vec(1..700u32, 0..5),
    ) {
        let mut m = machine(4096, false);
        m.header(kind, sector);
        m.driver.write(PAYLOAD, &payload);
        let mut chain = vec![readable(HEADER, 16)];
        chain.extend(reads.iter().map(|&len| readable(PAYLOAD, len)));
        chain.extend(writes.iter().map(|&len| writable(PAYLOAD + 0x1000, len)));
        chain.push(writable(STATUS, 1));
        m.driver.offer(&chain);
        m.block.process_queue();
        prop_assert_eq!(m.driver.used().len(), 1);
        prop_assert!(m.driver.read(STATUS, 1)[0] <= UNSUPP);
        prop_assert_eq!(fs::metadata(&m.path).unwrap().len(), 4096);
    }

    /// Whatever the rings' memory holds: the device answers or stops.
    #[test]
    fn hostile_rings(
        bytes in prop::collection::vec(any::<u8>(), 16 * 16 + 256),
        available in prop::collection::vec(0..20u16, 16),
        index in 0..17u16,
        small in any::<bool>(),
    ) {
        let mut m = machine(4096, false);
        let driver = Driver::new(&memory(), 0, 16);
        driver.write(0, &bytes);
        if small {
            // Descriptors that are nearly right get further.
            for slot in 0..16u64 {
                let at = 16 * slot;
                let word: u64 = driver.memory.read_obj(GuestAddress(at)).unwrap();
                driver.write(at, &(word % 0x4_0000).to_le_bytes());
                driver.write(at + 9, &[bytes[usize::try_from(at).unwrap()] % 4, 0, 0]);
                driver.write(at + 12, &[bytes[usize::try_from(at).unwrap() + 1] % 4, 0]);
                driver.write(at + 14, &[bytes[usize::try_from(at).unwrap() + 2] % 17, 0]);
            }
        }
        for (slot, head) in (0u64..).zip(&available) {
            driver.write(driver.available_ring() + 4 + 2 * slot, &head.to_le_bytes());
        }
        driver.write(driver.used_ring(), &[0; 4]);
        driver.set_available(index);
        m.driver = driver;
        m.block.reset();
        m.activate(u64::MAX);
        m.block.process_queue();
        let metrics = m.block.metrics();
        let answers = [
            &metrics.reads,
            &metrics.writes,
            &metrics.flushes,
            &metrics.discards,
            &metrics.zeroed,
            &metrics.ids,
            &metrics.unsupported,
            &metrics.refused,
            &metrics.host_errors,
            &metrics.malformed,
            &metrics.stopped,
        ];
        let sum: u64 = answers.iter().map(|counter| counter.get()).sum();
        prop_assert_eq!(sum > 0, index > 0);
        if index > 16 {
            prop_assert_eq!(metrics.stopped.get(), 1);
        }
        // It works for the next driver.
        m.block.reset();
        m.driver = Driver::new(&memory(), 0, 256);
        m.activate(0);
        prop_assert_eq!(m.request(4, 0, &[]).0, OK);
    }

    /// Reads after writes, at random places and in random pieces, agree with a plain array.
    #[test]
    fn a_disk_is_an_array(
        steps in prop::collection::vec((any::<bool>(), 0..16u64, 1..6usize, any::<u8>()), 1..20),
    ) {
        let mut m = machine(16 * 512, false);
        let mut model = vec![0u8; 16 * 512];
        for (write, sector, sectors, fill) in steps {
            let start = usize::try_from(sector).unwrap() * 512;
            let len = sectors * 512;
            let fits = start + len <= model.len();
            let bytes: Vec<u8> = (0..len).map(|i| fill.wrapping_add(i.to_le_bytes()[0])).collect();
            let half = u32::try_from(len / 2 - 3).unwrap();
            let rest = u32::try_from(len).unwrap() - half;
            let (front, back) = (PAYLOAD, PAYLOAD + u64::from(half));
            let status = if write {
                m.driver.write(PAYLOAD, &bytes);
                m.request(1, sector, &[readable(front, half), readable(back, rest)]).0
            } else {
                m.request(0, sector, &[writable(front, half), writable(back, rest)]).0
            };
            prop_assert_eq!(status == OK, fits);
            if fits && write {
                model[start..start + len].copy_from_slice(&bytes);
            } else if fits {
                prop_assert_eq!(&m.driver.read(PAYLOAD, len)[..], &model[start..start + len]);
            }
        }
        let mut file = vec![0; model.len()];
        File::open(&m.path).unwrap().read_exact_at(&mut file, 0).unwrap();
        prop_assert_eq!(file, model);
    }
}
