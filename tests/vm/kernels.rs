//! Kernels of every kind, each entered in its own way.

use std::fs;
use std::ops::Range;

use crate::machine::{Machine, script_said};
use crate::needs_sandboxes;
use crate::support::{guest, skip};

/// Tells the loader's type that the kernel was started with (`type_of_loader`, offset 0x210 of the
/// kernel's boot parameters), and the CPUs.
const SCRIPT: &str = "\
dd if=/sys/kernel/boot_params/data bs=1 skip=528 count=1 2> /dev/null | hexdump -e '1/1 \"%02x\\n\"'
nproc
poweroff -f
";

/// What a kernel that is entered by PVH writes there itself.
const PVH: &str = "b0";

/// What the 64-bit protocol's loader writes there.
const LINUX64: &str = "ff";

#[test]
fn a_vmlinux_with_the_note_is_entered_by_pvh() {
    needs_sandboxes!();
    let done = Machine::new(SCRIPT).output(&["--serial"]);
    assert_eq!(script_said(&done.stdout), format!("{PVH}\n1\n"), "{done:?}");
    assert_eq!(done.code, 0);
}

#[test]
fn a_vmlinux_without_the_note_is_entered_in_64_bit_mode() {
    needs_sandboxes!();
    let machine = Machine::new(SCRIPT);
    let kernel = machine.path("vmlinux");
    let mut image = fs::read(guest().join("vmlinux")).unwrap();
    remove_notes(&mut image);
    fs::write(&kernel, image).unwrap();
    let done = machine.kernel(kernel).output(&["--serial", "--vcpus", "2"]);
    assert_eq!(script_said(&done.stdout), format!("{LINUX64}\n2\n"), "{done:?}");
    assert_eq!(done.code, 0);
}

#[test]
fn a_bzimage_is_entered_in_64_bit_mode() {
    needs_sandboxes!();
    let kernel = guest().join("bzImage");
    if !kernel.is_file() {
        return skip("needs the guest's bzImage (tools/build-kernel)");
    }
    let done = Machine::new(SCRIPT).kernel(kernel).output(&["--serial", "--vcpus", "3"]);
    assert_eq!(script_said(&done.stdout), format!("{LINUX64}\n3\n"), "{done:?}");
    assert_eq!(done.code, 0);
}

/// Makes every note segment of a 64-bit ELF file one of no type.
fn remove_notes(image: &mut [u8]) {
    const PT_NOTE: usize = 4;
    const PT_NULL: [u8; 4] = [0; 4];
    let number = |image: &[u8], at: Range<usize>| -> usize {
        let bytes = image[at].iter().rev();
        bytes.fold(0, |number, byte| number << 8 | usize::from(*byte))
    };
    // e_phoff, e_phentsize and e_phnum of the file's header.
    let (at, size, count) = (number(image, 32..40), number(image, 54..56), number(image, 56..58));
    let notes: Vec<usize> = (0..count)
        .map(|index| at + index * size)
        .filter(|at| number(image, *at..at + 4) == PT_NOTE)
        .collect();
    assert!(!notes.is_empty(), "the kernel has no notes");
    for note in notes {
        image[note..note + 4].copy_from_slice(&PT_NULL);
    }
}
