/* FUSE messages, written by hand. The test shares a folder with: a file `file`, a folder `folder`, a fifo
 * `fifo`, a socket `socket`, and the symbolic links `root` and `cwd` (magic links of /proc), `up` (..),
 * `passwd` (/etc/passwd). */
#include "attacks.h"

#define ROOT 1
#define LOOKUP 1
#define FORGET 2
#define GETATTR 3
#define SETATTR 4
#define READLINK 5
#define SYMLINK 6
#define MKNOD 8
#define MKDIR 9
#define UNLINK 10
#define RMDIR 11
#define RENAME 12
#define LINK 13
#define OPEN 14
#define READ 15
#define WRITE_FILE 16
#define STATFS 17
#define RELEASE 18
#define SETXATTR 21
#define GETXATTR 22
#define LISTXATTR 23
#define INIT 26
#define OPENDIR 27
#define READDIR 28
#define CREATE 35
#define DESTROY 38
#define BATCH_FORGET 42
#define FALLOCATE 43
#define READDIRPLUS 44
#define RENAME2 45
#define LSEEK 46
#define COPY_FILE_RANGE 47

#define MESSAGE BUFFERS
#define BODY (MESSAGE + 40)
#define ANSWER (BUFFERS + 0x400000)
#define ROOM 0x101000

#define ENOSYS 38
#define ENFILE 23

/* Sends the message, whose body is in place and says that it has `claimed` bytes. The answer's error, above
 * 0; 0 where there is none; ~0 where there is no answer. */
static u32 message(struct device *fs, u32 opcode, u64 node, u32 body, u32 claimed, u32 room)
{
    struct queue *queue = &fs->queues[1];
    write32(MESSAGE, 40 + claimed);
    write32(MESSAGE + 4, opcode);
    write64(MESSAGE + 8, 4711);
    write64(MESSAGE + 16, node);
    zero(MESSAGE + 24, 16);
    zero(ANSWER, 16);
    describe(queue->table, 0, MESSAGE, 40 + body, room ? NEXT : 0, 1);
    describe(queue->table, 1, ANSWER, room, WRITE, 0);
    u32 written = exchange(fs, 1);
    cases++;
    if (written < 16)
        return ~0u;
    if (written > room || read32(ANSWER) != written || read64(ANSWER + 8) != 4711)
        fail("an answer that is none", opcode, written);
    return -read32(ANSWER + 4);
}

static u32 ask(struct device *fs, u32 opcode, u64 node, u32 body)
{
    return message(fs, opcode, node, body, body, ROOM);
}

static void mount(struct device *fs)
{
    set_up(fs);
    zero(BODY, 64);
    write32(BODY, 7);
    write32(BODY + 4, 31);
    /* All but the one that says that the message goes on. */
    write32(BODY + 12, ~(1u << 30));
    if (ask(fs, INIT, 0, 16))
        fail("a file system is not mounted", read32(ANSWER + 4), 0);
}

u32 fs_getattr_root(struct device *fs)
{
    mount(fs);
    zero(BODY, 16);
    return ask(fs, GETATTR, ROOT, 16);
}

/* A node; 0 where there is none of that name. */
static u64 lookup(struct device *fs, u64 parent, const char *name)
{
    copy(BODY, name, length(name) + 1);
    return ask(fs, LOOKUP, parent, length(name) + 1) ? 0 : read64(ANSWER + 16);
}

static u32 open(struct device *fs, u64 node, u32 opcode, u32 flags)
{
    write32(BODY, flags);
    write32(BODY + 4, 0);
    return ask(fs, opcode, node, 8);
}

