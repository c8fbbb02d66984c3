//! The guest's kernel and initramfs: where they are looked for.

use std::env;
use std::path::{Path, PathBuf};

/// File name of the kernel.
pub const KERNEL: &str = "vmlinux";

/// File name of the initramfs that holds the agent.
pub const INITRAMFS: &str = "initramfs.cpio";

/// Folders for an installed ampoule.
const INSTALLED: [&str; 2] = ["/usr/local/lib/ampoule", "/usr/lib/ampoule"];

/// What every sandbox boots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestFiles {
    /// The kernel.
    pub kernel: PathBuf,
    /// The initramfs.
    pub initramfs: PathBuf,
}

/// Why a guest cannot be booted.
#[derive(Debug, thiserror::Error)]
pub enum GuestFilesError {
    /// not built or not installed
    #[error(
        "the guest's {what} {name} is missing (looked in {}): build it with {tool}, or name its \
         folder in AMPOULE_GUEST", folders.join(", ")
    )]
    Missing {
        /// kernel or initramfs
        what: &'static str,
        /// its file name
        name: &'static str,
        /// where it was looked for
        folders: Vec<String>,
        /// what makes it
        tool: &'static str,
    },
    /// the user's own kernel
    #[error("there is no kernel at {}", .0.display())]
    NoSuchKernel(PathBuf),
}

impl GuestFiles {
    /// Finds them in `$AMPOULE_GUEST`, beside the program, or where they are installed; `kernel`
    /// replaces the kernel.
    pub fn find(kernel: Option<&Path>) -> Result<Self, GuestFilesError> {
        let named = env::var_os("AMPOULE_GUEST").map(PathBuf::from);
        let folders = named.map_or_else(default_folders, |folder| vec![folder]);
        let kernel = match kernel {
            Some(path) if path.is_file() => path.to_owned(),
            Some(path) => return Err(GuestFilesError::NoSuchKernel(path.to_owned())),
            None => find(&folders, "kernel", KERNEL, "tools/build-kernel")?,
        };
        let initramfs = find(&folders, "initramfs", INITRAMFS, "tools/build-guest")?;
        Ok(Self { kernel, initramfs })
    }
}

fn find(
    folders: &[PathBuf],
    what: &'static str,
    name: &'static str,
    tool: &'static str,
) -> Result<PathBuf, GuestFilesError> {
    folders.iter().map(|folder| folder.join(name)).find(|path| path.is_file()).ok_or_else(|| {
        let folders = folders.iter().map(|folder| folder.display().to_string()).collect();
        GuestFilesError::Missing { what, name, folders, tool }
    })
}

/// A checkout has them in `target/guest` beside `target/release` and `target/debug`.
fn default_folders() -> Vec<PathBuf> {
    let program = env::current_exe().ok();
    let built = program.as_deref().and_then(Path::parent).and_then(Path::parent);
    let built = built.map(|target| target.join("guest"));
    built.into_iter().chain(INSTALLED.map(PathBuf::from)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_what_makes_it() {
        let folder = tempfile::tempdir().unwrap();
        let folders = [folder.path().to_owned()];
        let error = find(&folders, "kernel", KERNEL, "tools/build-kernel").unwrap_err().to_string();
        assert!(error.contains("vmlinux") && error.contains("tools/build-kernel"), "{error}");
        std::fs::write(folder.path().join(KERNEL), "").unwrap();
        assert!(find(&folders, "kernel", KERNEL, "tools/build-kernel").is_ok());
    }

    #[test]
    fn a_kernel_of_the_users_own_must_be_there() {
        let missing = GuestFiles::find(Some(Path::new("/nonexistent/vmlinux")));
        assert!(matches!(missing, Err(GuestFilesError::NoSuchKernel(_))));
    }
}
