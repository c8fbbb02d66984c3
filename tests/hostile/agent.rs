//! Guests whose agent attacks the host's side: what it is told ends in one clear error, bounded in
//! size and memory, and leaves nothing behind.

use std::fs::{self, Permissions};
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use ampoule::process::Process;
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::guest::reap;
use crate::needs_sandboxes;
use crate::program;
use crate::support::{Ampoule, Finished, code, guest, read_until, signal};

/// What a keeper may take at most, in MiB: whatever it is sent, it holds no more than a few frames
/// of 4 MiB.
const KEEPER_MIB: u64 = 64;

/// Longest error, with what surrounds an agent's own words.
const WORDS: usize = 16 << 10;

/// A guest whose agent does `attack`, and an ampoule that starts it.
struct Hostile {
    ampoule: Ampoule,
    guest: TempDir,
    attack: &'static str,
}

impl Hostile {
    fn new(attack: &'static str) -> Self {
        let folder = TempDir::new().unwrap();
        let root = folder.path().join("root");
        fs::create_dir(&root).unwrap();
        fs::copy(program::agent(), root.join("init")).unwrap();
        fs::set_permissions(root.join("init"), Permissions::from_mode(0o755)).unwrap();
        fs::write(root.join("attack"), attack).unwrap();
        let pack = "cd root && find . | cpio --quiet -o -H newc > ../initramfs.cpio";
        let packed = Command::new("sh").args(["-c", pack]).current_dir(&folder).output().unwrap();
        assert_eq!(Finished::of(packed).code, 0);
        symlink(guest().join("vmlinux"), folder.path().join("vmlinux")).unwrap();
        let ampoule = Ampoule::with_templates(&folder.path().join("templates"));
        Self { ampoule, guest: folder, attack }
    }

    fn guest(&self) -> &Path {
        self.guest.path()
    }