void fs_messages(void)
{
    struct device *fs = device_of(FS);
    mount(fs);
    u32 lies[] = {~0u - 39, ~0u - 40, 1, 1 << 20, 0x7fffffff};
    for (u32 opcode = 0; opcode < 64; opcode++) {
        if (opcode == DESTROY)
            continue;
        /* Shorter than they say, bodies that are missing, answers without room. */
        for (u64 n = 0; n < sizeof lies / sizeof *lies; n++)
            if (!message(fs, opcode, ROOT, 0, lies[n], ROOM))
                fail("a message that lies about its length", opcode, lies[n]);
        for (u32 body = 1; body < 60; body += 7)
            message(fs, opcode, ROOT, body, body, ROOM);
        for (u32 room = 0; room < 40; room += 5)
            message(fs, opcode, ROOT, 64, 64, room);
    }
    /* Messages that are shorter than their header get no answer. */
    for (u32 bytes = 1; bytes < 40; bytes++) {
        describe(fs->queues[1].table, 0, MESSAGE, bytes, NEXT, 1);
        describe(fs->queues[1].table, 1, ANSWER, ROOM, WRITE, 0);
        if (exchange(fs, 1))
            fail("half a header is answered", bytes, 0);
        cases++;
    }
    /* Sizes without sense, of an open file and an open folder. */
    u32 sizes[] = {0, 1, 0x100001, 0x7fffffff, 0x80000000, 0xfffffff0, 0xffffffff};
    u64 file = lookup(fs, ROOT, "file");
    if (!file || open(fs, file, OPEN, 2))
        fail("a file does not open", file, 0);
    u64 handle = read64(ANSWER + 16);
    if (open(fs, ROOT, OPENDIR, 0))
        fail("a folder does not open", 0, 0);
    u64 folder = read64(ANSWER + 16);
    u32 kinds[] = {READ, READDIR, READDIRPLUS, WRITE_FILE};
    for (u64 n = 0; n < sizeof sizes / sizeof *sizes; n++)
        for (u64 kind = 0; kind < 4; kind++)
            for (int far = 0; far < 3; far++) {
                u64 of_file = kinds[kind] == READ || kinds[kind] == WRITE_FILE;
                zero(BODY, 64);
                write64(BODY, of_file ? handle : folder);
                write64(BODY + 8, far == 2 ? ~0ul : far ? 1ul << 62 : 0);
                write32(BODY + 16, sizes[n]);
                message(fs, kinds[kind], of_file ? file : ROOT, 60, 60, far ? 4096 : ROOM);
            }
    u32 xattrs[] = {GETXATTR, LISTXATTR, SETXATTR};
    for (u64 n = 0; n < sizeof sizes / sizeof *sizes; n++)
        for (int kind = 0; kind < 3; kind++) {
            zero(BODY, 64);
            write32(BODY, sizes[n]);
            copy(BODY + 8, "user.name", 10);
            ask(fs, xattrs[kind], file, 40);
        }
    /* As many nodes to forget as there cannot be. */
    u32 counts[] = {1, 2, 0xffff, 0x10000000, 0xffffffff};
    for (u64 n = 0; n < sizeof counts / sizeof *counts; n++) {
        write32(BODY, counts[n]);
        write32(BODY + 4, 0);
        ask(fs, BATCH_FORGET, 0, 8 + 16);
    }
    for (int n = 0; n < 1200; n++) {
        u32 body = below(120);
        for (u32 at = 0; at < body; at += 8)
            write64(BODY + at, below(3) ? awkward() : below(4));
        u32 opcode = below(52);
        /* What it would allocate is the host's disk. */
        if (opcode == FALLOCATE || opcode == DESTROY)
            continue;
        message(fs, opcode, below(2) ? ROOT : below(2) ? file : awkward(), body, body, below(2) ? ROOM : below(400));
    }
    /* Mounted twice, and used after its end. */
    mount(fs);
    zero(BODY, 64);
    write32(BODY, 7);
    write32(BODY + 4, 31);
    for (int n = 0; n < 50; n++)
        ask(fs, INIT, 0, 16);
    ask(fs, DESTROY, 0, 0);
    zero(BODY, 16);
    ask(fs, GETATTR, ROOT, 16);
}

