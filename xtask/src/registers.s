# A guest that keeps an eye on its registers, behind `protected.s`.
#
# First it asks for what CPUID hides: each must raise an exception. Then it fills its registers and resets the machine: each must be what a
# reset makes of it. At last it fills every register that world switches may forget with PATTERN and the number of the round, computes for a
# while without leaving for anything, and looks whether they are still what they were: debug registers, CR2, the registers of system calls,
# x87 and its pointers, SSE, AVX, and what XSETBV enables although CPUID hides it (QEMU's emulation of AMD-V does not intercept it). After
# each ROUNDS rounds it says KEPT on COM1; or else it says LOST, with a letter for what was lost, or TAKEN, with what was not refused.

    .set ROUNDS, 200
    .set SPIN, 200000
    .set IDT, 0xa000
    .set BUFFER, 0x9000
    .set KEPT, 0x9040
    # Where the operand of the last x87 instruction is: PATTERN decides.
    .set OPERAND, 0x9080 + (PATTERN & 1) * 64
    .set ENVIRONMENT, 0x9100
    .set AREA, 0xb000               # for XSAVE
    .set BOUNDS, AREA + 960         # where QEMU has BNDREGS and PKRU in it
    .set PKRU, AREA + 2688
    .set HIDDEN, 0x218              # both, and BNDCSR, as XCR0 has them
    # Survives the reset.
    .set SECOND_START, 0x200000
    .set MAGIC, 0x52455345

    mov eax, cr0                    # x87, SSE and AVX on
    and eax, ~0xc
    or eax, 2
    mov cr0, eax
    mov eax, cr4
    or eax, 0x600
    mov cr4, eax
    fnstenv [ENVIRONMENT]
    fninit
    mov eax, 1
    cpuid
    and ecx, 0x14000000             # XSAVE and AVX
    xor ecx, 0x14000000
    mov [without_avx], ecx
    jnz no_avx
    mov eax, cr4
    or eax, 0x40000
    mov cr4, eax
    xor ecx, ecx
    xgetbv
    mov [xcr0_at_reset], al
    xor edx, edx
    mov eax, 7
    xsetbv
no_avx:
    EXCEPTIONS_TO trap              # every one goes on at [resume]

    # CR4: LA57, VMXE, SMXE, 15, PCIDE, 19, PKE, CET, PKS and above.
    mov ebx, 12
1:  bt dword ptr [hidden_cr4], ebx
    jnc 3f
    mov dword ptr [resume], offset 3f
    mov eax, 1
    mov ecx, ebx
    shl eax, cl
    mov ecx, cr4
    mov edx, ecx
    or edx, eax
    mov cr4, edx
    mov cr4, ecx
    mov al, '4'
    jmp taken
3:  inc ebx
    cmp ebx, 32
    jb 1b

    mov dword ptr [resume], offset 1f
    mov ebx, cr0                    # NW without CD
    mov eax, ebx
    and eax, 0x9fffffff
    or eax, 0x20000000
    mov cr0, eax
    mov cr0, ebx
    mov al, '0'
    jmp taken

1:  mov esi, offset refused         # instructions, and registers, that are not there
2:  lodsd
    test eax, eax
    jz 3f
    mov [saved], esi
    mov dword ptr [resume], offset 4f
    xor ecx, ecx
    call eax
    mov eax, [saved]                # a: the first
    sub eax, offset refused + 4
    shr eax, 2
    add al, 'a'
    jmp taken
4:  mov esp, STACK
    mov esi, [saved]
    jmp 2b
3:  mov esi, offset hidden_msrs
2:  lodsd
    test eax, eax
    jz 3f
    mov dword ptr [resume], offset 4f
    mov ecx, eax
    xor eax, eax
    xor edx, edx
    wrmsr
    mov al, 'R'
    jmp taken
4:  jmp 2b

3:  cmp dword ptr [without_avx], 0
    jne 2f
    mov dword ptr [resume], offset 2f
    xor ecx, ecx
    xor edx, edx
    mov eax, 7 | HIDDEN
    xsetbv
    mov byte ptr [hidden], 1
2:  mov dword ptr [resume], offset lost_it_all

    cmp dword ptr [SECOND_START], MAGIC
    je after_reset
    mov dword ptr [SECOND_START], MAGIC
    mov ebx, PATTERN
    call fill
    mov al, 0xfe                    # the keyboard controller's reset line
    out 0x64, al
1:  hlt
    jmp 1b

after_reset:
    cmp byte ptr [xcr0_at_reset], 1
    mov al, 'x'
    jne lost
    xor ebx, ebx
    call zero_buffer
    call compare_vectors
    mov al, 'd'
    mov edx, dr0
    mov ecx, dr1
    or edx, ecx
    mov ecx, dr2
    or edx, ecx
    mov ecx, dr3
    or edx, ecx
    jnz lost
    call compare_hidden
    mov al, 'p'
    mov edx, [ENVIRONMENT + 12]
    or edx, [ENVIRONMENT + 20]
    jnz lost

