//! Files of the host in the container: the root file system, mounts, and what is kept of them.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use serde_json::json;

use crate::lab::{Lab, WAITS, until};
use crate::needs_sandboxes;
use crate::support::read_until;

#[test]
fn bind_mounts_are_the_hosts_folders_and_files() {
    needs_sandboxes!();
    let lab = Lab::shell(
        "cat /volume/given /hosts; echo new > /volume/new; mkdir /volume/sub; echo more >> /hosts
        echo x > /fixed/y; echo $?; cat /fixed/given",
    );
    for folder in ["volume", "fixed"] {
        fs::create_dir(lab.path(folder)).unwrap();
        fs::write(lab.path(folder).join("given"), format!("in {folder}\n")).unwrap();
    }
    fs::write(lab.path("hosts"), "127.0.0.1\n").unwrap();
    lab.bind(&lab.path("volume"), "/volume", &["rbind", "rw"])
        .bind(&lab.path("fixed"), "/fixed", &["rbind", "ro"])
        .bind(&lab.path("hosts"), "/hosts", &["bind", "rprivate"]);
    let done = lab.output(&["run", "c"]);
    done.gives(0, "in volume\n127.0.0.1\n1\nin fixed\n");
    assert!(done.stderr.contains("Read-only file system"), "{done:?}");
    assert_eq!(fs::read_to_string(lab.path("volume/new")).unwrap(), "new\n");
    assert!(lab.path("volume/sub").is_dir());
    assert_eq!(fs::read_to_string(lab.path("hosts")).unwrap(), "127.0.0.1\nmore\n");
    assert!(!lab.path("fixed/y").exists());
}

#[test]
fn what_the_host_changes_while_a_container_runs_is_seen() {
    needs_sandboxes!();
    let lab = Lab::shell(WAITS);
    fs::create_dir(lab.path("volume")).unwrap();
    fs::write(lab.path("volume/file"), "one\n").unwrap();
    lab.bind(&lab.path("volume"), "/volume", &["rbind"]);
    let mut created = lab.start("c");
    read_until(&mut created.stdout, "ready\n");
    lab.output(&["exec", "c", "cat", "/volume/file"]).gives(0, "one\n");
    // Within the second that a guest trusts what it has looked up.
    // Anew, as Kubernetes replaces what ConfigMaps hold, and in place.
    fs::write(lab.path("volume/next"), "two, replaced\n").unwrap();
    fs::rename(lab.path("volume/next"), lab.path("volume/file")).unwrap();
    until(|| lab.ok(&["exec", "c", "cat", "/volume/file"]) == "two, replaced\n");
    fs::write(lab.path("volume/file"), "three, in place\n").unwrap();
    until(|| lab.ok(&["exec", "c", "cat", "/volume/file"]) == "three, in place\n");
    lab.ok(&["delete", "-f", "c"]);
}

#[test]
fn owners_modes_links_and_times_are_the_hosts() {
    needs_sandboxes!();
    let script = "set -e; cd /work
        stat -c '%u:%g %a' given; chown 1234:567 given; chmod 4750 given
        echo data > one; ln one two; ln -s one three; touch -d @1000000000 one
        stat -c %h one; [ $(stat -c %i one) = $(stat -c %i two) ]; rm two
        mkdir -m 1777 sticky";
    let lab = Lab::shell(script);
    let work = lab.rootfs().join("work");
    fs::create_dir(&work).unwrap();
    fs::write(work.join("given"), "").unwrap();
    std::os::unix::fs::chown(work.join("given"), Some(77), Some(88)).unwrap();
    lab.output(&["run", "c"]).gives(0, "77:88 644\n2\n");
    let given = fs::metadata(work.join("given")).unwrap();
    assert_eq!((given.uid(), given.gid(), given.mode() & 0o7777), (1234, 567, 0o4750));
    let one = fs::metadata(work.join("one")).unwrap();
    assert_eq!((one.mtime(), one.nlink(), one.uid()), (1_000_000_000, 1, 0));
    assert_eq!(fs::read_link(work.join("three")).unwrap(), Path::new("one"));
    assert_eq!(fs::metadata(work.join("sticky")).unwrap().mode() & 0o7777, 0o1777);
}

