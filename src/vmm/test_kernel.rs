//! Kernels of a few hand-assembled instructions, for tests.

use tempfile::NamedTempFile;

/// Where the code is loaded and entered.
pub const LOAD_AT: u64 = 0x10_0000;

const CODE_AT: usize = 256;
const MEMORY_SIZE: usize = 64 + 40;

/// An ELF kernel.
pub struct TestKernel {
    /// The ELF file.
    pub image: Vec<u8>,
}

impl TestKernel {
    /// `code` is entered in 32-bit protected mode.
    pub fn pvh(code: &[u8]) -> Self {
        Self { image: elf(code, true) }
    }

    /// `code` is entered in 64-bit mode.
    pub fn linux64(code: &[u8]) -> Self {
        Self { image: elf(code, false) }
    }

    /// Makes the kernel of `image` claim `bytes` of memory.
    pub fn set_memory_size(image: &mut [u8], bytes: u64) {
        image[MEMORY_SIZE..MEMORY_SIZE + 8].copy_from_slice(&bytes.to_le_bytes());
    }

    /// The kernel as a file.
    pub fn file(&self) -> NamedTempFile {
        let file = NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &self.image).unwrap();
        file
    }
}

fn elf(code: &[u8], note: bool) -> Vec<u8> {
    let mut image = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let half = |image: &mut Vec<u8>, value: u16| image.extend(value.to_le_bytes());
    let word = |image: &mut Vec<u8>, value: u32| image.extend(value.to_le_bytes());
    let long = |image: &mut Vec<u8>, value: u64| image.extend(value.to_le_bytes());
    half(&mut image, 2);
    half(&mut image, 62);
    word(&mut image, 1);
    for value in [LOAD_AT, 64, 0] {
        long(&mut image, value);
    }
    word(&mut image, 0);
    for value in [64, 56, if note { 2 } else { 1 }, 0, 0, 0] {
        half(&mut image, value);
    }
    let mut header = |kind: u32, offset: u64, size: u64| {
        word(&mut image, kind);
        word(&mut image, 7);
        for value in [offset, LOAD_AT, LOAD_AT, size, size, 4] {
            long(&mut image, value);
        }
    };
    header(1, CODE_AT as u64, code.len() as u64);
    header(4, 176, 20);
    word(&mut image, 4);
    word(&mut image, 4);
    word(&mut image, 18);
    image.extend(b"Xen\0");
    word(&mut image, u32::try_from(LOAD_AT).unwrap());
    image.resize(CODE_AT, 0);
    image.extend(code);
    image
}
