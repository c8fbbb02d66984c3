//! Disks that a guest gets while it runs: a root file system, and devices.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use ampoule::agent::message::{BlockDevice, RootfsSource};
use ampoule::monitor::channel::Channel;
use ampoule::monitor::control::{MonitorEvent, MonitorRequest, NicKind};
use ampoule::sandbox::SandboxError;
use ampoule::vmm::config::DiskConfig;
use ampoule::vmm::rate::RateLimiter;

use crate::needs_sandboxes;
use crate::pod::{Pod, busybox, container, shared, tool};

fn disk(path: &Path, read_only: bool, serial: &str) -> DiskConfig {
    let (path, serial) = (Some(path.to_owned()), Some(serial.to_owned()));
    DiskConfig { path, read_only, serial, ..DiskConfig::default() }
}

/// An ext4 of this many MiB with what a folder has.
fn ext4(pod: &Pod, name: &str, mib: u32, from: &Path) -> PathBuf {
    let path = pod.folder.path().join(name);
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let args = ["-q", "-t", "ext4", "-d", &text(from), &text(&path), &format!("{mib}M")];
    tool("/usr/sbin/mke2fs", &args);
    path
}

fn on_disk(name: &str, serial: &str, sectors: u64) -> ampoule::agent::message::Create {
    let options = ["noatime", "errors=remount-ro"].map(str::to_owned).into();
    let (serial, fstype) = (serial.into(), "ext4".into());
    container(name, RootfsSource::Block { serial, fstype, sectors: Some(sectors), options })
}

fn device(path: &str, serial: &str, sectors: u64, read_only: bool) -> BlockDevice {
    let (path, serial, sectors) = (path.into(), serial.into(), Some(sectors));
    BlockDevice { path, serial, sectors, mode: 0o640, uid: 7, gid: 8, read_only }
}

pub fn come_and_go() {
    needs_sandboxes!();
    let mut pod = Pod::start();
    let root = pod.folder("root");
    busybox(&root);
    let image = ext4(&pod, "root.ext4", 32, &root);
    let (raw, fixed) = (pod.folder.path().join("raw"), pod.folder.path().join("fixed"));
    fs::write(&raw, vec![b'r'; 1 << 20]).unwrap();
    fs::write(&fixed, vec![b'f'; 2 << 20]).unwrap();
    let guest = &mut pod.machine.guest;
    let sectors = [
        guest.plug_disk(5, &disk(&image, false, "rootfs")).unwrap(),
        guest.plug_disk(0, &disk(&raw, false, "raw")).unwrap(),
        guest.plug_disk(7, &disk(&fixed, true, "fixed")).unwrap(),
    ];
    assert_eq!(sectors, [65536, 2048, 4096]);
    for (slot, why) in [(5, "already"), (8, "no Disk(8)")] {
        let other = pod.folder.path().join("other");
        fs::write(&other, [0; 512]).unwrap();
        let refused = guest.plug_disk(slot, &disk(&other, false, "x")).unwrap_err();
        assert!(matches!(&refused, SandboxError::Refused(text) if text.contains(why)), "{refused}");
    }
    let mut create = on_disk("a", "rootfs", sectors[0]);
    create.block_devices = vec![
        device("/dev/deep/raw", "raw", sectors[1], false),
        device("/dev/fixed", "fixed", sectors[2], true),
    ];
    pod.run(create).unwrap();
    let script = "
        for disk in /dev/deep/raw /dev/fixed; do
            ls -ln $disk | tr -s ' ' | cut -d' ' -f1,3,4
            wc -c < $disk; head -c 4 $disk; echo
        done
        echo written | dd of=/dev/deep/raw bs=8 seek=64 conv=notrunc,fsync 2> /dev/null
        echo x > /dev/fixed
        mknod /tmp/other b 254 32 && head -c 1 /tmp/other
        echo kept > /kept; grep ' / ' /proc/mounts | tr , '\\n' | grep -e noatime -e errors";
    let expected = "brw-r----- 7 8\n1048576\nrrrr\nbrw-r----- 7 8\n2097152\nffff\n\
        sh: can't create /dev/fixed: Operation not permitted\n\
        head: /tmp/other: Operation not permitted\n\
        noatime\nerrors=remount-ro ";
    let said = pod.shell("a", script);
    assert!(said.starts_with(expected.trim_end()), "{said}");
    pod.delete("a");
    let guest = &mut pod.machine.guest;
    for slot in [5, 0, 7] {
        guest.unplug_disk(slot).unwrap();
    }
    let refused = guest.unplug_disk(5).unwrap_err();
    assert!(matches!(&refused, SandboxError::Refused(why) if why.contains("nothing")), "{refused}");
    assert_eq!(&fs::read(&raw).unwrap()[512..520], b"written\n");
    // All of it has reached the disk, and it was left in order.
    let kept = tool("/usr/sbin/debugfs", &["-R", "cat /kept", image.to_str().unwrap()]);
    assert_eq!(kept, "kept\n");
    tool("/usr/sbin/e2fsck", &["-fn", image.to_str().unwrap()]);

    // Another one in the same slot, of another size, by the same name.
    fs::write(root.join("mark"), "the second\n").unwrap();
    let second = ext4(&pod, "second.ext4", 48, &root);
    let sectors = pod.machine.guest.plug_disk(5, &disk(&second, false, "rootfs")).unwrap();
    pod.run(on_disk("b", "rootfs", sectors)).unwrap();
    assert_eq!(
        pod.shell("b", "cat /mark; cat /kept"),
        "the second\ncat: can't open '/kept': No such file or directory\n"
    );
    // And the first one in another, read-only beneath a container that must not write to it.
    let sectors = pod.machine.guest.plug_disk(1, &disk(&image, true, "first")).unwrap();
    let mut create = on_disk("c", "first", sectors);
    create.rootfs.writable = ampoule::agent::message::WritableLayer::Tmpfs { size: None };
    pod.run(create).unwrap();
    assert_eq!(pod.shell("c", "echo more >> /kept; cat /kept"), "kept\nmore\n");
    pod.machine.end().unwrap();
}

