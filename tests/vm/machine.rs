//! Machines of a test's own making: the guest's kernel, and an initramfs that is a busybox and a
//! script.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::support::{BIN, Finished, guest};

/// What a script finds: all of busybox in its path, and the kernel's file systems.
const PROLOGUE: &str = "\
#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /tmp /mnt
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
# The serial line carries what is written, and gives no echo.
stty -opost -echo 2> /dev/null
";

/// A machine to be run, with a folder of its own.
pub struct Machine {
    folder: TempDir,
    kernel: PathBuf,
}

impl Machine {
    /// One whose init runs `script`; the kernel panics when that ends.
    pub fn new(script: &str) -> Self {
        Self::with_programs(script, &[])
    }

    /// One with these programs beside busybox.
    pub fn with_programs(script: &str, programs: &[&Path]) -> Self {
        let folder = TempDir::new().unwrap();
        let root = folder.path().join("root");
        fs::create_dir_all(root.join("bin")).unwrap();
        for program in [&[Path::new("/bin/busybox")], programs].concat() {
            fs::copy(program, root.join("bin").join(program.file_name().unwrap())).unwrap();
        }
        fs::write(root.join("init"), [PROLOGUE, script].concat()).unwrap();
        fs::set_permissions(root.join("init"), Permissions::from_mode(0o755)).unwrap();
        let pack = "cd root && find . | cpio --quiet -o -H newc > ../initramfs.cpio";
        tool(Command::new("sh").args(["-c", pack]).current_dir(&folder));
        Self { folder, kernel: guest().join("vmlinux") }
    }

    /// With another kernel.
    pub fn kernel(mut self, kernel: PathBuf) -> Self {
        self.kernel = kernel;
        self
    }

    /// A file of the machine's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The command that runs the machine in its folder with `options`. The kernel says nothing
    /// but what it says at its end.
    pub fn command(&self, options: &[&str]) -> Command {
        let mut command = Command::new(BIN);
        command
            .args(["vm", "run", "--initrd", "initramfs.cpio", "--cmdline", "loglevel=1"])
            .arg("--kernel")
            .arg(&self.kernel)
            .args(options)
            .current_dir(&self.folder)
            .stdin(Stdio::null());
        command
    }

    /// Runs the machine to its end.
    pub fn output(&self, options: &[&str]) -> Finished {
        Finished::of(self.command(options).output().unwrap())
    }

    /// `ampoule vm VERB` with `options`, in the machine's folder.
    pub fn verb(&self, verb: &str, options: &[&str]) -> Command {
        let mut command = Command::new(BIN);
        command.args(["vm", verb]).args(options).current_dir(&self.folder).stdin(Stdio::null());
        command
    }

    /// Starts the machine with pipes.
    pub fn spawn(&self, options: &[&str]) -> Child {
        self.command(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }
}

/// What a machine's script wrote to the serial line: all but the kernel's own last words.
pub fn script_said(stdout: &str) -> String {
    stdout.split_inclusive('\n').filter(|line| !line.contains("reboot: ")).collect()
}

/// Runs a program of the host that must succeed.
#[track_caller]
pub fn tool(command: &mut Command) -> String {
    let finished = Finished::of(command.output().unwrap());
    assert_eq!(finished.code, 0, "{command:?}: {finished:?}");
    finished.stdout
}

/// A file of `len` random bytes.
pub fn random_file(path: &Path, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    getrandom::fill(&mut bytes).unwrap();
    fs::write(path, &bytes).unwrap();
    bytes
}

/// A file of `len` zero bytes that takes no space.
pub fn sparse_file(path: &Path, len: u64) {
    File::create(path).unwrap().set_len(len).unwrap();
}

/// SHA-256 as `sha256sum` writes it.
pub fn hash(bytes: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
