use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;

use super::install::{self, Source, install};
use super::uninstall::uninstall;
use super::{Place, SystemError};
use crate::sandbox::{GuestFiles, Places, Registry};

/// A root without a system, and something to install into it.
struct Host {
    folder: tempfile::TempDir,
    place: Place,
    source: Source,
}

fn host() -> Host {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let source = Source {
        program: write("program", "the program"),
        guest: GuestFiles {
            kernel: write("kernel", "the kernel"),
            initramfs: write("initramfs", "the initramfs"),
        },
    };
    let root = folder.path().join("root");
    fs::create_dir(&root).unwrap();
    Host { place: Place::new(&root, Path::new("/usr/local")).unwrap(), source, folder }
}

impl Host {
    fn path(&self, path: &str) -> PathBuf {
        self.place.host(Path::new(path))
    }

    fn put(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap()
    }

    fn install(&self, config: Option<&str>) -> Result<usize, SystemError> {
        let outcome = install(&self.place, &self.source, config.map(Path::new), false)?;
        Ok(outcome.steps.len())
    }

    fn uninstall(&self) -> Result<usize, SystemError> {
        Ok(uninstall(&self.place, false, false)?.steps.len())
    }

    /// Every file of the root.
    fn files(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut folders = vec![self.path("/")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let entry = entry.unwrap();
                match entry.file_type().unwrap().is_dir() {
                    true => folders.push(entry.path()),
                    false => {
                        let path = entry.path();
                        let path = path.strip_prefix(self.path("/")).unwrap();
                        found.push(format!("/{}", path.display()));
                    }
                }
            }
        }
        found.sort();
        found
    }
}

const CONFIG: &str = "/etc/containerd/config.toml";

const PLAIN: &str = "# Ours.\nversion = 2 # two\n\n[plugins]\n  \
                     [plugins.\"io.containerd.grpc.v1.cri\".cni]\n    bin_dir = \"/opt/cni\"\n";

#[test]
fn what_is_installed_is_gone_when_it_is_uninstalled() {
    let host = host();
    host.put(CONFIG, PLAIN);
    fs::set_permissions(host.path(CONFIG), fs::Permissions::from_mode(0o600)).unwrap();
    host.install(Some(CONFIG)).unwrap();
    let installed = [
        "/etc/containerd/config.toml",
        "/etc/containerd/config.toml.before-ampoule",
        "/usr/local/bin/ampoule",
        "/usr/local/bin/ampoule-oci",
        "/usr/local/bin/containerd-shim-ampoule-v2",
        "/usr/local/lib/ampoule/.lock",
        "/usr/local/lib/ampoule/initramfs.cpio",
        "/usr/local/lib/ampoule/installed.json",
        "/usr/local/lib/ampoule/vmlinux",
    ];
    assert_eq!(host.files(), installed);
    assert_eq!(host.text("/usr/local/bin/containerd-shim-ampoule-v2"), "the program");
    let mode = |path: &str| fs::metadata(host.path(path)).unwrap().mode() & 0o7777;
    assert_eq!(mode("/usr/local/bin/ampoule"), 0o755);
    assert_eq!((mode(CONFIG), mode(installed[1])), (0o600, 0o600));
    host.uninstall().unwrap();
    assert_eq!(host.files(), [CONFIG]);
    assert_eq!(host.text(CONFIG), PLAIN);
    assert!(!host.path("/usr/local/lib/ampoule").exists());
}

#[test]
fn a_second_time_changes_nothing_and_a_newer_program_replaces_the_file() {
    let host = host();
    host.put(CONFIG, PLAIN);
    assert!(host.install(Some(CONFIG)).unwrap() > 0);
    let before = host.text(CONFIG);
    assert_eq!(host.install(Some(CONFIG)).unwrap(), 0);
    // Without containerd this time: what it was told is not forgotten.
    assert_eq!(host.install(None).unwrap(), 0);
    let held = fs::File::open(host.path("/usr/local/bin/ampoule")).unwrap();
    let old = held.metadata().unwrap().ino();
    fs::write(&host.source.program, "a newer program").unwrap();
    assert_eq!(host.install(Some(CONFIG)).unwrap(), 1);
    assert_eq!(host.text("/usr/local/bin/ampoule-oci"), "a newer program");
    // Whoever has it open has the old one.
    assert_ne!(fs::metadata(host.path("/usr/local/bin/ampoule")).unwrap().ino(), old);
    assert_eq!(held.metadata().unwrap().len(), 11);
    assert_eq!(host.text(CONFIG), before);
    host.uninstall().unwrap();
    assert_eq!(host.text(CONFIG), PLAIN);
}

