//! `ampoule cp`, `diff` and `commit`, of containers that run and of those that do not.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use crate::needs_sandboxes;
use crate::support::Ampoule;

#[test]
fn files_go_both_ways_while_the_container_runs_and_when_it_does_not() {
    needs_sandboxes!();
    let ampoule = Ampoule::new();
    let here = tempfile::tempdir().unwrap();
    let path = |name: &str| here.path().join(name).display().to_string();
    fs::create_dir_all(here.path().join("site/sub")).unwrap();
    fs::write(here.path().join("site/index"), "hello").unwrap();
    fs::write(here.path().join("site/sub/page"), vec![b'p'; 300_000]).unwrap();
    ampoule.ok(&["run", "-d", "--name", "web", "-v", "data:/data", "busybox", "sleep", "1000"]);
    let sh = |script: &str| ampoule.ok(&["exec", "web", "sh", "-c", script]);

    let told = ampoule.output(&["cp", &path("site"), "web:/srv"]);
    told.gives(0, "");
    assert!(
        told.stderr.starts_with("Successfully copied ") && told.stderr.ends_with(" to web:/srv\n")
    );
    assert_eq!(
        sh("cat /srv/index; wc -c < /srv/sub/page; stat -c %u:%g /srv"),
        "hello300000\n0:0\n"
    );
    // Now there is a directory, in which it goes; of another what is in it.
    ampoule.ok(&["cp", "-q", &path("site"), "web:/srv"]);
    ampoule.ok(&["cp", "-q", &path("site/."), "web:/data"]);
    assert_eq!(sh("cat /srv/site/index /data/index"), "hellohello");
    ampoule.ok(&["cp", "-q", &path("site/index"), "web:/etc/motd"]);
    ampoule.ok(&["cp", "-q", "web:/srv", &path("back")]);
    ampoule.ok(&["cp", "-q", "web:/data/index", &path("single")]);
    assert_eq!(fs::read(here.path().join("back/sub/page")).unwrap().len(), 300_000);
    assert_eq!(fs::read_to_string(path("single")).unwrap(), "hello");
    sh("ln -s /srv/index /link");
    ampoule.ok(&["cp", "-q", "web:/link", &path("link")]);
    ampoule.ok(&["cp", "-q", "-L", "web:/link", &path("followed")]);
    assert_eq!(fs::read_link(path("link")).unwrap().to_str(), Some("/srv/index"));
    assert_eq!(fs::read_to_string(path("followed")).unwrap(), "hello");

    // As archives.
    let tar = ampoule.command(["cp", "web:/srv/sub", "-"]).output().unwrap();
    assert!(tar.status.success(), "{tar:?}");
    let piped = ampoule.with_input(&["cp", "-", "web:/tmp"], tar.stdout);
    assert!(piped.status.success(), "{piped:?}");
    assert_eq!(sh("wc -c < /tmp/sub/page"), "300000\n");

    ampoule.output(&["cp", "web:/none", &path("x")]).fails(125, &["could not find the file /none"]);
    ampoule.output(&["cp", "web:/srv", &path("single")]).fails(125, &["cannot copy directory"]);
    ampoule.output(&["cp", &path("single"), "web:/none/"]).fails(125, &["no such directory"]);
    ampoule.output(&["cp", &path("single"), "web:/none/x"]).fails(125, &["No such file"]);
    ampoule.output(&["cp", "web:/etc", "web:/x"]).fails(125, &["not supported"]);
    ampoule.output(&["cp", "x", "y"]).fails(125, &["at least one container"]);

    ampoule.ok(&["stop", "-t", "0", "web"]);
    let before = ampoule.ok(&["inspect", "web"]);
    ampoule.ok(&["cp", "-q", "web:/srv/sub/page", &path("stopped")]);
    assert_eq!(fs::read(path("stopped")).unwrap().len(), 300_000);
    ampoule.ok(&["cp", "-q", &path("single"), "web:/srv/late"]);
    ampoule.ok(&["cp", "-q", &path("single"), "web:/data/late"]);
    assert_eq!(ampoule.ok(&["inspect", "web"]), before);
    ampoule.ok(&["start", "web"]);
    assert_eq!(sh("cat /srv/late /data/late"), "hellohello");
    ampoule.ok(&["rm", "-f", "web"]);
    assert_eq!(ampoule.left(), [""; 0]);
}

