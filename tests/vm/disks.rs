//! Block devices: a file system that both sides read, one disk that cannot be written, space given
//! back.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use crate::machine::{Machine, hash, random_file, script_said, sparse_file, tool};
use crate::needs_sandboxes;
use crate::support::{code, read_until};

const SCRIPT: &str = "\
mount -t ext4 /dev/vda /mnt
dd if=/dev/urandom of=/mnt/kept bs=1M count=4 conv=fsync 2> /dev/null
dd if=/dev/urandom of=/mnt/gone bs=1M count=16 conv=fsync 2> /dev/null
echo filled
read -r line
rm /mnt/gone
sync
fstrim /mnt
sha256sum < /mnt/kept
umount /mnt
cat /sys/block/vda/ro /sys/block/vdb/ro /sys/block/vdb/size
sha256sum < /dev/vdb
dd if=/dev/zero of=/dev/vdb bs=512 count=1 2> /dev/null || echo refused
poweroff -f
";

const MIB: u64 = 1 << 20;

#[test]
fn a_writable_disk_holds_what_was_written_and_a_read_only_one_what_it_held() {
    needs_sandboxes!();
    let machine = Machine::new(SCRIPT);
    let (writable, read_only) = (machine.path("writable"), machine.path("read-only"));
    sparse_file(&writable, 64 * MIB);
    tool(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&writable));
    let held = random_file(&read_only, 1 << 20);
    let space = || fs::metadata(&writable).unwrap().blocks() * 512;

    let mut child = machine.spawn(&["--serial", "--disk", "writable", "--disk", "read-only,ro"]);
    let mut stdout = child.stdout.take().unwrap();
    read_until(&mut stdout, "filled\n");
    let filled = space();
    assert!(filled > 20 * MIB, "{filled} bytes");
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    let mut said = String::new();
    stdout.read_to_string(&mut said).unwrap();
    assert_eq!(code(child.wait().unwrap()), 0, "{said}");

    tool(Command::new("e2fsck").arg("-fn").arg(&writable));
    let kept = machine.path("kept");
    let dump = format!("dump /kept {}", kept.display());
    tool(Command::new("debugfs").args(["-R", &dump]).arg(&writable));
    let kept = fs::read(kept).unwrap();
    assert_eq!(kept.len() as u64, 4 * MIB);
    let expected = format!("{}  -\n0\n1\n2048\n{}  -\nrefused\n", hash(&kept), hash(&held));
    assert_eq!(script_said(&said), expected);
    assert!(fs::read(&read_only).unwrap() == held, "the read-only disk has changed");
    let left = space();
    assert!(left + 15 * MIB < filled, "{left} of {filled} bytes are still taken");
}
