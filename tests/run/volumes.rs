//! Volumes: made, filled, shared, kept and removed.

use std::fs;

use crate::needs_sandboxes;
use crate::support::Ampoule;

#[test]
fn a_volume_begins_with_what_the_image_has_and_outlives_its_containers() {
    needs_sandboxes!();
    let ampoule = Ampoule::new();
    // /var/tmp is the image's, and everybody's to write to; /etc has files.
    let script = "stat -c %a /var/tmp; cat /conf/group; echo kept > /var/tmp/file";
    let options = ["-v", "tmps:/var/tmp", "-v", "conf:/etc", "-v", "conf:/conf:ro"];
    let first = ampoule.shell(&options[..2], "busybox", "stat -c '%a %u' /var/tmp; ls -A /var/tmp");
    first.gives(0, "1777 0\n");
    ampoule.shell(&options, "busybox", script).gives(0, "1777\nroot:x:0:\n");
    let nocopy = ["-v", "none:/etc:nocopy"];
    ampoule.shell(&nocopy, "busybox", "ls -A /etc | grep -v -e resolv -e host").gives(1, "");
    let read = ampoule.shell(&["-v", "tmps:/d:ro"], "busybox", "cat /d/file; ! touch /d/x");
    assert_eq!((read.code, read.stdout.as_str()), (0, "kept\n"), "{read:?}");

    let listed = ampoule.ok(&["volume", "ls", "-q"]);
    assert_eq!(listed, "conf\nnone\ntmps\n");
    ampoule.ok(&["volume", "rm", "tmps", "conf", "none"]);
    assert!(fs::read_dir(ampoule.root().join("volumes")).unwrap().next().is_none());
}

#[test]
fn volumes_of_containers_stay_while_there_is_one() {
    needs_sandboxes!();
    let ampoule = Ampoule::new();
    ampoule.ok(&[
        "run",
        "-d",
        "--name",
        "web",
        "-v",
        "data:/data",
        "-v",
        "/own",
        "busybox",
        "sh",
        "-c",
        "echo one > /data/file; echo two > /own/file; sleep 1000",
    ]);
    ampoule.output(&["volume", "rm", "data"]).fails(125, &["in use by container"]);
    // The same volumes, whatever they are called.
    let other = ampoule.output(&[
        "run",
        "--rm",
        "--volumes-from",
        "web:ro",
        "busybox",
        "sh",
        "-c",
        "until [ -s /own/file ]; do :; done; cat /data/file /own/file; ! touch /own/x",
    ]);
    assert_eq!((other.code, other.stdout.as_str()), (0, "one\ntwo\n"), "{other:?}");
    assert_eq!(ampoule.ok(&["volume", "ls", "-q", "--filter", "dangling=true"]), "");
    ampoule.output(&["fork", "web"]).fails(125, &["cannot be forked"]);
    ampoule.ok(&["rm", "-f", "-v", "web"]);
    // That which was made for it alone is gone with it.
    assert_eq!(ampoule.ok(&["volume", "ls", "-q"]), "data\n");
    ampoule.ok(&["run", "--rm", "-v", "/own", "busybox", "true"]);
    assert_eq!(ampoule.ok(&["volume", "ls", "-q"]), "data\n");
    assert_eq!(ampoule.left(), [""; 0]);
}

#[test]
fn volumes_are_made_listed_inspected_and_pruned() {
    let ampoule = Ampoule::new();
    assert_eq!(ampoule.ok(&["volume", "create", "--label", "tier=db", "data"]), "data\n");
    assert_eq!(ampoule.ok(&["volume", "create", "data"]), "data\n");
    let random = ampoule.ok(&["volume", "create"]);
    assert_eq!(random.trim().len(), 64);
    let inspected = ampoule.ok(&["volume", "inspect", "data"]);
    let inspected: serde_json::Value = serde_json::from_str(&inspected).unwrap();
    let mountpoint = ampoule.root().join("volumes/data/_data");
    assert_eq!(inspected[0]["Mountpoint"].as_str(), mountpoint.to_str());
    assert_eq!(
        (&inspected[0]["Labels"]["tier"], &inspected[0]["Driver"]),
        (&"db".into(), &"local".into())
    );
    let json = ampoule.ok(&["volume", "ls", "--format", "json", "--filter", "label=tier"]);
    let row: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&row["Name"], &row["Labels"]), (&"data".into(), &"tier=db".into()));
    ampoule.output(&["volume", "inspect", "data", "none"]).fails(125, &["no such volume: none"]);
    ampoule.output(&["volume", "create", "a/b"]).fails(125, &["valid volume name"]);
    ampoule.output(&["volume", "rm", "none"]).fails(125, &["no such volume: none"]);
    ampoule.ok(&["volume", "rm", "-f", "none"]);

    fs::write(mountpoint.join("file"), vec![1; 100_000]).unwrap();
    // Without an answer nothing is removed; those with a name of their own stay unless all are meant.
    ampoule.output(&["volume", "prune"]).fails(125, &["give -f"]);
    let no = ampoule.with_input(&["volume", "prune"], b"n\n".to_vec());
    assert!(String::from_utf8_lossy(&no.stdout).contains("[y/N]"));
    assert!(ampoule.ok(&["volume", "prune", "-f"]).contains(random.trim()));
    assert_eq!(ampoule.ok(&["volume", "ls", "-q"]), "data\n");
    let pruned = ampoule.ok(&["volume", "prune", "-f", "--all"]);
    assert!(pruned.contains("data") && !pruned.contains("reclaimed space: 0B"), "{pruned}");
}