#[test]
fn a_restart_that_failed_is_made_up_for() {
    let host = host();
    host.put(CONFIG, PLAIN);
    let unread = |config| install(&host.place, &host.source, config, false).unwrap().unread;
    let config = Some(Path::new(CONFIG));
    assert!(!unread(None) && unread(config));
    // Whoever has not restarted it is told again.
    assert!(unread(config) && unread(None));
    install::was_read(&host.place).unwrap();
    // Another program is no news to containerd.
    fs::write(&host.source.program, "newer").unwrap();
    assert!(!unread(config) && !unread(None));
}

#[test]
fn nothing_is_done_for_a_look() {
    let host = host();
    let look = |config| install(&host.place, &host.source, Some(Path::new(config)), true).unwrap();
    assert_eq!(look(CONFIG).steps.len(), 7);
    assert!(host.files().is_empty());
    host.install(Some(CONFIG)).unwrap();
    let before = host.files();
    assert_eq!(uninstall(&host.place, false, true).unwrap().steps.len(), 7);
    assert_eq!(host.files(), before);
}

#[test]
fn what_is_not_installed_cannot_be_uninstalled() {
    let host = host();
    let error = host.uninstall().unwrap_err().to_string();
    assert!(error.contains("nothing is installed there"), "{error}");
    assert!(host.files().is_empty() && !host.path("/usr").exists());
}

#[test]
fn a_configuration_that_is_refused_leaves_nothing() {
    let host = host();
    host.put(CONFIG, "version = 9\n");
    let error = crate::report::chain(&host.install(Some(CONFIG)).unwrap_err());
    assert!(error.contains("version 9"), "{error}");
    assert_eq!(host.files(), [CONFIG]);
}

#[test]
fn several_at_once_do_it_one_after_another() {
    let host = host();
    host.put(CONFIG, PLAIN);
    thread::scope(|scope| {
        for number in 0..8 {
            let host = &host;
            scope.spawn(move || match number % 2 {
                0 => drop(host.install(Some(CONFIG)).unwrap()),
                // There may be nothing to undo yet.
                _ => match host.uninstall() {
                    Ok(_) | Err(SystemError::NotInstalled(_)) => {}
                    Err(error) => panic!("{error}"),
                },
            });
        }
    });
    host.install(Some(CONFIG)).unwrap();
    host.uninstall().unwrap();
    assert_eq!(host.files(), [CONFIG]);
    assert_eq!(host.text(CONFIG), PLAIN);
}

#[test]
fn a_full_disk_changes_nothing() {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    let host = host();
    let disk = host.path("/usr/local");
    fs::create_dir_all(&disk).unwrap();
    if mount(Some("ampoule"), &disk, Some("tmpfs"), MsFlags::empty(), Some("size=64k")).is_err() {
        eprintln!("skipped: no file system can be mounted");
        return;
    }
    fs::write(&host.source.guest.initramfs, vec![1; 1 << 20]).unwrap();
    host.put(CONFIG, PLAIN);
    let failed = host.install(Some(CONFIG));
    let left: Vec<_> = fs::read_dir(&disk).unwrap().collect();
    let files = host.files();
    umount2(&disk, MntFlags::MNT_DETACH).unwrap();
    let error = crate::report::chain(&failed.unwrap_err());
    assert!(error.contains("No space left"), "{error}");
    assert_eq!((files, left.len()), (vec![CONFIG.to_owned()], 1));
    assert_eq!(host.text(CONFIG), PLAIN);
}

#[test]
fn sandboxes_that_run_are_not_left_without_their_program() {
    let host = host();
    host.install(None).unwrap();
    let places = Places::of_system(host.place.root());
    let kept = Registry::new(&places).create_unnamed().unwrap();
    assert!(matches!(host.uninstall(), Err(SystemError::Running(1))));
    assert_eq!(host.text("/usr/local/bin/ampoule"), "the program");
    Registry::new(&places).remove(kept).unwrap();
    host.uninstall().unwrap();
}

#[test]
fn a_record_of_somebody_else_is_refused() {
    let host = host();
    host.put("/usr/local/lib/ampoule/installed.json", "{\"version\": 1}");
    assert!(matches!(host.uninstall(), Err(SystemError::Record { .. })));
    let record = r#"{"version": 7, "ampoule": "9", "files": []}"#;
    host.put("/usr/local/lib/ampoule/installed.json", record);
    assert!(host.install(None).unwrap_err().to_string().contains("version 7"));
    assert!(host.folder.path().exists());
}

#[test]
fn relative_prefixes_are_refused() {
    for prefix in ["usr", "/usr/../..", ".."] {
        assert!(Place::new(Path::new("/"), Path::new(prefix)).is_err(), "{prefix}");
    }
}
