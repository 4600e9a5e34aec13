# What the small programs have in common, before each of them.

    .intel_syntax noprefix
    .set STACK, 0x7c00

    # Where a boot sector begins: segments and stack at 0, interrupts off. DL, the drive, is kept.
    .macro BEGIN
    .code16
    .globl _start
_start:
    cli
    xor ax, ax
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov sp, STACK
    cld
    .endm

    # Reads the LOADED sectors behind the boot sector from the drive DL.
    .macro LOAD
    mov ax, 0x0200 + LOADED
    mov bx, 0x7e00
    mov cx, 2
    mov dh, 0
    int 0x13
    .endm

    # The end of a boot sector.
    .macro SIGNATURE
    .org 510
    .byte 0x55, 0xaa
    .endm

    # A routine: AL to COM1.
    .macro PUT
    push edx
    push eax
    mov edx, 0x3fd
1:  in al, dx
    test al, 0x20
    jz 1b
    pop eax
    mov edx, 0x3f8
    out dx, al
    pop edx
    ret
    .endm