begin:
    mov ebp, ROUNDS
round:
    inc dword ptr [counter]
    mov ebx, [counter]
    imul ebx, ebx, 0x9e3779b1
    xor ebx, PATTERN

    call fill
    mov ecx, SPIN
5:  dec ecx
    jnz 5b

    call compare_vectors
    cmp dword ptr [without_avx], 0
    jne 6f
    mov al, 'X'
    push eax
    xor ecx, ecx
    xgetbv
    mov ecx, eax
    pop eax
    and ecx, ~HIDDEN
    cmp ecx, 7
    jne lost
    call compare_hidden
6:
    mov al, 'P'
    fnstenv [KEPT]                  # the pointers are the guest's own; CPUs may lose them
    mov edx, [KEPT + 20]
    test edx, edx
    jz 8f
    cmp edx, OPERAND
    jne lost
8:
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

lost_it_all:
    mov al, '?'
lost:
    mov [letter], al
    mov esi, offset lost_it
    call say
1:  hlt
    jmp 1b

taken:
    mov [taken_letter], al
    mov esi, offset taken_it
    call say
1:  hlt
    jmp 1b

trap:
    mov esp, STACK
    jmp [resume]

fill:                               # everything from EBX
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
    mov [OPERAND], ebx
    fninit
    fild dword ptr [OPERAND]
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
4:  cmp byte ptr [hidden], 0
    je 5f
    call zero_area
    mov [PKRU], ebx
    mov [BOUNDS], ebx
    mov dword ptr [AREA + 512], HIDDEN
    mov eax, HIDDEN
    xor edx, edx
    xrstor [AREA]
5:  ret

compare_vectors:
    mov al, 'S'
    movups [KEPT], xmm0
    call compare_16
    movups [KEPT], xmm7
    call compare_16
    cmp dword ptr [without_avx], 0
    jne 2f
    mov al, 'A'
    vmovups [KEPT], ymm0
    call compare_32
    vmovups [KEPT], ymm7
    call compare_32
2:  ret

compare_hidden:
    cmp byte ptr [hidden], 0
    je 2f
    call zero_area
    mov eax, HIDDEN
    xor edx, edx
    xsave [AREA]
    mov al, 'K'
    test byte ptr [AREA + 513], 2   # components in their initial state are not stored
    jnz 1f
    mov dword ptr [PKRU], 0
1:  cmp [PKRU], ebx
    jne lost
    mov al, 'B'
    cmp [BOUNDS], ebx
    jne lost
2:  ret

zero_buffer:
    mov edi, BUFFER
    mov ecx, 8
    jmp 1f
zero_area:
    mov edi, AREA
    mov ecx, 1024
1:  xor eax, eax
    rep stosd
    ret

do_rdpkru: .byte 0x0f, 0x01, 0xee
    ret
do_rdtscp:                          # QEMU lets it through; TSC_AUX tells nothing
    or ecx, -1
    rdtscp
    test ecx, ecx
    jnz 1f
    ud2
1:  ret
do_monitor: .byte 0x0f, 0x01, 0xc8
    ret
do_rdpru: .byte 0x0f, 0x01, 0xfd
    ret
do_rdpmc: rdpmc
    ret
do_invpcid: invpcid eax, [KEPT]
    ret

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
refused: .long do_rdpkru, do_rdtscp, do_monitor, do_rdpru, do_rdpmc, do_invpcid, 0
# IA32_XFD, IA32_XSS, IA32_PKRS, IA32_U_CET, IA32_S_CET, PL0_SSP, IA32_SPEC_CTRL, IA32_BNDCFGS, TSC_AUX.
hidden_msrs: .long 0x1c4, 0xda0, 0x6e1, 0x6a0, 0x6a2, 0x6a4, 0x48, 0xd90, 0xc0000103, 0
hidden_cr4: .long 0xffcaf000
resume: .long 0
saved: .long 0
counter: .long 0
without_avx: .long 0
# STAR, SYSENTER_ESP, SYSENTER_EIP, LSTAR, CSTAR, SFMASK, KERNEL_GS_BASE.
msrs: .long 0xc0000081, 0x175, 0x176, 0xc0000082, 0xc0000083, 0xc0000084, 0xc0000102
msrs_end:
kept: .asciz "KEPT\n"
lost_it: .ascii "LOST "
letter: .asciz "?\n"
taken_it: .ascii "TAKEN "
taken_letter: .asciz "?\n"
xcr0_at_reset: .byte 1
hidden: .byte 0
idt_pointer:
    .word 32 * 8 - 1
    .long IDT
    .org 2560