static const char *const names[] = {
    "", ".", "..", "../", "../secret", "/", "//", "/etc/passwd", "folder/file", "folder/../../secret", "./file",
    "/proc/self/root", "file/", "..\\..", "\n/x",
};

/* A message's body that is two names, or one, behind `before` bytes. */
static u32 body_of(u32 before, const char *one, const char *two)
{
    u64 at = BODY + before;
    copy(at, one, length(one) + 1);
    at += length(one) + 1;
    if (two) {
        copy(at, two, length(two) + 1);
        at += length(two) + 1;
    }
    return at - BODY;
}

static void refused(u32 error, const char *what, u64 n)
{
    if (!error || error == ~0u)
        fail(what, n, error);
}

static void names_refused(struct device *fs, const char *name, u64 n)
{
    static const struct {
        u8 opcode, before;
    } of_one[] = {{LOOKUP, 0}, {MKNOD, 16}, {MKDIR, 8}, {UNLINK, 0}, {RMDIR, 0}, {CREATE, 16}};
    for (u64 i = 0; i < sizeof of_one / sizeof *of_one; i++) {
        zero(BODY, 32);
        u32 body = body_of(of_one[i].before, name, 0);
        refused(ask(fs, of_one[i].opcode, ROOT, body), "a name that leads elsewhere", n * 100 + of_one[i].opcode);
    }
    zero(BODY, 32);
    refused(ask(fs, SYMLINK, ROOT, body_of(0, name, "/etc")), "a link of that name", n);
    write64(BODY, ROOT);
    refused(ask(fs, RENAME, ROOT, body_of(8, name, "there")), "moved from elsewhere", n);
    write64(BODY, ROOT);
    refused(ask(fs, RENAME, ROOT, body_of(8, "file", name)), "moved elsewhere", n);
    zero(BODY, 32);
    write64(BODY, ROOT);
    refused(ask(fs, RENAME2, ROOT, body_of(16, "file", name)), "moved elsewhere", n);
    u64 file = lookup(fs, ROOT, "file");
    write64(BODY, file);
    refused(ask(fs, LINK, ROOT, body_of(8, name, 0)), "linked elsewhere", n);
}

void fs_names(void)
{
    struct device *fs = device_of(FS);
    mount(fs);
    /* Backslashes and line ends are letters like others: such a name is only not there. */
    const u64 count = sizeof names / sizeof *names;
    for (u64 n = 0; n < count; n++) {
        if (names[n][0] == '.' && names[n][2] == '\\')
            continue;
        names_refused(fs, names[n], n);
    }
    /* Names that do not end, or go on behind their end, and are too long. */
    for (u32 bytes = 1; bytes < 5000; bytes = bytes * 2 + 1) {
        for (u32 n = 0; n < bytes; n++)
            write8(BODY + n, 'a');
        refused(ask(fs, LOOKUP, ROOT, bytes), "a name without an end", bytes);
        write8(BODY + bytes, 0);
        refused(ask(fs, LOOKUP, ROOT, bytes + 1), "a name that there is not", bytes);
    }
    copy(BODY, "file\0/../secret", 16);
    ask(fs, LOOKUP, ROOT, 16);
    /* Symbolic links are the guest's to follow. */
    const char *links[] = {"root", "cwd", "up", "passwd"};
    for (int n = 0; n < 4; n++) {
        u64 node = lookup(fs, ROOT, links[n]);
        if (!node)
            fail("a link is not there", n, 0);
        for (u32 flags = 0; flags < 3; flags++) {
            refused(open(fs, node, OPEN, flags), "a link is opened", n);
            refused(open(fs, node, OPENDIR, flags), "a link is opened as a folder", n);
        }
        refused(open(fs, node, OPEN, 0x200000), "a link is opened as a path", n);
        copy(BODY, "etc", 4);
        refused(ask(fs, LOOKUP, node, 4), "a link is looked into", n);
        zero(BODY, 32);
        refused(ask(fs, CREATE, node, body_of(16, "made", 0)), "something is made behind a link", n);
        zero(BODY, 32);
        refused(ask(fs, CREATE, ROOT, body_of(16, links[n], 0)), "a link is opened by making it", n);
    }
    /* What would block, or is a device of the host. */
    const char *odd[] = {"fifo", "socket"};
    for (int n = 0; n < 2; n++) {
        u64 node = lookup(fs, ROOT, odd[n]);
        if (!node)
            fail("a file is not there", n, 0);
        for (u32 flags = 0; flags < 3; flags++)
            refused(open(fs, node, OPEN, flags), "what is no file is opened", n);
        zero(BODY, 32);
        refused(ask(fs, CREATE, ROOT, body_of(16, odd[n], 0)), "what is no file is opened by making it", n);
    }
}

