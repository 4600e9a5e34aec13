# A guest that sets breakpoints in its own debug registers: behind `protected.s`, it meets each kind, looks where the debug exception came and what
# DR6 says, and reads its own code. It says BREAKPOINTS FINE on COM1, or BREAKPOINTS WRONG with a letter for what was wrong.

    .set IDT, 0x9000
    .set APIC, 0xfee00000
    .set CLEAR, 0xffff0ff0

    EXCEPTIONS_TO stray
    mov eax, offset debug
    mov [IDT + 8], ax
    mov eax, cr4
    or al, 8                        # DE
    mov cr4, eax
    mov eax, CLEAR
    mov dr6, eax

    # A write is met, behind the instruction; a read is not.
    mov byte ptr [letter], 'W'
    mov eax, offset place
    mov dr0, eax
    mov eax, 0x000d0401
    mov dr7, eax
    mov eax, [place]
    mov [place + 4], eax
    cmp dword ptr [count], 0
    jne wrong
    mov [place + 3], al
after_write:
    mov eax, offset after_write
    mov edx, 1
    call came

    # An access is met by either.
    mov byte ptr [letter], 'A'
    mov eax, 0x000f0401
    mov dr7, eax
    mov eax, [place]
after_read:
    mov eax, offset after_read
    mov edx, 1
    call came
    mov eax, 0x000f0401
    mov dr7, eax
    push dword ptr [place]
after_push:
    mov eax, offset after_push
    mov edx, 1
    call came
    pop eax

    # So is a device's register.
    mov byte ptr [letter], 'D'
    mov eax, APIC + 0x20
    mov dr3, eax
    mov eax, 0xf0000440
    mov dr7, eax
    mov eax, [APIC + 0x20]
after_device:
    mov eax, offset after_device
    mov edx, 8
    call came

    # A store that is repeated is met behind its iteration, and goes on.
    mov byte ptr [letter], 'R'
    mov eax, 0x000d0401
    mov dr7, eax
    mov edi, offset place - 8
    mov ecx, 5
    xor eax, eax
repeated:
    rep stosd
    test ecx, ecx
    jnz wrong
    cmp dword ptr [left], 2
    jne wrong
    mov eax, offset repeated
    mov edx, 1
    call came

    # A single step and a write are one exception.
    mov byte ptr [letter], 'T'
    mov eax, 0x000d0401
    mov dr7, eax
    pushfd
    or dword ptr [esp], 0x100
    popfd
    mov [place], eax
after_both:
    mov eax, offset after_both
    mov edx, 0x4001
    call came

    # An instruction is met before it is executed, and is executed when the handler has set RF.
    mov byte ptr [letter], 'E'
    mov eax, offset instruction
    mov dr1, eax
    mov eax, 0x00000404
    mov dr7, eax
    xor ebx, ebx
instruction:
    inc ebx
    cmp ebx, 1
    jne wrong
    mov eax, offset instruction
    mov edx, 2
    call came

    # A port is met behind the instruction.
    mov byte ptr [letter], 'P'
    mov eax, 0x80
    mov dr2, eax
    mov eax, 0x02000410
    mov dr7, eax
    out 0x84, al
    cmp dword ptr [count], 0
    jne wrong
    out 0x80, al
after_out:
    mov eax, offset after_out
    mov edx, 4
    call came

    # Whoever looks on from outside has changed no byte of it.
    mov byte ptr [letter], 'B'
    cmp dword ptr [marked], 0x90909090
    jne wrong
    xor eax, eax
    mov dr7, eax
    call marked

    mov esi, offset fine
    call say
1:  hlt
    jmp 1b

wrong:
    xor eax, eax
    mov dr7, eax
    mov esi, offset wrong_one
    call say
1:  hlt
    jmp 1b

came:                               # one exception came, at EAX, with EDX in DR6; it is forgotten, and breakpoints are off
    push eax
    xor eax, eax
    mov dr7, eax
    pop eax
    cmp dword ptr [count], 1
    jne wrong
    cmp [seen], eax
    jne wrong
    cmp [why], edx
    jne wrong
    mov dword ptr [count], 0
    ret

debug:
    push eax
    mov eax, [esp + 4]
    mov [seen], eax
    mov [left], ecx
    mov eax, dr6
    and eax, 0xe00f
    mov [why], eax
    mov eax, CLEAR
    mov dr6, eax
    inc dword ptr [count]
    and dword ptr [esp + 12], ~0x100
    or dword ptr [esp + 12], 0x10000
    pop eax
    iretd

stray:
    mov byte ptr [letter + 1], '?'
    mov esp, STACK
    jmp wrong

    .balign 4
count: .long 0
seen: .long 0
why: .long 0
left: .long 0
idt_pointer:
    .word 32 * 8 - 1
    .long IDT
fine: .asciz "BREAKPOINTS FINE\r\n"
wrong_one: .ascii "BREAKPOINTS WRONG "
letter: .asciz "  \r\n"
    .balign 16
    .long 0, 0
place: .long 0, 0, 0, 0, 0, 0
    .org 0x7e0
marked:                             # its address is known outside
    nop
    nop
    nop
    nop
    ret
    .org 2048
