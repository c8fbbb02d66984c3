/* The rest of the machine: ports, addresses where nothing is, interrupt controllers, the processor's own
 * registers, and the ways in which a machine ends. */
#include "attacks.h"

#define SERIAL 0x3f8
#define IO_APIC 0xfec00000ul
#define LOCAL_APIC 0xfee00000ul

/* Anything but a restart, and what the test would read. */
static int spared(u16 port) { return port == 0x64 || (port >= SERIAL && port < SERIAL + 8) || port > 0xfffc; }

void ports(void)
{
    for (u32 port = 0; port < 0x10000; port += 1 + below(48)) {
        in8(port);
        if (!spared(port)) {
            in16(port);
            in32(port);
            out8(port, chance());
            out16(port, chance());
            out32(port, chance());
        }
        cases++;
    }
    /* Whole buffers at a time, into and out of nowhere. */
    u16 many[] = {0x80, 0x60, 0xcf8, 0xcfc, 0x70, 0x71, 0x604, 0xb004, 0x501};
    for (int n = 0; n < 20; n++) {
        u16 port = many[below(9)];
        u64 at = BUFFERS, count = 1 + below(300);
        asm volatile("rep outsb" : "+S"(at), "+c"(count) : "d"(port) : "memory");
        at = BUFFERS, count = 1 + below(300);
        asm volatile("rep insb" : "+D"(at), "+c"(count) : "d"(port) : "memory");
        at = BUFFERS, count = 1 + below(100);
        asm volatile("rep outsl" : "+S"(at), "+c"(count) : "d"(port) : "memory");
        cases++;
    }
    /* The serial port's registers but the one that sends. */
    for (int n = 0; n < 1000; n++) {
        u16 port = SERIAL + 1 + below(7);
        out8(port, chance() & (port == SERIAL + 3 ? 0x7f : 0xff) & (port == SERIAL + 4 ? 0x0f : 0xff));
        in8(port);
        cases++;
    }
    out8(SERIAL + 3, 3);
    out8(SERIAL + 4, 0);
    out8(SERIAL + 1, 0);
}

void holes(void)
{
    for (int n = 0; n < 1500; n++) {
        u64 at = 0xd0000000 + 0x1000 * DEVICES + below(0xfec00000 - 0xd0013000 - 8);
        if (below(4) == 0)
            at = MEMORY_END + below(0xd0000000 - MEMORY_END - 8);
        write8(at, chance());
        write16(at, chance());
        write32(at, chance());
        write64(at, chance());
        if (read32(at) != 0xffffffff || read8(at) != 0xff)
            fail("something is where nothing is", at, read32(at));
        cases++;
    }
    /* From one device's page into the next, and copies between devices. */
    for (int n = 0; n < device_count; n++) {
        u64 edge = devices[n].base + 0x1000;
        write64(edge - 4, chance());
        (void)read64(edge - 3);
        u64 from = devices[n].base, to = devices[0].base + 0x100, count = 0x200;
        asm volatile("rep movsb" : "+S"(from), "+D"(to), "+c"(count)::"memory");
        cases++;
    }
}

/* All lines at once, again and again, to vectors that nobody handles; interrupts stay off. */
void interrupts(void)
{
    for (u32 line = 0; line < 24; line++) {
        write32(IO_APIC, 0x10 + 2 * line);
        write32(IO_APIC + 0x10, (0x20 + line) | (line & 1 ? 0x8000 : 0));
        write32(IO_APIC, 0x11 + 2 * line);
        write32(IO_APIC + 0x10, 0);
    }
    write32(LOCAL_APIC + 0xf0, 0x1ff);
    for (int n = 0; n < 8000; n++) {
        switch (below(4)) {
        case 0: /* to itself, any vector, fixed or lowest priority */
            write32(LOCAL_APIC + 0x300, 0x40000 | (below(2) << 8) | (0x20 + below(0xe0)));
            break;
        case 1:
            write32(LOCAL_APIC + 0xb0, 0);
            break;
        case 2: /* a timer that is always over */
            write32(LOCAL_APIC + 0x320, 0x20000 | (0x20 + below(0xe0)));
            write32(LOCAL_APIC + 0x380, 1);
            break;
        default:
            write32(IO_APIC, awkward());
            write32(IO_APIC + 0x10, chance() | 0x10000);
        }
        if (n % 100 == 0)
            out8(0x20, chance()), out8(0xa1, chance()), out8(0x4d0, chance());
        cases++;
    }
    for (int n = 0; n < 400; n++) {
        u64 at = LOCAL_APIC + 0x10 * below(0x40);
        /* Not the command that stops or starts processors. */
        if (at != LOCAL_APIC + 0x300)
            write32(at, awkward());
        cases++;
    }
    write32(LOCAL_APIC + 0x320, 0x10000);
    for (int n = 0; n < 2000; n++) {
        /* What a driver forgets to acknowledge. */
        for (int i = 0; i < device_count; i++)
            write32(devices[i].base + INTERRUPT_ACK, awkward());
        cases++;
    }
}

struct gate {
    u16 low, selector, flags, middle;
    u32 high, zero;
} __attribute__((packed));

