/* A guest that attacks its monitor: `attack=NAME` on the kernel command line says how, `seed=N` begins
 * the numbers that are by chance. It says on its serial line what came of it, and restarts. */
#include "attacks.h"

#define SERIAL 0x3f8
#define COMMAND_LINE_AT 0x228

u64 cases;
static u64 state = 88172645463325252ul;
static u8 stack[0x8000] __attribute__((aligned(16), used));

static const struct {
    const char *name;
    void (*attack)(void);
} attacks[] = {
    {"registers-garbage", registers_garbage},
    {"registers-order", registers_order},
    {"queues-wrong", queues_wrong},
    {"rings-moved", rings_moved},
    {"reset-races", reset_races},
    {"notify-storm", notify_storm},
    {"chains", chains},
    {"rings-broken", rings_broken},
    {"rings-overwritten", rings_overwritten},
    {"descriptors-changed", descriptors_changed},
    {"block-requests", block_requests},
    {"block-large", block_large},
    {"net-headers", net_headers},
    {"net-receive", net_receive},
    {"vsock-packets", vsock_packets},
    {"vsock-flood", vsock_flood},
    {"vsock-credit", vsock_credit},
    {"vsock-no-room", vsock_no_room},
    {"fs-messages", fs_messages},
    {"fs-names", fs_names},
    {"fs-forged", fs_forged},
    {"fs-exhaust", fs_exhaust},
    {"balloon-lies", balloon_lies},
    {"ports", ports},
    {"holes", holes},
    {"interrupts", interrupts},
    {"registers-of-the-processor", processor},
    {"nested", nested},
    {"serial", serial},
    {"storm", storm},
    {"storm-endless", storm_endless},
    {"triple-fault", triple_fault},
    {"execute-nothing", execute_nothing},
    {"panic-lie", panic_lie},
    {"power-off-lie", power_off_lie},
    {"halt", halt},
};

void say(const char *text)
{
    for (; *text; text++)
        out8(SERIAL, *text);
}

void say_number(u64 number)
{
    char digits[21] = {0};
    int at = 20;
    do {
        digits[--at] = '0' + number % 10;
        number /= 10;
    } while (number);
    say(digits + at);
}

void hold(void)
{
    say("hold\n");
    while (!(in8(SERIAL + 5) & 1))
        relax();
    in8(SERIAL);
}

void end(void)
{
    out8(0x64, 0xfe);
    for (;;)
        asm volatile("hlt");
}

void fail(const char *what, u64 one, u64 other)
{
    say("\nFAILED: ");
    say(what);
    say(": ");
    say_number(one);
    say(", ");
    say_number(other);
    say(" after ");
    say_number(cases);
    say(" cases\n");
    end();
}

u64 chance(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

u64 below(u64 limit) { return chance() % limit; }

u64 awkward(void)
{
    static const u64 edges[] = {0, 1, 2, 3, 4, 7, 8, 15, 16, 0x7f, 0x80, 0xff, 0x100, 0x7fff, 0x8000, 0xffff,
                                0x10000, 0x7fffffff, 0x80000000, 0xffffffff, 0x100000000, MEMORY_END - 1,
                                MEMORY_END, BUFFERS, RINGS, 0xd0000000, 0xfee00000, 0x7fffffffffffffff,
                                0x8000000000000000, 0xfffffffffffff000, 0xffffffffffffffff};
    u64 kind = below(3);
    if (kind == 0)
        return chance();
    u64 edge = edges[below(sizeof edges / sizeof *edges)];
    return kind == 1 ? edge : edge + below(33) - 16;
}

u64 place(void)
{
    u64 at = awkward();
    return at < RINGS ? at + RINGS : at;
}

void zero(u64 at, u64 bytes)
{
    for (u64 i = 0; i < bytes / 8; i++)
        write64(at + 8 * i, 0);
    for (u64 i = bytes & ~7ul; i < bytes; i++)
        write8(at + i, 0);
}

void copy(u64 to, const void *from, u64 bytes)
{
    for (u64 i = 0; i < bytes; i++)
        write8(to + i, ((const u8 *)from)[i]);
}

int same(u64 at, const void *other, u64 bytes)
{
    for (u64 i = 0; i < bytes; i++)
        if (read8(at + i) != ((const u8 *)other)[i])
            return 0;
    return 1;
}

u64 length(const char *text)
{
    u64 n = 0;
    while (text[n])
        n++;
    return n;
}

/* Where the value of `name` is on the command line. */
static const char *option(const char *line, const char *name)
{
    u64 n = length(name);
    for (const char *at = line; *at; at++)
        if ((at == line || at[-1] == ' ') && same((u64)at, name, n) && at[n] == '=')
            return at + n + 1;
    return "";
}

__attribute__((used)) static void run(u64 zero_page)
{
    const char *line = (const char *)(u64)read32(zero_page + COMMAND_LINE_AT);
    u64 seed = 0;
    for (const char *digit = option(line, "seed"); *digit >= '0' && *digit <= '9'; digit++)
        seed = seed * 10 + *digit - '0';
    state ^= seed * 0x9e3779b97f4a7c15ul;
    for (int i = 0; i < 8; i++)
        chance();
    const char *wanted = option(line, "attack");
    for (u64 i = 0; i < sizeof attacks / sizeof *attacks; i++) {
        u64 n = length(attacks[i].name);
        if (!same((u64)wanted, attacks[i].name, n) || (wanted[n] && wanted[n] != ' '))
            continue;
        find_devices();
        attacks[i].attack();
        hold();
        everything_works();
        say("\nsurvived ");
        say_number(cases);
        say(" cases\n");
        end();
    }
    fail("no such attack", 0, 0);
}

/* 64-bit mode, the first 4 GiB mapped one to one, the zero page in rsi. */
__attribute__((naked, section(".text.enter"))) void enter(void)
{
    asm volatile("lea stack + 0x8000(%rip), %rsp\n"
                 "mov %rsi, %rdi\n"
                 "xor %ebp, %ebp\n"
                 "cld\n"
                 "call run\n");
}
