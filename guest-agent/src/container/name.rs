//! Which names containers and processes may have: they become parts of paths.

use crate::error::{Error, Result};

/// Longest name, in bytes.
const MAX: usize = 64;

/// # Errors
/// Not 1 to 64 of `[A-Za-z0-9_.-]`, or starting with `.` or `-`.
pub fn check(what: &str, name: &str) -> Result<()> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let valid = !name.is_empty()
        && name.len() <= MAX
        && !name.starts_with(['.', '-'])
        && name.chars().all(allowed);
    if valid { Ok(()) } else { Err(Error::Invalid(format!("{name:?} is no name of a {what}"))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_single_harmless_path_components() {
        for good in ["a", "web-1.2_3", "A", &"x".repeat(64)] {
            assert!(check("container", good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "-f", ".hidden", "a/b", "a b", "ä", "a\0", &"x".repeat(65)] {
            assert!(check("container", bad).is_err(), "{bad}");
        }
    }
}
