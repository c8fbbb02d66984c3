//! `ampoule completion`: what makes a shell complete this command's words.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Args as ClapArgs, CommandFactory};
use clap_complete::Shell;

use super::{Cli, Failure};

/// Print the completion script of a shell
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:\n  ampoule completion bash > /etc/bash_completion.d/ampoule\n  \
    ampoule completion zsh > /usr/share/zsh/site-functions/_ampoule")]
pub struct Args {
    /// Which shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Runs the verb.
pub fn run(args: &Args) -> Result<ExitCode, Failure> {
    // Whole, before anything is printed: the library takes no failure of a write.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "ampoule", &mut script);
    io::stdout().write_all(&script)?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_has_a_script_that_names_the_verbs() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish, Shell::Elvish, Shell::PowerShell] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "ampoule", &mut script);
            let script = String::from_utf8(script).unwrap();
            for word in ["restart", "volume", "prune"] {
                assert!(script.contains(word), "{shell}: {word}");
            }
        }
    }
}
