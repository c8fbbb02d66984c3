//! The programs that attack, compiled once.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use tempfile::TempDir;

use crate::support::Finished;

/// What a program without an operating system is compiled with: no vector registers, which nobody
/// has set up, and nothing of a library's.
const BARE: &[&str] = &[
    "-O1",
    "-ffreestanding",
    "-nostdlib",
    "-static",
    "-no-pie",
    "-fno-pic",
    "-mno-red-zone",
    "-mgeneral-regs-only",
    "-fno-stack-protector",
    "-fcf-protection=none",
    "-fno-tree-loop-distribute-patterns",
    "-fno-asynchronous-unwind-tables",
    "-Wl,--build-id=none,-z,noexecstack,-z,max-page-size=4096,--no-warn-rwx-segments",
];

/// The hostile guest: a kernel of its own.
pub fn guest() -> &'static Path {
    static BUILT: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = BUILT.get_or_init(|| {
        let sources = sources("guest");
        let script = sources.join("guest.ld");
        let mut files: Vec<PathBuf> =
            std::fs::read_dir(&sources).unwrap().map(|file| file.unwrap().path()).collect();
        files.retain(|file| file.extension().is_some_and(|kind| kind == "c"));
        files.sort();
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("guest");
        compile(Command::new("cc").args(BARE).arg("-T").arg(script).args(files), &path);
        (folder, path)
    });
    path
}

/// The hostile agent: an ordinary program that needs no library.
pub fn agent() -> &'static Path {
    static BUILT: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = BUILT.get_or_init(|| {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("agent");
        compile(Command::new("cc").args(["-O1", "-static"]).arg(sources("agent.c")), &path);
        (folder, path)
    });
    path
}

fn sources(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hostile").join(name)
}

fn compile(command: &mut Command, to: &Path) {
    let done = Finished::of(command.arg("-o").arg(to).output().unwrap());
    assert_eq!(done.code, 0, "{command:?}: {done:?}");
}
