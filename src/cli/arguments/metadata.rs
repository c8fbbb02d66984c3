//! What is kept of a container beside what it is.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;

use super::super::Failure;
use super::{label, signal};

/// Largest file of labels or variables that is read, in bytes.
const LIMIT: u64 = 4 << 20;

/// What is kept of a container, and how it is ended.
#[derive(Debug, Args)]
pub struct MetadataArgs {
    /// Label of the container (KEY=VALUE)
    #[arg(short, long = "label", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
    /// File of labels, one a line
    #[arg(long = "label-file", value_name = "FILE")]
    label_files: Vec<PathBuf>,
    /// Annotation of the container's OCI specification (KEY=VALUE)
    #[arg(long = "annotation", value_name = "KEY=VALUE", value_parser = label)]
    annotations: Vec<(String, String)>,
    /// Signal that asks the container's program to end
    #[arg(long, value_name = "SIGNAL", value_parser = signal_name)]
    pub stop_signal: Option<String>,
    /// Seconds that it then has; -1 for any
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true,
        value_parser = clap::value_parser!(i64).range(-1..))]
    pub stop_timeout: Option<i64>,
}

/// A signal, as it is kept: by its name.
fn signal_name(text: &str) -> Result<String, String> {
    signal(text).map(|signal| signal.as_str().to_owned())
}

impl MetadataArgs {
    /// Labels, those of files first: the last of a key counts.
    pub fn labels(&self) -> Result<BTreeMap<String, String>, Failure> {
        let mut labels = BTreeMap::new();
        for file in &self.label_files {
            for line in lines(file)? {
                let (key, value) = label(&line).map_err(|error| wrong(file, &line, &error))?;
                labels.insert(key, value);
            }
        }
        labels.extend(self.labels.iter().cloned());
        Ok(labels)
    }

    /// Annotations.
    pub fn annotations(&self) -> BTreeMap<String, String> {
        self.annotations.iter().cloned().collect()
    }
}

/// The variables of files, as `--env` takes them.
pub fn variables(files: &[PathBuf]) -> Result<Vec<String>, Failure> {
    let mut all = Vec::new();
    for file in files {
        for line in lines(file)? {
            let name = line.split('=').next().unwrap_or_default();
            if name.is_empty() || name.contains(char::is_whitespace) {
                return Err(wrong(file, &line, "it is to be NAME=VALUE, or NAME"));
            }
            all.push(line);
        }
    }
    Ok(all)
}

fn wrong(file: &Path, line: &str, why: &str) -> Failure {
    format!("{}: invalid line {line:?}: {why}", file.display()).into()
}

/// The lines of a file, without those that are empty or remarks.
fn lines(file: &Path) -> Result<Vec<String>, Failure> {
    let cannot = |why: String| Failure::from(format!("cannot read {}: {why}", file.display()));
    let mut text = String::new();
    File::open(file)
        .and_then(|opened| opened.take(LIMIT + 1).read_to_string(&mut text))
        .map_err(|error| cannot(error.to_string()))?;
    if text.len() as u64 > LIMIT {
        return Err(cannot(format!("it is larger than {LIMIT} bytes")));
    }
    let said = |line: &&str| !line.is_empty() && !line.starts_with('#');
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    Ok(text.lines().map(str::trim_start).filter(said).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_have_a_line_for_each_and_remarks() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "# remark\n\nA=1 2\n  B\nC=\n").unwrap();
        assert_eq!(variables(&[file.path().into()]).unwrap(), ["A=1 2", "B", "C="]);
        for bad in ["=1", "A B=1"] {
            std::fs::write(file.path(), bad).unwrap();
            let error = variables(&[file.path().into()]).unwrap_err().error.to_string();
            assert!(error.contains("invalid line"), "{error}");
        }
        let args = MetadataArgs {
            labels: vec![("A".into(), "own".into())],
            label_files: vec![file.path().into()],
            annotations: Vec::new(),
            stop_signal: None,
            stop_timeout: None,
        };
        std::fs::write(file.path(), "A=file\nB=file\n").unwrap();
        let labels = args.labels().unwrap();
        assert_eq!((labels["A"].as_str(), labels["B"].as_str()), ("own", "file"));
        assert_eq!(signal_name("term"), Ok("SIGTERM".into()));
    }
}
