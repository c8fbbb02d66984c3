//! The program that the process executes: found as a shell would, with errors that callers know.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::{AccessFlags, eaccess, execve};
use oci_spec::runtime::Process;

use crate::error::{Error, Result};

/// A program with its arguments and environment.
#[derive(Debug)]
pub struct Program {
    name: String,
    path: CString,
    arguments: Vec<CString>,
    environment: Vec<CString>,
}

impl Program {
    /// Finds it, as the user and in the working directory that it will have.
    pub fn find(process: &Process, home: &str) -> Result<Self> {
        let arguments = process.args().as_deref().unwrap_or_default();
        let name = arguments.first().cloned().unwrap_or_default();
        let mut environment = process.env().clone().unwrap_or_default();
        if !environment.iter().any(|e| e.strip_prefix("HOME=").is_some_and(|v| !v.is_empty())) {
            environment.retain(|e| !e.starts_with("HOME="));
            environment.push(format!("HOME={home}"));
        }
        let search = environment.iter().find_map(|e| e.strip_prefix("PATH="));
        let path = look_up(&name, search.unwrap_or_default(), look_at)?;
        Ok(Self {
            path: CString::new(path.as_os_str().as_bytes()).map_err(|_| has_nul(&name))?,
            arguments: c_strings(arguments)?,
            environment: c_strings(&environment)?,
            name,
        })
    }

    /// Becomes it; returns only where that is not possible.
    pub fn execute(self) -> Result<()> {
        let Err(errno) = execve(&self.path, &self.arguments, &self.environment);
        let program = self.name;
        Err(match errno {
            // The file is there: its interpreter is not.
            Errno::ENOENT | Errno::ENOTDIR => {
                Error::CommandNotFound { program, reason: "no such file or directory" }
            }
            Errno::EACCES | Errno::EPERM => {
                Error::CommandNotExecutable { program, reason: "permission denied" }
            }
            Errno::ENOEXEC => Error::CommandNotExecutable { program, reason: "exec format error" },
            other => Error::CommandNotExecutable { program, reason: other.desc() },
        })
    }
}

/// What is at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Program,
    Nothing,
    NotExecutable,
}

fn look_at(path: &Path) -> Found {
    match std::fs::metadata(path) {
        Err(e) if matches!(e.raw_os_error(), Some(libc::EACCES)) => Found::NotExecutable,
        Err(_) => Found::Nothing,
        Ok(metadata) if metadata.is_dir() => Found::NotExecutable,
        Ok(_) if eaccess(path, AccessFlags::X_OK).is_err() => Found::NotExecutable,
        Ok(_) => Found::Program,
    }
}

/// A name with a slash is a path; others are looked for in the absolute directories of `search`.
fn look_up(name: &str, search: &str, look_at: impl Fn(&Path) -> Found) -> Result<PathBuf> {
    let program = name.to_owned();
    if name.contains('/') {
        return match look_at(Path::new(name)) {
            Found::Program => Ok(PathBuf::from(name)),
            Found::Nothing => {
                Err(Error::CommandNotFound { program, reason: "no such file or directory" })
            }
            Found::NotExecutable => {
                Err(Error::CommandNotExecutable { program, reason: "permission denied" })
            }
        };
    }
    let mut denied = false;
    if !name.is_empty() {
        for directory in search.split(':').filter(|directory| directory.starts_with('/')) {
            let path = Path::new(directory).join(name);
            match look_at(&path) {
                Found::Program => return Ok(path),
                Found::NotExecutable => denied = true,
                Found::Nothing => {}
            }
        }
    }
    if denied {
        return Err(Error::CommandNotExecutable { program, reason: "permission denied" });
    }
    Err(Error::CommandNotFound { program, reason: "executable file not found in $PATH" })
}

fn c_strings(list: &[String]) -> Result<Vec<CString>> {
    list.iter().map(|text| CString::new(text.as_str()).map_err(|_| has_nul(text))).collect()
}

fn has_nul(text: &str) -> Error {
    Error::Invalid(format!("an argument or variable has a NUL in it: {text:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(name: &str, search: &str) -> Result<PathBuf> {
        look_up(name, search, |path| match path.to_str().unwrap() {
            "/bin/sh" | "./here" => Found::Program,
            "/sbin/sh" | "/etc" | "/sbin/secret" => Found::NotExecutable,
            _ => Found::Nothing,
        })
    }

    #[test]
    fn names_are_looked_for_in_the_path() {
        assert_eq!(found("sh", "/usr/bin:/sbin:/bin").unwrap(), Path::new("/bin/sh"));
        assert_eq!(found("./here", "").unwrap(), Path::new("./here"));
    }

    #[test]
    fn failures_have_the_words_and_kinds_that_callers_know() {
        let error = found("foo", "/bin").unwrap_err();
        assert_eq!(error.to_string(), r#"exec: "foo": executable file not found in $PATH"#);
        assert!(matches!(error, Error::CommandNotFound { .. }));
        assert!(matches!(found("/no/such", ""), Err(Error::CommandNotFound { .. })));
        assert!(matches!(found("/etc", ""), Err(Error::CommandNotExecutable { .. })));
        assert!(matches!(found("secret", "/sbin:/bin"), Err(Error::CommandNotExecutable { .. })));
        assert!(matches!(found("", "/bin"), Err(Error::CommandNotFound { .. })));
    }

    #[test]
    fn the_working_directory_is_no_part_of_the_path() {
        assert!(found("here", ".:").is_err());
    }
}
