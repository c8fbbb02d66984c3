/* Pages that are given back and are none, or are in use. */
#include "attacks.h"

static void list(struct device *balloon, int q, u32 bytes)
{
    describe(balloon->queues[q].table, 0, BUFFERS, bytes, q == 2 ? WRITE : 0, 0);
    if (exchange(balloon, q))
        fail("a balloon writes", q, bytes);
    cases++;
}

void balloon_lies(void)
{
    struct device *balloon = device_of(BALLOON);
    set_up(balloon);
    for (int q = 0; q < 2; q++) {
        for (u32 bytes = 1; bytes < 9; bytes++)
            list(balloon, q, bytes);
        u32 frames[] = {MEMORY_END >> 12, (MEMORY_END >> 12) + 1, 0xd0000, 0xfee00, 0xfffff, 0x100000, 0x80000000, 0xffffffff};
        for (u64 n = 0; n < sizeof frames / sizeof *frames; n++) {
            write32(BUFFERS, frames[n]);
            list(balloon, q, 4);
        }
        /* Runs across the end of memory, and around that of the numbers. */
        for (u32 n = 0; n < 1024; n++)
            write32(BUFFERS + 4 * n, 0xffffffff - 511 + n);
        list(balloon, q, 4096);
        for (u32 n = 0; n < 256; n++)
            write32(BUFFERS + 4 * n, (MEMORY_END >> 12) - 128 + n);
        list(balloon, q, 1024);
        list(balloon, q, 1 << 20);
        /* The same page again and again, and pages by chance above those that are in use. */
        for (int round = 0; round < 200; round++) {
            for (u32 n = 0; n < 256; n++)
                write32(BUFFERS + 4 * n, round & 1 ? 0x3000 : 0x2800 + below(0x1800));
            list(balloon, q, 1024);
        }
    }
    /* Ranges that are reported as free. */
    struct queue *queue = &balloon->queues[2];
    for (int round = 0; round < 200; round++) {
        for (u16 n = 0; n < 32; n++) {
            u64 at = below(2) ? 0x3000000 + 0x1000 * below(0x1000) : 0x3000000 + below(0x1000000);
            describe(queue->table, n, below(8) ? at : awkward() | 0x3000000, below(4) ? 0x1000 * (1 + below(64)) : 1 + below(0x10000),
                     n == 31 ? WRITE : WRITE | NEXT, n + 1);
        }
        if (exchange(balloon, 2))
            fail("a balloon writes into what is reported", round, 0);
        cases++;
    }
    /* Its own queue is free memory, it says, and its rings. */
    describe(queue->table, 0, queue->available & ~0xffful, 0x1000, WRITE, 0);
    offer(balloon, 2, 0);
    kick(balloon, 2);
    u32 written;
    given_back(balloon, 2, &written);
    /* How large it is. */
    for (int n = 0; n < 200; n++) {
        write32(balloon->base + CONFIG + 4, awkward());
        write32(balloon->base + CONFIG, awkward());
        write16(balloon->base + CONFIG + 4 + below(8), awkward());
        cases++;
    }
}
