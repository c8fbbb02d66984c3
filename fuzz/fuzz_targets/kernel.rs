//! A kernel file as `ampoule vm run --kernel` gets it, and an initial RAM disk of 5000 bytes.
#![no_main]

use std::cell::OnceCell;

use ampoule::vmm::boot::{Boot, command_line};
use ampoule::vmm::config::SerialMode;
use ampoule::vmm::host::Host;
use ampoule::vmm::memory::allocate;
use ampoule_fuzz::host::MemoryFile;
use libfuzzer_sys::fuzz_target;
use vm_memory::GuestMemoryMmap;

const MIB: u32 = 16;

thread_local! {
    /// Whatever earlier kernels have left in it.
    static MEMORY: OnceCell<GuestMemoryMmap> = const { OnceCell::new() };
}

fuzz_target!(|kernel: &[u8]| {
    let cmdline = command_line("quiet", SerialMode::Off, &[]).expect("a command line");
    let (kernel, initrd) = (MemoryFile::new(kernel), MemoryFile::new(&[0x55; 5000]));
    let (kernel, initrd) = (kernel.path(), initrd.path());
    let boot = Boot {
        kernel: &kernel,
        initrd: Some(&initrd),
        cmdline: &cmdline,
        vcpus: 2,
        memory_mib: MIB,
        host: &Host::default(),
    };
    MEMORY.with(|memory| {
        let memory = memory.get_or_init(|| allocate(MIB).expect("memory"));
        let _ = boot.load(memory);
    });
});
