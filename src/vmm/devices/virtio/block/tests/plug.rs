//! Disks that come and go under a driver that is at work.

use event_manager::{EventManager, SubscriberOps};

use super::*;
use crate::vmm::devices::virtio::net::Wire;
use crate::vmm::devices::virtio::{DeviceState, Plug, PlugError, RestoreError};
use crate::vmm::rate::{RateLimiter, TokenBucket};

fn slot(read_only: bool) -> Machine {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    fs::write(&path, [0x31; 1536]).unwrap();
    let empty = DiskConfig { path: None, serial: None, ..config(PathBuf::new(), read_only) };
    let block = Block::new(&empty).unwrap();
    let memory = memory();
    let driver = Driver::new(&memory, 0, 256);
    let mut machine = Machine { _folder: folder, path, block, driver, interrupt: interrupt() };
    let features = machine.block.device_features();
    machine.activate(features);
    machine
}

fn plug(m: &mut Machine, read_only: bool, serial: &str) -> Result<(), PlugError> {
    let file = File::options().read(true).write(!read_only).open(&m.path).unwrap();
    let bytes = file.metadata().unwrap().len();
    m.block.plug(Plug::Disk {
        file,
        bytes,
        read_only,
        serial: Some(serial.into()),
        rate_limiter: RateLimiter::NONE,
    })
}

fn capacity(m: &Machine) -> u64 {
    let mut sectors = [0; 8];
    m.block.read_config(0, &mut sectors);
    u64::from_le_bytes(sectors)
}

fn serial(m: &mut Machine) -> Vec<u8> {
    assert_eq!(m.request(8, 0, &[writable(PAYLOAD, 20)]).0, OK);
    m.driver.read(PAYLOAD, 20)
}

#[test]
fn a_disk_that_is_plugged_in_is_read_and_written_and_gone_when_it_is_taken_out() {
    let mut m = slot(false);
    assert_eq!((capacity(&m), serial(&mut m)), (0, vec![0; 20]));
    assert_eq!(m.request(0, 0, &[writable(PAYLOAD, 512)]).0, IOERR);
    assert!(matches!(m.block.unplug(), Err(PlugError::Empty)));

    raised(&m.interrupt);
    let generation = m.interrupt.generation();
    plug(&mut m, false, "volume").unwrap();
    // The driver is told, and asks.
    assert!(raised(&m.interrupt) > 0 && m.interrupt.generation() != generation);
    assert_eq!((capacity(&m), &serial(&mut m)[..7]), (3, b"volume\0".as_slice()));
    assert_eq!(m.request(0, 2, &[writable(PAYLOAD, 512)]), (OK, 513));
    assert_eq!(m.driver.read(PAYLOAD, 512), [0x31; 512]);
    m.driver.write(PAYLOAD, &[0x32; 512]);
    assert_eq!(m.request(1, 1, &[readable(PAYLOAD, 512)]).0, OK);
    assert_eq!(m.file()[512..1024], [0x32; 512]);
    assert!(matches!(plug(&mut m, false, "other"), Err(PlugError::InUse)));

    m.block.unplug().unwrap();
    assert_eq!((capacity(&m), serial(&mut m)), (0, vec![0; 20]));
    assert_eq!(m.request(1, 1, &[readable(PAYLOAD, 512)]).0, IOERR);
    plug(&mut m, true, "again").unwrap();
    // As it was agreed on, for the next disk.
    assert_eq!(m.block.device_features() & feature(VIRTIO_BLK_F_RO), 0);
    assert_eq!(m.request(0, 0, &[writable(PAYLOAD, 512)]).0, OK);
    assert_eq!(m.request(1, 0, &[readable(PAYLOAD, 512)]).0, IOERR);
    assert_eq!(m.file()[..512], [0x31; 512]);
}

#[test]
fn what_is_no_disk_is_not_plugged_in() {
    let mut m = slot(false);
    let refused = plug(&mut m, false, "a serial with blanks");
    assert!(matches!(refused, Err(PlugError::Disk(BlockError::Serial { .. }))));
    let file = File::open(&m.path).unwrap();
    let empty = Plug::Disk {
        file,
        bytes: 0,
        read_only: true,
        serial: None,
        rate_limiter: RateLimiter::NONE,
    };
    assert!(matches!(m.block.plug(empty), Err(PlugError::Disk(BlockError::Empty { .. }))));
    let tap = Plug::Net {
        wire: Wire::Tap(vec![File::open(&m.path).unwrap()]),
        mac: None,
        rx_rate_limiter: RateLimiter::NONE,
        tx_rate_limiter: RateLimiter::NONE,
    };
    assert!(matches!(m.block.plug(tap), Err(PlugError::OtherDevice)));
    assert_eq!(capacity(&m), 0);
    // Nobody has told the driver of the capacity.
    m.block.reset();
    plug(&mut m, false, "early").unwrap();
    let saved = DeviceState::Block { sectors: 0, slot: true };
    assert!(matches!(m.block.restore(&saved), Err(RestoreError::DiskSize { .. })));
}

