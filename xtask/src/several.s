# Programs with CPUS virtual CPUs: behind `protected.s`, the first CPU has the program `prepare` and starts the others through its local
# APIC; then all go to what follows, in flat segments with paging, interrupts on, and their number in EBP.

    .set IDT, 0x9000
    .set TRAMPOLINE, 0x6000
    .set DIRECTORY, 0x20000         # page tables: the directory,
    .set TABLE, 0x21000             # the first 4 MiB as they are,
    .set OWN_TABLE, 0x22000         # and the next 4 MiB as the program likes
    .set STACKS, 0x40000            # a page for each CPU
    .set APIC, 0xfee00000
    .set EOI, APIC + 0xb0
    .set ICR, APIC + 0x300
    .set VARIABLES, 0x12000         # clear at the start
    .set online, VARIABLES

    # COUNT gates from vector FIRST on lead to PLACE.
    .macro GATES first, count, place
    mov edi, IDT + 8 * \first
    mov ecx, \count
1:  mov eax, offset \place
    or eax, 0x00080000
    mov [edi], eax
    mov dword ptr [edi + 4], 0x8e00
    add edi, 8
    dec ecx
    jnz 1b
    .endm

    # A CPU's own: number in EBP, stack, local APIC, paging.
    .macro OWN
    mov ebp, [APIC + 0x20]
    shr ebp, 24
    mov esp, ebp
    shl esp, 12
    add esp, STACKS + 0xff0
    lidt [idt_pointer]
    mov dword ptr [APIC + 0xf0], 0x1ff
    mov eax, cr4
    or al, 0x10                     # PSE
    mov cr4, eax
    mov eax, DIRECTORY
    mov cr3, eax
    mov eax, cr0
    or eax, 0x80000000
    mov cr0, eax
    sti
    .endm

    xor eax, eax
    mov edi, VARIABLES
    mov ecx, 0x200
    rep stosd
    mov edi, DIRECTORY
    mov ecx, 3 * 1024
    rep stosd
    mov edi, TABLE
    mov eax, 3
1:  stosd
    add eax, 0x1000
    cmp eax, 0x400000
    jb 1b
    mov dword ptr [DIRECTORY], TABLE + 3
    mov dword ptr [DIRECTORY + 4], OWN_TABLE + 3
    mov dword ptr [DIRECTORY + 4 * 0x3fb], 0xfec00093
    EXCEPTIONS_TO fault
    GATES 0xff, 1, spurious
    call prepare
    mov al, 0xff                    # the PIC is quiet
    out 0x21, al
    out 0xa1, al
    mov esi, offset trampoline
    mov edi, TRAMPOLINE
    mov ecx, offset trampoline_end - trampoline
    rep movsb

    OWN
    .if CPUS > 1
    mov dword ptr [ICR], 0xc4500    # INIT to all others, and start-up
    mov ecx, 100000
2:  pause
    dec ecx
    jnz 2b
    mov dword ptr [ICR], 0xc4600 + TRAMPOLINE / 0x1000
3:  pause
    cmp dword ptr [online], CPUS - 1
    jne 3b
    .endif
    jmp all

    .code16
trampoline:
    cli
    xor ax, ax
    mov ds, ax
    lgdt [gdt_pointer]
    mov eax, cr0
    or al, 1
    mov cr0, eax
    .byte 0xea                      # jmp 8:other
    .word other, 8
trampoline_end:

    .code32
spurious:
    iretd

    .balign 8
idt_pointer:
    .word 2047
    .long IDT

hexadecimal:                        # EBX to COM1, eight digits
    mov ecx, 8
1:  rol ebx, 4
    mov al, bl
    and al, 15
    cmp al, 10
    sbb al, 0x69
    das
    call put
    dec ecx
    jnz 1b
    ret

other:
    mov ax, 16
    mov ds, ax
    mov es, ax
    mov ss, ax
    OWN
    lock inc dword ptr [online]
all:
