"""Programs of a guest for the virtio targets: see fuzz/src/guest.rs for their form."""

import struct

DATA = 0x10000
BROKEN, WRITABLE, INDIRECT = 4, 1, 2
NONE = 0
ALL = 0xFFFFFFFF


class Program:
    """Steps, written one behind the other."""

    def __init__(self, begin=b""):
        self.bytes = begin
        self.place = DATA

    def step(self, number, form="", *operands, tail=b""):
        self.bytes += struct.pack("<B" + form, number, *operands) + tail
        return self

    def write(self, register, value, width=4):
        return self.step(0, "HBQ", register, width, value)

    def read(self, register, width=4):
        return self.step(1, "HB", register, width)

    def store(self, address, data):
        return self.step(2, "IH", address, len(data), tail=data)

    def kick(self, queue):
        return self.step(3, "B", queue)

    def settle(self):
        return self.step(4)

    def start(self, features=ALL, smaller=0):
        return self.step(5, "IB", features, smaller)

    def offer(self, queue, *buffers):
        """Each buffer: address, length, kind."""
        tail = b"".join(struct.pack("<IIB", *buffer) for buffer in buffers)
        return self.step(6, "BB", queue, len(buffers) - 1, tail=tail)

    def available(self, queue, index):
        return self.step(7, "BH", queue, index)

    def host(self, data):
        return self.step(8, "H", len(data), tail=data)

    def restore(self, *patches):
        tail = b"".join(struct.pack("<HB", *patch) for patch in patches)
        return self.step(9, "B", len(patches), tail=tail)

    def put(self, data):
        """Stores data at the next free place, and tells where."""
        at = self.place
        self.store(at, data)
        self.place += (len(data) + 63) // 64 * 64
        return at

    def send(self, queue, data, *more):
        """Offers data to be read, then these buffers."""
        return self.offer(queue, (self.put(data), len(data), NONE), *more)

    def take(self, length):
        """A buffer to be written, at the next free place."""
        at = self.place
        self.place += (length + 63) // 64 * 64
        return (at, length, WRITABLE)


def indirect(program, *buffers):
    """A table of its own, for these buffers."""
    table = b"".join(
        struct.pack("<QIHH", at, length, (n + 1 < len(buffers)) | (kind & 1) << 1, n + 1)
        for n, (at, length, kind) in enumerate(buffers)
    )
    return (program.put(table), len(table), INDIRECT)


def rng():
    yield "filled", Program().start().offer(0, (DATA, 64, WRITABLE), (0x2FFF00, 5000, WRITABLE)).settle().bytes
    p = Program().start(smaller=2).offer(0, (DATA, 64, NONE)).offer(0, (0x200000, 8, WRITABLE)).settle()
    yield "refused", p.available(0, 77).kick(0).settle().read(0x70).bytes
    yield "restored", Program().start().offer(0, (0xFFFF0, 32, WRITABLE)).restore().settle().restore((2, 255)).bytes


def balloon():
    frames = struct.pack("<6I", 0x100, 0x101, 0x103, 0x1FF, 0x300, 0xFFFFFFFF)
    p = Program().start().host(struct.pack("<I", 1000)).read(0x100).write(0x104, 6).send(0, frames).settle()
    yield "inflated", p.send(1, frames[:8]).settle().restore().bytes
    p = Program().start().offer(2, (0x100000, 0x4000, WRITABLE), (0x300000, 0x1000, WRITABLE)).settle()
    yield "reported", p.offer(2, (0x200000, 0x4000, WRITABLE)).offer(2, (0x1FF800, 0x900, WRITABLE)).settle().bytes
    p = Program().start(0).send(0, bytes(2800)).settle()
    yield "pieces", p.offer(0, (DATA, 3, NONE), (DATA + 3, 9, NONE), indirect(p, (DATA, 8, NONE))).settle().bytes


