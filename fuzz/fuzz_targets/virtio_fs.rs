//! A guest's shared directory, in a file system in memory that is no larger than 16 MiB. The other
//! side makes and removes files under the guest's hands. What is beside the directory must stay as it
//! is, and all of it where it is shared read-only.
//!
//! Needs the right to mount; without it the inputs are not looked at, and that is said.
#![no_main]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use ampoule::vmm::config::{Export, FsConfig, Share};
use ampoule::vmm::devices::virtio::fs::Fs;
use ampoule::vmm::devices::virtio::mmio::SharedDevice;
use ampoule::vmm::host;
use ampoule_fuzz::guest::{self, Host};
use libfuzzer_sys::fuzz_target;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// A file that no guest may reach.
const SECRET: &str = "/mnt/secret";

/// The shared directory, in a mount namespace of this process.
fn place() -> Option<&'static Path> {
    static PLACE: OnceLock<Option<PathBuf>> = OnceLock::new();
    PLACE.get_or_init(|| prepare().map_err(|error| eprintln!("skipped: {error}")).ok()).as_deref()
}

fn prepare() -> nix::Result<PathBuf> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)?;
    let place = Path::new("/mnt");
    let options = Some("size=16m,nr_inodes=4096,mode=755");
    mount(Some("fuzz"), place, Some("tmpfs"), MsFlags::empty(), options)?;
    fs::write(SECRET, "secret").map_err(|_| nix::Error::EIO)?;
    Ok(place.join("share"))
}

struct Files {
    share: &'static Path,
    read_only: bool,
    /// The other side has changed something.
    changed: bool,
}

impl Files {
    /// The directory as each input finds it.
    fn fill(&self) -> std::io::Result<()> {
        if self.share.exists() {
            fs::remove_dir_all(self.share)?;
        }
        fs::create_dir_all(self.share.join("folder"))?;
        fs::write(self.share.join("file"), "content")?;
        fs::write(self.share.join("folder/other"), "other content")?;
        symlink("../../..", self.share.join("link"))?;
        fs::hard_link(self.share.join("file"), self.share.join("folder/second"))
    }
}

impl Host for Files {
    fn device(&mut self) -> SharedDevice {
        let share = Share { path: self.share.into(), read_only: self.read_only };
        let export = Some(Export::Directory(share));
        let config = FsConfig { tag: "t".into(), export, opened: host::Opened::default() };
        guest::shared(Fs::new(&config, &host::Host::default()).expect("a device"))
    }

    fn act(&mut self, bytes: &[u8]) {
        self.changed = true;
        let share = |name: &str| self.share.join(name);
        // The guest may have changed what this is about.
        let _ = match bytes.first().map_or(0, |what| what % 6) {
            0 => fs::remove_file(share("file")),
            1 => fs::rename(share("folder"), share("moved")),
            2 => fs::write(share("file"), bytes),
            3 => fs::remove_dir_all(share("folder")),
            4 => symlink("/", share("folder")),
            _ => fs::rename(share("folder"), Path::new("/mnt/outside")),
        };
    }
}

fuzz_target!(|input: &[u8]| {
    let Some(share) = place() else { return };
    let (read_only, program) = ampoule_fuzz::host::choose(input, 2);
    let mut files = Files { share, read_only: read_only == 1, changed: false };
    let _ = fs::remove_dir_all("/mnt/outside");
    files.fill().expect("room for a few files");
    guest::run(program, &mut files);
    assert_eq!(fs::read(SECRET).expect("what nobody may remove"), b"secret");
    let beside = fs::read_dir("/mnt").expect("a folder").flatten().map(|entry| entry.file_name());
    let ours = ["secret", "share", "outside"];
    assert!(beside.into_iter().all(|name| ours.iter().any(|ours| name == *ours)));
    if files.read_only && !files.changed {
        assert_eq!(fs::read(share.join("file")).expect("a file"), b"content");
        assert_eq!(fs::read_dir(share).expect("a folder").count(), 3);
    }
});
