/* Frames with headers that lie, and a receive queue that cannot be received into. */
#include "attacks.h"

#define FRAME BUFFERS

static void send(struct device *net, u32 bytes)
{
    describe(net->queues[1].table, 0, FRAME, bytes, 0, 0);
    exchange(net, 1);
    cases++;
}

static void header(u8 flags, u8 gso, u16 header_len, u16 gso_size, u16 start, u16 offset)
{
    write8(FRAME, flags);
    write8(FRAME + 1, gso);
    write16(FRAME + 2, header_len);
    write16(FRAME + 4, gso_size);
    write16(FRAME + 6, start);
    write16(FRAME + 8, offset);
    write16(FRAME + 10, chance());
}

/* An IPv4 or IPv6 packet of TCP, whose lengths are anything. */
static void frame(int version)
{
    u64 at = FRAME + 12;
    for (int n = 0; n < 6; n++)
        write8(at + n, 0xff);
    write16(at + 12, version == 4 ? 0x0008 : 0xdd86);
    write8(at + 14, version == 4 ? 0x40 | below(16) : 0x60);
    write16(at + 16, awkward());
    write8(at + 23, 6);
    write8(at + 14 + 32, awkward());
}

void net_headers(void)
{
    static const u16 numbers[] = {0, 1, 2, 13, 14, 33, 34, 54, 59, 60, 61, 1499, 1500, 0x7fff, 0x8000, 0xfffe, 0xffff};
    const int count = sizeof numbers / sizeof *numbers;
    struct device *net = device_of(NET);
    set_up(net);
    for (u32 bytes = 1; bytes < 30; bytes++)
        send(net, bytes);
    for (u32 bytes = 65530; bytes < 65600; bytes++)
        send(net, bytes);
    send(net, 1 << 20);
    for (int gso = 0; gso < 256; gso++) {
        header(below(4), gso, numbers[below(count)], numbers[below(count)], numbers[below(count)], numbers[below(count)]);
        send(net, 12 + 60);
    }
    u8 kinds[] = {0, 1, 4, 0x81, 0x84};
    for (int round = 0; round < 1000; round++) {
        u8 gso = kinds[below(5)];
        header(1, gso, numbers[below(count)], numbers[below(count)], numbers[below(count)], numbers[below(count)]);
        frame(gso == 4 || gso == 0x84 ? 6 : 4);
        send(net, 12 + (below(4) ? 54 + below(200) : 14ul + numbers[below(count)]));
    }
    works(net);
}

/* Frames come in, for the host speaks on every link, and find buffers that are none. */
void net_receive(void)
{
    struct device *net = device_of(NET);
    for (int round = 0; round < 20; round++) {
        set_up(net);
        struct queue *queue = &net->queues[0];
        for (u16 n = 0; n < queue->size; n++) {
            describe(queue->table, n, below(3) ? BUFFERS + 0x1000 * n : place(), below(3) ? 1 + below(64) : awkward(),
                     below(8), below(queue->size + 1));
            offer(net, 0, n);
            cases++;
        }
        kick(net, 0);
        /* What the host answers to is a question. */
        static const u8 question[] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 5, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1,
                                      2, 0, 0, 0, 0, 5, 10, 7, 0, 2, 0, 0, 0, 0, 0, 0, 10, 7, 0, 1};
        zero(FRAME, 12 + 60);
        copy(FRAME + 12, question, sizeof question);
        for (int n = 0; n < 20; n++) {
            describe(net->queues[1].table, 0, FRAME, 12 + 60, 0, 0);
            offer(net, 1, 0);
        }
        kick(net, 1);
        u32 written;
        for (int n = 0; n < 20 && given_back(net, 1, &written); n++)
            ;
    }
    works(net);
}
