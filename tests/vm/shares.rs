//! Directories of the host as the guest's file systems.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::machine::{Machine, hash, random_file, script_said, tool};
use crate::needs_sandboxes;
use crate::support::{Finished, code, read_until};

const BOTH_SIDES: &str = "\
mount -t virtiofs files /mnt
cd /mnt
sha256sum < from-host
dd if=/dev/urandom of=from-guest bs=64k count=40 2> /dev/null
sha256sum < from-guest
ln from-guest hard
ln -s /etc/passwd link
ln -s ../secret up
mkdir dir; echo moved > dir/file; mv dir/file dir/renamed
mkfifo fifo
touch owned; chown 1234:5678 owned; chmod 4750 owned
cat link up 2>&1 | sed 's/.*: //'
echo written
read -r line
cat changed
ls -a1
cd /; umount /mnt
mount -t virtiofs files /mnt && echo again
mount -t virtiofs nothing /tmp 2> /dev/null || echo no such share
poweroff -f
";

#[test]
fn both_sides_see_what_the_other_writes_and_nothing_else() {
    needs_sandboxes!();
    let machine = Machine::new(BOTH_SIDES);
    let share = machine.path("share");
    fs::create_dir(&share).unwrap();
    fs::write(machine.path("secret"), "secret\n").unwrap();
    let held = random_file(&share.join("from-host"), 3 << 20);

    let mut child = machine.spawn(&["--serial", "--share", "tag=files,path=share"]);
    let mut stdout = child.stdout.take().unwrap();
    let before = read_until(&mut stdout, "written\n");
    let written = fs::read(share.join("from-guest")).unwrap();
    assert_eq!(written.len(), 40 * 64 * 1024);
    let missing = "No such file or directory";
    let expected =
        format!("{}  -\n{}  -\n{missing}\n{missing}\nwritten\n", hash(&held), hash(&written));
    assert_eq!(before, expected);
    let meta = |name: &str| fs::symlink_metadata(share.join(name)).unwrap();
    assert_eq!((meta("hard").ino(), meta("hard").nlink()), (meta("from-guest").ino(), 2));
    assert_eq!(fs::read_link(share.join("link")).unwrap(), Path::new("/etc/passwd"));
    assert_eq!(fs::read_to_string(share.join("dir/renamed")).unwrap(), "moved\n");
    assert_eq!(meta("fifo").mode() & libc::S_IFMT, libc::S_IFIFO);
    let owned = meta("owned");
    assert_eq!((owned.uid(), owned.gid(), owned.mode() & 0o7777), (1234, 5678, 0o4750));

    fs::write(share.join("changed"), "by the host\n").unwrap();
    fs::remove_file(share.join("from-host")).unwrap();
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    let mut after = String::new();
    stdout.read_to_string(&mut after).unwrap();
    assert_eq!(code(child.wait().unwrap()), 0, "{after}");
    let names = ".\n..\nchanged\ndir\nfifo\nfrom-guest\nhard\nlink\nowned\nup\n";
    let expected = format!("by the host\n{names}again\nno such share\n");
    assert_eq!(script_said(&after), expected);
}

/// What shell commands cannot ask for: run by the host's own Python, off a read-only share.
const CHECK: &str = r#"
import ctypes, errno, fcntl, mmap, os, socket, struct
os.chdir("/mnt")
libc = ctypes.CDLL(None, use_errno=True)

def refused(number, call, *args):
    try:
        call(*args)
    except OSError as error:
        assert error.errno == number, error
    else:
        raise AssertionError(number)

def make(name, content=b""):
    with open(name, "wb") as file:
        file.write(content)

# extended attributes
make("file", b"0123456789" * 1000)
os.setxattr("file", "user.colour", b"red")
os.setxattr("file", "user.thing", b"\0\1")
assert sorted(os.listxattr("file")) == ["user.colour", "user.thing"]
refused(errno.EEXIST, os.setxattr, "file", "user.colour", b"x", os.XATTR_CREATE)
os.removexattr("file", "user.thing")
# What takes a right over the host.
refused(errno.EPERM, os.setxattr, "file", "trusted.colour", b"red")

