# A guest that tries to escape, behind `protected.s`: it fills its memory with page tables that map the machine's memory, and switches to
# a task whose CR3 is an address of the *machine*, where its own memory is. If the CPU takes CR3 from there, the guest says so, and has
# all memory. If not, there is nothing at that address: it shuts down, and is reset.

    .set SPRAY, 0x1000000           # what is filled
    .set SPRAYED, 0x2c00            # pages
    .set PD, 0x20000
    .set PLACE, 0x06000000          # where the machine, which has 144 MiB, has some of it

    .macro SAY label
    mov esi, offset \label
    call say
    .endm

    SAY tries
    cld
    mov edi, SPRAY
    mov ebx, SPRAYED
1:  mov esi, offset page
    mov ecx, 1024
    rep movsd
    dec ebx
    jnz 1b

    mov edi, PD                     # 4 MiB pages: identity, and the filled memory where the machine has it
    mov eax, 0x83
    mov ecx, 1024
1:  stosd
    add eax, 0x400000
    loop 1b
    mov dword ptr [PD + (PLACE >> 22) * 4], SPRAY + 0x83
    mov eax, cr4
    or eax, 0x10
    mov cr4, eax
    mov eax, PD
    mov cr3, eax
    mov eax, cr0
    or eax, 0x80000000
    mov cr0, eax
    lgdt [gdt_there]
    mov ax, 0x18
    ltr ax
    .byte 0xea
    .long 0
    .word 0x20
    SAY lives
1:  hlt
    jmp 1b

gdt_there:
    .word 0x27
    .long PLACE + GDT
tries: .asciz "ESCAPE TRIED\r\n"
lives: .asciz "ESCAPE: no task switch\r\n"

    .balign 8
    .set GDT, 0xc00
    .set CODE, 0x800
    .set TABLE, 0xfe0
    .set NEW_TSS, 0xd00
    .set OLD_TSS, 0xd80
    # With PAE, all at once: a page directory of 2 MiB pages that maps the machine's first 512 MiB, code, descriptors, task states, and a
    # page-directory-pointer table.
page:
    .set n, 0
    .rept 256
    .long n * 0x200000 + 0x83, 0
    .set n, n + 1
    .endr
page_code:
    call 1f
    .asciz "ESCAPED\r\n"
1:  pop esi
2:  lodsb
    test al, al
    jz 3f
    mov edx, 0x3f8
    out dx, al
    jmp 2b
3:  hlt
    jmp 3b
    .skip GDT - (. - page)
    .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff
    .word 103, (PLACE + OLD_TSS) & 0xffff
    .byte ((PLACE + OLD_TSS) >> 16) & 0xff, 0x89, 0, (PLACE + OLD_TSS) >> 24
    .word 103, (PLACE + NEW_TSS) & 0xffff
    .byte ((PLACE + NEW_TSS) >> 16) & 0xff, 0x89, 0, (PLACE + NEW_TSS) >> 24
    .skip NEW_TSS - (. - page)
    .long 0, 0, 0, 0, 0, 0, 0, PLACE + TABLE, PLACE + CODE, 2, 0, 0, 0, 0, PLACE + GDT, 0, 0, 0, 16, 8, 16, 16, 16, 16, 0, 104 << 16
    .skip TABLE - (. - page)
    .rept 4
    .long PLACE + 1, 0
    .endr
    .org 6144
