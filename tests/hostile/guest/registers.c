/* The transport's registers: anything, at any time, in any order. */
#include "attacks.h"

/* Any width, anywhere in the device's page. */
static void write_any(u64 at, u64 value)
{
    switch (below(4)) {
    case 0:
        return write8(at, value);
    case 1:
        return write16(at & ~1ul, value);
    case 2:
        return write64(at & ~7ul, value);
    default:
        return write32(at & ~3ul, value);
    }
}

void registers_garbage(void)
{
    for (int i = 0; i < device_count; i++) {
        struct device *device = &devices[i];
        for (int round = 0; round < 800; round++) {
            u64 at = device->base + below(round & 1 ? 0x110 : 0x1000);
            write_any(at, awkward());
            (void)read32(device->base + below(0x400) * 4);
            (void)read8(device->base + below(0x1000));
            /* Each state is reached now and then. */
            if (round % 50 == 0)
                set_up(device);
            else if (round % 50 == 25)
                negotiate(device, awkward());
            cases++;
        }
        works(device);
    }
}

static void expect(struct device *device, const char *what, u32 expected)
{
    cases++;
    if (status(device) != expected)
        fail(what, status(device), expected);
}

void registers_order(void)
{
    for (int i = 0; i < device_count; i++) {
        struct device *device = &devices[i];
        u64 base = device->base;
        /* No step before the one that comes before it. */
        u32 early[] = {DRIVER, FEATURES_OK, DRIVER_OK, READY, FEATURES_OK | DRIVER_OK, 0xffffff3f, NEEDS_RESET};
        reset(device);
        for (u32 n = 0; n < sizeof early / sizeof *early; n++) {
            write32(base + STATUS, early[n]);
            expect(device, "a step before its turn", 0);
        }
        /* Without VERSION_1, and with what was not offered. */
        negotiate(device, ~VERSION_1);
        expect(device, "features without version 1", ACKNOWLEDGE | DRIVER);
        for (u32 word = 0; word < 2; word++) {
            reset(device);
            negotiate(device, 0);
            write32(base + DRIVER_FEATURES_SEL, word);
            write32(base + DRIVER_FEATURES, 0xffffffff);
            write32(base + STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
            expect(device, "features that were not offered", ACKNOWLEDGE | DRIVER);
        }
        /* A bit is never cleared but by a reset, and features stay what they are. */
        set_up(device);
        write32(base + STATUS, ACKNOWLEDGE);
        expect(device, "bits are cleared", READY);
        write32(base + DRIVER_FEATURES, 0);
        write32(base + STATUS, READY | NEEDS_RESET);
        expect(device, "a driver asks for its own reset", READY);
        /* No queue at all. */
        reset(device);
        negotiate(device, ALL_FEATURES);
        write32(base + STATUS, READY);
        expect(device, "no queues", READY | NEEDS_RESET);
        /* Queues that there are not. */
        set_up(device);
        u32 none[] = {device->queue_count, 8, 0xffff, 0x80000000, 0xffffffff};
        for (u32 n = 0; n < sizeof none / sizeof *none; n++) {
            write32(base + QUEUE_SEL, none[n]);
            if (read32(base + QUEUE_NUM_MAX) || read32(base + QUEUE_READY))
                fail("a queue that there is not", none[n], read32(base + QUEUE_NUM_MAX));
            write32(base + QUEUE_READY, 1);
            write32(base + QUEUE_NOTIFY, none[n]);
            cases++;
        }
        works(device);
    }
}

/* Sets queue 0 up with one register wrong, and expects that the device does not start. */
static void refuses(struct device *device, u64 at, u64 value)
{
    reset(device);
    negotiate(device, ALL_FEATURES);
    set_up_queues(device);
    write32(device->base + QUEUE_SEL, 0);
    write32(device->base + at, value);
    if (at != QUEUE_NUM)
        write32(device->base + at + 4, value >> 32);
    write32(device->base + STATUS, READY);
    expect(device, "a queue that cannot be", READY | NEEDS_RESET);
}

void queues_wrong(void)
{
    u64 sizes[] = {0, 3, 5, 511, 1024, 0x8000, 0x10000, 0x10001, 0x80000000, 0xffffffff};
    /* Not aligned, not memory, partly memory, around the end of the address space. */
    u64 places[] = {0, 1, MEMORY_END, MEMORY_END - 2, 0xd0000000, 0xfee00000, 0x100000000, 0x8000000000000000,
                    0xfffffffffffffff0, 0xfffffffffffffff8, 0xffffffffffffffff};
    u64 parts[] = {QUEUE_DESC, QUEUE_AVAIL, QUEUE_USED};
    for (int i = 0; i < device_count; i++) {
        struct device *device = &devices[i];
        for (u32 n = 0; n < sizeof sizes / sizeof *sizes; n++)
            refuses(device, QUEUE_NUM, sizes[n]);
        for (u32 n = 0; n < sizeof places / sizeof *places; n++)
            for (int part = 0; part < 3; part++)
                refuses(device, parts[part], places[n]);
        refuses(device, QUEUE_DESC, RINGS + 8);
        refuses(device, QUEUE_USED, RINGS + 2);
        works(device);
    }
}

/* The device keeps to the rings that it was given. */
void rings_moved(void)
{
    for (int i = 0; i < device_count; i++) {
        struct device *device = &devices[i];
        for (int round = 0; round < 60; round++) {
            set_up(device);
            for (int q = 0; q < device->queue_count; q++) {
                write32(device->base + QUEUE_SEL, q);
                u64 parts[] = {QUEUE_DESC, QUEUE_AVAIL, QUEUE_USED, QUEUE_NUM, QUEUE_READY};
                describe(device->queues[q].table, 0, BUFFERS, 64, 0, 0);
                offer(device, q, 0);
                kick(device, q);
                for (int part = 0; part < 5; part++)
                    write32(device->base + parts[part], awkward());
                cases++;
            }
            if (round % 20 == 0)
                works(device);
        }
        works(device);
    }
}

/* Takes a device away from under its own requests. */
void reset_races(void)
{
    for (int i = 0; i < device_count; i++) {
        struct device *device = &devices[i];
        for (int round = 0; round < 80; round++) {
            set_up(device);
            for (int q = 0; q < device->queue_count; q++) {
                for (u16 n = 0; n < 8; n++) {
                    describe(device->queues[q].table, n, BUFFERS + 0x1000 * n, 4096, n & 1 ? WRITE : 0, 0);
                    offer(device, q, n);
                }
                kick(device, q);
            }
            for (u64 wait = below(200); wait; wait--)
                relax();
            /* Now and then without a reset in between. */
            if (below(4))
                write32(device->base + STATUS, 0);
            cases++;
        }
        works(device);
    }
}

void notify_storm(void)
{
    for (int i = 0; i < device_count; i++) {
        struct device *device = &devices[i];
        u64 at = device->base + QUEUE_NOTIFY;
        for (int active = 0; active < 2; active++) {
            if (active)
                set_up(device);
            else
                reset(device);
            for (int round = 0; round < 1200; round++) {
                write32(at, below(device->queue_count));
                if (round % 4 == 0)
                    write32(at, awkward());
                if (round % 16 == 0) {
                    write8(at, 0);
                    write16(at, 0);
                    write64(at, awkward());
                }
                cases++;
            }
        }
        works(device);
    }
}
