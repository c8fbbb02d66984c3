//! Warm starts: templates, what their sandboxes share, and what they must not.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::needs_sandboxes;
use crate::support::{Ampoule, Finished, read_until, signal};

/// The one template of a folder.
fn only_template(folder: &Path) -> PathBuf {
    let mut all = templates(folder);
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

/// Everything in a folder of templates but the locks.
fn templates(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_none_or(|end| end != "lock")).collect()
}

fn phases(finished: &Finished) -> Vec<&str> {
    finished.stderr.lines().filter_map(|line| line.split("  ").next()).collect()
}

#[test]
fn two_first_starts_make_one_template_and_later_ones_use_it() {
    needs_sandboxes!();
    let folder = TempDir::new().unwrap();
    let ampoule = Ampoule::with_templates(folder.path());
    let both = [(); 2].map(|()| ampoule.spawn(&["run", "--rm", "busybox", "echo", "hi"]));
    for child in both {
        Finished::of(child.wait_with_output().unwrap()).gives(0, "hi\n");
    }
    let template = only_template(folder.path());
    let made = fs::metadata(template.join("memory")).unwrap();
    let again = ampoule.output(&["run", "--rm", "--timings", "busybox", "true"]);
    assert!(again.code == 0 && phases(&again).contains(&"agent awake"), "{again:?}");
    let cold = ampoule.output(&["run", "--rm", "--timings", "--start", "cold", "busybox", "true"]);
    assert!(cold.code == 0 && phases(&cold).contains(&"kernel"), "{cold:?}");
    let now = fs::metadata(only_template(folder.path()).join("memory")).unwrap();
    assert_eq!((now.ino(), now.mtime_nsec()), (made.ino(), made.mtime_nsec()));
    assert_eq!(ampoule.left(), [""; 0]);

    let listed = ampoule.ok(&["template", "ls", "--format", "json"]);
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    assert_eq!((&listed["MemoryMiB"], &listed["Current"]), (&512.into(), &true.into()));
    assert_eq!(ampoule.ok(&["template", "prune"]), "");
    assert_eq!(ampoule.ok(&["template", "prune", "--all"]).trim(), listed["Key"]);
    assert!(templates(folder.path()).is_empty());
}