#[test]
fn a_slot_of_read_only_disks_stays_one() {
    let mut m = slot(true);
    let empty = capacity(&m);
    plug(&mut m, false, "disk").unwrap();
    assert_eq!(m.request(1, 0, &[readable(PAYLOAD, 512)]).0, IOERR);
    assert_eq!(capacity(&m), 3);
    m.block.unplug().unwrap();
    assert_eq!(capacity(&m), empty);
}

#[test]
fn of_a_disk_in_a_larger_slot_nothing_behind_its_end_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    fs::write(&path, [0x31; 1536]).unwrap();
    let serial = Some("layer".to_owned());
    let empty = DiskConfig { path: None, serial: serial.clone(), ..config(PathBuf::new(), false) };
    let saved = Block::new(&empty).unwrap().save();
    let DeviceState::Block { sectors, slot: true } = saved else { panic!("{saved:?}") };
    let mut block = Block::new(&DiskConfig { serial, ..config(path.clone(), false) }).unwrap();
    block.restore(&saved).unwrap();
    let memory = memory();
    let driver = Driver::new(&memory, 0, 256);
    let mut m = Machine { _folder: folder, path, block, driver, interrupt: interrupt() };
    let features = m.block.device_features();
    m.activate(features);
    assert!(sectors > 3 && capacity(&m) == sectors);
    m.driver.write(PAYLOAD, &[0x32; 1024]);
    assert_eq!(m.request(1, 2, &[readable(PAYLOAD, 512)]).0, OK);
    for (sector, bytes) in [(3, 512), (2, 1024), (sectors - 1, 512)] {
        assert_eq!(m.request(1, sector, &[readable(PAYLOAD, bytes)]).0, IOERR, "{sector}");
    }
    // Write zeroes that are kept: of sectors 3 and 4.
    let range = [3u64.to_le_bytes().as_slice(), &2u32.to_le_bytes(), &[0; 4]].concat();
    m.driver.write(PAYLOAD, &range);
    assert_eq!(m.request(13, 0, &[readable(PAYLOAD, 16)]).0, IOERR);
    assert_eq!(m.file().len(), 1536);
    assert_eq!(m.file()[1024..], [0x32; 512]);
}

#[test]
fn a_disk_with_a_rate_limit_lets_requests_wait() {
    let mut m = slot(false);
    let ops = TokenBucket { size: 2, one_time_burst: 0, refill_time: 1_000_000 };
    let limited = |bandwidth, ops| RateLimiter { bandwidth, ops };
    let file = File::options().read(true).write(true).open(&m.path).unwrap();
    let plug = |file, rate_limiter| Plug::Disk {
        file,
        bytes: 1536,
        read_only: false,
        serial: None,
        rate_limiter,
    };
    m.block.plug(plug(file.try_clone().unwrap(), limited(None, Some(ops)))).unwrap();
    let offer = |m: &mut Machine| {
        m.driver.write(DATA, &[0; 16]);
        m.driver.offer(&[readable(DATA, 16), writable(PAYLOAD, 1025)]);
    };
    (0..3).for_each(|_| offer(&mut m));
    m.block.process_queue();
    assert_eq!(m.driver.used().len(), 2);
    assert_eq!(m.block.metrics().throttled.get(), 1);
    // What waits is done with whatever is there then: nothing, and then a disk with other limits.
    m.block.unplug().unwrap();
    m.block.process_queue();
    assert_eq!(m.driver.used().len(), 1);
    let bytes = TokenBucket { size: 1500, one_time_burst: 0, refill_time: 1_000_000 };
    m.block.plug(plug(file, limited(Some(bytes), None))).unwrap();
    (0..3).for_each(|_| offer(&mut m));
    m.block.process_queue();
    assert_eq!(m.driver.used().len(), 2);
}

#[test]
fn who_waits_for_the_rate_limit_is_woken() {
    let mut m = slot(false);
    let ops = TokenBucket { size: 1, one_time_burst: 0, refill_time: 5 };
    let rate_limiter = RateLimiter { bandwidth: None, ops: Some(ops) };
    let file = File::options().read(true).write(true).open(&m.path).unwrap();
    let plug = Plug::Disk { file, bytes: 1536, read_only: false, serial: None, rate_limiter };
    m.block.plug(plug).unwrap();
    m.driver.write(DATA, &[0; 16]);
    for _ in 0..4 {
        m.driver.offer(&[readable(DATA, 16), writable(PAYLOAD, 513)]);
    }
    let Machine { block, mut driver, .. } = m;
    let block = Arc::new(std::sync::Mutex::new(block));
    let mut events = EventManager::<Arc<std::sync::Mutex<Block>>>::new().unwrap();
    events.add_subscriber(block.clone());
    let mut done = 0;
    while done < 4 {
        // It would be 0 events after a second in which nobody was woken.
        assert!(events.run_with_timeout(10_000).unwrap() > 0);
        done += driver.used().len();
    }
    assert!(block.lock().unwrap().metrics().throttled.get() >= 3);
}
