//! What `cp SOURCE DESTINATION` means, as docker has it: names alone, no file is looked at.

use super::ArchiveError;

/// One side of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Side {
    /// A path of this host.
    Local(String),
    /// Standard input or output.
    Stream,
    /// A path of a container.
    Container {
        /// Its name or id.
        container: String,
        /// The path.
        path: String,
    },
}

impl Side {
    /// As it is written on a command line.
    pub fn parse(text: &str) -> Self {
        if text == "-" {
            return Self::Stream;
        }
        match text.split_once(':') {
            Some((container, path))
                if !text.starts_with('/')
                    && !container.starts_with('.')
                    && !container.is_empty() =>
            {
                Self::Container { container: container.to_owned(), path: path.to_owned() }
            }
            _ => Self::Local(text.to_owned()),
        }
    }
}

/// A path without `.`, `..` and empty parts, from the root on; with the `/` or `/.` that it ends with: what is in
/// a directory is meant by it, or a directory.
pub fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    let clean = format!("/{}", parts.join("/"));
    match () {
        () if clean == "/" => clean,
        () if is_contents(path) => clean + "/.",
        () if path.ends_with('/') => clean + "/",
        () => clean,
    }
}

fn is_contents(path: &str) -> bool {
    path.rsplit('/').next() == Some(".")
}

/// Whether a path can only be a directory's.
pub fn is_directory(path: &str) -> bool {
    path.ends_with('/') || is_contents(path)
}

/// The directory that a clean path is in, and its name there; `.` is what is in the directory.
pub fn split(path: &str) -> (&str, &str) {
    let path = if path.len() > 1 { path.strip_suffix('/').unwrap_or(path) } else { path };
    match path.rsplit_once('/') {
        Some((_, "")) => ("/", "."),
        Some(("", name)) => ("/", name),
        Some((directory, name)) => (directory, name),
        None => ("/", path),
    }
}

/// What is at the destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum There {
    /// Nothing.
    Nothing,
    /// A directory.
    Directory,
    /// Something else.
    Other,
}

/// Where files go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The directory.
    pub directory: String,
    /// What the copied file is called there; `.` where it is the directory that it is copied to.
    pub name: String,
}

/// Where a file called `name` goes (`.`: what is in a directory).
pub fn target(
    name: &str,
    source_is_directory: bool,
    destination: &str,
    there: There,
) -> Result<Target, ArchiveError> {
    let (directory, last) = split(destination);
    let last = match there {
        There::Directory => return Ok(Target { directory: destination.into(), name: name.into() }),
        There::Other if source_is_directory => return Err(ArchiveError::Directory),
        There::Nothing if !source_is_directory && is_directory(destination) => {
            return Err(ArchiveError::NoDirectory);
        }
        There::Other | There::Nothing => last,
    };
    Ok(Target { directory: directory.into(), name: last.into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sides_are_told_apart() {
        let container = |container: &str, path: &str| Side::Container {
            container: container.into(),
            path: path.into(),
        };
        assert_eq!(Side::parse("-"), Side::Stream);
        assert_eq!(Side::parse("web:/etc"), container("web", "/etc"));
        assert_eq!(Side::parse("web:a:b"), container("web", "a:b"));
        assert_eq!(Side::parse("web:"), container("web", ""));
        for local in ["/a:b", "./a:b", "../a:b", "a", ".:x", ":x"] {
            assert_eq!(Side::parse(local), Side::Local(local.into()));
        }
    }

    #[test]
    fn paths_are_cleaned_and_split() {
        for (path, cleaned, split_up) in [
            ("", "/", ("/", ".")),
            ("/", "/", ("/", ".")),
            ("/.", "/", ("/", ".")),
            ("etc/", "/etc/", ("/", "etc")),
            ("/etc/.", "/etc/.", ("/etc", ".")),
            ("/a/../b//c", "/b/c", ("/b", "c")),
            ("../../x", "/x", ("/", "x")),
            ("/a/b/..", "/a", ("/", "a")),
        ] {
            assert_eq!(clean(path), cleaned, "{path}");
            assert_eq!(split(&clean(path)), split_up, "{path}");
        }
    }

    #[test]
    fn files_go_where_docker_has_them_go() {
        let goes = |name: &str, directory, to: &str, there| {
            target(name, directory, to, there).map(|to| (to.directory, to.name)).ok()
        };
        let to = |directory: &str, name: &str| Some((directory.to_owned(), name.to_owned()));
        let (nothing, directory, other) = (There::Nothing, There::Directory, There::Other);
        assert_eq!(goes("f", false, "/d", directory), to("/d", "f"));
        assert_eq!(goes("f", false, "/d/g", nothing), to("/d", "g"));
        assert_eq!(goes("f", false, "/d/g", other), to("/d", "g"));
        assert_eq!(goes("f", false, "/d/g/", nothing), None);
        assert_eq!(goes("s", true, "/d", directory), to("/d", "s"));
        assert_eq!(goes(".", true, "/d", directory), to("/d", "."));
        assert_eq!(goes("s", true, "/d/n", nothing), to("/d", "n"));
        assert_eq!(goes("s", true, "/d/n/", nothing), to("/d", "n"));
        assert_eq!(goes(".", true, "/d/n", nothing), to("/d", "n"));
        assert_eq!(goes("s", true, "/f", other), None);
    }

    proptest! {
        #[test]
        fn a_clean_path_has_no_way_up(path in "[a./]{0,20}") {
            let cleaned = clean(&path);
            prop_assert!(cleaned.starts_with('/'));
            prop_assert!(!cleaned.split('/').any(|part| part == ".."));
            prop_assert_eq!(clean(&cleaned), cleaned.clone());
            prop_assert!(!split(&cleaned).1.is_empty());
        }
    }
}
