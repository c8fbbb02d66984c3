//! `ampoule man`: the manual's pages, one for each verb.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args as ClapArgs, CommandFactory};

use super::{Cli, Failure};

/// Write the manual's pages to a folder
#[derive(Debug, ClapArgs)]
#[command(after_help = "Example:\n  ampoule man /usr/local/share/man/man1 && man ampoule-run")]
pub struct Args {
    /// Where to; made if need be
    folder: PathBuf,
}

/// Runs the verb.
pub fn run(args: &Args) -> Result<ExitCode, Failure> {
    let written = std::fs::create_dir_all(&args.folder)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), &args.folder));
    written.map_err(|error| format!("cannot write to {}: {error}", args.folder.display()))?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_has_a_page_and_hidden_ones_none() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("man1");
        run(&Args { folder: folder.clone() }).unwrap();
        for page in ["ampoule.1", "ampoule-run.1", "ampoule-volume-create.1", "ampoule-restart.1"] {
            let text = std::fs::read_to_string(folder.join(page)).unwrap();
            assert!(text.contains("ampoule"), "{page}");
        }
        assert!(!folder.join("ampoule-monitor.1").exists());
    }
}
