// The /init of tools/kernel-cost: tells how many instructions the machine has run when it starts, by the kernel's
// log on the polled serial port (which costs nothing before), and ends the machine. With the argument "initcalls"
// it then repeats those lines of the log that tell what each initcall took. No libc: nothing is to run but the kernel.
#include <linux/reboot.h>
#include <sys/syscall.h>

enum { READ_ALL = 3, WRITE_ONLY = 1 };

static long call(long number, long a, long b, long c, long d)
{
    register long r10 __asm__("r10") = d;
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10)
                     : "rcx", "r11", "memory");
    return result;
}

static unsigned long long instructions(void)
{
    unsigned low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return (unsigned long long)high << 32 | low;
}

static char line[1024], log_text[1 << 18];

// Writes one record of the highest level, which even a quiet kernel shows.
static void tell(long kmsg, const char *text, long length)
{
    long at = 0, i;
    for (i = 0; i < 3; i++) line[at++] = "<0>"[i];
    for (i = 0; i < length && at < (long)sizeof(line) - 1; i++) line[at++] = text[i];
    line[at++] = '\n';
    call(SYS_write, kmsg, (long)line, at, 0);
}

static void tell_number(long kmsg, unsigned long long number)
{
    char text[32];
    int at = sizeof(text);
    do text[--at] = '0' + number % 10; while (number /= 10);
    text[--at] = ' ', text[--at] = 'k', text[--at] = 'c', text[--at] = 'o', text[--at] = 'l', text[--at] = 'c';
    tell(kmsg, text + at, sizeof(text) - at);
}

static void tell_initcalls(long kmsg)
{
    long length = call(SYS_syslog, READ_ALL, (long)log_text, sizeof(log_text), 0), start = 0, i;
    for (i = 0; i < length; i++) {
        if (log_text[i] != '\n') continue;
        tell(kmsg, log_text + start, i - start);
        start = i + 1;
    }
}

__attribute__((used)) static void run(long *stack)
{
    unsigned long long now = instructions();
    long kmsg = call(SYS_open, (long)"/dev/kmsg", WRITE_ONLY, 0, 0);
    tell_number(kmsg, now);
    if (stack[0] > 1) tell_initcalls(kmsg);
    call(SYS_reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, LINUX_REBOOT_CMD_RESTART, 0);
}

__asm__(".globl _start\n_start: mov %rsp, %rdi\nand $-16, %rsp\ncall run\n");
