//! Debian's docker-registry, on a port of its own.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

/// A registry that runs until this goes.
pub struct Real {
    child: Child,
    pub host: String,
    log: Arc<Mutex<Vec<String>>>,
}

impl Real {
    /// One that lets everybody in, without TLS.
    pub fn plain(folder: &Path) -> Self {
        Self::new(folder, "", "")
    }

    /// One with these lines in the sections `http` and at the top of its configuration.
    pub fn new(folder: &Path, http: &str, top: &str) -> Self {
        fs::create_dir_all(folder).unwrap();
        let config = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\n\
             http:\n  addr: 127.0.0.1:0\n{http}{top}",
            folder.join("data").display()
        );
        let file = folder.join("config.yml");
        fs::write(&file, config).unwrap();
        let mut child = Command::new("docker-registry")
            .arg("serve")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("docker-registry (tools/install-deps)");
        let mut errors = BufReader::new(child.stderr.take().unwrap());
        let mut said = String::new();
        let host = loop {
            let mut line = String::new();
            assert_ne!(errors.read_line(&mut line).unwrap(), 0, "docker-registry ended: {said}");
            said.push_str(&line);
            if let Some((_, rest)) = line.split_once("listening on ") {
                break rest.split(['"', ',', ' ', '\n']).next().unwrap().to_owned();
            }
        };
        let log = Arc::new(Mutex::new(Vec::new()));
        // A pipe that nobody reads would stop it.
        thread::spawn(move || errors.lines().count());
        let requests = BufReader::new(child.stdout.take().unwrap());
        let into = Arc::clone(&log);
        thread::spawn(move || {
            for line in requests.lines().map_while(Result::ok) {
                into.lock().unwrap().push(line);
            }
        });
        Self { child, host, log }
    }

    /// The full name of an image in it.
    pub fn name(&self, image: &str) -> String {
        format!("{}/{image}", self.host)
    }

    /// Requests for layers and configurations so far, as it logged them.
    pub fn blob_requests(&self) -> usize {
        let log = self.log.lock().unwrap();
        log.iter().filter(|line| line.contains("\"GET /v2/") && line.contains("/blobs/")).count()
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}