def block():
    def request(p, kind, sector, *buffers):
        return p.send(0, struct.pack("<IIQ", kind, 0, sector), *buffers, p.take(1))

    for name, begin in [("writable", b"\0"), ("read-only", b"\1")]:
        p = Program(begin).start()
        request(p, 1, 0, (p.put(b"x" * 512), 512, NONE))
        request(p, 0, 0, p.take(1024), p.take(512)).settle()
        request(p, 8, 0, p.take(20))
        request(p, 4, 0).settle()
        yield name, p.restore().settle().bytes
    p = Program(b"\0").start()
    for kind in (11, 13):
        ranges = struct.pack("<QIIQII", 8, 16, 0, 128, 1, 1)
        request(p, kind, 0, (p.put(ranges), len(ranges), NONE))
    request(p, 0, 127, p.take(512))
    yield "ranges", request(p, 0, 128, p.take(1024)).settle().bytes
    p = Program(b"\0").start(smaller=4)
    head = (p.put(struct.pack("<IIQ", 0, 0, 1)), 16, NONE)
    p.offer(0, indirect(p, head, p.take(512), p.take(1)))
    p.offer(0, head, p.take(512), (p.place, 1, WRITABLE | BROKEN)).host(struct.pack("<I", 700)).settle()
    yield "indirect", request(p, 1, 2, (DATA, 4096, NONE)).restore((3, 1), (9, 200)).settle().bytes


def net():
    tap, stream, several, several_stream = b"\0", b"\1", b"\2", b"\3"
    header = struct.pack("<BBHHHHH", 1, 1, 54, 1000, 34, 6, 0)
    for name, kind in [("both-ways", tap), ("pairs", several)]:
        p = Program(kind).start()
        for _ in range(3):
            p.offer(0, p.take(1600))
        p.send(1, bytes(12) + b"frame" * 12).host(bytes(12) + b"answer" * 40).settle()
        p.send(1, header + bytes(1400)).host(header + bytes(1500)).settle()
        if kind == several:
            p.send(4, b"\4\0\2\0", p.take(1)).settle().send(3, bytes(100)).host(bytes(90)).settle()
        yield name, p.restore().host(bytes(80)).settle().bytes
    p = Program(tap).start()
    p.offer(0, p.take(20)).offer(0, p.take(100)).host(bytes(200)).settle()
    yield "merged", p.offer(1, (DATA, 5, NONE)).offer(1, (DATA, 12, NONE), (DATA, 70000, NONE)).settle().bytes
    p = Program(tap).start(0).offer(0, p.take(12), p.take(1600)).host(bytes(60)).settle()
    yield "plain", p.offer(1, indirect(p, (DATA, 12, NONE), (DATA, 60, NONE))).settle().bytes

    ipv4 = bytes.fromhex("0800450000000000400040060000 0a0000010a000002".replace(" ", ""))
    tcp = bytes(12) + b"\x50\x18" + bytes(6)
    long = bytes(12) + ipv4 + tcp + b"payload" * 200
    cut = struct.pack("<BBHHHHH", 1, 1, 54, 500, 34, 16, 0)
    checksum = struct.pack("<BBHHHHH", 1, 0, 0, 0, 34, 16, 0)
    for name, kind in [("stream", stream), ("stream-pairs", several_stream)]:
        p = Program(kind).start()
        for _ in range(3):
            p.offer(0, p.take(1600))
        p.send(1, checksum + long[:200]).send(1, cut + long).settle()
        p.host(b"\0\0").host(b"\0\x3c" + bytes(50)).settle().host(bytes(10) + b"\0\0\0\x20").settle()
        if kind == several_stream:
            p.send(4, b"\4\0\2\0", p.take(1)).send(3, bytes(100)).settle()
        p.restore().host(b"\0\2\0\0" + bytes(30)).settle().host(b"").settle()
        yield name, p.send(1, bytes(100)).settle().bytes


def vsock():
    first_port = 1 << 30

    def packet(op, source=70, target=1024, payload=b"", flags=0, kind=1):
        return struct.pack("<QQIIIHHIII", 3, 2, source, target, len(payload), kind, op, flags, 65536, 0) + payload

    def ready():
        p = Program().start(0)
        for _ in range(8):
            p.offer(0, p.take(2048))
        return p.offer(2, p.take(4))

    connect, accept, close, write, read, end = 0, 1, 2, 3, 4, 5
    p = ready().send(1, packet(1)).settle().host(bytes([0, accept])).send(1, packet(5, payload=b"hello"))
    p.settle().host(bytes([0, read])).host(bytes([0, write]) + b"answer").settle()
    p.send(1, packet(7)).send(1, packet(6)).host(bytes([0, end])).settle()
    yield "guest-connects", p.send(1, packet(4, flags=3)).settle().bytes
    p = ready().host(bytes([1, connect])).host(bytes([1, write]) + b"CONNECT 52\nmore").settle()
    p.send(1, packet(2, 52, first_port)).settle().host(bytes([1, read])).settle()
    p.send(1, packet(5, 52, first_port, b"x" * 100)).settle().host(bytes([1, close])).settle()
    yield "client-connects", p.restore().settle().send(1, packet(3, 52, first_port)).settle().bytes
    p = ready().send(1, packet(1, kind=2)).send(1, packet(9)).send(1, packet(1, target=9)).settle()
    p.host(bytes([2, connect])).host(bytes([2, write]) + b"GET /\n").settle()
    yield "refused", p.send(1, packet(5, payload=bytes(10))[:-3]).offer(1, (DATA, 20, NONE)).settle().bytes


