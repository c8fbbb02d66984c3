//! A certificate authority of a test, and what it vouches for.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::lab::run;

/// An authority in a folder: `ca.crt`, and a server's `server.crt` and `server.key` for 127.0.0.1.
pub struct Authority(PathBuf);

impl Authority {
    pub fn new(folder: &Path) -> Self {
        fs::create_dir_all(folder).unwrap();
        let path = |name: &str| folder.join(name).display().to_string();
        let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
        let mut ca = Command::new("openssl");
        ca.args(["req", "-x509", "-days", "2", "-subj", "/CN=test authority"]).args(key);
        run(ca.args(["-keyout", &path("ca.key"), "-out", &path("ca.crt")]));
        let mut request = Command::new("openssl");
        request.args(["req", "-subj", "/CN=127.0.0.1"]).args(key);
        run(request.args(["-keyout", &path("server.key"), "-out", &path("server.csr")]));
        fs::write(folder.join("names"), "subjectAltName=IP:127.0.0.1\n").unwrap();
        let mut sign = Command::new("openssl");
        sign.args(["x509", "-req", "-days", "2", "-in", &path("server.csr")]);
        sign.args(["-CA", &path("ca.crt"), "-CAkey", &path("ca.key"), "-CAcreateserial"]);
        run(sign.args(["-extfile", &path("names"), "-out", &path("server.crt")]));
        Self(folder.to_owned())
    }

    pub fn file(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    /// The section of a registry's configuration with the server's certificate.
    pub fn section(&self) -> String {
        format!(
            "  tls: {{certificate: {}, key: {}}}\n",
            self.file("server.crt"),
            self.file("server.key")
        )
    }
}
