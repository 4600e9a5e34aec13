# A guest whose instructions have their operands, and themselves, in video memory that is no RAM: MMX, x87, SSE and AVX in a
# 256-colour and in a planar mode, from real mode and from privilege level 3, and code that runs from there. It says on COM1 what came of
# each: "ok", or what was there instead.

    .set IDT, 0x6000

    BEGIN
    mov [drive], dl
    LOAD
    jmp begin
drive:
    .byte 0
    .org 446
    .byte 0x80, 0, 1, 0, 0x0c, 0xfe, 0xff, 0xff
    .long 1, 2047
    SIGNATURE

say:                                # the string behind the call
    pop si
1:  lodsb
    test al, al
    jz 2f
    call put
    jmp 1b
2:  jmp si
put:
    PUT
hex:                                # EAX
    mov cx, 8
1:  rol eax, 4
    push eax
    and al, 15
    add al, '0'
    cmp al, '9'
    jbe 2f
    add al, 7
2:  call put
    pop eax
    loop 1b
    ret

# The double word at ES:DI + 16 has to be EAX.
expect:
    cmp eax, es:[di + 16]
    jne 1f
    call say
    .asciz " ok"
    ret
1:  mov eax, es:[di + 16]
    call hex
    ret

# The vector that has come has to be AL; then none has come.
vector:
    cmp al, [came]
    mov byte ptr [came], 0
    jne 1f
    call say
    .asciz " ok"
    ret
1:  call say
    .asciz " WRONG"
    ret

    .macro handler number
handler\number:
    add sp, 6
    mov byte ptr cs:[came], \number
    jmp word ptr cs:[resume]
    .endm
    handler 6
    handler 7
    handler 13
    handler 16
    handler 19
    .macro catch number
    mov word ptr [4 * \number], offset handler\number
    mov word ptr [4 * \number + 2], 0
    .endm
came:
    .byte 0
    .balign 2
resume:
    .word 0

begin:
    catch 6
    catch 7
    catch 13
    mov eax, cr4
    or eax, 0x600                   # OSFXSR, OSXMMEXCPT
    mov cr4, eax
    mov eax, cr0
    and eax, ~0xc                   # EM, TS
    or eax, 0x22                    # MP, NE
    mov cr0, eax
    mov ax, 0x13
    int 0x10
    call say
    .asciz "\r\nmode 13:"
    call operands
    mov ax, 0x12
    int 0x10
    call say
    .asciz "\r\nmode 12:"
    call operands
    jmp exceptions