#[test]
fn what_a_container_makes_to_hurt_stays_where_it_is_copied_to() {
    needs_sandboxes!();
    let ampoule = Ampoule::new();
    let here = tempfile::tempdir().unwrap();
    let outside = here.path().join("outside");
    let copy = here.path().join("copy");
    fs::create_dir(&outside).unwrap();
    fs::create_dir(&copy).unwrap();
    ampoule.ok(&["run", "-d", "--name", "bad", "busybox", "sleep", "1000"]);
    let script = format!(
        "mkdir /bad; ln -s ../outside /bad/up; ln -s {} /bad/there; ln -s /etc/shadow /bad/shadow; \
         mknod /bad/null c 1 3; mkfifo /bad/pipe; truncate -s 16M /bad/holes; \
         cp /bin/busybox /bad/sh; chmod 6755 /bad/sh; ln /bad/sh /bad/second",
        outside.display()
    );
    ampoule.ok(&["exec", "bad", "sh", "-c", &script]);
    let copied = ampoule.output(&["cp", "bad:/bad/.", copy.to_str().unwrap()]);
    copied.gives(0, "");
    assert!(copied.stderr.contains("warning: \"null\" not copied"), "{copied:?}");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    assert!(!copy.join("null").exists());
    let program = fs::metadata(copy.join("sh")).unwrap();
    assert_eq!((program.permissions().mode() & 0o7777, program.nlink()), (0o755, 2));
    assert_eq!(fs::metadata(copy.join("holes")).unwrap().len(), 16 << 20);
    // A directory of the container's in the place of a link that was copied before is refused.
    ampoule.ok(&["exec", "bad", "sh", "-c", "rm /bad/up; mkdir /bad/up; echo x > /bad/up/x"]);
    ampoule
        .output(&["cp", "bad:/bad/.", copy.to_str().unwrap()])
        .fails(125, &["cannot overwrite non-directory"]);
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    ampoule.ok(&["rm", "-f", "bad"]);
    assert_eq!(ampoule.left(), [""; 0]);
}

#[test]
fn what_was_changed_is_told_and_becomes_an_image() {
    needs_sandboxes!();
    let own = tempfile::tempdir().unwrap();
    let ampoule = Ampoule::with_root(own.path().to_owned());
    let archive = crate::support::images().join("busybox.tar");
    ampoule.ok(&["load", "-q", "-i", archive.to_str().unwrap()]);
    let script = "echo x > /new; mkdir -p /a/b; rm /etc/group; echo y >> /etc/passwd; sleep 1000";
    ampoule.ok(&["run", "-d", "--name", "box", "-e", "A=1", "busybox", "sh", "-c", script]);
    let expected = "A /a\nA /a/b\nC /etc\nD /etc/group\nC /etc/passwd\nA /new\n";
    // It may not have come to it yet.
    let mut told = String::new();
    while told != expected {
        told = ampoule.ok(&["diff", "box"]);
        assert!(told.len() <= expected.len(), "{told}");
    }
    let change =
        ["commit", "-a", "me", "-m", "why", "-c", "CMD [\"cat\", \"/new\"]", "box", "mine:1"];
    let id = ampoule.ok(&change);
    assert!(id.starts_with("sha256:"), "{id}");
    ampoule.ok(&["exec", "box", "true"]);
    ampoule.output(&["run", "--rm", "mine:1"]).gives(0, "x\n");
    let check = "test ! -e /etc/group && test -d /a/b && tail -n 1 /etc/passwd && echo $A";
    ampoule.shell(&[], "mine:1", check).gives(0, "y\n1\n");
    ampoule.ok(&["stop", "-t", "0", "box"]);
    assert_eq!(ampoule.ok(&["diff", "box"]), expected);
    ampoule.ok(&["commit", "box", "mine:2"]);
    ampoule.shell(&[], "mine:2", "cat /new").gives(0, "x\n");
    ampoule.output(&["commit", "none"]).fails(125, &["no such container: none"]);
    // One that never ran has changed nothing; with its layer in memory nothing can be written to it.
    ampoule.ok(&["create", "--name", "fresh", "busybox", "true"]);
    assert_eq!(ampoule.ok(&["diff", "fresh"]), "");
    ampoule.ok(&["rm", "box", "fresh"]);
}
