//! Where ampoule keeps things on the host.

use std::env;
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};

/// The two roots of everything that ampoule keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Places {
    /// What lasts: images, containers, volumes. `/var/lib/ampoule`, or `$XDG_DATA_HOME/ampoule` without root.
    pub data: PathBuf,
    /// What a reboot takes: sandboxes, that is, containers while they run. `/run/ampoule`, or `$XDG_RUNTIME_DIR/ampoule`.
    pub state: PathBuf,
    /// Templates, where they are not in `templates` of the data.
    pub templates: Option<PathBuf>,
}

impl Places {
    /// The given folders, or the user's defaults.
    pub fn new(data: Option<&Path>, state: Option<&Path>, templates: Option<&Path>) -> Self {
        let defaults = if geteuid().is_root() {
            Self::of_system(Path::new("/"))
        } else {
            Self::of_user(|name| env::var_os(name).map(PathBuf::from))
        };
        Self {
            data: data.map_or(defaults.data, absolute),
            state: state.map_or(defaults.state, absolute),
            templates: templates.map(absolute),
        }
    }

    /// The folders that the environment names, as the commands' options do, or the user's defaults.
    pub fn of_environment() -> Self {
        let named = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let [data, state, templates] =
            ["AMPOULE_ROOT", "AMPOULE_STATE", "AMPOULE_TEMPLATES"].map(named);
        Self::new(data.as_deref(), state.as_deref(), templates.as_deref())
    }

    /// Those of the root of a system, whose files are below this folder.
    pub fn of_system(root: &Path) -> Self {
        Self {
            data: root.join("var/lib/ampoule"),
            state: root.join("run/ampoule"),
            templates: None,
        }
    }

    fn of_user(variable: impl Fn(&str) -> Option<PathBuf>) -> Self {
        let home = variable("HOME").unwrap_or_else(|| "/".into());
        let data = variable("XDG_DATA_HOME").unwrap_or_else(|| home.join(".local/share"));
        let run = variable("XDG_RUNTIME_DIR")
            .unwrap_or_else(|| env::temp_dir().join(format!("ampoule-{}", geteuid())));
        Self { data: data.join("ampoule"), state: run.join("ampoule"), templates: None }
    }

    /// Folder of the templates.
    pub fn templates(&self) -> PathBuf {
        self.templates.clone().unwrap_or_else(|| self.data.join("templates"))
    }

    /// Folder of all sandboxes' state.
    pub fn sandboxes(&self) -> PathBuf {
        self.state.join("sandboxes")
    }

    /// Folder of all containers.
    pub fn containers(&self) -> PathBuf {
        self.data.join("containers")
    }

    /// What lasts of the container with this id.
    pub fn container(&self, id: &str) -> PathBuf {
        self.containers().join(id)
    }

    /// Where containers are moved whose files cannot be trusted.
    pub fn damaged(&self) -> PathBuf {
        self.data.join("damaged")
    }

    /// Folder of the names' links to their containers.
    pub fn names(&self) -> PathBuf {
        self.data.join("names")
    }

    /// What has happened to containers.
    pub fn events(&self) -> PathBuf {
        self.state.join("events.json")
    }

    /// The log of a container's output.
    pub fn log(&self, id: &str) -> PathBuf {
        self.container(id).join("log.json")
    }
}

/// A keeper works in `/`: what it is told must not depend on the folder of its caller.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_without_root_gets_the_xdg_folders() {
        let places = Places::of_user(|name| match name {
            "XDG_DATA_HOME" => Some("/d".into()),
            "XDG_RUNTIME_DIR" => Some("/r".into()),
            _ => None,
        });
        assert_eq!(places.data, Path::new("/d/ampoule"));
        assert_eq!(places.state, Path::new("/r/ampoule"));
        let home = Places::of_user(|name| (name == "HOME").then(|| "/home/u".into()));
        assert_eq!(home.data, Path::new("/home/u/.local/share/ampoule"));
    }
}
