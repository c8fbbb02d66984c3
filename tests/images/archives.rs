//! Every kind of archive that `load` takes.

use std::fs;
use std::process::Command;

use ampoule::image::Digest;

use crate::lab::{Lab, layer, run};

/// Two layers: the upper one replaces a file of the lower one and takes another away.
fn two_layers(lab: &Lab) -> [String; 2] {
    let lower = layer(&[("etc/hostname", b"below"), ("etc/kept", b"kept"), ("gone", b"x")]);
    let upper = layer(&[("etc/hostname", b"above"), (".wh.gone", b"")]);
    [lab.file("lower.tar", &lower), lab.file("upper.tar", &upper)]
}

/// Loads an archive and gives back the bytes of the file system that came of it.
fn flattened(lab: &Lab, archive: &str, name: &str) -> Vec<u8> {
    let done = lab.load(archive);
    done.gives(0, &format!("Loaded image: {name}\n"));
    let rootfs = lab.store().get(name).unwrap().rootfs;
    fs::read(rootfs).unwrap()
}

#[test]
fn all_formats_and_compressions_give_the_same_files() {
    let lab = Lab::new();
    let [lower, upper] = two_layers(&lab);
    let layers = [lower.as_str(), upper.as_str()];
    let mut digests = Vec::new();
    for options in [
        &["--format", "docker"][..],
        &["--format", "oci", "--compress", "none"],
        &["--format", "oci", "--compress", "gzip"],
        &["--format", "oci", "--compress", "zstd"],
    ] {
        let lab = Lab::new();
        let options = [options, &["--name", "box:1"]].concat();
        let archive = lab.pack("box.tar", &options, &layers);
        digests.push(Digest::of(&flattened(&lab, &archive, "box:1")));
    }
    // One configuration and the same contents: the image is reproduced to the byte.
    assert!(digests.windows(2).all(|pair| pair[0] == pair[1]), "{digests:?}");
}

#[test]
fn a_compressed_archive_is_read_from_a_pipe() {
    let lab = Lab::new();
    let archive = lab.small("box:1");
    let packed = Command::new("gzip").args(["-c", &archive]).output().unwrap().stdout;
    let done = lab.ampoule.with_input(&["load"], packed);
    assert_eq!(String::from_utf8_lossy(&done.stdout), "Loaded image: box:1\n", "{done:?}");
    assert_eq!(lab.staging(), 0);
}

#[test]
fn an_unpacked_archive_is_read_as_a_folder() {
    let lab = Lab::new();
    let archive = lab.small("box:1");
    fs::create_dir(lab.path("unpacked")).unwrap();
    run(Command::new("tar").args(["-xf", &archive, "-C", &lab.text("unpacked")]));
    lab.load(&lab.text("unpacked")).gives(0, "Loaded image: box:1\n");
}

#[test]
fn what_is_there_is_not_written_again() {
    let lab = Lab::new();
    let archive = lab.small("box:1");
    lab.load(&archive).gives(0, "Loaded image: box:1\n");
    let stored = lab.stored();
    let rootfs = lab.store().get("box:1").unwrap().rootfs;
    let before = fs::metadata(&rootfs).unwrap();
    lab.load(&archive).gives(0, "Loaded image: box:1\n");
    assert_eq!(lab.stored(), stored);
    let after = fs::metadata(&rootfs).unwrap();
    use std::os::unix::fs::MetadataExt;
    assert_eq!((before.ino(), before.ctime_nsec()), (after.ino(), after.ctime_nsec()));
}