# Each instruction group on video memory.
operands:
    push 0xa000
    pop es
    mov di, 16
    mov dword ptr es:[di], 0x12345678
    mov dword ptr es:[di + 4], 0x00765432

    call say
    .asciz " movq"
    movq mm0, es:[di]
    movq es:[di + 12], mm0
    emms
    mov eax, 0x00765432
    call expect

    call say
    .asciz " fild"
    fninit
    fild qword ptr es:[di]
    fistp qword ptr es:[di + 16]
    mov eax, 0x12345678
    call expect

    call say
    .asciz " fbstp"
    fild word ptr es:[di]           # 5678h is 22136
    fbstp es:[di + 16]
    mov eax, 0x00022136
    call expect

    call say
    .asciz " fadd"
    mov dword ptr es:[di + 16], 0x40200000
    fld1
    fadd dword ptr es:[di + 16]     # 1 + 2.5
    fst dword ptr es:[di + 16]
    mov eax, 0x40600000
    call expect

    call say
    .asciz " fstp80"
    fstp tbyte ptr es:[di + 16]
    fld tbyte ptr es:[di + 16]
    fchs
    fstp qword ptr es:[di + 12]
    mov eax, 0xc00c0000
    call expect

    call say
    .asciz " fsave"
    fldpi
    fnsave es:[di + 64]
    frstor es:[di + 64]
    fistp dword ptr es:[di + 16]
    mov eax, 3
    call expect

    call say
    .asciz " addps"
    mov dword ptr es:[di + 32], 0x3fc00000
    mov dword ptr es:[di + 36], 0x40100000
    movups xmm0, es:[di + 32]
    addps xmm0, es:[di + 32]        # aligned: 16 + 32
    movlps es:[di + 12], xmm0       # 3, 4.5
    mov eax, 0x40900000
    call expect

    call say
    .asciz " maskmovq"
    mov dword ptr es:[di + 16], 0x11111111
    mov dword ptr es:[di + 48], 0x0080ff00
    mov dword ptr es:[di + 52], 0
    movq mm1, es:[di + 48]
    movq mm0, es:[di]
    push ds
    push es
    pop ds
    add di, 16
    maskmovq mm0, mm1
    sub di, 16
    pop ds
    emms
    mov eax, 0x11345611
    call expect

    call say
    .asciz " fxsave"
    mov eax, 0x9fc0
    mov es:[di + 16], eax
    ldmxcsr es:[di + 16]
    fxsave es:[di + 112]            # aligned: 16 + 112
    mov eax, es:[di + 112 + 24]
    mov es:[di + 16], eax
    mov eax, 0x9fc0
    call expect

    call say
    .asciz " code"
    mov si, offset routine
    mov cx, routine_end - routine
    mov di, 0x100
    cld
    rep movsb
    xor eax, eax
    mov ebx, 5
    .byte 0x9a                      # call a000:0100
    .word 0x100, 0xa000
    mov di, 16
    mov es:[di + 16], eax
    mov eax, 15
    call expect
    ret

routine:                            # EAX = 5 + 4 + 3 + 2 + 1
1:  add eax, ebx
    dec ebx
    jnz 1b
    retf
routine_end:

exceptions:
    catch 16                        # INT 10h and INT 13h until here
    catch 19
    call say
    .asciz "\r\nexceptions:"
    call say
    .asciz " xm"
    mov dword ptr [number], 0x1d80  # zero divide unmasked
    ldmxcsr [number]
    mov dword ptr [number], 0x3f800000
    movss xmm0, [number]
    xorps xmm1, xmm1
    mov word ptr [resume], offset 1f
    divss xmm0, xmm1
1:  mov al, 19
    call vector
    call say
    .asciz " mf"
    fninit
    mov word ptr [number], 0x37b    # zero divide unmasked
    fldcw [number]
    fldz
    fld1
    mov word ptr [resume], offset 1f
    fdivrp st(1), st
    fwait
1:  mov al, 16
    call vector
    fninit
    call say
    .asciz " nm"
    mov eax, cr0
    or eax, 8                       # TS
    mov cr0, eax
    mov word ptr [resume], offset 1f
    addps xmm0, xmm1
1:  mov al, 7
    call vector
    clts
    call say
    .asciz " sysenter"
    mov word ptr [resume], offset 1f
    sysenter
1:  mov al, 13
    call vector
    call say
    .asciz " rdpmc"
    xor ecx, ecx
    mov word ptr [resume], offset 1f
    rdpmc
1:  mov al, 13
    call vector
    call say
    .asciz " vex"
    mov word ptr [resume], offset 1f
    .byte 0xc5, 0xf8, 0x58, 0xc1    # vaddps xmm0, xmm0, xmm1, which real mode has not
1:  mov al, 6
    call vector
    call say
    .asciz " sqrtss"
    mov dword ptr [number], 0x1f80
    ldmxcsr [number]
    mov dword ptr [number], 0x41100000
    sqrtss xmm0, [number]           # 9
    movss [result], xmm0
    xor di, di
    mov es, di
    mov di, offset result - 16
    mov eax, 0x40400000
    call expect
    call say
    .asciz " fsin"
    fninit
    fldpi
    fsin
    fld1
    faddp
    fistp dword ptr [result]
    mov eax, 1
    call expect

    # Flat protected mode; the program at privilege level 3.
    cli
    lgdt [gdt_pointer]
    mov eax, cr0
    or al, 1
    mov cr0, eax
    .byte 0xea                      # jmp 8:protected
    .word protected, 8

    .balign 8
