//! The `ampoule` command: one verb per file.
//!
//! A verb is a `clap` argument struct and `run(args) -> Result<ExitCode, Failure>`; the one place
//! that prints errors is [`main`].

mod image;
mod load;

use std::error::Error;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Exit status of every failure of ampoule itself, as docker's: 126, 127 and 128+N belong to the
/// container.
pub const FAILED: u8 = 125;

/// Every OCI container in its own microVM.
#[derive(Debug, Parser)]
#[command(name = "ampoule", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Load(load::Args),
    Image(image::Args),
    /// List images (as `ampoule image ls`)
    Images(image::ls::Args),
    /// Remove images (as `ampoule image rm`)
    Rmi(image::rm::Args),
}

/// Why a verb failed, and with which exit status.
#[derive(Debug)]
pub struct Failure {
    /// Exit status of the command.
    pub status: u8,
    /// What happened; its whole chain of sources is printed once.
    pub error: Box<dyn Error + Send + Sync>,
}

impl<E: Into<Box<dyn Error + Send + Sync>>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { status: FAILED, error: error.into() }
    }
}

/// Parses the command line, runs the verb, prints its failure.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(usage) => {
            let status = if usage.use_stderr() { FAILED } else { 0 };
            // Nothing is left to tell the failure to when the terminal is gone.
            let _ = usage.print();
            return ExitCode::from(status);
        }
    };
    let done = match cli.verb {
        Verb::Load(args) => load::run(&args),
        Verb::Image(args) => image::run(&args),
        Verb::Images(args) => image::ls::run(&args),
        Verb::Rmi(args) => image::rm::run(&args),
    };
    done.unwrap_or_else(|failure| {
        report(failure.error.as_ref());
        ExitCode::from(failure.status)
    })
}

/// Prints an error to standard error.
fn report(error: &(dyn Error + 'static)) {
    eprintln!("ampoule: {}", chain(error));
}

/// An error and its sources in one line.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}
