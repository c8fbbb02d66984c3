//! Archives whose checksums are right.

const BLOCK: usize = 512;

/// Writes the right checksum into every header of a tar archive, as far as headers can be found: a
/// fuzzer that changes a byte of one does not find the other.
pub fn correct(bytes: &mut [u8]) {
    let mut at = 0;
    while let Some(header) = bytes.get_mut(at..at + BLOCK) {
        if header.iter().all(|byte| *byte == 0) {
            return;
        }
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let size = number(&header[124..136]);
        let Some(next) = size.checked_next_multiple_of(BLOCK).and_then(|size| at.checked_add(size))
        else {
            return;
        };
        at = next.saturating_add(BLOCK);
        if at > bytes.len() {
            return;
        }
    }
}

/// A size in octal digits; others are what the archive's reader makes of them.
fn number(field: &[u8]) -> usize {
    let digits = field.iter().skip_while(|byte| **byte == b' ');
    digits
        .map_while(|byte| char::from(*byte).to_digit(8))
        .fold(0usize, |sum, digit| sum.saturating_mul(8).saturating_add(digit as usize))
}
