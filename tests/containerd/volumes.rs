//! What a kubelet mounts into containers: folders and files of the host, some of which change.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use ampoule_cri::mount;
use ampoule_cri::v1::Device;

use crate::lab;
use crate::lab::until;
use crate::pod::{Pod, WAITS};

#[test]
fn folders_and_files_of_the_host() {
    let lab = lab!();
    let host = lab.new_folder("volumes");
    fs::create_dir_all(host.join("data/part/deep")).unwrap();
    fs::write(host.join("data/part/file"), "of a part\n").unwrap();
    fs::write(host.join("closed"), "closed\n").unwrap();
    fs::write(host.join("message"), "").unwrap();
    fs::create_dir(host.join("secret")).unwrap();
    fs::write(host.join("secret/token"), "token\n").unwrap();
    let pod = Pod::run(&lab, "volumes");
    let mut config = Pod::shell("main", WAITS);
    config.mounts = vec![
        mount(&host.join("data"), "/data", false),
        mount(&host.join("data/part"), "/part", false),
        mount(&host.join("data/part/file"), "/etc/part.conf", true),
        mount(&host.join("secret"), "/var/run/secrets/kubernetes.io/serviceaccount", true),
        mount(&host.join("closed"), "/closed", true),
        mount(&host.join("message"), "/dev/termination-log", false),
    ];
    let id = pod.start(&config);
    pod.says("main", "ready\n");
    let read = "cat /data/part/file /part/file /etc/part.conf /closed \
        /var/run/secrets/kubernetes.io/serviceaccount/token";
    let all = "of a part\nof a part\nof a part\nclosed\ntoken\n";
    assert_eq!(pod.ask(&id, read), all);
    assert_eq!(pod.ask(&id, "ls /part"), "deep\nfile\n");
    for closed in ["/closed", "/etc/part.conf", "/var/run/secrets/kubernetes.io/serviceaccount/new"]
    {
        let (code, told) = pod.exec(&id, &format!("echo x > {closed}"));
        assert!(code != 0 && told.contains("ead-only"), "{closed}: {code} {told}");
    }
    pod.ask(&id, "echo last words > /dev/termination-log; echo new > /part/deep/new");
    assert_eq!(fs::read_to_string(host.join("message")).unwrap(), "last words\n");
    assert_eq!(fs::read_to_string(host.join("data/part/deep/new")).unwrap(), "new\n");
    // What the host changes is seen inside.
    fs::write(host.join("data/later"), "later\n").unwrap();
    until("a new file is seen", || pod.exec(&id, "cat /data/later").1 == "later\n");
    fs::write(host.join("data/later"), "much later\n").unwrap();
    until("a changed file is seen", || pod.exec(&id, "cat /data/later").1 == "much later\n");
    fs::remove_file(host.join("data/later")).unwrap();
    until("a removed file is gone", || pod.exec(&id, "test -e /data/later").0 == 1);
    pod.remove();
    // What was mounted is as it was left.
    assert_eq!(fs::read_to_string(host.join("data/part/file")).unwrap(), "of a part\n");
}

/// A kubelet changes a ConfigMap's volume by a link that it exchanges for another.
#[test]
fn a_config_map_is_exchanged_at_once() {
    let lab = lab!();
    let host = lab.new_folder("config-map");
    let version = |name: &str, text: &str| {
        fs::create_dir(host.join(name)).unwrap();
        fs::write(host.join(name).join("settings"), text).unwrap();
    };
    version("..2026_01", "first\n");
    symlink("..2026_01", host.join("..data")).unwrap();
    symlink("..data/settings", host.join("settings")).unwrap();
    let pod = Pod::run(&lab, "config-map");
    let mut config = Pod::shell("main", WAITS);
    config.mounts = vec![mount(&host, "/config", true)];
    let id = pod.start(&config);
    assert_eq!(pod.ask(&id, "cat /config/settings"), "first\n");
    version("..2026_02", "second\n");
    symlink("..2026_02", host.join("..data_tmp")).unwrap();
    fs::rename(host.join("..data_tmp"), host.join("..data")).unwrap();
    fs::remove_dir_all(host.join("..2026_01")).unwrap();
    until("the exchange is seen", || pod.exec(&id, "cat /config/settings").1 == "second\n");
    pod.remove();
}

/// The folder of a volume that is in memory (`emptyDir` with medium Memory) is a mount by itself.
#[test]
fn a_volume_in_memory() {
    let lab = lab!();
    let host = lab.new_folder("memory-volume");
    let mut mounting = Command::new("mount");
    mounting.args(["-t", "tmpfs", "-o", "size=1m", "memory"]).arg(&host);
    assert!(mounting.status().unwrap().success());
    let pod = Pod::run(&lab, "memory-volume");
    let mut config = Pod::shell("main", WAITS);
    config.mounts = vec![mount(&host, "/memory", false)];
    let id = pod.start(&config);
    pod.ask(&id, "echo x > /memory/file");
    assert_eq!(fs::read_to_string(host.join("file")).unwrap(), "x\n");
    let (code, told) = pod.exec(&id, "dd if=/dev/zero of=/memory/big bs=64k count=32");
    assert!(code != 0 && told.contains("No space"), "{code} {told}");
    pod.remove();
    let unmounted = Command::new("umount").arg(&host).status().unwrap();
    assert!(unmounted.success());
}

#[test]
fn a_block_volume() {
    let lab = lab!();
    let host = lab.new_folder("block");
    let disk = host.join("disk");
    fs::File::create(&disk).unwrap().set_len(4 << 20).unwrap();
    // Where it is no part of the kernel; where it is, this changes nothing.
    let _ = Command::new("modprobe").arg("loop").status();
    let attached = Command::new("losetup").args(["--find", "--show"]).arg(&disk).output().unwrap();
    assert!(attached.status.success(), "{attached:?}");
    let device = String::from_utf8(attached.stdout).unwrap().trim().to_owned();
    let pod = Pod::run(&lab, "block");
    let mut config = Pod::shell("main", WAITS);
    config.devices = vec![Device {
        container_path: "/dev/volume".to_owned(),
        host_path: device.clone(),
        permissions: "mrw".to_owned(),
    }];
    let id = pod.start(&config);
    let write = "test -b /dev/volume && echo written | dd of=/dev/volume bs=512 seek=3 conv=sync,fsync 2>&1";
    pod.ask(&id, write);
    assert_eq!(pod.ask(&id, "blockdev --getsize64 /dev/volume"), "4194304\n");
    pod.remove();
    let written = Command::new("dd")
        .args([&format!("if={device}"), "bs=512", "skip=3", "count=1", "iflag=direct"])
        .output();
    assert!(written.unwrap().stdout.starts_with(b"written\n\0"));
    let detached = Command::new("losetup").args(["--detach", &device]).status().unwrap();
    assert!(detached.success());
}
