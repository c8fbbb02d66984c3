/* Rings and descriptor chains that no driver makes, on every queue that a device looks at by itself. */
#include "attacks.h"

typedef void (*chain)(struct queue *queue);

static void loop(struct queue *queue) { describe(queue->table, 0, BUFFERS, 64, NEXT, 0); }

static void loop_of_two(struct queue *queue)
{
    describe(queue->table, 0, BUFFERS, 64, NEXT, 1);
    describe(queue->table, 1, BUFFERS, 64, NEXT, 0);
}

static void loop_at_the_end(struct queue *queue)
{
    for (u16 n = 0; n < queue->size; n++)
        describe(queue->table, n, BUFFERS, 64, NEXT | WRITE, n + 1 == queue->size ? 1 : n + 1);
}

static void out_of_table(struct queue *queue) { describe(queue->table, 0, BUFFERS, 64, NEXT, queue->size); }
static void far_out_of_table(struct queue *queue) { describe(queue->table, 0, BUFFERS, 64, NEXT, 0xffff); }
static void empty_buffer(struct queue *queue) { describe(queue->table, 0, BUFFERS, 0, WRITE, 0); }
static void beyond_memory(struct queue *queue) { describe(queue->table, 0, MEMORY_END, 64, WRITE, 0); }
static void across_the_end(struct queue *queue) { describe(queue->table, 0, MEMORY_END - 8, 64, WRITE, 0); }
static void of_devices(struct queue *queue) { describe(queue->table, 0, 0xd0000000, 64, WRITE, 0); }
static void around_the_end(struct queue *queue) { describe(queue->table, 0, ~0ul - 7, 64, WRITE, 0); }
static void longest(struct queue *queue) { describe(queue->table, 0, BUFFERS, 0xffffffff, WRITE, 0); }

static void wrong_order(struct queue *queue)
{
    describe(queue->table, 0, BUFFERS, 64, NEXT | WRITE, 1);
    describe(queue->table, 1, BUFFERS, 64, 0, 0);
}

static void longer_than_4_gib(struct queue *queue)
{
    for (u16 n = 0; n < queue->size; n++)
        describe(queue->table, n, 0x100000, MEMORY_END - 0x100000, NEXT, n + 1);
    describe(queue->table, queue->size - 1, BUFFERS, 64, WRITE, 0);
}

static void table_of(struct queue *queue, u64 at, u32 bytes)
{
    describe(queue->table, 0, at, bytes, TABLE, 0);
    describe(queue->indirect, 0, BUFFERS, 64, WRITE, 0);
}

static void table_without_entries(struct queue *queue) { table_of(queue, queue->indirect, 0); }
static void table_of_odd_size(struct queue *queue) { table_of(queue, queue->indirect, 17); }
static void table_beyond_memory(struct queue *queue) { table_of(queue, MEMORY_END, 16); }
static void table_across_the_end(struct queue *queue) { table_of(queue, MEMORY_END - 16, 32); write16(MEMORY_END - 4, NEXT); write16(MEMORY_END - 2, 1); }
static void table_too_long(struct queue *queue) { table_of(queue, queue->indirect, 0xfffffff0); }
static void table_of_devices(struct queue *queue) { table_of(queue, 0xd0000000, 16); }

static void table_in_a_table(struct queue *queue)
{
    describe(queue->table, 0, queue->indirect, 32, TABLE, 0);
    describe(queue->indirect, 0, queue->indirect + 32, 16, TABLE, 0);
    describe(queue->indirect, 2, BUFFERS, 64, WRITE, 0);
}

static void table_that_loops(struct queue *queue)
{
    describe(queue->table, 0, queue->indirect, 16, TABLE, 0);
    describe(queue->indirect, 0, BUFFERS, 64, NEXT | WRITE, 0);
}

static void table_with_a_next(struct queue *queue)
{
    describe(queue->table, 0, queue->indirect, 16, TABLE | NEXT, 1);
    describe(queue->table, 1, BUFFERS, 0, WRITE, 0);
    describe(queue->indirect, 0, BUFFERS, 64, NEXT, 9);
}

static void table_longer_than_a_queue(struct queue *queue)
{
    describe(queue->table, 0, queue->indirect, 16 * 2000, TABLE, 0);
    for (u16 n = 0; n < 2000; n++)
        describe(queue->indirect, n, BUFFERS, 1, NEXT | WRITE, n + 1);
}

static void table_in_the_rings(struct queue *queue) { table_of(queue, queue->used & ~15ul, 4096); }

static const chain malformed[] = {
    loop, loop_of_two, loop_at_the_end, out_of_table, far_out_of_table, empty_buffer, beyond_memory,
    across_the_end, of_devices, around_the_end, longest, wrong_order, longer_than_4_gib, table_without_entries,
    table_of_odd_size, table_beyond_memory, table_across_the_end, table_too_long, table_of_devices,
    table_in_a_table, table_that_loops, table_with_a_next, table_longer_than_a_queue, table_in_the_rings,
};

