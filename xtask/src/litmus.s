# A guest whose CPUs try each other: behind `protected.s`, the first CPU starts the others through its local APIC, and all go through
# ROUNDS rounds together. In each, one CPU after the other maps a page elsewhere, tells the others, and spoils what was mapped before, while they
# read it; stores become visible in their order; after MFENCE no two CPUs miss each other's stores; every CPU interrupts every other; and
# all count with LOCKed instructions, also over a page boundary and in a page table, where shadow paging may execute them in software.
# It says LITMUS OK with the count on COM1, or LITMUS WRONG with a letter for what was wrong. CPUS is a power of two, at least 2.

    .set IDT, 0x9000
    .set TRAMPOLINE, 0x6000
    .set DIRECTORY, 0x20000         # three page tables: the directory,
    .set TABLE, 0x21000             # the first 4 MiB as they are,
    .set TRIED, 0x22000             # and the page that is tried
    .set FRAMES, 0x30000            # where that is: one of two frames
    .set SPLIT, 0x33ffe             # a counter over a page boundary
    .set STACKS, 0x40000            # a page for each CPU
    .set PAGE, 0x400000
    .set SPOILT, 0xdeadbeef
    .set APIC, 0xfee00000
    .set EOI, APIC + 0xb0
    .set ICR, APIC + 0x300
    .set FLUSH, 0x41                # vectors; of the CPUs from COUNT on
    .set COUNT, 0x50
    .set TOTAL, CPUS * ROUNDS

    # Variables, a cache line each.
    .set online, 0x12000
    .set arrived, 0x12040
    .set acknowledged, 0x12080
    .set done, 0x120c0
    .set data, 0x12100
    .set flag, 0x12140
    .set stores, 0x12180            # of the first two CPUs
    .set seen, 0x12200              # what each saw of the other's
    .set plain, 0x12240
    .set added, 0x12280
    .set wide, 0x122c0
    .set received, 0x12400          # by CPU

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
    mov edi, 0x12000
    mov ecx, 0x200
    rep stosd
    mov edi, DIRECTORY
    mov ecx, 3 * 1024
    rep stosd
    mov [SPLIT], eax
    mov edi, TABLE
    mov eax, 3
1:  stosd
    add eax, 0x1000
    cmp eax, 0x400000
    jb 1b
    mov dword ptr [DIRECTORY], TABLE + 3
    mov dword ptr [DIRECTORY + 4], TRIED + 3
    mov dword ptr [DIRECTORY + 4 * 0x3fb], 0xfec00093
    mov dword ptr [TRIED], FRAMES + 3
    mov dword ptr [FRAMES], 0xaaaa0000
    mov dword ptr [FRAMES + 0x1000], 0xbbbb0000
    EXCEPTIONS_TO fault
    GATES FLUSH, 1, flush
    GATES COUNT, CPUS, count
    GATES 0xff, 1, spurious
    mov al, 0xff                    # the PIC is quiet
    out 0x21, al
    out 0xa1, al
    mov esi, offset trampoline
    mov edi, TRAMPOLINE
    mov ecx, offset trampoline_end - trampoline
    rep movsb

    OWN
    mov dword ptr [ICR], 0xc4500    # INIT to all others, and start-up
    mov ecx, 100000
2:  pause
    dec ecx
    jnz 2b
    mov dword ptr [ICR], 0xc4600 + TRAMPOLINE / 0x1000
3:  pause
    cmp dword ptr [online], CPUS - 1
    jne 3b
    jmp rounds

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
other:
    mov ax, 16
    mov ds, ax
    mov es, ax
    mov ss, ax
    OWN
    lock inc dword ptr [online]

rounds:                             # ESI is the round, EDI how many have to arrive at the next barrier
    xor esi, esi
    xor edi, edi
round:
    call barrier
    mov eax, esi
    and eax, CPUS - 1
    cmp eax, ebp
    jne reads

    # This one maps the page elsewhere.
    mov dword ptr [acknowledged], 0
    mov ebx, [TRIED]
    mov eax, ebx
    xor eax, 0x1000
    and eax, ~0x60                  # neither accessed nor dirty
    mov [TRIED], eax
    invlpg [PAGE]
    mov dword ptr [ICR], 0xc4000 + FLUSH