#[test]
fn users_of_the_container_meet_the_modes_of_its_files() {
    needs_sandboxes!();
    let lab =
        Lab::shell("id -u; cat /secret; echo mine > /tmp/mine; stat -c %u /tmp/mine; cat /own");
    lab.change(|config| config["process"]["user"] = json!({"uid": 1000, "gid": 1000}));
    for (name, mode, owner) in [("secret", 0o600, 0), ("own", 0o600, 1000)] {
        let path = lab.rootfs().join(name);
        fs::write(&path, "own\n").unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        std::os::unix::fs::chown(&path, Some(owner), Some(owner)).unwrap();
    }
    let tmp = lab.rootfs().join("tmp");
    fs::set_permissions(tmp, std::os::unix::fs::PermissionsExt::from_mode(0o1777)).unwrap();
    let done = lab.output(&["run", "c"]);
    done.gives(0, "1000\n1000\nown\n");
    assert!(done.stderr.contains("/secret") && done.stderr.contains("denied"), "{done:?}");
    assert_eq!(fs::metadata(lab.rootfs().join("tmp/mine")).unwrap().uid(), 1000);
}

#[test]
fn a_read_only_root_is_not_written_to_and_volumes_in_it_are() {
    needs_sandboxes!();
    let lab = Lab::shell(
        "echo x > /file; echo $?; echo kept > /volume/file; echo t > /tmp/t && cat /tmp/t",
    );
    fs::create_dir(lab.path("volume")).unwrap();
    lab.bind(&lab.path("volume"), "/volume", &["rbind"]).change(|config| {
        config["root"]["readonly"] = true.into();
        let tmpfs = json!({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["mode=1777"]});
        config["mounts"].as_array_mut().unwrap().push(tmpfs);
    });
    lab.output(&["run", "c"]).gives(0, "1\nt\n");
    assert!(!lab.rootfs().join("file").exists());
    assert_eq!(fs::read_to_string(lab.path("volume/file")).unwrap(), "kept\n");
    assert_eq!(fs::read_dir(lab.rootfs().join("tmp")).unwrap().count(), 0);
}

#[test]
fn links_of_an_image_do_not_lead_to_the_host() {
    needs_sandboxes!();
    let lab = Lab::shell("cat /escape; cat /up; echo x > /escape; ls /");
    let secret = lab.path("secret");
    fs::write(&secret, "of the host\n").unwrap();
    symlink(&secret, lab.rootfs().join("escape")).unwrap();
    symlink("../../../../../../..".to_owned() + secret.to_str().unwrap(), lab.rootfs().join("up"))
        .unwrap();
    let done = lab.output(&["run", "c"]);
    assert!(done.code == 0 && !done.stdout.contains("of the host"), "{done:?}");
    assert_eq!(fs::read_to_string(secret).unwrap(), "of the host\n");
}

#[test]
fn a_volume_of_many_files_and_large_ones_is_carried_whole() {
    needs_sandboxes!();
    let lab = Lab::shell(
        "cd /volume; for n in $(seq 50); do echo $n > f$n; done; yes | head -c 4194304 > large",
    );
    fs::create_dir(lab.path("volume")).unwrap();
    lab.bind(&lab.path("volume"), "/volume", &["rbind"]);
    let done = lab.output(&["run", "c"]);
    let large = "y\n".repeat(2 << 20);
    assert!(fs::read_to_string(lab.path("volume/large")).unwrap() == large, "{done:?}");
    assert_eq!(fs::read_dir(lab.path("volume")).unwrap().count(), 51);
    assert_eq!(fs::read_to_string(lab.path("volume/f50")).unwrap(), "50\n");
}
