use super::*;
use crate::vmm::memory;
use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

const SMAPS: &str = "\
55b5-55b6 r--p 00000000 fe:00 247282                     /usr/bin/a name: with Pss: 7 kB
Size:                  8 kB
Rss:                   8 kB
Pss:                   4 kB
Pss_Dirty:             1 kB
Shared_Clean:          8 kB
Shared_Dirty:          1 kB
Private_Clean:         2 kB
Private_Dirty:         3 kB
SwapPss:               5 kB
VmFlags: rd mr mw me
7f00-7f01 rw-p 00000000 00:00 0
Size:             524288 kB
Pss:                 100 kB
Shared_Clean:          0 kB
Private_Dirty:       100 kB
VmFlags: rd wr mr mw me ac nr dd
7ffc-7ffd r--p 00000000 00:00 0                          [vvar]
Size:                 16 kB
Pss:                   1 kB
VmFlags: rd mr pf io de dd sd
";

#[test]
fn guest_memory_is_what_is_written_and_not_dumped() {
    let mapped = parse_smaps(SMAPS.as_bytes()).unwrap();
    assert_eq!(mapped.guest, Memory { pss: 100 << 10, private: 100 << 10, shared: 0, swap: 0 });
    assert_eq!(mapped.guest_size, 512 << 20);
    let own = Memory { pss: 5 << 10, private: 5 << 10, shared: 9 << 10, swap: 5 << 10 };
    assert_eq!(mapped.own, own);
}

#[test]
fn damaged_mappings_are_told() {
    for text in ["Pss: 1 kB\n", "1-2 rw-p\nPss: x kB\n", "1-2 rw-p\nPss:\n", "1-2 rw-p\nPss: -1\n"]
    {
        assert!(parse_smaps(text.as_bytes()).is_err(), "{text:?}");
    }
    assert_eq!(parse_smaps(b"").unwrap(), Mapped::default());
}

#[test]
fn a_name_may_look_like_fields() {
    let rest = "S 7 2 2 0 -1 4194304 101 0 0 0 30 12 0 0 20 0 5 0 1359001 3133440 394";
    let stat = parse_stat(format!("29405 (a) R 1 ) {rest}").as_bytes()).unwrap();
    assert_eq!(stat, Stat { parent: 7, ticks: 42, threads: 5 });
    for text in ["", "1 (a)", "1 (a) S", "1 a S 7", "1 (a) S 7 2 2 0 -1 4 1 0 0 0 x 12 0 0 20 0 5"]
    {
        assert!(parse_stat(text.as_bytes()).is_err(), "{text:?}");
    }
}

#[test]
fn ticks_are_hundredths() {
    assert_eq!(time(1234), Duration::from_millis(12_340));
    assert!(time(u64::MAX) > Duration::from_secs(1 << 50));
}

#[test]
fn this_process_is_understood() {
    let memory = memory::allocate(64).unwrap();
    memory.write_slice(&vec![1; 8 << 20], GuestAddress(1 << 20)).unwrap();
    let pid = nix::unistd::getpid().as_raw();
    let mapped = read(pid, "smaps", parse_smaps).unwrap().unwrap();
    // Other tests of this process may have guest memory, too.
    assert!(mapped.guest_size >= 64 << 20 && mapped.guest.pss >= 8 << 20, "{mapped:?}");
    assert!(mapped.own.pss > 0 && mapped.own.private > 0, "{mapped:?}");
    let sum = read(pid, "smaps_rollup", parse_smaps).unwrap().unwrap();
    assert!(sum.own.pss >= 8 << 20, "{sum:?}");
    let stat = read(pid, "stat", parse_stat).unwrap().unwrap();
    assert_eq!(stat.parent, nix::unistd::getppid().as_raw());
    assert!(stat.threads > 0);
}

#[test]
fn a_process_that_is_gone_is_none() {
    let mut child = std::process::Command::new("true").spawn().unwrap();
    let pid = i32::try_from(child.id()).unwrap();
    child.wait().unwrap();
    assert_eq!(read(pid, "stat", parse_stat).unwrap(), None);
    assert_eq!(read(pid, "smaps", parse_smaps).unwrap(), None);
}

proptest! {
    #[test]
    fn anything_is_taken_apart_without_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        text in "([0-9a-f]-[0-9a-f] rw-p\n|(Pss|Size|Private_Dirty|VmFlags): *[0-9]{0,22} (kB|dd)\n){0,9}",
        fields in "[0-9]{1,3} \\(.{0,9}\\)( -?[0-9]{1,22}){0,25}",
    ) {
        let _ = (parse_smaps(&bytes), parse_smaps(text.as_bytes()));
        let _ = (parse_stat(&bytes), parse_stat(fields.as_bytes()));
    }
}