1:  pause
    cmp dword ptr [acknowledged], CPUS - 1
    jne 1b
    and ebx, ~0xfff
    mov ecx, [ebx]
    mov dword ptr [ebx], SPOILT
    lea eax, [esi + 1]
    mov [done], eax
    call barrier
    mov [ebx], ecx
    jmp messages

reads:                              # the others read it
    lea edx, [esi + 1]
2:  mov eax, [PAGE]
    cmp eax, SPOILT
    mov bl, 'T'
    je wrong
    pause
    cmp [done], edx
    jne 2b
    mov eax, [PAGE]
    cmp eax, SPOILT
    je wrong
    call barrier

messages:
    lea edx, [esi + 1]
    test ebp, ebp
    jnz 3f
    mov [data], edx
    mov [flag], edx
    jmp buffers
3:  pause
    cmp [flag], edx
    jne 3b
    cmp [data], edx
    mov bl, 'M'
    jne wrong

buffers:
    cmp ebp, 1
    ja interrupts
    mov ebx, ebp
    shl ebx, 6
    mov [stores + ebx], edx
    mfence
    xor ebx, 0x40
    mov ecx, [stores + ebx]
    mov [seen + ebp * 4], ecx

interrupts:
    xor ecx, ecx
4:  cmp ecx, ebp
    je 5f
    mov eax, ecx
    shl eax, 24
    lea ebx, [ebp + 0x4000 + COUNT]
    mov [ICR + 0x10], eax
    mov [ICR], ebx
5:  inc ecx
    cmp ecx, CPUS
    jne 4b

    lock inc dword ptr [plain]
    mov eax, 1
    lock xadd [added], eax
    lock inc dword ptr [SPLIT]
    lock add dword ptr [TRIED + 0xff8], 2
    push edx
    mov eax, [wide]
    mov edx, [wide + 4]
6:  mov ebx, eax
    mov ecx, edx
    inc ebx
    inc ecx
    lock cmpxchg8b [wide]
    jne 6b
    pop edx

    imul eax, edx, CPUS - 1
7:  pause
    cmp [received + ebp * 4], eax
    jb 7b
    mov bl, 'I'
    ja wrong
    call barrier
    test ebp, ebp
    jnz 8f
    cmp [seen], edx                 # one of the two has seen the other's store
    je 8f
    cmp [seen + 4], edx
    mov bl, 'S'
    jne wrong
8:  inc esi
    cmp esi, ROUNDS
    jne round

    call barrier
    test ebp, ebp
    jnz rest
    mov bl, 'C'
    mov eax, TOTAL
    cmp [plain], eax
    jne wrong
    cmp [added], eax
    jne wrong
    cmp [SPLIT], eax
    jne wrong
    cmp [wide], eax
    jne wrong
    cmp [wide + 4], eax
    jne wrong
    add eax, eax
    cmp [TRIED + 0xff8], eax
    jne wrong
    mov esi, offset fine
    call say
    mov ebx, TOTAL
    mov ecx, 8
9:  rol ebx, 4
    mov al, bl
    and al, 15
    cmp al, 10
    sbb al, 0x69
    das                             # a hexadecimal digit
    call put
    dec ecx
    jnz 9b
    mov esi, offset line
    call say
rest:
    sti
    hlt
    jmp rest

barrier:                            # until all CPUs are here
    add edi, CPUS
    lock inc dword ptr [arrived]
1:  mov eax, [arrived]
    sub eax, edi
    jns 2f
    pause
    jmp 1b
2:  ret

flush:
    invlpg [PAGE]
    lock inc dword ptr [acknowledged]
    mov dword ptr [EOI], 0
    iretd

count:                              # the stack says whose CPU this is
    push eax
    mov eax, esp
    shr eax, 12
    and eax, 31
    inc dword ptr [received + eax * 4]
    mov dword ptr [EOI], 0
    pop eax
spurious:
    iretd

fault:
    mov bl, 'E'
wrong:
    cli
    mov [letter], bl
    mov esi, offset not_fine
    call say
1:  hlt
    jmp 1b

fine:
    .asciz "LITMUS OK "
not_fine:
    .ascii "LITMUS WRONG "
letter:
    .asciz "?\r\n"
line:
    .asciz "\r\n"
    .balign 8
idt_pointer:
    .word 2047
    .long IDT
    .org LOADED * 512 + 512
