#include "virtio.h"

struct device devices[DEVICES];
int device_count;

void find_devices(void)
{
    for (u64 i = 0; i < DEVICES; i++) {
        u64 base = 0xd0000000 + 0x1000 * i;
        if (read32(base + MAGIC) != 0x74726976)
            break;
        struct device *device = &devices[device_count++];
        device->base = base;
        device->type = read32(base + DEVICE_ID);
        for (u32 q = 0; q < QUEUES; q++) {
            struct queue *queue = &device->queues[q];
            write32(base + QUEUE_SEL, q);
            queue->size = read32(base + QUEUE_NUM_MAX);
            if (!queue->size)
                break;
            device->queue_count++;
            queue->table = RINGS + 0x80000 * i + 0x20000 * q;
            queue->available = queue->table + 0x4000;
            queue->used = queue->table + 0x6000;
            queue->indirect = queue->table + 0x8000;
        }
    }
    if (!device_count)
        fail("no devices", 0, 0);
}

struct device *device_of(u32 type)
{
    for (int i = 0; i < device_count; i++)
        if (devices[i].type == type)
            return &devices[i];
    fail("no such device", type, 0);
}

int active_queues(const struct device *device)
{
    switch (device->type) {
    case NET:
    case VSOCK:
        return 2;
    case BALLOON:
        return 7;
    case FS:
        return 3;
    default:
        return 1;
    }
}

void reset(struct device *device)
{
    write32(device->base + STATUS, 0);
    if (status(device))
        fail("a reset has no effect", device->type, status(device));
}

u32 status(const struct device *device) { return read32(device->base + STATUS); }