# a process's locks keep others out, of both kinds
with open("file", "r+b") as file:
    fcntl.lockf(file, fcntl.LOCK_EX, 100, 0)
    fcntl.flock(file, fcntl.LOCK_EX)
    child = os.fork()
    if child == 0:
        with open("file", "r+b") as other:
            refused(errno.EAGAIN, fcntl.lockf, other, fcntl.LOCK_EX | fcntl.LOCK_NB, 100, 50)
            fcntl.lockf(other, fcntl.LOCK_EX | fcntl.LOCK_NB, 100, 100)
            refused(errno.EAGAIN, fcntl.flock, other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0

# shared mappings
with open("file", "r+b") as file, mmap.mmap(file.fileno(), 0) as one:
    one[5000:5005] = b"HELLO"
    one.flush()
    with open("file", "rb") as other:
        other.seek(5000)
        assert other.read(5) == b"HELLO"

# around the page cache
page = mmap.mmap(-1, 8192)
page[:] = b"d" * 8192
direct = os.open("direct", os.O_RDWR | os.O_CREAT | os.O_DIRECT)
assert os.writev(direct, [page]) == 8192
assert os.preadv(direct, [page], 4096) == 4096
os.close(direct)

# holes
with open("sparse", "wb") as file:
    file.truncate(64 << 20)
    file.seek(32 << 20)
    file.write(b"x" * 4096)
    file.flush()
    assert os.lseek(file.fileno(), 0, os.SEEK_DATA) == 32 << 20
    assert os.lseek(file.fileno(), 32 << 20, os.SEEK_HOLE) == (32 << 20) + 4096
    os.posix_fallocate(file.fileno(), 0, 8192)
    PUNCH_KEEP = 3
    assert libc.fallocate(file.fileno(), PUNCH_KEEP, ctypes.c_long(0), ctypes.c_long(8192)) == 0
assert os.stat("sparse").st_blocks < 1000

# renames
make("a", b"a"); make("b", b"b")
NOREPLACE, EXCHANGE = 1, 2
assert libc.renameat2(-100, b"a", -100, b"b", NOREPLACE) == -1
assert ctypes.get_errno() == errno.EEXIST
assert libc.renameat2(-100, b"a", -100, b"b", EXCHANGE) == 0
assert open("a").read() == "b" and open("b").read() == "a"

# open, and gone
with open("a", "r+b") as file:
    os.unlink("a")
    file.write(b"still")
    file.flush()
    assert os.fstat(file.fileno()).st_nlink == 0
    file.seek(0)
    assert file.read() == b"still"

# other kinds of files
server = socket.socket(socket.AF_UNIX)
server.bind("socket"); server.listen()
client = socket.socket(socket.AF_UNIX); client.connect("socket")
refused(errno.EPERM, os.mknod, "null", 0o020666, os.makedev(1, 3))
os.mknod("whiteout", 0o020000, 0)
assert os.statvfs(".").f_blocks > 0

# many names
os.mkdir("many")
for i in range(1500):
    make("many/%d" % i)
assert len(os.listdir("many")) == 1500
names = {entry.name: entry.inode() for entry in os.scandir("many")}
assert names["7"] == os.stat("many/7").st_ino

# another user's files, suid gone after a write
os.chmod(".", 0o777)
child = os.fork()
if child == 0:
    os.setgroups([4321]); os.setgid(1234); os.setuid(1234)
    os.umask(0o027)
    make("users")
    os.mkdir("group-writable")
    refused(errno.EACCES, os.mkdir, "roots/new")
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
make("suid"); os.chmod("suid", 0o6777)
child = os.fork()
if child == 0:
    os.setgid(1234); os.setuid(1234)
    make("suid", b"replaced")
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert os.stat("suid").st_mode & 0o6000 == 0

# a watch on the guest's own doings
watch = libc.inotify_init()
libc.inotify_add_watch(watch, b".", 0x100)
make("watched")
event = os.read(watch, 4096)
assert event[16:].rstrip(b"\0") == b"watched", event

refused(errno.EROFS, open, "/etc/forbidden", "w")
print("all as it should be")
"#;

#[test]
fn a_share_does_what_a_file_system_does() {
    needs_sandboxes!();
    let script = "\
        mkdir /host; mount -t virtiofs host /host && mount -t virtiofs files /host/mnt\n\
        mount -t proc proc /host/proc\n\
        mkdir /host/mnt/roots; chroot /host /usr/bin/python3 /mnt/check.py 2>&1\n\
        poweroff -f\n";
    let machine = Machine::new(script);
    let share = machine.path("share");
    fs::create_dir(&share).unwrap();
    fs::write(share.join("check.py"), CHECK).unwrap();
    let options = [
        "--serial",
        "--memory",
        "256",
        "--share",
        "tag=files,path=share",
        "--share",
        "tag=host,path=/,ro",
    ];
    let finished = machine.output(&options);
    assert_eq!(script_said(&finished.stdout), "all as it should be\n", "{finished:?}");

    let meta = |name: &str| fs::symlink_metadata(share.join(name)).unwrap();
    assert_eq!((meta("users").uid(), meta("users").mode() & 0o777), (1234, 0o640));
    assert_eq!(fs::read(share.join("file")).unwrap()[5000..5005], *b"HELLO");
    assert!(fs::read(share.join("direct")).unwrap() == [b'd'; 8192]);
    assert!(meta("sparse").blocks() < 1000);
    assert_eq!(meta("socket").mode() & libc::S_IFMT, libc::S_IFSOCK);
    assert_eq!(meta("whiteout").rdev(), 0);
    let colour = Command::new("python3")
        .args(["-c", "import os; print(os.getxattr('share/file', 'user.colour').decode())"])
        .current_dir(share.parent().unwrap())
        .output()
        .unwrap();
    assert_eq!(colour.stdout, b"red\n", "{colour:?}");
}

const READ_ONLY: &str = "\
mount -t virtiofs files /mnt
cat /mnt/file /mnt/mounted/file
ls -di /mnt /mnt/mounted | wc -l
for at in /mnt /mnt/mounted; do
  { echo x > $at/file; echo x > $at/new; rm $at/file; chmod 777 $at/file; mkdir $at/dir; } 2>&1 |
    grep -c 'Read-only'
done
stat -c %d /mnt /mnt/mounted | sort -u | wc -l
poweroff -f
";

#[test]
fn a_read_only_share_is_so_with_all_that_is_mounted_below_it() {
    needs_sandboxes!();
    let machine = Machine::new(READ_ONLY);
    let share = machine.path("share");
    fs::create_dir_all(share.join("mounted")).unwrap();
    fs::write(share.join("file"), "above\n").unwrap();
    fs::set_permissions(&share, fs::Permissions::from_mode(0o777)).unwrap();
    tool(Command::new("mount").args(["-t", "tmpfs", "below"]).arg(share.join("mounted")));
    fs::write(share.join("mounted/file"), "below\n").unwrap();
    let finished = machine.output(&["--serial", "--share", "tag=files,path=share,ro"]);
    tool(Command::new("umount").arg(share.join("mounted")));
    // Two file systems for the guest too.
    assert_eq!(script_said(&finished.stdout), "above\nbelow\n2\n5\n5\n2\n", "{finished:?}");
    assert_eq!(fs::read_to_string(share.join("file")).unwrap(), "above\n");
}

#[test]
fn what_cannot_be_shared_is_named() {
    let machine = Machine::new("poweroff -f\n");
    fs::write(machine.path("file"), "").unwrap();
    for (share, expected) in [
        ("tag=t,path=missing", "missing"),
        ("tag=t,path=file", "file is not a directory"),
        ("tag=,path=.", "1 to 36 bytes"),
        ("path=.", "tag=NAME,path=DIR[,ro]"),
    ] {
        let finished = machine.output(&["--share", share]);
        assert_ne!(finished.code, 0, "{finished:?}");
        assert!(finished.stderr.contains(expected), "{share}: {finished:?}");
    }
}

const SNAPSHOT: &str = "\
echo ready
read -r line
mount -t virtiofs files /mnt && cat /mnt/file
echo mounted
read -r line
poweroff -f
";

#[test]
fn another_directory_is_plugged_into_a_restored_machine_until_it_is_mounted() {
    needs_sandboxes!();
    let machine = Machine::new(SNAPSHOT);
    for name in ["one", "two"] {
        fs::create_dir(machine.path(name)).unwrap();
        fs::write(machine.path(name).join("file"), format!("of {name}\n")).unwrap();
    }
    let verb = |verb, options: &[&str]| {
        Finished::of(machine.verb(verb, options).stdin(Stdio::null()).output().unwrap())
    };
    let options = ["--serial", "--control", "control", "--share", "tag=files,path=one"];
    let mut first = machine.spawn(&options);
    read_until(first.stdout.as_mut().unwrap(), "ready\n");
    let saved = verb("snapshot", &["--control", "control", "saved"]);
    assert_eq!(saved.code, 0, "{saved:?}");
    first.kill().unwrap();
    first.wait().unwrap();

    let share = ["--share", "tag=other,path=two"];
    let options = [&["--serial", "--control", "again"], share.as_slice(), &["saved"]].concat();
    let mut second = machine
        .verb("restore", &options)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = second.stdin.take().unwrap();
    stdin.write_all(b"\n").unwrap();
    let said = read_until(second.stdout.as_mut().unwrap(), "mounted\n");
    assert_eq!(said, "of two\nmounted\n");
    let refused = verb("snapshot", &["--control", "again", "other"]);
    assert_eq!(refused.code, 125, "{refused:?}");
    assert!(refused.stderr.contains("has mounted the share files"), "{refused:?}");
    stdin.write_all(b"\n").unwrap();
    assert_eq!(code(second.wait().unwrap()), 0);
    let missing = verb("restore", &["saved"]);
    assert!(missing.stderr.contains("1 shares, 0 were given"), "{missing:?}");
}
