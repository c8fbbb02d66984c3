//! What pods in sandboxes take: a containerd that knows the runtime, and finds its shim.

use std::path::Path;

use super::finding::{Finding, Group};
use super::host_files::HostFiles;
use crate::shim::RUNTIME;
use crate::system::LINKS;
use crate::system::containerd::{CONFIG, config};

/// Where programs are looked for where no containerd runs.
const FOLDERS: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What mends a runtime that is not there.
const INSTALL: &str = "ampoule system install --containerd --restart";

/// Everything that was looked at; `version` asks a containerd for its own.
pub fn look(host: &HostFiles, version: impl FnOnce(&Path) -> Option<String>) -> Group {
    let running = running(host);
    let program = found("containerd", FOLDERS, host);
    let mut findings = vec![match (&program, &running) {
        (None, None) => {
            let words = "there is none".to_owned();
            ("containerd", Finding::Weak(words, "install it where pods are to be run"))
        }
        (program, running) => {
            let version = program.as_deref().and_then(|program| version(Path::new(program)));
            let version = version.unwrap_or_else(|| "of an unknown version".into());
            match running {
                Some(_) => ("containerd", Finding::Good(format!("{version}, running"))),
                None => (
                    "containerd",
                    Finding::Weak(format!("{version}, not running"), "systemctl start containerd"),
                ),
            }
        }
    }];
    if program.is_some() || running.is_some() {
        findings.push(("runtime", runtime(host)));
        findings.push(("shim", shim(host, running.as_deref())));
    }
    let findings = findings.into_iter().map(|(name, finding)| (name.to_owned(), finding));
    Group { heading: Some("for pods of containerd and Kubernetes"), findings: findings.collect() }
}

/// The search path of a containerd that runs.
fn running(host: &HostFiles) -> Option<String> {
    let pids = host.names("proc");
    let mut pids = pids.iter().filter(|name| name.bytes().all(|b| b.is_ascii_digit()));
    let pid = pids.find(|pid| {
        host.read(format!("proc/{pid}/comm")).is_some_and(|name| name == "containerd")
    })?;
    // Another user's cannot be read.
    let variables = host.read(format!("proc/{pid}/environ")).unwrap_or_default();
    let path = variables.split('\0').find_map(|variable| variable.strip_prefix("PATH="));
    Some(path.unwrap_or(FOLDERS).to_owned())
}

/// Path of a program in these folders.
fn found(name: &str, folders: &str, host: &HostFiles) -> Option<String> {
    let paths = folders.split(':').map(|folder| format!("{folder}/{name}"));
    paths.into_iter().find(|path| host.has(path.trim_start_matches('/')))
}

fn runtime(host: &HostFiles) -> Finding {
    let name = config::HANDLER;
    let drop_in = "etc/containerd/conf.d/ampoule.toml";
    let Some(text) = host.read(CONFIG.trim_start_matches('/')) else {
        return Finding::Weak(format!("{CONFIG} is not there, or cannot be read"), INSTALL);
    };
    match config::parse(&text) {
        Ok((document, version)) => match config::runtime_type(&document, version) {
            Some(kind) if kind == RUNTIME => Finding::Good(format!("{name} is in {CONFIG}")),
            Some(kind) => Finding::Weak(
                format!("{name} is in {CONFIG}, of the type {kind:?}"),
                "take it out of there, then: ampoule system install --containerd --restart",
            ),
            None if host.has(drop_in) => Finding::Good(format!("{name} is in /{drop_in}")),
            None => Finding::Weak(format!("{name} is not in {CONFIG}"), INSTALL),
        },
        Err(error) => Finding::Weak(
            format!("{CONFIG}: {error}"),
            "add the runtime by hand (docs/kubernetes.md)",
        ),
    }
}

fn shim(host: &HostFiles, path: Option<&str>) -> Finding {
    let name = LINKS[1];
    match found(name, path.unwrap_or(FOLDERS), host) {
        Some(path) => Finding::Good(path),
        None => Finding::Weak(
            format!("{name} is not in the search path of containerd"),
            "ampoule system install, or the path in the environment of containerd's unit",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::host_files::testing::host;
    use super::*;

    fn told(files: &[(&str, &str)]) -> String {
        look(&host(files).1, |_| Some("1.7.24".into())).told()
    }

    const CONFIGURED: &str = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.ampoule]\n\
                              runtime_type = \"io.containerd.ampoule.v2\"";

    #[test]
    fn a_node_that_is_ready() {
        let told = told(&[
            ("usr/bin/containerd", ""),
            ("proc/77/comm", "containerd"),
            ("proc/77/environ", "A=b\0PATH=/opt/bin:/usr/bin\0"),
            ("opt/bin/containerd-shim-ampoule-v2", ""),
            ("etc/containerd/config.toml", CONFIGURED),
        ]);
        assert!(!told.contains("weak"), "{told}");
        assert!(
            told.contains("1.7.24, running") && told.contains("/opt/bin/containerd-shim"),
            "{told}"
        );
    }

    #[test]
    fn what_is_missing_is_told_with_what_mends_it() {
        assert!(told(&[]).contains("there is none"));
        let bare = told(&[("usr/bin/containerd", "")]);
        assert!(bare.contains("not running") && bare.contains(INSTALL), "{bare}");
        let elsewhere = told(&[
            ("proc/77/comm", "containerd"),
            ("proc/77/environ", "PATH=/usr/bin"),
            ("opt/bin/containerd-shim-ampoule-v2", ""),
            ("etc/containerd/config.toml", "version = 7"),
        ]);
        assert!(elsewhere.contains("not in the search path"), "{elsewhere}");
        assert!(elsewhere.contains("version 7"), "{elsewhere}");
        let newer = [
            ("usr/bin/containerd", ""),
            ("etc/containerd/config.toml", "version = 3"),
            ("etc/containerd/conf.d/ampoule.toml", ""),
        ];
        assert!(told(&newer).contains("conf.d/ampoule.toml"));
    }
}