/* Each is given back as it came, and the device goes on: a sound chain behind it is served. */
void chains(void)
{
    for (int i = 0; i < device_count; i++) {
        struct device *device = &devices[i];
        for (int q = 0; q < device->queue_count; q++) {
            if (!(active_queues(device) >> q & 1))
                continue;
            for (u64 n = 0; n < sizeof malformed / sizeof *malformed; n++) {
                set_up(device);
                malformed[n](&device->queues[q]);
                u32 written = exchange(device, q);
                /* The random number generator fills what it can. */
                if (written > (device->type == RNG ? 4096 : 0))
                    fail("a malformed chain is written to", n, written);
                cases++;
            }
            works(device);
        }
    }
}

/* More chains than entries, and heads that there are not: the device stops, until it is reset. */
void rings_broken(void)
{
    for (int i = 0; i < device_count; i++) {
        struct device *device = &devices[i];
        for (int q = 0; q < device->queue_count; q++) {
            if (!(active_queues(device) >> q & 1))
                continue;
            struct queue *queue = &device->queues[q];
            u16 jumps[] = {queue->size + 1, queue->size * 2 + 1, 0x7fff, 0x8000, 0xffff};
            for (int n = 0; n < 5; n++) {
                set_up(device);
                write16(queue->available + 2, jumps[n]);
                kick(device, q);
                stops(device, "more chains than entries");
                cases++;
            }
            u16 heads[] = {queue->size, queue->size + 1, 0x8000, 0xffff};
            for (int n = 0; n < 4; n++) {
                set_up(device);
                offer(device, q, heads[n]);
                kick(device, q);
                stops(device, "a head that there is not");
                /* It takes no more until it is reset. */
                u16 used = used_index(device, q);
                describe(queue->table, 0, BUFFERS, 64, WRITE, 0);
                offer(device, q, 0);
                kick(device, q);
                if (used_index(device, q) != used)
                    fail("a stopped device goes on", device->type, q);
                cases++;
            }
            works(device);
        }
    }
}

/* Chains whose buffers are the rings and tables themselves, and rings that lie over each other. */
void rings_overwritten(void)
{
    struct device *disk = device_of(BLOCK), *rng = device_of(RNG);
    for (int round = 0; round < 100; round++) {
        u32 written;
        /* Random bytes over the ring that asks for them. */
        set_up(rng);
        struct queue *queue = &rng->queues[0];
        u64 targets[] = {queue->table, queue->available, queue->used, queue->table + 16};
        for (u16 n = 0; n < 8; n++) {
            describe(queue->table, n, targets[below(4)], 1 + below(4096), WRITE, 0);
            offer(rng, 0, n);
        }
        kick(rng, 0);
        given_back(rng, 0, &written);
        /* A sector over the ring, its status too. */
        set_up(disk);
        queue = &disk->queues[0];
        zero(BUFFERS, 16);
        describe(queue->table, 0, BUFFERS, 16, NEXT, 1);
        describe(queue->table, 1, targets[below(4)], 512 * (1 + below(8)), NEXT | WRITE, 2);
        describe(queue->table, 2, queue->table + below(0x8000), 1, WRITE, 0);
        offer(disk, 0, 0);
        kick(disk, 0);
        given_back(disk, 0, &written);
        cases += 2;
    }
    for (int i = 0; i < device_count; i++) {
        struct device *device = &devices[i];
        for (int round = 0; round < 50; round++) {
            reset(device);
            negotiate(device, ALL_FEATURES);
            set_up_queues(device);
            u64 base = RINGS + 0x700000;
            zero(base, 0x10000);
            for (int q = 0; q < device->queue_count; q++) {
                write32(device->base + QUEUE_SEL, q);
                write32(device->base + QUEUE_DESC, base + below(64) * 16);
                write32(device->base + QUEUE_AVAIL, base + below(64) * 16);
                write32(device->base + QUEUE_USED, base + below(64) * 16);
            }
            write32(device->base + STATUS, READY);
            for (int n = 0; n < 20; n++) {
                write64(base + 8 * below(128), below(2) ? chance() : BUFFERS | (u64)below(8) << 32);
                kick(device, below(device->queue_count));
            }
            cases++;
        }
        works(device);
    }
}

/* The guest rewrites what it has offered while the device looks at it. */
void descriptors_changed(void)
{
    for (int i = 0; i < device_count; i++) {
        struct device *device = &devices[i];
        for (int round = 0; round < 40; round++) {
            set_up(device);
            for (int q = 0; q < device->queue_count; q++) {
                struct queue *queue = &device->queues[q];
                for (u16 n = 0; n < queue->size; n++) {
                    u16 flags = n & 1 ? WRITE : NEXT;
                    describe(queue->table, n, BUFFERS + 0x1000 * (n % 64), 64 + 512 * (n & 1), flags, n + 1);
                    if (n % 2 == 0)
                        offer(device, q, n);
                }
                kick(device, q);
            }
            for (int n = 0; n < 400; n++) {
                struct queue *queue = &device->queues[below(device->queue_count)];
                describe(queue->table, below(queue->size), below(4) ? BUFFERS : place(), awkward(), below(8),
                         below(queue->size + 2));
                if (n % 50 == 0)
                    write32(BUFFERS + 4 * below(64), awkward());
            }
            cases++;
        }
        works(device);
    }
}
