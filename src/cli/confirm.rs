//! Asks before much is taken away.

use std::io::{self, BufRead, Write};

use super::Failure;

/// Whether the user means it that all of this is removed. Where nobody answers that is an error, which says
/// what to do.
pub fn is_meant(what: &str) -> Result<bool, Failure> {
    print!("WARNING! This will remove {what}.\nAre you sure you want to continue? [y/N] ");
    io::stdout().flush()?;
    let mut answer = String::new();
    if io::stdin().lock().read_line(&mut answer)? == 0 {
        println!();
        return Err("nobody has answered, and nothing was removed: give -f".into());
    }
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
