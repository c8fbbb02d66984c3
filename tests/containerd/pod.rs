//! A pod, as a test has it: made of what a kubelet says, gone when the test is over.

use std::fs;
use std::path::PathBuf;

use ampoule_cri::v1::{ContainerConfig, ContainerState, ContainerStatus, PodSandboxConfig};
use ampoule_cri::{Client, container, pod};

use crate::lab::{IMAGE, Lab, until};

/// A script that says when it is there, and ends with 3 when it is asked to.
pub const WAITS: &str =
    "trap 'echo ended; exit 3' TERM; echo ready; while :; do sleep 1000 & wait $!; done";

pub struct Pod<'a> {
    lab: &'a Lab,
    pub config: PodSandboxConfig,
    pub id: String,
}

impl<'a> Pod<'a> {
    /// What a pod of this name is made of.
    pub fn config(lab: &Lab, name: &str) -> PodSandboxConfig {
        pod(name, &lab.path("logs"), &lab.cgroup())
    }

    /// Runs a pod that has nothing special.
    #[track_caller]
    pub fn run(lab: &'a Lab, name: &str) -> Self {
        Self::run_as(lab, Self::config(lab, name))
    }

    /// Runs a pod, which must succeed.
    #[track_caller]
    pub fn run_as(lab: &'a Lab, config: PodSandboxConfig) -> Self {
        fs::create_dir_all(&config.log_directory).unwrap();
        match lab.cri().run_pod(&config, lab.runtime.handler()) {
            Ok(id) => Self { lab, config, id },
            Err(status) => panic!("no pod: {status}{}", lab.told()),
        }
    }

    pub fn cri(&self) -> &Client {
        self.lab.cri()
    }

    /// A container with a shell that runs this script.
    pub fn shell(name: &str, script: &str) -> ContainerConfig {
        container(name, IMAGE, &["sh", "-c", script])
    }

    /// Creates a container: its id.
    #[track_caller]
    pub fn create(&self, config: &ContainerConfig) -> String {
        match self.cri().create(&self.id, config, &self.config) {
            Ok(id) => id,
            Err(status) => panic!("not created: {status}{}", self.lab.told()),
        }
    }

    /// Creates and starts a container: its id.
    #[track_caller]
    pub fn start(&self, config: &ContainerConfig) -> String {
        let id = self.create(config);
        if let Err(status) = self.cri().start(&id) {
            panic!("not started: {status}{}", self.lab.told());
        }
        id
    }

    /// Starts a container that waits, and waits until it does.
    #[track_caller]
    pub fn start_waiting(&self, name: &str) -> String {
        let id = self.start(&Self::shell(name, WAITS));
        self.says(name, "ready\n");
        id
    }

    /// Waits for a container's end.
    #[track_caller]
    pub fn end_of(&self, container: &str) -> ContainerStatus {
        let status = || self.cri().status(container).unwrap();
        until("the container has ended", || status().state() == ContainerState::ContainerExited);
        status()
    }

    /// Runs a container to its end: exit code and output.
    #[track_caller]
    pub fn run_to_end(&self, config: &ContainerConfig) -> (i32, String) {
        let id = self.start(config);
        let code = self.end_of(&id).exit_code;
        (code, self.output(&config.metadata.as_ref().unwrap().name))
    }

    fn log_file(&self, name: &str) -> PathBuf {
        PathBuf::from(&self.config.log_directory).join(format!("{name}_0.log"))
    }

    /// A container's log: the stream and text of each line.
    pub fn log(&self, name: &str) -> Vec<(String, String)> {
        let log = fs::read_to_string(self.log_file(name)).unwrap_or_default();
        let fields = |line: &str| {
            let mut fields = line.splitn(4, ' ').skip(1).map(str::to_owned);
            let (stream, tag, text) = (fields.next()?, fields.next()?, fields.next()?);
            Some((stream, if tag == "F" { text + "\n" } else { text }))
        };
        log.lines().filter_map(fields).collect()
    }

    /// What a container has written to both streams so far.
    pub fn output(&self, name: &str) -> String {
        self.log(name).into_iter().map(|(_, text)| text).collect()
    }

    /// Waits until a container has written this.
    #[track_caller]
    pub fn says(&self, name: &str, text: &str) {
        until(&format!("{name} says {text:?}"), || self.output(name).contains(text));
    }

    /// Runs a script in a container: exit code and standard output.
    #[track_caller]
    pub fn exec(&self, container: &str, script: &str) -> (i32, String) {
        match self.cri().exec_sync(container, &["sh", "-c", script], 60) {
            Ok(done) => {
                let output = [done.stdout, done.stderr].concat();
                (done.exit_code, String::from_utf8_lossy(&output).into_owned())
            }
            Err(status) => panic!("no exec: {status}{}", self.lab.told()),
        }
    }

    /// Runs a script in a container, which must succeed: its output.
    #[track_caller]
    pub fn ask(&self, container: &str, script: &str) -> String {
        let (code, output) = self.exec(container, script);
        assert_eq!(code, 0, "{script}: {output}{}", self.lab.told());
        output
    }

    /// Removes the pod; nothing of it must be left.
    #[track_caller]
    pub fn remove(self) {
        self.cri().stop_pod(&self.id).unwrap();
        self.cri().remove_pod(&self.id).unwrap();
        self.lab.nothing_left(&self.id);
    }
}

impl Drop for Pod<'_> {
    fn drop(&mut self) {
        let _ = self.cri().stop_pod(&self.id);
        let _ = self.cri().remove_pod(&self.id);
    }
}
