//! `ampoule load`: images from an archive.

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::{Failure, Global};
use crate::image::verify::Purpose;
use crate::image::{Progress, Store, Verifier};

/// Load images from an OCI layout or a `docker save` archive.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  ampoule load -i images.tar\n  \
    zstdcat images.tar.zst | ampoule load")]
pub struct Args {
    /// Read from this tar archive or folder instead of standard input
    #[arg(short, long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Take only images that this program accepts (docs/security.md)
    #[arg(long, value_name = "PROGRAM", env = "AMPOULE_VERIFY_WITH")]
    verify_with: Option<PathBuf>,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
}

/// Loads the images and prints their names.
pub fn run(args: &Args, global: &Global) -> Result<ExitCode, Failure> {
    if args.input.is_none() && io::stdin().is_terminal() {
        return Err("no archive: name one with -i FILE, or pipe one to standard input".into());
    }
    let named = args.verify_with.as_deref().map(std::path::absolute).transpose()?;
    let verifier = Verifier::new(named.as_deref(), Purpose::Load)?;
    let store = Store::open(&global.places().data)?.with_verifier(verifier);
    let bar = bar(args.quiet);
    let mut show = |progress| show(&bar, progress);
    let loaded = match &args.input {
        Some(path) => store.load_path(path, &mut show),
        None => store.load(io::stdin().lock(), &mut show),
    };
    bar.finish_and_clear();
    for image in loaded? {
        match image.reference {
            Some(name) => println!("Loaded image: {}", name.familiar()),
            None => println!("Loaded image ID: {}", image.id),
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A bar of no length yet.
pub fn bar(hidden: bool) -> ProgressBar {
    if hidden { ProgressBar::hidden() } else { ProgressBar::no_length() }
}

/// Draws the bar; indicatif draws nothing where standard error is no terminal.
pub fn show(bar: &ProgressBar, progress: Progress) {
    let (label, bytes, size) = match progress {
        Progress::Archive { bytes } => ("reading".to_owned(), bytes, None),
        Progress::Layer { number, layers, bytes, size } => {
            (format!("layer {number}/{layers}"), bytes, Some(size))
        }
    };
    if bar.message() != label {
        let template = match size {
            Some(_) => "{msg} [{bar:30}] {bytes}/{total_bytes}",
            None => "{msg} {spinner} {bytes}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.reset_elapsed();
        bar.enable_steady_tick(Duration::from_millis(200));
        bar.set_message(label);
    }
    if let Some(size) = size {
        bar.set_length(size);
    }
    bar.set_position(bytes);
}