number:
    .quad 0
result:
    .quad 0
gdt:
    .quad 0, 0x00cf9a000000ffff, 0x00cf92000000ffff, 0x00cffa000000ffff, 0x00cff2000000ffff
    .word 103, tss, 0x8900, 0
gdt_pointer:
    .word 47
    .long gdt
idt_pointer:
    .word 32 * 8 - 1
    .long IDT
    .balign 4
tss:
    .long 0, STACK, 16
    .skip 88
    .word 0, 104

    .code32
say32:
    pop esi
1:  lodsb
    test al, al
    jz 2f
    call put32
    jmp 1b
2:  jmp esi
put32:
    PUT
verdict:
    jne 1f
    call say32
    .asciz " ok"
    ret
1:  call say32
    .asciz " WRONG"
    ret

undefined32:                        # #UD: its program goes on at EBP
    mov [esp], ebp
    iret
general_protection32:
    call say32
    .asciz " #GP"
    jmp stop

protected:
    mov ax, 16
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov esp, STACK
    mov eax, offset undefined32
    mov [IDT + 8 * 6], ax
    mov dword ptr [IDT + 8 * 6 + 2], 0x8e000000 >> 0 & 0xffff0000 | 8
    mov word ptr [IDT + 8 * 6 + 4], 0x8e00
    mov word ptr [IDT + 8 * 6 + 6], 0
    mov eax, offset general_protection32
    mov [IDT + 8 * 13], ax
    mov word ptr [IDT + 8 * 13 + 2], 8
    mov word ptr [IDT + 8 * 13 + 4], 0x8e00
    mov word ptr [IDT + 8 * 13 + 6], 0
    mov word ptr [IDT + 8 * 6 + 2], 8
    lidt [idt_pointer]
    mov ax, 0x28
    ltr ax
    # AVX, if there is any.
    mov eax, 1
    cpuid
    and ecx, 0x14000000             # XSAVE, AVX
    cmp ecx, 0x14000000
    jne 1f
    mov eax, cr4
    or eax, 0x40000                 # OSXSAVE
    mov cr4, eax
    xor ecx, ecx
    xor edx, edx
    mov eax, 7
    xsetbv
    mov byte ptr [avx], 1
1:  push 0x23
    push 0x5000
    push 0x3002                     # IOPL 3
    push 0x1b
    push offset program
    iret
avx:
    .byte 0

program:
    mov ax, 0x23
    mov ds, ax
    mov es, ax
    call say32
    .asciz "\r\nlevel 3: movq"
    mov edi, 0xa0000
    mov dword ptr [edi], 0x89abcdef
    mov dword ptr [edi + 4], 0x01234567
    movq mm0, [edi]
    movq [edi + 8], mm0
    emms
    cmp dword ptr [edi + 12], 0x01234567
    call verdict
    call say32
    .asciz " avx"
    cmp byte ptr [avx], 0
    je 1f
    vpbroadcastd ymm1, [edi]
    vpaddd ymm1, ymm1, [edi]
    vmovdqu [edi + 64], ymm1
    vextracti128 [edi + 32], ymm1, 1
    vzeroupper
    cmp dword ptr [edi + 64], 0x13579bde
1:  call verdict
    call say32
    .asciz " undefined"
    mov ebp, offset 1f
    .byte 0x0f, 0x0f, 0x07, 0x9e    # pfadd mm0, [edi]: 3DNow!
    inc ebp
1:  cmp ebp, offset 1b
    call verdict
    call say32
    .asciz "\r\nOPERANDS-DONE\r\n"
stop:                               # OUT leaves the guest: Bochs's AMD-V leaves one with IF clear for no interrupt of the host's
    out 0x80, al
    jmp stop
    .org 512 * (LOADED + 1)
