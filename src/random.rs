//! Ids that nobody chose.

/// A random id in docker's form: 64 hexadecimal digits.
///
/// # Errors
/// The kernel gives no random bytes.
pub fn id() -> Result<String, getrandom::Error> {
    let mut bytes = [0u8; 32];
    getrandom::fill(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    #[test]
    fn ids_are_64_digits_and_differ() {
        let (one, other) = (super::id().unwrap(), super::id().unwrap());
        assert!(one.len() == 64 && one.bytes().all(|digit| digit.is_ascii_hexdigit()));
        assert_ne!(one, other);
    }
}