static struct gate gates[32] __attribute__((aligned(16)));
static volatile u64 faults;

/* A fault of an instruction of two bytes: goes on behind it. */
__attribute__((naked)) static void skip_two(void)
{
    asm volatile("add $8, %rsp\n"
                 "addq $2, (%rsp)\n"
                 "incq faults(%rip)\n"
                 "iretq\n");
}

/* The same without an error code. */
__attribute__((naked)) static void skip_two_plain(void)
{
    asm volatile("addq $2, (%rsp)\n"
                 "incq faults(%rip)\n"
                 "iretq\n");
}

static void gate(int vector, void (*to)(void))
{
    u64 at = (u64)to;
    struct gate made = {at, 0x10, 0x8e00, at >> 16, at >> 32, 0};
    gates[vector] = made;
}

static void wrmsr(u32 index, u64 value) { asm volatile("wrmsr" ::"c"(index), "a"((u32)value), "d"((u32)(value >> 32)) : "memory"); }

static void rdmsr(u32 index)
{
    u32 low, high;
    asm volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(index));
}

/* Model specific registers of all kinds, those of KVM's own with addresses that are none. */
void processor(void)
{
    static const u32 bases[] = {0, 0x10, 0x1a0, 0x200, 0x400, 0x480, 0x600, 0x800, 0x4b564d00, 0x40000000, 0xc0000080, 0xc0010000, 0xc0010110};
    struct {
        u16 limit;
        u64 base;
    } __attribute__((packed)) table = {sizeof gates - 1, (u64)gates};
    gate(6, skip_two_plain);
    gate(13, skip_two);
    asm volatile("lidt %0" ::"m"(table));
    for (int n = 0; n < 3000; n++) {
        u32 index = below(16) ? bases[below(13)] + below(0x40) : chance();
        /* This program's own mode, its interrupts' controller, and where system management begins. */
        int own = index == 0xc0000080 || index == 0x1b || (index >= 0x800 && index < 0x900) || index == 0xc0010015;
        rdmsr(index);
        if (!own) {
            u64 value = awkward();
            /* A clock in this program's memory would be written over it. */
            if (index >= 0x4b564d00 && index < 0x4b564d10)
                value |= 1ul << 36;
            if (index == 0x11 || index == 0x12)
                value |= 1ul << 36;
            wrmsr(index, value);
        }
        cases++;
    }
    for (u32 n = 0; n < 500; n++) {
        u32 a = below(2) ? 0x40000000 + below(16) : awkward(), b, c = awkward(), d;
        asm volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
        cases++;
    }
    if (!faults)
        fail("no register is refused", 0, 0);
}

static u32 cpuid(u32 leaf, int which)
{
    u32 a = leaf, b, c = 0, d;
    asm volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    u32 all[] = {a, b, c, d};
    return all[which];
}

/* Virtual machines inside this one would be the host kernel's work, and its trust in what this program
 * writes into their control blocks. */
void nested(void)
{
    struct {
        u16 limit;
        u64 base;
    } __attribute__((packed)) table = {sizeof gates - 1, (u64)gates};
    gate(6, skip_two_plain);
    gate(13, skip_two);
    asm volatile("lidt %0" ::"m"(table));
    if (cpuid(1, 2) >> 5 & 1)
        fail("VMX is offered", 0, 0);
    if (cpuid(0x80000001, 2) >> 2 & 1)
        fail("SVM is offered", 0, 0);
    u32 low, high;
    asm volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(0xc0000080));
    u64 before = faults;
    wrmsr(0xc0000080, low | 1 << 12);
    cases++;
    if (faults == before)
        fail("SVM is switched on", 0, 0);
    /* The registers that say what VMX can do, and the lock on it. */
    static const u32 registers[] = {0x480, 0x481, 0x482, 0x48b, 0x48c, 0x491};
    for (u64 n = 0; n < sizeof registers / sizeof *registers; n++) {
        before = faults;
        rdmsr(registers[n]);
        cases++;
        if (faults == before)
            fail("VMX tells what it can do", registers[n], 0);
    }
}

void serial(void)
{
    /* A line without an end, and bytes that a terminal takes for commands. */
    for (int n = 0; n < 4000; n++)
        out8(SERIAL, below(8) ? 'x' : 0x80 | chance());
    for (int n = 0; n < 1000; n++) {
        u8 byte = chance();
        out8(SERIAL, byte == '\n' || byte == '\r' ? 0x1b : byte);
        cases++;
    }
    say("\n");
}

void triple_fault(void)
{
    say("now\n");
    struct {
        u16 limit;
        u64 base;
    } __attribute__((packed)) none = {0, 0};
    asm volatile("lidt %0\n\tud2" ::"m"(none));
}

void execute_nothing(void)
{
    say("now\n");
    ((void (*)(void))0xc0000000ul)();
}

void panic_lie(void)
{
    say("now\n");
    say("\nKernel panic - not syncing: \033]0;owned\007\033[2J\rboo\n");
    end();
}

void power_off_lie(void)
{
    say("now\n");
    say("reboot: Power down\n");
    for (;;)
        relax();
}

void halt(void)
{
    say("now\n");
    for (;;)
        asm volatile("cli; hlt");
}
