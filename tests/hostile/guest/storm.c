/* Everything at once, by chance: the seed says what. */
#include "attacks.h"

/* A driver that has lost its mind: right steps in a wrong order, wrong steps in the right one. */
static void step(void)
{
    struct device *device = &devices[below(device_count)];
    struct queue *queue = &device->queues[below(device->queue_count)];
    int q = queue - device->queues;
    u64 base = device->base;
    switch (below(16)) {
    case 0:
        return set_up(device);
    case 1:
        return write32(base + STATUS, below(2) ? awkward() : below(16));
    case 2:
        return write32(base + below(64) * 4, place());
    case 3:
        return write64(base + below(0x200), awkward());
    case 4:
        return write8(base + below(0x1000), awkward());
    case 5:
        (void)read32(base + below(0x400) * 4);
        (void)read16(base + below(0x1000));
        return;
    case 6:
        return write16(queue->available + 2 * below(6), below(8) ? below(queue->size) : awkward());
    case 7:
        return zero(queue->table, 0x4000);
    case 8:
        return write32(BUFFERS + 4 * below(1024), awkward());
    case 9:
        return write16(queue->used + 4 + 8 * queue->size, awkward());
    case 10:
        kick(device, q);
        return;
    default:
        break;
    }
    u64 table = below(4) ? queue->table : queue->indirect;
    u16 first = below(queue->size);
    u16 flags = below(16) ? (below(2) ? NEXT : 0) | (below(2) ? WRITE : 0) : awkward();
    if (table == queue->table && below(8) == 0)
        flags = TABLE;
    u64 at = flags == TABLE ? queue->indirect : below(8) ? BUFFERS + 8 * below(4096) : place();
    u32 bytes = flags == TABLE ? 16 * below(600) : below(8) ? 1 + below(4096) : awkward();
    describe(table, first, at, bytes, flags, below(8) ? first + 1u : (u16)awkward());
    if (below(3) == 0) {
        offer(device, q, below(64) ? below(queue->size) : awkward());
        kick(device, q);
    }
}

void storm(void)
{
    for (int n = 0; n < 10000; n++) {
        step();
        cases++;
    }
}

void storm_endless(void)
{
    say("now\n");
    for (;;)
        step();
}
