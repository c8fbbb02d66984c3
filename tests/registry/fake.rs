//! A server whose answers are a test's own.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use ampoule::image::Digest;
use serde_json::{Value, json};

use crate::lab::layer;

/// What was asked.
#[derive(Debug, Clone)]
pub struct Request {
    pub line: String,
    pub headers: HashMap<String, String>,
}

impl Request {
    /// The path with its query.
    pub fn path(&self) -> &str {
        self.line.split(' ').nth(1).unwrap()
    }

    /// Where a range begins.
    pub fn from(&self) -> Option<usize> {
        self.headers.get("range")?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
    }
}

/// What is answered: all that goes to the client, byte for byte, and whether the connection is kept open
/// without another word.
pub struct Reply {
    pub bytes: Vec<u8>,
    pub hang: bool,
    /// sent again and again until the client goes
    pub endless: Vec<u8>,
}

impl Reply {
    pub fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self { bytes: bytes.into(), hang: false, endless: Vec::new() }
    }

    pub fn new(status: &str, headers: &[(&str, &str)], body: &[u8]) -> Self {
        let mut text = format!("HTTP/1.1 {status}\r\nConnection: close\r\n");
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        if !headers.iter().any(|(name, _)| *name == "Content-Length") {
            text.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        text.push_str("\r\n");
        Self::raw([text.as_bytes(), body].concat())
    }

    pub fn ok(body: &[u8]) -> Self {
        Self::new("200 OK", &[], body)
    }

    pub fn not_found() -> Self {
        Self::new("404 Not Found", &[], b"")
    }
}

/// A server on a port of its own. Its thread ends with the test program.
pub struct Fake {
    pub host: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Fake {
    pub fn new(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (answer, into) = (Arc::new(answer), Arc::clone(&requests));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answer, into) = (Arc::clone(&answer), Arc::clone(&into));
                thread::spawn(move || serve(&stream, &*answer, &into));
            }
        });
        Self { host, requests }
    }

    /// One with an image, that answers otherwise where `other` has something to say.
    pub fn with(
        image: &Served,
        other: impl Fn(&Request) -> Option<Reply> + Send + Sync + 'static,
    ) -> Self {
        let image = image.clone();
        Self::new(move |request| other(request).unwrap_or_else(|| image.answer(request)))
    }

    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// How many were for what has this in its path.
    pub fn count(&self, part: &str) -> usize {
        self.requests().iter().filter(|request| request.path().contains(part)).count()
    }

    pub fn name(&self, image: &str) -> String {
        format!("{}/{image}", self.host)
    }
}

fn serve(
    stream: &TcpStream,
    answer: &dyn Fn(&Request) -> Reply,
    requests: &Mutex<Vec<Request>>,
) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    // Who begins with TLS is no text.
    reader.read_line(&mut line).ok()?;
    if !line.ends_with("HTTP/1.1\r\n") {
        return None;
    }
    let mut headers = HashMap::new();
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let Some((name, value)) = header.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let request = Request { line, headers };
    requests.lock().unwrap().push(request.clone());
    let reply = answer(&request);
    let mut stream = stream;
    stream.write_all(&reply.bytes).ok()?;
    while !reply.endless.is_empty() {
        stream.write_all(&reply.endless).ok()?;
    }
    if reply.hang {
        // Until the client goes.
        let _ = reader.read_to_end(&mut Vec::new());
    }
    Some(())
}

/// An image as a registry has it.
#[derive(Debug, Clone)]
pub struct Served {
    pub manifest: Vec<u8>,
    pub manifest_type: String,
    pub config: Vec<u8>,
    pub layers: Vec<Vec<u8>>,
}

pub const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

impl Served {
    /// One of these layers, which are not compressed.
    pub fn new(layers: Vec<Vec<u8>>) -> Self {
        let ids: Vec<_> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
        let config = json!({
            "architecture": "amd64", "os": "linux", "config": {"Cmd": ["/bin/sh"]},
            "rootfs": {"type": "layers", "diff_ids": ids},
        });
        let config = config.to_string().into_bytes();
        let manifest = manifest(&config, &layers).to_string().into_bytes();
        Self { manifest, manifest_type: MANIFEST_TYPE.to_owned(), config, layers }
    }

    /// One of a single small layer.
    pub fn small() -> Self {
        Self::new(vec![layer(&[("etc/name", b"box")])])
    }

    /// One of a layer of so many bytes, which is not all the same byte.
    pub fn large(bytes: usize) -> Self {
        let data: Vec<u8> = (0..bytes).map(|at| u8::try_from(at / 7 % 251).unwrap()).collect();
        Self::new(vec![layer(&[("data", &data)])])
    }

    /// What a good registry answers.
    pub fn answer(&self, request: &Request) -> Reply {
        let path = request.path();
        let digest = Digest::of(&self.manifest).to_string();
        if path == "/v2/" {
            return Reply::ok(b"{}");
        }
        if path.ends_with("/manifests/latest") || path.ends_with(&digest) {
            let headers = [("Content-Type", self.manifest_type.as_str())];
            return Reply::new("200 OK", &headers, &self.manifest);
        }
        for blob in self.layers.iter().chain([&self.config]) {
            if path.ends_with(&Digest::of(blob).to_string()) {
                return match request.from() {
                    Some(from) => {
                        let range = format!("bytes {from}-{}/{}", blob.len() - 1, blob.len());
                        let headers = [("Content-Range", range.as_str())];
                        Reply::new("206 Partial Content", &headers, &blob[from..])
                    }
                    None => Reply::ok(blob),
                };
            }
        }
        Reply::not_found()
    }
}

/// The manifest of a configuration and layers.
pub fn manifest(config: &[u8], layers: &[Vec<u8>]) -> Value {
    let layers: Vec<_> = layers
        .iter()
        .map(|layer| {
            json!({"mediaType": "application/vnd.oci.image.layer.v1.tar",
                "digest": Digest::of(layer).to_string(), "size": layer.len()})
        })
        .collect();
    json!({
        "schemaVersion": 2, "mediaType": MANIFEST_TYPE,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": Digest::of(config).to_string(), "size": config.len()},
        "layers": layers,
    })
}