    fn command(&self, start: &str, options: &[&str]) -> Command {
        let run = [&["run", "--start", start], options, &["busybox", "true"]].concat();
        let mut command = self.ampoule.command(run);
        command.env("AMPOULE_GUEST", self.guest()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs a container to its end, in a guest that boots.
    fn run(&self) -> Finished {
        let mut child = self.command("cold", &["--rm"]).spawn().unwrap();
        let mut stdout = String::new();
        child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
        self.end(&mut child, stdout)
    }

    /// Waits for the end of a command whose standard output was read.
    fn end(&self, child: &mut Child, stdout: String) -> Finished {
        let mut stderr = String::new();
        child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        let (status, peak_mib) = reap(child);
        let done = Finished { code: code(status), stdout, stderr };
        self.is_bounded(&done);
        assert!(peak_mib <= KEEPER_MIB, "{}: {peak_mib} MiB: {done:?}", self.attack);
        self.left_nothing();
        done
    }

    fn is_bounded(&self, done: &Finished) {
        assert!(done.stderr.len() <= WORDS, "{}: {} bytes", self.attack, done.stderr.len());
        let control = |c: char| c.is_control() && c != '\n' && c != '\t';
        assert!(!done.stderr.contains(control), "{}: {done:?}", self.attack);
        assert!(!done.stderr.contains("panicked at"), "{}: {done:?}", self.attack);
    }

    fn left_nothing(&self) {
        assert_eq!(self.ampoule.left(), [""; 0], "{}", self.attack);
        assert_eq!(self.ampoule.processes(), [0; 0], "{}", self.attack);
    }
}

/// Each of these ends the start of a container, with these words.
fn fails(attacks: &[(&'static str, &str)]) {
    for (attack, words) in attacks {
        let done = Hostile::new(attack).run();
        assert_eq!(done.stdout, "", "{attack}");
        assert_eq!(done.code, 125, "{attack}: {done:?}");
        assert!(done.stderr.contains(words), "{attack}: {done:?}");
    }
}

/// Each of these is survived: the container ends with this code.
fn exits(attacks: &[(&'static str, i32)]) {
    for (attack, code) in attacks {
        let done = Hostile::new(attack).run();
        done.gives(*code, "");
        assert_eq!(done.stderr, "", "{attack}");
    }
}

#[test]
fn a_greeting_that_is_none_is_an_error() {
    needs_sandboxes!();
    fails(&[
        ("hello-oversized", "a frame of 4294967295 bytes is beyond the limit"),
        ("hello-no-json", "malformed message"),
        ("hello-nested", "malformed message"),
        ("hello-version", "speaks protocol version 4294967295"),
        ("hello-number", "malformed message"),
        ("hello-half", "the connection failed"),
        ("hello-blank", "malformed message"),
    ]);
}

#[test]
fn an_answer_to_something_else_is_an_error() {
    needs_sandboxes!();
    fails(&[
        ("create-closed", "the connection to the agent failed"),
        ("create-oversized", "a frame of 4194305 bytes is beyond the limit"),
        ("create-other", "the agent answered something else than what it was asked"),
        ("create-number", "malformed message"),
        ("create-nested", "malformed message"),
        ("create-kind", "malformed message"),
        ("create-unasked", "the agent answered something else than what it was asked"),
        ("create-death", "the sandbox died: the guest reset itself"),
    ]);
}

#[test]
fn an_agents_words_are_cut_and_are_no_commands_to_a_terminal() {
    needs_sandboxes!();
    fails(&[("create-error", "\\u{1b}[2J")]);
}

#[test]
fn what_is_no_exit_code_is_brought_into_range_or_refused() {
    needs_sandboxes!();
    exits(&[("exit-negative", 255), ("exit-twice", 5)]);
    fails(&[
        ("exit-number", "malformed message"),
        ("exit-half", "the sandbox died: the guest reset itself"),
    ]);
}

#[test]
fn events_without_end_or_sense_do_not_hide_the_exit() {
    needs_sandboxes!();
    exits(&[("event-flood", 6), ("event-oversized", 7)]);
}

#[test]
fn calls_of_a_guest_reach_nobody() {
    needs_sandboxes!();
    exits(&[("calls", 10)]);
}

/// A record that an agent's last words are in is read and removed like any other.
#[test]
fn an_agents_last_words_do_not_spoil_the_record() {
    needs_sandboxes!();
    let hostile = Hostile::new("event-fatal");
    let done = Finished::of(hostile.command("cold", &["--name", "spoilt"]).output().unwrap());
    hostile.is_bounded(&done);
    done.fails(125, &["the sandbox died: \\u{1b}[2J"]);
    let listed = hostile.ampoule.ok(&["ps", "-a"]);
    assert!(listed.contains("spoilt"), "{listed}");
    hostile.ampoule.ok(&["rm", "spoilt"]);
    hostile.left_nothing();
}

/// The caller's patience is not the agent's to use up.
#[test]
fn an_agent_that_does_not_answer_is_left_when_somebody_has_enough() {
    needs_sandboxes!();
    let hostile = Hostile::new("create-silent");
    let mut child = hostile.command("cold", &["--rm"]).spawn().unwrap();
    read_until(child.stdout.as_mut().unwrap(), "ready\n");
    signal(&child, Signal::SIGTERM);
    let done = hostile.end(&mut child, String::new());
    done.fails(143, &["interrupted by SIGTERM while the sandbox was being started"]);
}

/// A signal is passed on while half an event is all that there is.
#[test]
fn half_an_event_keeps_nobody_from_anything() {
    needs_sandboxes!();
    let hostile = Hostile::new("event-half");
    let mut child = hostile.command("cold", &["--rm"]).spawn().unwrap();
    read_until(child.stdout.as_mut().unwrap(), "ready\n");
    signal(&child, Signal::SIGTERM);
    let done = hostile.end(&mut child, String::new());
    assert_eq!(done.code, 11, "{done:?}");
}

#[test]
fn output_without_end_is_held_back_by_its_reader() {
    needs_sandboxes!();
    let hostile = Hostile::new("output-endless");
    let mut child = hostile.command("cold", &["--rm"]).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    // What is read does not matter; that the rest is given up when the reader goes, does.
    stdout.read_exact(&mut vec![0; 8 << 20]).unwrap();
    drop(stdout);
    let done = hostile.end(&mut child, String::new());
    assert_eq!((done.code, done.stderr.as_str()), (8, ""));
}

/// An agent that says that the program has ended and keeps its output open.
#[test]
fn output_that_does_not_end_is_waited_for_until_somebody_has_enough() {
    needs_sandboxes!();
    let hostile = Hostile::new("output-open");
    let mut child = hostile.command("cold", &["--rm"]).spawn().unwrap();
    read_until(child.stdout.as_mut().unwrap(), "ready\n");
    let keeper = Process::of(i32::try_from(child.id()).unwrap()).unwrap();
    let done = std::thread::scope(|scope| {
        // One that comes before the program's end is for the program.
        scope.spawn(|| {
            while keeper.signal(Signal::SIGTERM).is_ok() {
                std::thread::yield_now();
            }
        });
        hostile.end(&mut child, String::new())
    });
    assert_eq!(done.code, 9, "{done:?}");
}

#[test]
fn a_template_whose_agent_wakes_with_a_lie_is_an_error() {
    needs_sandboxes!();
    for (attack, words) in [
        ("wake-error", "xxxx"),
        ("wake-other", "the agent answered something else than what it was asked"),
        ("wake-oversized", "a frame of 4294967295 bytes is beyond the limit"),
    ] {
        let hostile = Hostile::new(attack);
        let done = Finished::of(hostile.command("warm", &["--rm"]).output().unwrap());
        hostile.is_bounded(&done);
        done.fails(125, &[words]);
        hostile.left_nothing();
    }
}
