# A guest whose CPUs try each other, in ROUNDS rounds: behind `several.s`, one CPU after the other maps a page elsewhere, tells the
# others, and spoils what was mapped before, while they read it; stores become visible in their order; after MFENCE no two CPUs miss each
# other's stores; every CPU interrupts every other; and all count with LOCKed instructions, also over a page boundary and in a page
# table, where shadow paging may execute them in software. It says LITMUS OK with the count on COM1, or LITMUS WRONG with a letter for
# what was wrong. CPUS is a power of two, at least 2.

    .set TRIED, OWN_TABLE           # maps the page that is tried
    .set FRAMES, 0x30000            # where that is: one of two frames
    .set SPLIT, 0x33ffe             # a counter over a page boundary
    .set PAGE, 0x400000
    .set SPOILT, 0xdeadbeef
    .set FLUSH, 0x41                # vectors; of the CPUs from COUNT on
    .set COUNT, 0x50
    .set TOTAL, CPUS * ROUNDS

    # Variables, a cache line each.
    .set arrived, VARIABLES + 0x40
    .set acknowledged, VARIABLES + 0x80
    .set done, VARIABLES + 0xc0
    .set data, VARIABLES + 0x100
    .set flag, VARIABLES + 0x140
    .set stores, VARIABLES + 0x180  # of the first two CPUs
    .set seen, VARIABLES + 0x200    # what each saw of the other's
    .set plain, VARIABLES + 0x240
    .set added, VARIABLES + 0x280
    .set wide, VARIABLES + 0x2c0
    .set received, VARIABLES + 0x400 # by CPU

    # ESI is the round, EDI how many have to arrive at the next barrier.
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
    call hexadecimal
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
    iretd

prepare:
    mov dword ptr [SPLIT], 0
    mov dword ptr [TRIED], FRAMES + 3
    mov dword ptr [FRAMES], 0xaaaa0000
    mov dword ptr [FRAMES + 0x1000], 0xbbbb0000
    GATES FLUSH, 1, flush
    GATES COUNT, CPUS, count
    ret

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
    .org LOADED * 512 + 512
