# A kernel that only tells the count at its entry, in the same form, and ends the machine: what the firmware took.
        .section .note, "a", @note
        .long 4, 4, 18                  # XEN_ELFNOTE_PHYS32_ENTRY: entered by PVH
        .asciz "Xen"
        .long _start
        .text
        .code32
        .globl _start
_start: rdtsc
        movl $0x108000, %esp
        movl %edx, %esi                 # esi:ebx, the count
        movl %eax, %ebx
        movl $clock, %ecx
1:      movb (%ecx), %al
        testb %al, %al
        jz 2f
        call put
        incl %ecx
        jmp 1b
2:      movl %esi, %edi                 # sixteen hexadecimal digits: high word, low word
        call put_hex
        movl %ebx, %edi
        call put_hex
        movb $'\n', %al
        call put
        lidt no_idt                     # no handler for anything: a triple fault is a reset
        int3
put_hex:
        movl $8, %ecx
1:      roll $4, %edi
        movl %edi, %eax
        andl $15, %eax
        movb digits(%eax), %al
        call put
        loop 1b
        ret
put:    movw $0x3f8, %dx
        outb %al, %dx
        ret
clock:  .asciz "clock 0x"
digits: .ascii "0123456789abcdef"
no_idt: .word 0
        .long 0
