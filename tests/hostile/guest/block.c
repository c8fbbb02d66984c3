/* Requests to disks: the second one is read-only. */
#include "attacks.h"

#define OK 0
#define IOERR 1
#define UNSUPP 2

#define HEADER BUFFERS
#define DATA (BUFFERS + 0x100000)
#define RESULT (BUFFERS + 0x800)

/* Header, then `bytes` of data that the disk writes to or reads, then the status: which is the answer. */
static u8 request(struct device *disk, u32 kind, u64 sector, u32 bytes, u16 flags)
{
    struct queue *queue = &disk->queues[0];
    write32(HEADER, kind);
    write32(HEADER + 4, chance());
    write64(HEADER + 8, sector);
    write8(RESULT, 0xee);
    describe(queue->table, 0, HEADER, 16, NEXT, bytes ? 1 : 2);
    describe(queue->table, 1, DATA, bytes, NEXT | flags, 2);
    describe(queue->table, 2, RESULT, 1, WRITE, 0);
    exchange(disk, 0);
    cases++;
    return read8(RESULT);
}

static void answers(u8 status, u8 expected, const char *what)
{
    if (status != expected)
        fail(what, status, expected);
}

/* One range of a discard or of zeroes. */
static void range(u64 n, u64 sector, u32 sectors, u32 flags)
{
    write64(DATA + 16 * n, sector);
    write32(DATA + 16 * n + 8, sectors);
    write32(DATA + 16 * n + 12, flags);
}

static void beyond_the_end(struct device *disk)
{
    u64 capacity = read64(disk->base + CONFIG);
    u64 sectors[] = {capacity, capacity - 1, capacity + 1, 1ul << 54, 1ul << 55, 1ul << 63, ~0ul, ~0ul - 1, ~0ul - 8};
    for (u64 n = 0; n < sizeof sectors / sizeof *sectors; n++) {
        answers(request(disk, 0, sectors[n], 1024, WRITE), IOERR, "a read beyond the end");
        answers(request(disk, 1, sectors[n], 1024, 0), IOERR, "a write beyond the end");
    }
}

void block_requests(void)
{
    for (int i = 0; i < device_count; i++) {
        struct device *disk = &devices[i];
        if (disk->type != BLOCK)
            continue;
        set_up(disk);
        int read_only = i > 0;
        beyond_the_end(disk);
        for (u32 bytes = 1; bytes < 1024; bytes += 97)
            answers(request(disk, 0, 0, bytes, WRITE), IOERR, "part of a sector");
        u32 kinds[] = {2, 3, 5, 7, 9, 10, 12, 14, 15, 17, 0x80000000, 0xffffffff};
        for (u64 n = 0; n < sizeof kinds / sizeof *kinds; n++)
            answers(request(disk, kinds[n], 0, 512, WRITE), UNSUPP, "a kind that there is not");
        if (read_only) {
            answers(request(disk, 1, 0, 512, 0), IOERR, "a write to a read-only disk");
            answers(request(disk, 11, 0, 16, 0), UNSUPP, "a discard of a read-only disk");
            answers(request(disk, 13, 0, 16, 0), UNSUPP, "zeroes on a read-only disk");
        } else {
            u64 capacity = read64(disk->base + CONFIG);
            for (u32 kind = 11; kind <= 13; kind += 2) {
                range(0, capacity, 1, 0);
                answers(request(disk, kind, 0, 16, 0), IOERR, "a range beyond the end");
                range(0, ~0ul, 8, 0);
                answers(request(disk, kind, 0, 16, 0), IOERR, "a range around the end");
                range(0, 0, 0xffffffff, 0);
                answers(request(disk, kind, 0, 16, 0), IOERR, "a range that is too long");
                range(0, 0, 8, 0xfffffffe);
                answers(request(disk, kind, 0, 16, 0), UNSUPP, "flags that there are not");
                answers(request(disk, kind, 0, 15, 0), IOERR, "part of a range");
                answers(request(disk, kind, 0, 16 * 4096, 0), IOERR, "too many ranges");
                answers(request(disk, kind, 0, 16, WRITE), IOERR, "ranges to be written");
            }
        }
        for (u32 bytes = 1; bytes < 20; bytes++)
            answers(request(disk, 8, 0, bytes, WRITE), IOERR, "too little room for the name");
        for (int n = 0; n < 200; n++)
            request(disk, below(20), awkward(), 1 + below(4096), below(2) ? WRITE : 0);
        works(disk);
        /* No room for a status, half a header. */
        struct queue *queue = &disk->queues[0];
        describe(queue->table, 0, HEADER, 16, 0, 0);
        exchange(disk, 0);
        for (u32 bytes = 1; bytes < 16; bytes++) {
            describe(queue->table, 0, HEADER, bytes, NEXT, 1);
            describe(queue->table, 1, RESULT, 1, WRITE, 0);
            write8(RESULT, 0xee);
            exchange(disk, 0);
            answers(read8(RESULT), IOERR, "half a header");
            cases++;
        }
        works(disk);
    }
}

/* The most that requests can ask for: the same memory again and again, in every entry of the ring. */
void block_large(void)
{
    struct device *disk = device_of(BLOCK);
    struct queue *queue = &disk->queues[0];
    u64 capacity = read64(disk->base + CONFIG);
    u32 bytes = 16u << 20;
    set_up(disk);
    write32(HEADER, 0);
    write64(HEADER + 8, 0);
    for (u16 n = 0; n < 200; n++)
        describe(queue->indirect, n + 1, BUFFERS + 0x200000, bytes, NEXT | WRITE, n + 2);
    describe(queue->indirect, 0, HEADER, 16, NEXT, 1);
    u32 pieces = capacity * 512 / bytes;
    describe(queue->indirect, pieces, RESULT, 1, WRITE, 0);
    describe(queue->table, 0, queue->indirect, 16 * 256, TABLE, 0);
    for (u16 n = 0; n < 16; n++)
        offer(disk, 0, 0);
    kick(disk, 0);
    for (u16 n = 0; n < 16; n++) {
        u32 written;
        if (!given_back(disk, 0, &written))
            fail("a disk stops at a large read", n, 0);
        cases++;
    }
}
