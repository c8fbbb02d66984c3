/* Packets of a guest that lies about what it may send, and to whom. The test listens at two ports: at
 * SILENT it accepts and never reads, at ECHO it sends back what it gets. */
#include "attacks.h"

#define SILENT 2000

#define REQUEST 1
#define RESPONSE 2
#define RESET 3
#define SHUTDOWN 4
#define DATA 5
#define CREDIT_UPDATE 6
#define CREDIT_REQUEST 7

#define HEADER BUFFERS
#define PAYLOAD (BUFFERS + 0x100000)
#define ROOM (BUFFERS + 0x200000)
#define ROOMS 64
#define LARGEST 0x10000
/* What the host says it holds of one connection. */
#define CREDIT 0x20000

struct packet {
    u32 source_cid, source_high, target_cid, target_high;
    u32 source, target, bytes;
    u16 type, op;
    u32 flags, room, forwarded;
};

static struct packet received;

static void give_room(struct device *vsock, u16 n)
{
    describe(vsock->queues[0].table, n, ROOM + LARGEST * (u64)n, 4096, WRITE, 0);
    offer(vsock, 0, n);
}

static void begin(struct device *vsock)
{
    set_up(vsock);
    for (u16 n = 0; n < ROOMS; n++)
        give_room(vsock, n);
    kick(vsock, 0);
}

static struct packet packet(u32 from, u32 to, u16 op, u32 bytes)
{
    struct packet made = {3, 0, 2, 0, from, to, bytes, 1, op, 0, 0x40000, 0};
    return made;
}

/* Sends it, with as many bytes of payload as `bytes` says, whatever it says itself. */
static void send(struct device *vsock, struct packet packet, u32 bytes)
{
    copy(HEADER, &packet, sizeof packet);
    describe(vsock->queues[1].table, 0, HEADER, sizeof packet, bytes ? NEXT : 0, 1);
    describe(vsock->queues[1].table, 1, PAYLOAD, bytes, 0, 0);
    exchange(vsock, 1);
    cases++;
}

/* Takes the next packet to port `port`; those to others are dropped. */
static u16 receive(struct device *vsock, u32 port)
{
    do {
        u32 written;
        struct queue *queue = &vsock->queues[0];
        u16 entry = queue->seen % queue->size;
        if (!given_back(vsock, 0, &written))
            fail("the device stops", port, 0);
        u16 n = read32(queue->used + 4 + 8 * entry);
        for (u64 i = 0; i < sizeof received; i++)
            ((u8 *)&received)[i] = read8(ROOM + LARGEST * (u64)n + i);
        give_room(vsock, n);
        kick(vsock, 0);
    } while (received.target != port);
    return received.op;
}

/* Connects, as often as it takes: a listener may have too many callers at a time. */
static void connect(struct device *vsock, u32 port)
{
    do
        send(vsock, packet(port, SILENT, REQUEST, 0), 0);
    while (receive(vsock, port) != RESPONSE);
}

static void is_reset(struct device *vsock, u32 port, const char *what)
{
    u16 op;
    while ((op = receive(vsock, port)) != RESET)
        if (op != CREDIT_UPDATE && op != CREDIT_REQUEST && op != SHUTDOWN)
            fail(what, op, port);
}

void vsock_packets(void)
{
    struct device *vsock = device_of(VSOCK);
    begin(vsock);
    /* Half a header, and nobody's packets. */
    for (u32 bytes = 1; bytes < 44; bytes++) {
        describe(vsock->queues[1].table, 0, HEADER, bytes, 0, 0);
        exchange(vsock, 1);
        cases++;
    }
    for (int n = 0; n < 300; n++) {
        struct packet odd = packet(below(100), below(2) ? SILENT : awkward(), awkward(), awkward());
        if (n % 3 == 0)
            odd.source_cid = awkward();
        else if (n % 3 == 1)
            odd.target_cid = awkward();
        else
            odd.source_high = 1 + below(5);
        send(vsock, odd, below(2) * 64);
    }
    /* Answers to nothing are reset, but for resets. */
    for (u16 op = RESPONSE; op <= CREDIT_REQUEST; op++) {
        if (op == RESET)
            continue;
        send(vsock, packet(5000 + op, SILENT, op, 0), 0);
        is_reset(vsock, 5000 + op, "a packet of no connection");
    }
    struct packet wrong = packet(5100, SILENT, REQUEST, 0);
    wrong.type = 2;
    send(vsock, wrong, 0);
    is_reset(vsock, 5100, "a type that there is not");
    /* What a connection does not survive. */
    for (int way = 0; way < 8; way++) {
        u32 port = 6000 + way;
        connect(vsock, port);
        struct packet bad = packet(port, SILENT, DATA, 64);
        switch (way) {
        case 0: /* more than there is */
            bad.bytes = 65;
            break;
        case 1:
            bad.bytes = 0xffffffff;
            break;
        case 2: /* an answer to its own request */
            bad.op = RESPONSE;
            break;
        case 3: /* the same connection once more */
            bad.op = REQUEST;
            break;
        case 4: /* acknowledges what it never got */
            bad.forwarded = 1;
            break;
        case 5:
            bad.forwarded = 0x7fffffff;
            break;
        case 6: /* after its end */
            bad.op = SHUTDOWN;
            bad.flags = 2;
            send(vsock, bad, 0);
            bad.op = DATA;
            break;
        case 7: /* closed from both sides */
            bad.op = SHUTDOWN;
            bad.flags = 0xffffffff;
            break;
        }
        send(vsock, bad, 64);
        is_reset(vsock, port, "a lie");
        send(vsock, packet(port, SILENT, DATA, 64), 64);
        is_reset(vsock, port, "a connection that has ended");
    }
    for (int n = 0; n < 1000; n++) {
        struct packet any = packet(below(40), below(4) ? SILENT : awkward(), 1 + below(7), below(4) ? 64 : awkward());
        any.flags = awkward();
        any.room = awkward();
        any.forwarded = below(2) ? 0 : awkward();
        send(vsock, any, 64);
        /* Room for answers stays. */
        while (used_index(vsock, 0) != vsock->queues[0].seen) {
            u32 written;
            given_back(vsock, 0, &written);
            give_room(vsock, n % ROOMS);
        }
    }
}

