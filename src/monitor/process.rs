//! The monitor's own life, in order.
pub fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    Ok(())
}
