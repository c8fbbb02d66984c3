/* The bare machine: ports, memory, a serial line to the test, numbers by chance. */
#ifndef MACHINE_H
#define MACHINE_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;

/* Guest memory that attacks may use as they like; the machine has 64 MiB. */
#define RINGS 0x1000000ul
#define BUFFERS 0x2000000ul
#define MEMORY_END 0x4000000ul

static inline void out8(u16 port, u8 value) { asm volatile("outb %0, %1" ::"a"(value), "Nd"(port)); }
static inline void out16(u16 port, u16 value) { asm volatile("outw %0, %1" ::"a"(value), "Nd"(port)); }
static inline void out32(u16 port, u32 value) { asm volatile("outl %0, %1" ::"a"(value), "Nd"(port)); }

static inline u8 in8(u16 port)
{
    u8 value;
    asm volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static inline u16 in16(u16 port)
{
    u16 value;
    asm volatile("inw %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static inline u32 in32(u16 port)
{
    u32 value;
    asm volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static inline void write8(u64 at, u8 value) { *(volatile u8 *)at = value; }
static inline void write16(u64 at, u16 value) { *(volatile u16 *)at = value; }
static inline void write32(u64 at, u32 value) { *(volatile u32 *)at = value; }
static inline void write64(u64 at, u64 value) { *(volatile u64 *)at = value; }
static inline u8 read8(u64 at) { return *(volatile u8 *)at; }
static inline u16 read16(u64 at) { return *(volatile u16 *)at; }
static inline u32 read32(u64 at) { return *(volatile u32 *)at; }
static inline u64 read64(u64 at) { return *(volatile u64 *)at; }
static inline void barrier(void) { asm volatile("" ::: "memory"); }
static inline void relax(void) { asm volatile("pause" ::: "memory"); }

void say(const char *text);
void say_number(u64 number);
/* Lets the test look at the monitor, and goes on when it has. */
void hold(void);
/* What was expected did not happen: tells it, and ends the machine. */
void fail(const char *what, u64 one, u64 other) __attribute__((noreturn));
/* Restarts the machine, which is its end. */
void end(void) __attribute__((noreturn));

u64 chance(void);
/* Of 0 to below - 1. */
u64 below(u64 limit);
/* A number of the kind that makes trouble. */
u64 awkward(void);
/* The same, but no address below the attacks' own memory: this program is there, and page tables. */
u64 place(void);

void zero(u64 at, u64 bytes);
void copy(u64 to, const void *from, u64 bytes);
int same(u64 at, const void *other, u64 bytes);
u64 length(const char *text);

/* Hostile things done; told at the end. */
extern u64 cases;

#endif
