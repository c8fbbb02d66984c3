//! What of the host's a container has mounted, and what it has in memory.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use crate::needs_sandboxes;
use crate::support::Ampoule;

#[test]
fn directories_and_files_of_the_host_are_as_they_were_asked_for() {
    needs_sandboxes!();
    let ampoule = Ampoule::new();
    let host = tempfile::tempdir().unwrap();
    let path = |name: &str| host.path().join(name).to_str().unwrap().to_owned();
    fs::create_dir(path("read")).unwrap();
    fs::write(path("read/file"), "from the host\n").unwrap();
    fs::write(path("single"), "one file\n").unwrap();
    // With a template, and booted; -v makes what is missing.
    for start in ["warm", "cold"] {
        let script =
            "cat /read/file /single; echo from the guest > /made/here; chmod 640 /made/here
            chown 1234 /made/here; echo more >> /single
            for place in /read/x /tmpfs/x /x; do touch $place 2> /dev/null || echo no $place; done
            grep -c ' /tmpfs tmpfs.*noexec.*size=1024k' /proc/mounts; ls /made/inner/deep";
        let options = [
            "--start".to_owned(),
            start.to_owned(),
            "--read-only".to_owned(),
            "-v".to_owned(),
            format!("{}:/read:ro", path("read")),
            format!("--mount=type=bind,src={},dst=/single", path("single")),
            format!("-v={}:/made", path(&format!("made/{start}"))),
            // Inside of another mount, and named before it.
            "--tmpfs=/made/inner:exec".to_owned(),
            "--mount=type=tmpfs,dst=/made/inner/deep,ro".to_owned(),
            "--tmpfs=/tmpfs:size=1m".to_owned(),
        ];
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let before = fs::read_to_string(path("single")).unwrap();
        let expected = format!("from the host\n{before}no /read/x\nno /x\n1\n");
        ampoule.shell(&options, "busybox", script).gives(0, &expected);
        assert_eq!(fs::read_to_string(path("single")).unwrap(), before + "more\n");
        let made = fs::metadata(path(&format!("made/{start}/here"))).unwrap();
        assert_eq!((made.uid(), made.permissions().mode() & 0o7777), (1234, 0o640));
    }
    assert_eq!(ampoule.left(), [""; 0]);
}

#[test]
fn what_cannot_be_mounted_is_refused_before_anything_starts() {
    let ampoule = Ampoule::new();
    for (option, word) in [
        ("--mount=type=bind,src=/no/such,dst=/x", "/no/such"),
        ("--volume=/dev/kvm:/dev/kvm", "device of the host"),
        ("--volume=/tmp:/x:rshared", "propagated"),
        ("--volume=a/b:/x", "volume name"),
        ("--device=/dev/fuse", "not passed into a guest"),
        ("--blkio-weight=100", "--cgroup-parent"),
        ("--storage-opt=size=1k", "32m to 1t"),
    ] {
        ampoule.output(&["run", "--rm", option, "busybox", "true"]).fails(125, &[word]);
    }
    let twice = ["run", "--rm", "-v", "/tmp:/x", "--tmpfs", "/x", "busybox", "true"];
    ampoule.output(&twice).fails(125, &["duplicate mount point: /x"]);
    assert_eq!(ampoule.left(), [""; 0]);
}