void negotiate(struct device *device, u64 features)
{
    u64 base = device->base;
    write32(base + STATUS, ACKNOWLEDGE);
    write32(base + STATUS, ACKNOWLEDGE | DRIVER);
    for (u32 word = 0; word < 2; word++) {
        write32(base + DEVICE_FEATURES_SEL, word);
        write32(base + DRIVER_FEATURES_SEL, word);
        write32(base + DRIVER_FEATURES, read32(base + DEVICE_FEATURES) & features >> 32 * word);
    }
    write32(base + STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
}

void set_up_queues(struct device *device)
{
    u64 base = device->base;
    for (int q = 0; q < device->queue_count; q++) {
        struct queue *queue = &device->queues[q];
        zero(queue->table, 0x10000);
        queue->offered = queue->seen = 0;
        write32(base + QUEUE_SEL, q);
        write32(base + QUEUE_NUM, queue->size);
        write32(base + QUEUE_DESC, queue->table);
        write32(base + QUEUE_DESC + 4, 0);
        write32(base + QUEUE_AVAIL, queue->available);
        write32(base + QUEUE_AVAIL + 4, 0);
        write32(base + QUEUE_USED, queue->used);
        write32(base + QUEUE_USED + 4, 0);
        write32(base + QUEUE_READY, 1);
    }
}

void set_up(struct device *device)
{
    reset(device);
    /* Without EVENT_IDX every kick counts. */
    negotiate(device, ALL_FEATURES & ~EVENT_IDX);
    set_up_queues(device);
    write32(device->base + STATUS, READY);
    if (status(device) != READY)
        fail("a device does not start", device->type, status(device));
}

void describe(u64 table, u64 index, u64 address, u32 bytes, u16 flags, u16 next)
{
    u64 at = table + 16 * index;
    write64(at, address);
    write32(at + 8, bytes);
    write16(at + 12, flags);
    write16(at + 14, next);
}

void offer(struct device *device, int q, u16 head)
{
    struct queue *queue = &device->queues[q];
    write16(queue->available + 4 + 2 * (queue->offered++ % queue->size), head);
    barrier();
    write16(queue->available + 2, queue->offered);
}

void kick(struct device *device, int q) { write32(device->base + QUEUE_NOTIFY, q); }

u16 used_index(const struct device *device, int q) { return read16(device->queues[q].used + 2); }

int given_back(struct device *device, int q, u32 *written)
{
    struct queue *queue = &device->queues[q];
    for (u32 looked = 0;;) {
        if (used_index(device, q) != queue->seen) {
            u64 entry = queue->used + 4 + 8 * (queue->seen++ % queue->size);
            *written = read32(entry + 4);
            return 1;
        }
        /* Asked now and then: memory is looked at without the monitor's help. */
        if (++looked % 512 == 0 && status(device) & NEEDS_RESET)
            return 0;
        relax();
    }
}

void stops(struct device *device, const char *what)
{
    (void)what;
    while (!(status(device) & NEEDS_RESET))
        relax();
}

u32 exchange(struct device *device, int q)
{
    u32 written;
    offer(device, q, 0);
    kick(device, q);
    if (!given_back(device, q, &written))
        fail("a device stops at a chain", device->type, q);
    return written;
}

static void block_works(struct device *device)
{
    struct queue *queue = &device->queues[0];
    zero(BUFFERS, 0x1000);
    write8(BUFFERS + 0x800, 0xff);
    describe(queue->table, 0, BUFFERS, 16, NEXT, 1);
    describe(queue->table, 1, BUFFERS + 0x200, 512, NEXT | WRITE, 2);
    describe(queue->table, 2, BUFFERS + 0x800, 1, WRITE, 0);
    exchange(device, 0);
    if (read8(BUFFERS + 0x800))
        fail("a disk does not read", read8(BUFFERS + 0x800), 0);
    if (!same(BUFFERS + 0x200, "first sector", 12))
        fail("a disk reads something else", 0, 0);
}

static void net_works(struct device *device)
{
    zero(BUFFERS, 12 + 60);
    describe(device->queues[1].table, 0, BUFFERS, 12 + 60, 0, 0);
    exchange(device, 1);
}

static void vsock_works(struct device *device)
{
    /* Nobody listens at port 9: the answer is a reset. */
    static const u32 request[] = {3, 0, 2, 0, 77, 9, 0, 1 | 1 << 16, 0, 0x10000, 0};
    u32 written;
    describe(device->queues[0].table, 0, BUFFERS + 0x1000, 4096, WRITE, 0);
    offer(device, 0, 0);
    kick(device, 0);
    copy(BUFFERS, request, 44);
    describe(device->queues[1].table, 0, BUFFERS, 44, 0, 0);
    exchange(device, 1);
    if (!given_back(device, 0, &written) || written != 44)
        fail("a request is not answered", 0, 0);
    if (read16(BUFFERS + 0x1000 + 30) != 3 || read32(BUFFERS + 0x1000 + 20) != 77)
        fail("a request is answered with something else", read16(BUFFERS + 0x1000 + 30), read32(BUFFERS + 0x1014));
}

static void rng_works(struct device *device)
{
    zero(BUFFERS, 64);
    describe(device->queues[0].table, 0, BUFFERS, 64, WRITE, 0);
    u32 written = exchange(device, 0);
    u64 any = 0;
    for (int i = 0; i < 8; i++)
        any |= read64(BUFFERS + 8 * i);
    if (written != 64 || !any)
        fail("no random bytes", written, any);
}

static void balloon_works(struct device *device)
{
    /* A page that is given back is zero afterwards. */
    u64 page = BUFFERS + 0x10000;
    write64(page, 42);
    write32(BUFFERS, page >> 12);
    describe(device->queues[0].table, 0, BUFFERS, 4, 0, 0);
    exchange(device, 0);
    if (read64(page))
        fail("a page is not given back", read64(page), 0);
}

void works(struct device *device)
{
    set_up(device);
    switch (device->type) {
    case BLOCK:
        return block_works(device);
    case NET:
        return net_works(device);
    case VSOCK:
        return vsock_works(device);
    case RNG:
        return rng_works(device);
    case BALLOON:
        return balloon_works(device);
    case FS:
        if (fs_getattr_root(device))
            fail("a file system does not answer", fs_getattr_root(device), 0);
        return;
    default:
        fail("an unknown device", device->type, 0);
    }
}

void everything_works(void)
{
    for (int i = 0; i < device_count; i++)
        works(&devices[i]);
}
