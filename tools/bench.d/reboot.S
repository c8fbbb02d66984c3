# An /init that restarts the machine with its first system call: what is left to measure is the machine and its kernel.
        .globl _start
_start: movl $169, %eax                 # reboot
        movl $0xfee1dead, %edi
        movl $672274793, %esi
        movl $0x01234567, %edx          # LINUX_REBOOT_CMD_RESTART
        syscall
        ud2                             # refused: a dead init is a panic, and not taken for a start