def fs():
    def message(opcode, node, body, unique=[0]):
        unique[0] += 1
        return struct.pack("<IIQQIIII", 40 + len(body), opcode, unique[0], node, 0, 0, 1, 0) + body

    def ask(p, opcode, node, body, room=400, queue=1):
        return p.send(queue, message(opcode, node, body), p.take(room)).settle()

    def mounted(begin=b"\0"):
        return ask(Program(begin).start(), 26, 0, struct.pack("<IIII", 7, 38, 0x20000, 0xBFFFFFFF))

    # The first node that is looked up is 2, the first handle 1: as fuse-backend-rs counts.
    p = ask(mounted(), 1, 1, b"file\0")
    ask(p, 3, 2, struct.pack("<QQ", 0, 0))
    ask(p, 14, 2, struct.pack("<II", 2, 0))
    ask(p, 15, 2, struct.pack("<QQIIQII", 1, 0, 100, 0, 0, 0, 0))
    ask(p, 16, 2, struct.pack("<QQIIQII", 1, 0, 3, 0, 0, 0, 0) + b"new")
    ask(p, 18, 2, struct.pack("<QIIQ", 1, 0, 0, 0))
    yield "file", p.send(0, message(2, 2, struct.pack("<Q", 1))).settle().bytes
    p = ask(mounted(), 27, 1, struct.pack("<II", 0, 0))
    ask(p, 28, 1, struct.pack("<QQIIQII", 1, 0, 300, 0, 0, 0, 0))
    ask(p, 44, 1, struct.pack("<QQIIQII", 1, 0, 1000, 0, 0, 0, 0), 1100)
    yield "folder", ask(p, 29, 1, struct.pack("<QIIQ", 1, 0, 0, 0)).host(b"\3").bytes
    p = ask(mounted(), 35, 1, struct.pack("<IIII", 2, 0o100644, 0, 0) + b"created\0")
    ask(p, 9, 1, struct.pack("<II", 0o755, 0) + b"new\0")
    ask(p, 6, 1, b"symbolic\0target\0")
    ask(p, 12, 1, struct.pack("<Q", 1) + b"created\0other\0")
    ask(p, 45, 1, struct.pack("<QII", 1, 2, 0) + b"file\0folder\0")
    ask(p, 10, 1, b"other\0")
    ask(p, 11, 1, b"new\0")
    yield "names", ask(p, 8, 1, struct.pack("<IIII", 0o10644, 0, 0, 0) + b"fifo\0").bytes
    p = ask(ask(mounted(), 1, 1, b"link\0"), 5, 2, b"")
    ask(p, 4, 2, struct.pack("<IIQQQQQQIIIIIIII", 1 | 8, 0, 0, 100, 0, 0, 0, 0, 0, 0, 0, 0o600, 0, 0, 0, 0))
    ask(p, 21, 2, struct.pack("<II", 3, 0) + b"user.a\0red")
    ask(p, 22, 2, struct.pack("<II", 100, 0) + b"user.a\0")
    ask(p, 23, 2, struct.pack("<II", 100, 0))
    ask(p, 24, 2, b"user.a\0")
    ask(p, 43, 2, struct.pack("<QQQII", 1, 0, 4096, 0, 0))
    ask(p, 17, 1, b"")
    yield "attributes", ask(p, 46, 2, struct.pack("<QQII", 1, 0, 0, 0)).bytes
    p = ask(mounted(b"\1"), 1, 1, b"..\0").host(b"\4")
    ask(p, 1, 1, b"folder\0")
    ask(p, 9, 1, struct.pack("<II", 0o755, 0) + b"new\0")
    ask(p, 42, 0, struct.pack("<II", 1, 0) + struct.pack("<QQ", 2, 1))
    every = mounted()
    for opcode in range(3, 53):
        every.send(1, message(opcode, 1, struct.pack("<QQQQQ", 1, 0, 64, 1, 5) + b"name\0other\0"), every.take(200))
    yield "every-opcode", every.settle().bytes
    yield "read-only", ask(p, 38, 0, b"").restore().settle().bytes


PROGRAMS = {"rng": rng, "balloon": balloon, "block": block, "net": net, "vsock": vsock, "fs": fs}
