//! `ampoule-oci spec`: a `config.json` to start from, the one that runc writes.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nix::unistd::{getegid, geteuid};
use serde::Serialize;
use serde_json::{Value, json};

use super::error::file;
use super::{Global, OciError, SPEC_VERSION};

/// Capabilities of the program.
const CAPABILITIES: [&str; 3] = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];

/// Write a config.json to start from
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder of the bundle
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    bundle: PathBuf,
    /// With users of its own, whose root is the user who calls
    #[arg(long)]
    rootless: bool,
}

/// Runs the verb.
pub fn run(args: &Args, _global: &Global) -> Result<ExitCode, OciError> {
    write(&args.bundle, args.rootless)?;
    Ok(ExitCode::SUCCESS)
}

fn write(bundle: &Path, rootless: bool) -> Result<(), OciError> {
    let path = bundle.join("config.json");
    let root = rootless.then(|| (geteuid().as_raw(), getegid().as_raw()));
    let text = text(&config(root)).map_err(file("write", &path))?;
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&path)
        .and_then(|mut file| file.write_all(text.as_bytes()));
    match written {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let message = format!("File {} exists. Remove it first", path.display());
            Err(OciError::Usage(message))
        }
        written => written.map_err(file("write", &path)),
    }
}

/// In the order in which people read it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    oci_version: &'static str,
    process: Value,
    root: Value,
    hostname: &'static str,
    mounts: Vec<Value>,
    linux: Value,
}

/// With users of its own where it is said who their root is: a user and a group of the host. The
/// network stays its own, unlike runc's: a guest cannot share the host's.
fn config(root: Option<(u32, u32)>) -> Config {
    let mut namespaces = vec!["pid", "network", "ipc", "uts", "mount", "cgroup"];
    namespaces.extend(root.map(|_| "user"));
    let namespaces: Vec<Value> =
        namespaces.into_iter().map(|kind| json!({ "type": kind })).collect();
    let mut linux = json!({
        "namespaces": namespaces,
        "maskedPaths": [
            "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
            "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi",
            "/sys/firmware", "/sys/devices/virtual/powercap",
        ],
        "readonlyPaths": [
            "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger",
        ],
    });
    match root {
        None => linux["resources"] = json!({ "devices": [{ "allow": false, "access": "rwm" }] }),
        Some((user, group)) => {
            let one = |id: u32| json!([{ "containerID": 0, "hostID": id, "size": 1 }]);
            linux["uidMappings"] = one(user);
            linux["gidMappings"] = one(group);
        }
    }
    Config {
        oci_version: SPEC_VERSION,
        process: json!({
            "terminal": true,
            "user": { "uid": 0, "gid": 0 },
            "args": ["sh"],
            "env": [
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "TERM=xterm",
            ],
            "cwd": "/",
            "capabilities": {
                "bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES,
            },
            "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024 }],
            "noNewPrivileges": true,
        }),
        root: json!({ "path": "rootfs", "readonly": true }),
        hostname: "ampoule",
        mounts: mounts(root.is_some()),
        linux,
    }
}

fn mounts(rootless: bool) -> Vec<Value> {
    let all: [(&str, &str, &str, &str); 7] = [
        ("/proc", "proc", "proc", ""),
        ("/dev", "tmpfs", "tmpfs", "nosuid strictatime mode=755 size=65536k"),
        ("/dev/pts", "devpts", "devpts", "nosuid noexec newinstance ptmxmode=0666 mode=0620 gid=5"),
        ("/dev/shm", "tmpfs", "shm", "nosuid noexec nodev mode=1777 size=65536k"),
        ("/dev/mqueue", "mqueue", "mqueue", "nosuid noexec nodev"),
        ("/sys", "sysfs", "sysfs", "nosuid noexec nodev ro"),
        ("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid noexec nodev relatime ro"),
    ];
    let mount = |(destination, kind, source, options): (&str, &str, &str, &str)| {
        // The group is not among those that are mapped.
        let options: Vec<&str> = options
            .split_ascii_whitespace()
            .filter(|option| !(rootless && option.starts_with("gid=")))
            .collect();
        let mut mount = json!({ "destination": destination, "type": kind, "source": source });
        if !options.is_empty() {
            mount["options"] = json!(options);
        }
        mount
    };
    all.into_iter().map(mount).collect()
}

/// Indented by tabs, as runc's is.
fn text(config: &Config) -> io::Result<String> {
    let mut bytes = Vec::new();
    let form = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    config.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, form))?;
    bytes.push(b'\n');
    String::from_utf8(bytes).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::super::bundle::Bundle;
    use super::super::translate::{look, translate};
    use super::*;
    use oci_spec::runtime::LinuxNamespaceType;

    fn written(rootless: bool) -> (tempfile::TempDir, Bundle) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("rootfs")).unwrap();
        write(folder.path(), rootless).unwrap();
        let again = write(folder.path(), rootless).unwrap_err().to_string();
        assert!(again.ends_with("config.json exists. Remove it first"), "{again}");
        let bundle = Bundle::open(folder.path()).unwrap();
        (folder, bundle)
    }

    #[test]
    fn what_is_written_can_be_run() {
        for rootless in [false, true] {
            let (folder, bundle) = written(rootless);
            let made = translate(bundle.spec, folder.path(), "", look).unwrap();
            assert_eq!(made.warnings, [""; 0]);
            let linux = made.spec.linux().as_ref().unwrap();
            let has_users = linux
                .namespaces()
                .iter()
                .flatten()
                .any(|namespace| namespace.typ() == LinuxNamespaceType::User);
            assert_eq!((has_users, linux.uid_mappings().is_some()), (rootless, rootless));
        }
    }
}