/* As many connections as the host takes, each as full as it takes, to somebody who never reads. */
void vsock_flood(void)
{
    struct device *vsock = device_of(VSOCK);
    begin(vsock);
    u32 open = 0, refused = 0, port = 10000;
    /* A listener's backlog may be full for a moment; the device's limit stays. */
    while (refused < 200) {
        send(vsock, packet(port, SILENT, REQUEST, 0), 0);
        if (receive(vsock, port) == RESPONSE) {
            open++;
            refused = 0;
            port++;
        } else {
            refused++;
        }
    }
    if (open != 1024)
        fail("connections", open, 1024);
    for (u32 n = 10000; n < port; n++) {
        u32 sent = 0, credit = CREDIT;
        /* What the socket takes is reported, and may be sent once more. */
        for (int tries = 0; tries < 4; tries++) {
            while (credit - sent >= LARGEST) {
                send(vsock, packet(n, SILENT, DATA, LARGEST), LARGEST);
                sent += LARGEST;
            }
            send(vsock, packet(n, SILENT, CREDIT_REQUEST, 0), 0);
            do
                receive(vsock, n);
            while (received.op != CREDIT_UPDATE);
            credit = received.forwarded + received.room;
        }
    }
    hold();
    /* One byte too many is the end of a connection. */
    for (u32 n = 10000; n < port; n += 8) {
        send(vsock, packet(n, SILENT, DATA, LARGEST), LARGEST);
        send(vsock, packet(n, SILENT, DATA, LARGEST), LARGEST);
        send(vsock, packet(n, SILENT, DATA, LARGEST), LARGEST);
        is_reset(vsock, n, "more than the host can hold");
    }
}

/* Says that it has no room, or all the room there is, and that it has read what it has not. */
void vsock_credit(void)
{
    struct device *vsock = device_of(VSOCK);
    u32 rooms[] = {0, 1, 0x7fffffff, 0x80000000, 0xffffffff};
    begin(vsock);
    for (int round = 0; round < 5; round++) {
        u32 port = 20000 + round;
        connect(vsock, port);
        for (int n = 0; n < 200; n++) {
            struct packet any = packet(port, SILENT, n & 1 ? CREDIT_UPDATE : CREDIT_REQUEST, 0);
            any.room = rooms[round];
            send(vsock, any, 0);
            if (!(n & 1) && receive(vsock, port) != CREDIT_UPDATE)
                fail("a request for credit", received.op, n);
        }
        struct packet lie = packet(port, SILENT, CREDIT_UPDATE, 0);
        lie.forwarded = 1 + below(0x7ffffffe);
        send(vsock, lie, 0);
        is_reset(vsock, port, "credit for what was not sent");
    }
}

/* Asks for more answers than it has room for. */
void vsock_no_room(void)
{
    struct device *vsock = device_of(VSOCK);
    set_up(vsock);
    struct packet question = packet(30000, 9, CREDIT_REQUEST, 0);
    copy(HEADER, &question, sizeof question);
    struct queue *queue = &vsock->queues[1];
    for (u16 n = 0; n < queue->size; n++)
        describe(queue->table, n, HEADER, sizeof question, 0, 0);
    u32 offered = 0, taken = 0, quiet = 0;
    while (quiet < 100) {
        while (offered - taken < queue->size) {
            offer(vsock, 1, offered++ % queue->size);
            cases++;
        }
        kick(vsock, 1);
        quiet++;
        for (int wait = 0; wait < 100; wait++)
            status(vsock);
        while (used_index(vsock, 1) != queue->seen) {
            queue->seen++;
            taken++;
            quiet = 0;
        }
    }
    if (taken > 512)
        fail("packets are taken whose answers have no room", taken, offered);
    hold();
    /* With room, all are answered. */
    for (u16 n = 0; n < ROOMS; n++)
        give_room(vsock, n);
    kick(vsock, 0);
    for (u32 n = 0; n < offered; n++)
        is_reset(vsock, 30000, "a packet of no connection");
}