#[test]
fn no_two_sandboxes_of_a_template_have_anything_in_common_that_is_to_be_their_own() {
    needs_sandboxes!();
    let ampoule = Ampoule::new();
    let script = "cat /proc/sys/kernel/random/uuid /proc/sys/kernel/random/boot_id; hostname; \
                  head -c 32 /dev/urandom | md5sum; awk 'BEGIN { srand(); print rand() }'; \
                  date +%s";
    let one = ampoule.shell(&[], "busybox", script);
    let other = ampoule.shell(&[], "busybox", script);
    let (one, other): (Vec<_>, Vec<_>) =
        (one.stdout.lines().collect(), other.stdout.lines().collect());
    assert_eq!((one.len(), other.len()), (6, 6), "{one:?} {other:?}");
    for (one, other) in one.iter().zip(&other).take(4) {
        assert_ne!(one, other);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    for date in [one[5], other[5]] {
        assert!(now.abs_diff(date.parse().unwrap()) < 60, "{date} at {now}");
    }
    // Twice in one sandbox, a boot id stays what it is.
    let id = "cat /proc/sys/kernel/random/boot_id";
    let twice = ampoule.shell(&[], "busybox", &format!("{id}; {id}")).stdout;
    let (first, second) = twice.trim().split_once('\n').unwrap();
    assert_eq!(first, second);
}

#[test]
fn a_language_that_seeds_itself_draws_other_numbers_in_each_sandbox() {
    needs_sandboxes!();
    let ampoule = Ampoule::new();
    let draw = ["run", "--rm", "debian", "perl", "-e", "print join ' ', map { rand } 1..4"];
    let (one, other) = (ampoule.ok(&draw), ampoule.ok(&draw));
    assert_eq!((one.split(' ').count(), other.split(' ').count()), (4, 4), "{one} {other}");
    assert_ne!(one, other);
}

#[test]
fn a_changed_agent_or_kernel_has_another_template_and_the_old_one_is_pruned() {
    needs_sandboxes!();
    let (folder, guest) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let ampoule = Ampoule::with_templates(folder.path());
    let ok = |args: &[&str]| {
        let output = ampoule.command(args).env("AMPOULE_GUEST", guest.path()).output().unwrap();
        let finished = Finished::of(output);
        assert_eq!((finished.code, finished.stderr.as_str()), (0, ""), "{args:?} {finished:?}");
        finished.stdout
    };
    let current = || -> Vec<bool> {
        let listed = ok(&["template", "ls", "--format", "json"]);
        let lines = listed.lines().map(|line| serde_json::from_str(line).unwrap());
        lines.map(|template: serde_json::Value| template["Current"] == true).collect()
    };
    for file in ["vmlinux", "initramfs.cpio"] {
        fs::copy(crate::support::guest().join(file), guest.path().join(file)).unwrap();
    }
    ok(&["template", "build"]);
    assert_eq!(current(), [true]);
    for file in ["initramfs.cpio", "vmlinux"] {
        // The same bytes, put there anew: what they were is not known without reading all of them.
        fs::copy(crate::support::guest().join(file), guest.path().join("new")).unwrap();
        fs::rename(guest.path().join("new"), guest.path().join(file)).unwrap();
        assert_eq!(current(), [false]);
        assert_eq!(ok(&["run", "--rm", "busybox", "echo", "hi"]), "hi\n");
        assert_eq!(current(), [false, true]);
        assert_eq!(templates(folder.path()).len(), 2);
        assert_eq!(ok(&["template", "prune"]).lines().count(), 1);
        assert_eq!(current(), [true]);
    }
}

#[test]
fn a_template_that_is_deleted_while_in_use_is_missed_by_nobody() {
    needs_sandboxes!();
    let folder = TempDir::new().unwrap();
    let ampoule = Ampoule::with_templates(folder.path());
    let script = "echo ready; read line; echo got $line";
    let mut child = ampoule.spawn(&["run", "--rm", "-i", "busybox", "sh", "-c", script]);
    read_until(child.stdout.as_mut().unwrap(), "ready\n");
    let key = ampoule.ok(&["template", "ls", "--quiet"]);
    ampoule.ok(&["template", "rm", &key[..6]]);
    assert!(templates(folder.path()).is_empty());
    use std::io::Write;
    child.stdin.take().unwrap().write_all(b"on\n").unwrap();
    Finished::of(child.wait_with_output().unwrap()).gives(0, "got on\n");
}

#[test]
fn an_altered_template_is_not_used() {
    needs_sandboxes!();
    let folder = TempDir::new().unwrap();
    let ampoule = Ampoule::with_templates(folder.path());
    ampoule.ok(&["template", "build"]);
    let template = only_template(folder.path());
    let state = fs::read(template.join("state")).unwrap();
    fs::write(template.join("state"), &state[..state.len() / 2]).unwrap();
    // Told, and booted instead; the next start has a template again.
    let done = ampoule.output(&["run", "--rm", "busybox", "echo", "hi"]);
    done.gives(0, "hi\n");
    done.fails(0, &["cannot restore the template", "truncated", "booted instead"]);
    assert!(templates(folder.path()).is_empty());
    ampoule.ok(&["template", "build"]);
    let template = only_template(folder.path());
    let memory = fs::OpenOptions::new().write(true).open(template.join("memory")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&memory, b"x", 0x10_0000).unwrap();
    drop(memory);
    let done = ampoule.output(&["run", "--rm", "busybox", "echo", "hi"]);
    assert_eq!((done.code, done.stderr.as_str()), (0, ""), "made anew without a word: {done:?}");
}

#[test]
fn a_killed_maker_leaves_nothing_that_the_next_one_keeps() {
    needs_sandboxes!();
    let folder = TempDir::new().unwrap();
    let ampoule = Ampoule::with_templates(folder.path());
    let mut child = ampoule.spawn(&["template", "build"]);
    while templates(folder.path()).is_empty() && child.try_wait().unwrap().is_none() {
        std::thread::yield_now();
    }
    signal(&child, Signal::SIGKILL);
    child.wait().unwrap();
    ampoule.ok(&["run", "--rm", "busybox", "true"]);
    let template = only_template(folder.path());
    assert!(!template.file_name().unwrap().to_str().unwrap().starts_with("new-"));
}

#[test]
fn without_room_for_a_template_the_sandbox_is_booted_with_a_warning() {
    needs_sandboxes!();
    let folder = TempDir::new().unwrap();
    let small = folder.path().join("small");
    fs::create_dir(&small).unwrap();
    let mounted = nix::mount::mount(
        Some("small"),
        &small,
        Some("tmpfs"),
        nix::mount::MsFlags::empty(),
        Some("size=4m"),
    );
    mounted.unwrap();
    let ampoule = Ampoule::with_templates(&small);
    let done = ampoule.output(&["run", "--rm", "busybox", "echo", "hi"]);
    let left = templates(&small);
    nix::mount::umount(&small).unwrap();
    done.gives(0, "hi\n");
    done.fails(0, &["No space left on device", "booted instead"]);
    assert!(left.is_empty(), "{left:?}");
}
