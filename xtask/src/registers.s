# A guest that keeps an eye on its registers: behind `protected.s`, it fills every register that world switches may forget with PATTERN
# and the number of the round, computes for a while without leaving for anything, and looks whether they are still what they were:
# debug registers, CR2, the registers of system calls, x87, SSE and AVX. After each ROUNDS rounds it says KEPT on COM1; or else it says
# LOST, with a letter for what was lost.

    .set ROUNDS, 200
    .set SPIN, 200000
    .set BUFFER, 0x9000
    .set KEPT, 0x9040

    mov eax, cr0                    # x87, SSE and AVX on
    and eax, ~0xc
    or eax, 2
    mov cr0, eax
    mov eax, cr4
    or eax, 0x600
    mov cr4, eax
    fninit
    mov eax, 1
    cpuid
    and ecx, 0x14000000             # XSAVE and AVX
    xor ecx, 0x14000000
    mov [without_avx], ecx
    jnz begin
    mov eax, cr4
    or eax, 0x40000
    mov cr4, eax
    xor ecx, ecx
    xor edx, edx
    mov eax, 7
    xsetbv

begin:
    mov ebp, ROUNDS
round:
    inc dword ptr [counter]
    mov ebx, [counter]
    imul ebx, ebx, 0x9e3779b1
    xor ebx, PATTERN

    mov dr0, ebx
    lea eax, [ebx + 1]
    mov dr1, eax
    lea eax, [ebx + 2]
    mov dr2, eax
    lea eax, [ebx + 3]
    mov dr3, eax
    mov cr2, ebx
    mov esi, offset msrs
1:  mov ecx, [esi]
    mov eax, ebx
    xor eax, ecx
    xor edx, edx
    wrmsr
    add esi, 4
    cmp esi, offset msrs_end
    jb 1b
    mov [BUFFER], ebx
    fild dword ptr [BUFFER]
    mov ecx, 8
    mov edi, BUFFER
    mov eax, ebx
2:  mov [edi], eax
    add eax, ecx
    add edi, 4
    dec ecx
    jnz 2b
    cmp dword ptr [without_avx], 0
    jne 3f
    vmovups ymm0, [BUFFER]
    vmovups ymm7, [BUFFER]
    jmp 4f
3:  movups xmm0, [BUFFER]
    movups xmm7, [BUFFER]
4:
    mov ecx, SPIN
5:  dec ecx
    jnz 5b

    mov al, 'S'
    movups [KEPT], xmm0
    call compare_16
    movups [KEPT], xmm7
    call compare_16
    cmp dword ptr [without_avx], 0
    jne 6f
    mov al, 'A'
    vmovups [KEPT], ymm0
    call compare_32
    vmovups [KEPT], ymm7
    call compare_32
    mov al, 'X'
    push eax
    xor ecx, ecx
    xgetbv
    mov ecx, eax
    pop eax
    cmp ecx, 7
    jne lost
6:
    mov al, 'F'
    fistp dword ptr [KEPT]
    cmp [KEPT], ebx
    jne lost
    mov al, 'D'
    mov edx, dr0
    cmp edx, ebx
    jne lost
    mov edx, dr1
    dec edx
    cmp edx, ebx
    jne lost
    mov edx, dr2
    sub edx, 2
    cmp edx, ebx
    jne lost
    mov edx, dr3
    sub edx, 3
    cmp edx, ebx
    jne lost
    mov al, 'C'
    mov edx, cr2
    cmp edx, ebx
    jne lost
    mov esi, offset msrs
7:  mov ecx, [esi]
    rdmsr
    xor eax, ecx
    xor eax, ebx
    or edx, eax
    mov al, 'M'
    jnz lost
    add esi, 4
    cmp esi, offset msrs_end
    jb 7b

    dec ebp
    jnz round
    mov esi, offset kept
    call say
    jmp begin

lost:
    mov [letter], al
    mov esi, offset lost_it
    call say
1:  hlt
    jmp 1b

compare_32:
    mov ecx, 8
    jmp compare
compare_16:
    mov ecx, 4
compare:
    mov esi, BUFFER
    mov edi, KEPT
    repe cmpsd
    jne lost
    ret

    .balign 4
counter: .long 0
without_avx: .long 0
# STAR, SYSENTER_ESP, SYSENTER_EIP, LSTAR, CSTAR, SFMASK, KERNEL_GS_BASE.
msrs: .long 0xc0000081, 0x175, 0x176, 0xc0000082, 0xc0000083, 0xc0000084, 0xc0000102
msrs_end:
kept: .asciz "KEPT\n"
lost_it: .ascii "LOST "
letter: .asciz "?\n"
    .org 1536
