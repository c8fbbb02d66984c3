//! What the layers hold is what a container sees: the image mounted, beside its layers extracted by
//! GNU tar.

use std::fs;
use std::process::Command;

use crate::lab::{Lab, run};
use crate::support::{Finished, skip};

/// A tree with one of everything that a layer can hold.
const TREE: &str = r#"
set -e
mkdir -p "$1/bin" "$1/many" "$1/deep/er" "$1/opaque/sub" "$1/gone" "$1/sticky"
cd "$1"
truncate -s 20M sparse
printf middle | dd of=sparse bs=1 seek=5000000 conv=notrunc status=none
printf end | dd of=sparse bs=1 seek=20000000 conv=notrunc status=none
seq 100000 > bin/tool; chmod 4755 bin/tool
ln bin/tool bin/link; ln bin/tool deep/er/link
ln -s tool bin/relative; ln -s /bin/tool absolute; ln -s nowhere dangling
mknod null c 1 3; chmod 666 null
mknod disk b 259 70000
mkfifo -m 600 fifo
printf x > owned; chown 70000:4000000000 owned
chmod 1777 sticky; chown 5:6 sticky
: > "$(printf '%0255d' 0)"
mkdir -p "long/$(printf '%0200d' 1)/$(printf '%0200d' 2)/$(printf '%0200d' 3)"
echo deep > "long/$(printf '%0200d' 1)/$(printf '%0200d' 2)/$(printf '%0200d' 3)/file"
for n in $(seq 3000); do echo $n > many/$n; done
echo old > opaque/old; echo old > opaque/sub/old; echo x > gone/x; echo below > replaced
touch -d '2001-02-03 04:05:06.123456789' bin/tool
touch -d '1960-01-01 00:00:00' owned
"#;

/// Attributes: a capability whose value holds a newline and NULs, and plain ones.
const XATTRS: &str = "
import os, sys
os.chdir(sys.argv[1])
capability = bytes.fromhex('0100000200200000000a0000000000000000000000')[:20]
os.setxattr('bin/tool', 'security.capability', capability)
os.setxattr('sticky', 'trusted.note', b'of a directory')
";

/// A layer above: an opaque directory, whiteouts, a replacement.
const ABOVE: &str = r#"
set -e
mkdir -p "$1/opaque" "$1/many"
cd "$1"
: > opaque/.wh..wh..opq; echo new > opaque/new
: > .wh.gone; : > many/.wh.7
echo above > replaced
touch -d '2020-01-01' opaque many replaced .
"#;

/// Prints all that can be seen of each file below a folder.
const DESCRIBE: &str = "
import hashlib, os, stat, sys
os.chdir(sys.argv[1])
names, first = ['.'], {}
for folder, folders, files in os.walk('.'):
    names += [os.path.join(folder, name) for name in folders + files]
for name in sorted(names):
    s = os.lstat(name)
    line = [name, oct(s.st_mode), s.st_uid, s.st_gid, s.st_mtime_ns]
    if stat.S_ISREG(s.st_mode):
        with open(name, 'rb') as file:
            line += [s.st_nlink, s.st_size, hashlib.sha256(file.read()).hexdigest()]
        line.append(first.setdefault(s.st_ino, name))
    elif stat.S_ISLNK(s.st_mode):
        line.append(os.readlink(name))
    elif stat.S_ISCHR(s.st_mode) or stat.S_ISBLK(s.st_mode):
        line.append((os.major(s.st_rdev), os.minor(s.st_rdev)))
    for key in sorted(os.listxattr(name, follow_symlinks=False)):
        line.append((key, os.getxattr(name, key, follow_symlinks=False).hex()))
    print(*line)
";

fn shell(script: &str, folder: &str) {
    run(Command::new("sh").args(["-c", script, "sh", folder]));
}

fn python(script: &str, folder: &str) -> String {
    run(Command::new("python3").args(["-c", script, folder]))
}

const XATTR_OPTIONS: [&str; 2] = ["--xattrs", "--xattrs-include=*"];

fn pack_layer(folder: &str, layer: &str) {
    let mut tar = Command::new("tar");
    tar.args(XATTR_OPTIONS).args(["--format=pax", "--sparse", "--numeric-owner", "--sort=name"]);
    run(tar.args(["-C", folder, "-cf", layer, "."]));
}

fn extract(layer: &str, folder: &str) {
    let mut tar = Command::new("tar");
    tar.args(XATTR_OPTIONS).args(["--numeric-owner", "--same-owner", "-xp", "--exclude=.wh.*"]);
    run(tar.args(["-C", folder, "-f", layer]));
}

/// The description of an image; or why it cannot be mounted here.
fn mounted(rootfs: &str, folder: &str) -> Result<String, String> {
    let script = "mount -t erofs -o ro,loop \"$1\" \"$2\" || exit 99
        exec python3 -c \"$3\" \"$2\"";
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", script, "sh", rootfs, folder, DESCRIBE]);
    let done = Finished::of(command.output().map_err(|error| format!("unshare: {error}"))?);
    match done.code {
        0 => Ok(done.stdout),
        99 => Err(done.stderr),
        _ => panic!("{done:?}"),
    }
}

#[test]
fn a_rich_tree_arrives_as_tar_would_extract_it() {
    if !nix::unistd::geteuid().is_root() {
        return skip("needs root: it makes devices and mounts an image");
    }
    let lab = Lab::new();
    for folder in ["tree", "above", "expected", "mounted"] {
        fs::create_dir(lab.path(folder)).unwrap();
    }
    let (below, above) = (lab.text("below.tar"), lab.text("above.tar"));
    shell(TREE, &lab.text("tree"));
    python(XATTRS, &lab.text("tree"));
    pack_layer(&lab.text("tree"), &below);
    shell(ABOVE, &lab.text("above"));
    pack_layer(&lab.text("above"), &above);

    let archive =
        lab.pack("rich.tar", &["--name", "rich", "--compress", "zstd"], &[&below, &above]);
    lab.load(&archive).gives(0, "Loaded image: rich:latest\n");
    let image = lab.store().get("rich").unwrap();
    assert!(image.size < 16 << 20, "holes take room: {} bytes", image.size);

    let expected = lab.text("expected");
    extract(&below, &expected);
    shell("cd \"$1\" && rm -r gone opaque/* many/7", &expected);
    extract(&above, &expected);
    let expected = python(DESCRIBE, &expected);
    for part in ["security.capability", "trusted.note", "./opaque/new", "70000 4000000000"] {
        assert!(expected.contains(part), "the tree lacks {part}");
    }
    let found = match mounted(image.rootfs.to_str().unwrap(), &lab.text("mounted")) {
        Ok(found) => found,
        Err(reason) => return skip(&format!("needs to mount EROFS: {}", reason.trim())),
    };
    let (expected, found): (Vec<_>, Vec<_>) = (expected.lines().collect(), found.lines().collect());
    let differ: Vec<_> = expected.iter().zip(&found).filter(|(a, b)| a != b).take(5).collect();
    assert!(differ.is_empty(), "{differ:#?}");
    assert_eq!(expected.len(), found.len());
}
