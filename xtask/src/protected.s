# The beginning of a program in protected mode: a boot sector that loads the sectors behind it and enters flat 32-bit segments, with
# paging and interrupts off. What is assembled behind it follows `protected`, and has `say`. LOADED is the number of those sectors.

    # Makes interrupt gates for all 32 exceptions, which lead to one place, at IDT, which [idt_pointer] names. Uses EAX, ECX, EDX and EDI.
    .macro EXCEPTIONS_TO place
    mov edi, IDT
    mov ecx, 32
    mov edx, offset \place
1:  mov eax, edx
    and eax, 0xffff
    or eax, 0x00080000
    mov [edi], eax
    mov dword ptr [edi + 4], 0x8e00
    add edi, 8
    dec ecx
    jnz 1b
    lidt [idt_pointer]
    .endm

    BEGIN
    LOAD
    cli
    lgdt [gdt_pointer]
    mov eax, cr0
    or al, 1
    mov cr0, eax
    .byte 0xea                      # jmp 8:protected
    .word protected, 8

    .balign 8
gdt:
    .quad 0, 0x00cf9a000000ffff, 0x00cf92000000ffff
gdt_pointer:
    .word 23
    .long gdt

    .code32
say:                                # the string at ESI to COM1
    lodsb
    test al, al
    jz 1f
    call put
    jmp say
1:  ret
put:
    PUT

    SIGNATURE

    .code32
protected:
    mov ax, 16
    mov ds, ax
    mov es, ax
    mov fs, ax
    mov gs, ax
    mov ss, ax
    mov esp, STACK
