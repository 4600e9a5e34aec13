# A guest that tries corners of the architecture, behind `protected.s`: the A20 gate, the local APIC's page on RAM, machine-check banks,
# INVLPG, the resume flag of faults, when an interrupt comes, and a triple fault. It says CORNERS DONE on COM1, or CORNER and the letter of the one that is wrong.

    .set IDT, 0xa000
    .set VERSION, 0x050014          # of the local APIC
    .set PAGE, 0x300000             # where it is moved to

    EXCEPTIONS_TO trap              # every one goes on at [resume]

    # A20, by port 92h: off, it reads back as off, and the second mebibyte is the first, the screen too.
    mov byte ptr [letter], 'A'
    in al, 0x92
    test al, 2
    jz wrong
    call a20_differs
    mov al, 0
    out 0x92, al
    in al, 0x92
    test al, 2
    jnz wrong
    call a20_wraps
    mov al, 2
    out 0x92, al
    call a20_differs
    # And by the keyboard controller.
    mov byte ptr [letter], 'K'
    mov al, 0xdd
    call keyboard
    call a20_wraps
    mov al, 0xdf
    call keyboard
    call a20_differs

    # The local APIC's page is moved onto RAM and back, twice. Addresses have fewer than 52 bits.
    mov byte ptr [letter], 'P'
    mov ebp, 2
2:  mov dword ptr [resume], offset 3f
    mov eax, 0xfee00900
    mov edx, 0x8000
    mov ecx, 0x1b
    wrmsr
    jmp wrong
3:  mov dword ptr [resume], offset wrong
    mov dword ptr [PAGE + 0x30], 0x12345678
    cmp dword ptr [0xfee00030], VERSION
    jne wrong
    mov eax, PAGE + 0x900
    call place
    cmp dword ptr [PAGE + 0x30], VERSION
    jne wrong
    cmp dword ptr [0xfee00030], -1
    jne wrong
    mov dword ptr [PAGE + 0x80], 0x20
    mov eax, 0xfee00900
    call place
    cmp dword ptr [PAGE + 0x30], 0x12345678
    jne wrong
    cmp dword ptr [0xfee00080], 0x20
    jne wrong
    mov dword ptr [0xfee00080], 0
    dec ebp
    jnz 2b

    # There are as many machine-check banks as IA32_MCG_CAP says.
    mov byte ptr [letter], 'M'
    mov ecx, 0x179
    rdmsr
    movzx ebx, al
    lea ecx, [ebx * 4 + 0x3ff]
    rdmsr
    mov dword ptr [resume], offset 4f
    inc ecx
    rdmsr
    jmp wrong
    # That was a fault: RF was pushed.
4:  mov byte ptr [letter], 'R'
    test dword ptr [flags], 0x10000
    jz wrong

    # INVLPG checks no segment.
    mov byte ptr [letter], 'I'
    mov dword ptr [resume], offset wrong
    xor eax, eax
    mov es, ax
    invlpg es:[0x1000]
    mov ax, 16
    mov es, ax

    # CMPXCHG8B changes no flag but ZF, also where the guest is left right behind it, and where CPUID has been left for before.
    mov byte ptr [letter], 'X'
    xor eax, eax
    cpuid
    mov esi, 0xc1ca0440             # with the bits of VM and DF
    cmp esi, esi
    cmpxchg8b [nothing]
    mov eax, 1
    cpuid
    pushfd
    pop eax
    test eax, 0xfffff728             # bits 3 and 5 and those from 8 on, but OF
    jnz wrong

    # An interrupt to itself comes before the next instruction: STI before an entry delays nothing in the guest.
    mov byte ptr [letter], 'T'
    mov al, 0xff
    out 0x21, al
    out 0xa1, al
    mov dword ptr [0xfee000f0], 0x11f
    mov dword ptr [resume], offset 2f
    xor ebx, ebx
    sti
    nop
    mov dword ptr [0xfee00300], 0x4001f
    inc ebx
    jmp wrong
2:  test ebx, ebx
    jnz wrong
    test dword ptr [0xfee00100], 1 << 31
    jz wrong                        # it was another one

    # A triple fault resets the machine. The flag survives it.
    cmp dword ptr [0x200000], 0x52455345
    je 2f
    mov dword ptr [0x200000], 0x52455345
    lidt [nothing]
    int3
2:  mov esi, offset done
    call say
1:  hlt
    jmp 1b

a20_differs:
    mov dword ptr [0x500], 0x11111111
    mov dword ptr [0x100500], 0x22222222
    cmp dword ptr [0x500], 0x11111111
    jne wrong
    cmp dword ptr [0x100500], 0x22222222
    jne wrong
    ret

a20_wraps:
    cmp dword ptr [0x100500], 0x11111111
    jne wrong
    mov dword ptr [0x100500], 0x33333333
    cmp dword ptr [0x500], 0x33333333
    jne wrong
    mov word ptr [0x1b8000], 0x0758
    cmp word ptr [0xb8000], 0x0758
    jne wrong
    mov ax, [0xf0000]
    cmp [0x1f0000], ax
    jne wrong
    ret

keyboard:                           # the command in AL, when the controller takes it
    mov ah, al
1:  in al, 0x64
    test al, 2
    jnz 1b
    mov al, ah
    out 0x64, al
    ret

place:                              # IA32_APIC_BASE from EAX
    xor edx, edx
    mov ecx, 0x1b
    wrmsr
    ret

wrong:
    mov esi, offset corner
    call say
1:  hlt
    jmp 1b

trap:
    mov eax, [esp + 12]
    mov [flags], eax
    mov esp, STACK
    jmp [resume]

    .balign 4
resume: .long wrong
flags: .long 0
done: .asciz "CORNERS DONE\n"
corner: .ascii "CORNER "
letter: .asciz "?\n"
nothing:
    .word 0
    .long 0
idt_pointer:
    .word 32 * 8 - 1
    .long IDT
    .org 1536