void fs_forged(void)
{
    struct device *fs = device_of(FS);
    static const u8 of_handles[] = {READ, WRITE_FILE, RELEASE, READDIR, READDIRPLUS, LSEEK, 20, 25, 29, 30};
    mount(fs);
    u64 file = lookup(fs, ROOT, "file");
    if (!file || open(fs, file, OPEN, 0))
        fail("a file does not open", file, 0);
    u64 handle = read64(ANSWER + 16);
    for (int n = 0; n < 500; n++) {
        u64 node = awkward();
        /* Nodes that were never told, with any handle; and told ones with handles that were not. */
        int of_node = below(2);
        if (node == ROOT || node == file)
            continue;
        u64 forged = awkward();
        if (forged == handle)
            continue;
        zero(BODY, 64);
        write64(BODY, of_node ? handle : forged);
        /* Behind "." and "..", which every folder has. */
        write64(BODY + 8, 3);
        write32(BODY + 16, 64);
        u8 opcode = of_handles[below(sizeof of_handles)];
        refused(ask(fs, opcode, of_node ? node : file, 60), "what was forged", opcode);
        zero(BODY, 64);
        refused(ask(fs, GETATTR, node, 16), "a forged node", node);
        refused(open(fs, node, OPEN, 0), "a forged node is opened", node);
        copy(BODY, "x", 2);
        refused(ask(fs, LOOKUP, node, 2), "a forged folder", node);
    }
    /* Forgotten more often than it was told, and used afterwards. */
    for (int n = 0; n < 100; n++) {
        write64(BODY, awkward());
        ask(fs, FORGET, below(2) ? file : ROOT, 8);
    }
    zero(BODY, 16);
    refused(ask(fs, GETATTR, file, 16), "a forgotten node", file);
    /* Given back twice. */
    mount(fs);
    file = lookup(fs, ROOT, "file");
    open(fs, file, OPEN, 0);
    handle = read64(ANSWER + 16);
    for (int n = 0; n < 3; n++) {
        zero(BODY, 64);
        write64(BODY, handle);
        u32 error = ask(fs, RELEASE, file, 24);
        if (!error != !n)
            fail("a handle is given back", n, error);
    }
    /* What another mount knew. */
    mount(fs);
    zero(BODY, 16);
    refused(ask(fs, GETATTR, file, 16), "a node of the mount before", file);
}

/* Knows and opens more and more, and lets go of nothing. */
void fs_exhaust(void)
{
    struct device *fs = device_of(FS);
    mount(fs);
    u64 file = lookup(fs, ROOT, "file");
    for (int n = 0; n < 1500; n++) {
        u32 error = n & 1 ? open(fs, ROOT, OPENDIR, 0) : open(fs, file, OPEN, 0);
        if (error && error != ENFILE)
            fail("an open fails", n, error);
        lookup(fs, ROOT, "file");
    }
    hold();
    /* Nothing of it outlives the driver. */
    set_up(fs);
}
