//! What a user asks of a new sandbox and its container.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::error::SandboxError;
use super::places::Places;
use super::shape::Shape;
use crate::image::verify::Purpose;
use crate::image::{Image, Store, Verifier};

/// Least memory limit that is accepted, in bytes (docker's).
pub const LEAST_MEMORY: u64 = 6 << 20;

/// Options of `ampoule run`, in the words of `docker run`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// Image as the user names it.
    pub image: String,
    /// Arguments that replace the image's `Cmd`.
    pub command: Vec<String>,
    /// A program that must accept the image.
    pub verify_with: Option<PathBuf>,
    /// Replaces the image's `Entrypoint` (and drops its `Cmd`); empty for none.
    pub entrypoint: Option<String>,
    /// `K=V` over the image's environment.
    pub env: Vec<String>,
    /// Working directory.
    pub workdir: Option<String>,
    /// User, as in an image's `User`.
    pub user: Option<String>,
    /// Host name; the beginning of the id by default.
    pub hostname: Option<String>,
    /// Name; a random one by default.
    pub name: Option<String>,
    /// CPUs, fractions allowed.
    pub cpus: Option<f64>,
    /// Memory limit of the container in bytes.
    pub memory: Option<u64>,
    /// Another kernel than ampoule's.
    pub kernel: Option<PathBuf>,
    /// Keep stdin open.
    pub interactive: bool,
    /// Give the program a terminal.
    pub terminal: bool,
    /// Rows and columns of the terminal at the start.
    pub terminal_size: Option<(u16, u16)>,
    /// Remove the container's record when it ends.
    pub remove: bool,
    /// Boot the guest's kernel, rather than restore a template.
    pub cold: bool,
}

impl Options {
    /// The image, if all accept it who have a say. It is kept while this is held.
    pub fn open_image(&self, places: &Places) -> Result<Image, SandboxError> {
        let image = Store::open(&places.data)?.get(&self.image)?;
        image.check_platform()?;
        let verifier = Verifier::new(self.verify_with.as_deref(), Purpose::Run)?;
        verifier.check_stored::<SandboxError>(&image, &self.image)?;
        Ok(image)
    }

    /// The machine that the container needs.
    pub fn shape(&self) -> Shape {
        Shape::new(self.cpus, self.memory, self.kernel.clone())
    }
}