pub fn are_the_keepers_to_plug() {
    needs_sandboxes!();
    let mut pod = Pod::start();
    let control = pod.machine.kept().unwrap().folder.control();
    let other = Channel::connect(&control).unwrap();
    let file = File::open("/dev/zero").unwrap();
    let plug = MonitorRequest::PlugDisk {
        slot: 0,
        bytes: 512,
        read_only: true,
        serial: None,
        rate_limiter: RateLimiter::NONE,
    };
    let net = MonitorRequest::PlugNet {
        slot: 0,
        mac: None,
        backend: NicKind::Tap,
        rx_rate_limiter: RateLimiter::NONE,
        tx_rate_limiter: RateLimiter::NONE,
    };
    let requests = [
        (plug, vec![file.as_fd()]),
        (net, vec![file.as_fd()]),
        (MonitorRequest::UnplugDisk { slot: 0 }, vec![]),
        (MonitorRequest::UnplugNet { slot: 0 }, vec![]),
    ];
    for (request, descriptors) in requests {
        other.send_with(&request, &descriptors).unwrap();
        let answer = other.receive::<MonitorEvent>().unwrap().unwrap();
        assert!(matches!(&answer, MonitorEvent::Refused { message } if message.contains("keeper")));
    }
    // Others pause a machine; nothing is plugged in then, and everything goes on.
    other.send(&MonitorRequest::Pause).unwrap();
    assert_eq!(other.receive::<MonitorEvent>().unwrap(), Some(MonitorEvent::Done));
    let refused = pod.machine.guest.unplug_disk(0).unwrap_err();
    assert!(matches!(&refused, SandboxError::Refused(why) if why.contains("paused")), "{refused}");
    other.send(&MonitorRequest::Resume).unwrap();
    assert_eq!(other.receive::<MonitorEvent>().unwrap(), Some(MonitorEvent::Done));
    let root = pod.folder("root");
    busybox(&root);
    pod.share("root", &root, false);
    pod.run(container("a", shared("root"))).unwrap();
    assert_eq!(pod.shell("a", "echo still there"), "still there\n");
    pod.machine.end().unwrap();
}
