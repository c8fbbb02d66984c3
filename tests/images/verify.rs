//! `--verify-with`: programs that accept or refuse images.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::Value;

use crate::lab::{Lab, run};
use crate::support::{BIN, Finished, skip};

impl Lab {
    /// A program in the lab's folder.
    fn program(&self, script: &str) -> String {
        let path = self.file("verify", format!("#!/bin/sh\n{script}\n").as_bytes());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    /// Loads with a program that has a say.
    fn load_with(&self, archive: &str, program: &str) -> Finished {
        self.ampoule.output(&["load", "-i", archive, "--verify-with", program])
    }
}

#[test]
fn a_program_sees_name_digest_and_manifest_of_what_it_accepts() {
    let lab = Lab::new();
    let archive = lab.small("box:1");
    let program =
        lab.program("echo \"$@\" > \"$0.arguments\"; cat > \"$0.manifest\"; env > \"$0.env\"");
    lab.load_with(&archive, &program).gives(0, "Loaded image: box:1\n");
    let manifest = fs::read(lab.path("verify.manifest")).unwrap();
    let image = lab.store().get("box:1").unwrap();
    assert_eq!(image.manifest().unwrap().unwrap(), manifest);
    let digest = ampoule::image::Digest::of(&manifest);
    let arguments = fs::read_to_string(lab.path("verify.arguments")).unwrap();
    assert_eq!(arguments, format!("docker.io/library/box:1 {digest}\n"));
    let env = fs::read_to_string(lab.path("verify.env")).unwrap();
    assert!(env.contains("AMPOULE_VERIFY_FOR=load\n") && env.contains("PATH="), "{env}");
    assert!(!env.contains("AMPOULE_ROOT"), "{env}");
}

#[test]
fn what_is_refused_leaves_nothing_and_is_told_in_the_programs_words() {
    let lab = Lab::new();
    let archive = lab.small("box:1");
    lab.ampoule.ok(&["image", "ls"]);
    let before = lab.stored();
    let program = lab.program("echo 'no signature of ours' >&2; exit 1");
    let words = ["docker.io/library/box:1 is refused by", &program, "no signature of ours"];
    lab.load_with(&archive, &program).fails(125, &words);
    assert_eq!(lab.stored(), before);
    // By the environment, and in the place of a program that is not there.
    let mut load = lab.ampoule.command(["load", "-i", &archive]);
    load.env("AMPOULE_VERIFY_WITH", lab.text("none"));
    Finished::of(load.output().unwrap()).fails(125, &["is refused by", "/none", "No such file"]);
    assert_eq!(lab.stored(), before);
    lab.load_with(&archive, &lab.program("exit 0")).gives(0, "Loaded image: box:1\n");
}

#[test]
fn one_image_that_is_refused_keeps_the_archive_out() {
    let lab = Lab::new();
    let archive = lab.text("two");
    fs::create_dir(&archive).unwrap();
    run(Command::new("tar").args(["-C", &archive, "-xf", &lab.small("good:1")]));
    let index = lab.path("two/index.json");
    let mut two: Value = serde_json::from_slice(&fs::read(&index).unwrap()).unwrap();
    let manifests = two["manifests"].as_array_mut().unwrap();
    let mut bad = manifests[0].clone();
    bad["annotations"]["io.containerd.image.name"] = "bad:1".into();
    manifests.push(bad);
    fs::write(&index, two.to_string()).unwrap();
    lab.ampoule.ok(&["image", "ls"]);
    let before = lab.stored();
    let program = lab.program("case $1 in */good:1) ;; *) exit 1 ;; esac");
    lab.load_with(&archive, &program).fails(125, &["docker.io/library/bad:1 is refused"]);
    assert_eq!(lab.stored(), before);
}

#[test]
fn an_image_without_a_manifest_is_refused() {
    let lab = Lab::new();
    let layer = lab.file("layer.tar", &crate::lab::layer(&[("a", b"a")]));
    let archive = lab.pack("old.tar", &["--format", "docker", "--name", "box:1"], &[&layer]);
    let program = lab.program("exit 0");
    lab.load_with(&archive, &program).fails(125, &["box:1", "no manifest", "OCI layout"]);
    lab.load(&archive).gives(0, "Loaded image: box:1\n");
    let args = ["run", "--verify-with", &program, "box:1"];
    lab.ampoule.output(&args).fails(125, &["box:1", "no manifest"]);
}

#[test]
fn a_run_asks_before_anything_starts() {
    let lab = Lab::new();
    lab.load(&lab.small("box:1")).gives(0, "Loaded image: box:1\n");
    let program = lab.program("echo \"$AMPOULE_VERIFY_FOR $1: expired\" >&2; exit 1");
    let words = ["run docker.io/library/box:1: expired"];
    let id = lab.ampoule.ok(&["image", "ls", "-q"]).trim().to_owned();
    for image in ["box:1", &id] {
        for options in [&["run"][..], &["run", "-d"]] {
            let args = [options, &["--verify-with", &program, image]].concat();
            lab.ampoule.output(&args).fails(125, &words);
        }
    }
    assert_eq!(lab.ampoule.left(), [""; 0]);
    assert_eq!(lab.ampoule.ok(&["ps", "-aq"]), "");
}

#[test]
fn a_manifest_in_the_store_that_is_another_images_is_not_asked_about() {
    let lab = Lab::new();
    lab.load(&lab.small("box:1")).gives(0, "Loaded image: box:1\n");
    let image = lab.store().get("box:1").unwrap();
    let text = String::from_utf8(image.manifest().unwrap().unwrap()).unwrap();
    let other = text.replace(&image.id.to_string(), &ampoule::image::Digest::of(b"").to_string());
    assert_ne!(text, other);
    fs::write(image.manifest_path(), other).unwrap();
    let args = ["run", "--verify-with", &lab.program("exit 0"), "box:1"];
    lab.ampoule.output(&args).fails(125, &["damaged", "manifest.json", "another image's"]);
}

#[test]
fn an_interrupt_ends_a_program_that_hangs() {
    let lab = Lab::new();
    let archive = lab.small("box:1");
    let program = lab.program("echo asked > \"$0.pipe\"; exec sleep 1000");
    nix::unistd::mkfifo(&lab.path("verify.pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    // A group of its own, as a shell with a terminal makes it.
    let mut load = lab.ampoule.command(["load", "-i", &archive, "--verify-with", &program]);
    let mut load = load.process_group(0).stderr(Stdio::piped()).spawn().unwrap();
    let mut asked = String::new();
    fs::File::open(lab.path("verify.pipe")).unwrap().read_to_string(&mut asked).unwrap();
    assert_eq!(asked, "asked\n");
    killpg(Pid::from_raw(i32::try_from(load.id()).unwrap()), Signal::SIGINT).unwrap();
    assert!(!load.wait().unwrap().success());
    assert_eq!(lab.ampoule.ok(&["image", "ls", "-q"]), "");
}

#[test]
fn the_hosts_own_program_cannot_be_passed_by() {
    let mounts = Command::new("unshare").args(["-m", "true"]).output();
    if !mounts.is_ok_and(|output| output.status.success()) {
        return skip("needs a mount namespace of its own (root)");
    }
    let lab = Lab::new();
    let archive = lab.small("box:1");
    let said = lab.program("exit 0");
    let script = "mount -t tmpfs none /etc && mkdir /etc/ampoule || exit 99
        printf '#!/bin/sh\\necho not here >&2; exit 1\\n' > /etc/ampoule/verify-image
        \"$1\" load -i \"$2\" --verify-with \"$3\" && exit 98
        chmod +x /etc/ampoule/verify-image
        \"$1\" load -i \"$2\" --verify-with \"$3\" && exit 98
        ln -sf /nowhere /etc/ampoule/verify-image
        \"$1\" load -i \"$2\" && exit 98
        rm /etc/ampoule/verify-image
        \"$1\" load -i \"$2\"";
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", script, "sh", BIN, &archive, &said]);
    command.env("AMPOULE_ROOT", lab.path("store"));
    let done = Finished::of(command.output().unwrap());
    done.gives(0, "Loaded image: box:1\n");
    for words in ["Permission denied", "/etc/ampoule/verify-image", "not here", "No such file"] {
        assert!(done.stderr.contains(words), "{words}: {done:?}");
    }
}
