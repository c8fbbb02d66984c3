//! An OCI bundle of an image of the store, for runtimes of the host: the same `config.json` that a
//! sandbox's container has, and the image's files unpacked.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, Spec, User};

use crate::bench::attempt::{Attempt, AttemptError};
use crate::bench::interrupt::Interrupt;
use crate::image::Image;
use crate::sandbox::Options;
use crate::sandbox::spec::{self, SpecError};

/// Unpacks an EROFS file; of erofs-utils.
const UNPACKER: &str = "fsck.erofs";

/// The spec uses nothing newer, and crun before 1.9 takes no newer one.
const VERSION: &str = "1.0.2";

/// Why there is no bundle.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// the image's configuration does not do
    #[error("{0}")]
    Spec(#[from] SpecError),
    /// names of users are the image's own, and only its guest looks them up
    #[error(
        "the image's user {0:?} is a name: a host's runtime takes numbers only; choose an image \
         without a USER, or with a number"
    )]
    UserByName(String),
    /// nothing unpacks the image
    #[error(
        "{UNPACKER} is needed to unpack the image: install erofs-utils (apt-get install erofs-utils)"
    )]
    NoUnpacker,
    /// the image was not unpacked
    #[error("the image cannot be unpacked")]
    Unpack(#[source] AttemptError),
    /// a file of the bundle
    #[error("cannot write {}", path.display())]
    Write {
        /// the file
        path: PathBuf,
        /// why
        #[source]
        source: io::Error,
    },
}

/// Makes a bundle in `folder`, which is not there yet; returns its path.
pub fn make(
    folder: &Path,
    image: &Image,
    options: &Options,
    interrupt: &Interrupt,
) -> Result<PathBuf, BundleError> {
    let spec = for_the_host(image, options)?;
    fs::create_dir(folder).map_err(write_failed(folder))?;
    let config = folder.join("config.json");
    let file = File::create(&config).map_err(write_failed(&config))?;
    serde_json::to_writer(file, &spec).map_err(|error| write_failed(&config)(error.into()))?;
    unpack(&image.rootfs, &folder.join("rootfs"), interrupt)?;
    Ok(folder.to_owned())
}

fn write_failed(path: &Path) -> impl FnOnce(io::Error) -> BundleError {
    move |source| BundleError::Write { path: path.to_owned(), source }
}

fn unpack(image: &Path, to: &Path, interrupt: &Interrupt) -> Result<(), BundleError> {
    let mut command = Command::new(UNPACKER);
    let mut extract = std::ffi::OsString::from("--extract=");
    extract.push(to);
    command.arg(extract).arg(image);
    match Attempt::of(command).run(interrupt) {
        Ok(_) => Ok(()),
        Err(AttemptError::Spawn { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            Err(BundleError::NoUnpacker)
        }
        Err(error) => Err(BundleError::Unpack(error)),
    }
}

/// The spec of a sandbox's container, with what the agent adds in the guest. It names no cgroup: a
/// runtime then makes one of the container's id, so that many can use the bundle at once.
fn for_the_host(image: &Image, options: &Options) -> Result<Spec, BundleError> {
    let made = spec::container("bench", &image.config, options)?;
    let mut spec = made.spec;
    spec.set_version(VERSION.to_owned());
    if let (Some(user), Some(process)) = (made.user, spec.process_mut()) {
        process.set_user(user_by_number(&user)?);
    }
    let resources = spec.linux_mut().as_mut().and_then(|linux| linux.resources_mut().as_mut());
    if let Some(resources) = resources {
        resources.set_devices(Some(vec![no_device()]));
    }
    Ok(spec)
}

/// Runtimes add the few that every container has.
fn no_device() -> LinuxDeviceCgroup {
    LinuxDeviceCgroupBuilder::default().allow(false).access("rwm").build().unwrap_or_default()
}

fn user_by_number(text: &str) -> Result<User, BundleError> {
    let (user, group) = text.split_once(':').unwrap_or((text, "0"));
    let number = |text: &str| match text {
        "root" => Ok(0),
        text => text.parse().map_err(|_| BundleError::UserByName(text.to_owned())),
    };
    let mut numbers = User::default();
    numbers.set_uid(number(user)?);
    numbers.set_gid(number(group)?);
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_numbers() {
        let user = user_by_number("1000:7").unwrap();
        assert_eq!((user.uid(), user.gid()), (1000, 7));
        assert_eq!(user_by_number("1000").unwrap().gid(), 0);
        assert_eq!(user_by_number("root").unwrap().uid(), 0);
        assert!(matches!(user_by_number("www"), Err(BundleError::UserByName(_))));
    }

    #[test]
    fn no_device_but_the_usual_ones_is_allowed() {
        let rule = serde_json::to_value(no_device()).unwrap();
        assert_eq!(rule["allow"], false);
        assert_eq!(rule["access"], "rwm");
    }
}
