//! The kernel's random numbers: drawing some, and making them this guest's own.

use std::fs::OpenOptions;
use std::os::fd::AsRawFd;

use ampoule_protocol::message::Wake;

use crate::error::{Doing, Error, Result};

/// Bytes of a seed.
const SEED: usize = Wake::SEED_BYTES;

/// Random bytes that nobody else may learn. They are wiped in the end.
pub struct Seed([u8; SEED]);

impl Seed {
    /// Reads hexadecimal digits, and wipes them.
    ///
    /// # Errors
    /// Not as many digits as it takes, or other characters.
    pub fn parse(text: String) -> Result<Self> {
        let mut digits = text.into_bytes();
        let mut seed = Self([0; SEED]);
        let read = read_hex(&digits, &mut seed.0);
        wipe(&mut digits);
        match read {
            Some(()) => Ok(seed),
            None => Err(Error::Invalid(format!("a seed is {} hexadecimal digits", 2 * SEED))),
        }
    }

    /// For tests to look at.
    #[cfg(test)]
    pub fn bytes(&self) -> [u8; SEED] {
        self.0
    }
}

impl Drop for Seed {
    fn drop(&mut self) {
        wipe(&mut self.0);
    }
}

fn read_hex(digits: &[u8], bytes: &mut [u8; SEED]) -> Option<()> {
    if digits.len() != 2 * SEED {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        for digit in pair {
            let value = char::from(*digit).to_digit(16)?;
            *byte = *byte << 4 | u8::try_from(value).ok()?;
        }
    }
    Some(())
}

/// Overwrites bytes in a way that is not optimized out.
pub fn wipe(bytes: &mut [u8]) {
    // SAFETY: the pointer and the length are those of one live slice.
    unsafe { libc::explicit_bzero(bytes.as_mut_ptr().cast(), bytes.len()) };
}

/// `struct rand_pool_info` of `linux/random.h`, with a seed in it.
#[repr(C)]
struct PoolInfo {
    entropy_bits: libc::c_int,
    size: libc::c_int,
    bytes: [u8; SEED],
}

impl Drop for PoolInfo {
    fn drop(&mut self) {
        wipe(&mut self.bytes);
    }
}

nix::ioctl_write_ptr_bad!(
    add_entropy,
    nix::request_code_write!(b'R', 0x03, 2 * size_of::<libc::c_int>()),
    PoolInfo
);
nix::ioctl_none!(reseed_generator, b'R', 0x07);

/// Mixes a seed into the kernel's pool, as entropy that counts, and has the generator start anew
/// from the pool: two guests of one snapshot part ways here.
pub fn reseed(seed: &Seed) -> Result<()> {
    let action = || "reseed the kernel's random numbers";
    let device = OpenOptions::new().write(true).open("/dev/urandom").doing(action)?;
    let size = libc::c_int::try_from(SEED).map_err(std::io::Error::other).doing(action)?;
    let info = PoolInfo { entropy_bits: 8 * size, size, bytes: seed.0 };
    // SAFETY: RNDADDENTROPY reads the two integers and as many bytes behind them as the second
    // says, all of one live struct. RNDRESEEDCRNG takes no argument.
    unsafe {
        add_entropy(device.as_raw_fd(), &raw const info).doing(action)?;
        reseed_generator(device.as_raw_fd()).doing(action)?;
    }
    Ok(())
}

/// Random bytes of the kernel.
pub fn bytes<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0u8; N];
    // SAFETY: the pointer and the length are those of one live array. Up to 256 bytes are always
    // given whole.
    let result = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), N.min(256), 0) };
    nix::errno::Errno::result(result).doing(|| "draw random bytes")?;
    Ok(bytes)
}
