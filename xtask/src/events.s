# A guest that looks at where events reach it: behind `protected.s`, it executes INT1, INT3, INTO and INT n, sends itself NMIs and
# interrupts through its local APIC, and moves its PIC's vectors while the timer ticks. A handler notes where its event came; that must
# be the very instruction which the manuals name. It says EVENTS FINE on COM1, or EVENTS WRONG with a letter for what was wrong.

    .set IDT, 0x9000
    .set APIC, 0xfee00000
    .set ICR, APIC + 0x300
    .set TICKS, 40

    mov edi, IDT                    # every vector is wrong but those below
    mov ecx, 256
    mov eax, offset stray
1:  mov ebx, eax
    call gate
    dec ecx
    jnz 1b
    mov esi, offset handlers
2:  lodsd
    lea edi, [IDT + eax * 8]
    lodsd
    mov ebx, eax
    call gate
    cmp esi, offset handlers_end
    jb 2b
    lidt [idt_pointer]
    mov al, 0xff                    # the PIC is quiet
    out 0x21, al
    out 0xa1, al

    # Events of instructions come once and return behind the instruction, prefixes included.
    mov byte ptr [letter], 'I'
    .byte 0xf1
int1:
    mov eax, offset int1
    call came
    .byte 0x66, 0xf1
int1_long:
    mov eax, offset int1_long
    call came
without_int1:
    mov byte ptr [letter], '3'
    int3
after_int3:
    mov eax, offset after_int3
    call came
    mov byte ptr [letter], 'O'
    mov al, 0x7f
    inc al
    into
after_into:
    mov eax, offset after_into
    call came
    mov byte ptr [letter], 'N'
    int 0x40
after_int:
    mov eax, offset after_int
    call came

    # An NMI that waits behind a handler comes right after its IRET: both come at the same instruction.
    mov byte ptr [letter], 'M'
    mov dword ptr [APIC + 0xf0], 0x1ff
    mov eax, [APIC + 0x20]
    mov [ICR + 0x10], eax
    mov dword ptr [ICR], 0x4400
    mov ecx, 1000
3:  dec ecx
    jnz 3b
    cmp dword ptr [count], 2
    jne wrong
    mov dword ptr [count], 0
    mov eax, [first]
    cmp eax, [seen]
    jne wrong

    # An interrupt comes behind the one instruction that STI protects, and before the next.
    mov byte ptr [letter], 'S'
    mov dword ptr [ICR], 0x44041    # to itself, vector 41h
    sti
    nop
after_nop:
    cli
    mov eax, offset after_nop
    call came
    mov dword ptr [APIC + 0xb0], 0

    # Interrupts have the vector that the PIC has when they are taken.
    mov byte ptr [letter], 'P'
    mov al, 0x34                    # the timer, 2,000 times a second
    out 0x43, al
    mov al, 0x54
    out 0x40, al
    mov al, 0x02
    out 0x40, al
    mov al, 0x50
4:  mov [base], al
    mov al, 0x11
    out 0x20, al
    mov al, [base]
    out 0x21, al
    mov al, 4
    out 0x21, al
    mov al, 1
    out 0x21, al
    mov al, 0xfe
    out 0x21, al
    mov ecx, 20000
5:  sti
    nop
    cli
    dec ecx
    jnz 5b
    mov al, [base]
    xor al, 0x50 ^ 0x58
    cmp dword ptr [count], TICKS
    jb 4b

    mov esi, offset fine
    call say
1:  hlt
    jmp 1b

wrong:
    cli
    mov esi, offset wrong_one
    call say
1:  hlt
    jmp 1b

gate:                               # the gate at EDI leads to EBX
    mov [edi], bx
    mov word ptr [edi + 2], 8
    mov ebp, ebx
    mov bp, 0x8e00
    mov [edi + 4], ebp
    add edi, 8
    ret

came:                               # one event came, and returned to EAX
    cmp dword ptr [count], 1
    jne wrong
    cmp [seen], eax
    jne wrong
    mov dword ptr [count], 0
    ret

note:                               # what came returns to where the stack says
    push eax
    mov eax, [esp + 4]
    mov [seen], eax
    inc dword ptr [count]
    pop eax
    iretd

nmi:                                # the first one sends another
    push eax
    mov eax, [esp + 4]
    mov [seen], eax
    inc dword ptr [count]
    cmp dword ptr [count], 1
    jne 1f
    mov [first], eax
    mov dword ptr [ICR], 0x4400
1:  pop eax
    iretd

tick_50:
    cmp byte ptr [base], 0x50
    jmp tick
tick_58:
    cmp byte ptr [base], 0x58
tick:
    jne wrong
    inc dword ptr [count]
    push eax
    mov al, 0x20
    out 0x20, al
    pop eax
    iretd

undefined:                          # QEMU before 9 has no INT1
    cmp byte ptr [letter], 'I'
    jne stray
    mov esp, STACK
    jmp without_int1
stray:
    mov byte ptr [letter + 1], '?'
    jmp wrong

    .balign 4
handlers:
    .long 1, note, 2, nmi, 3, note, 4, note, 6, undefined, 0x40, note, 0x41, note, 0x50, tick_50, 0x58, tick_58
handlers_end:
count: .long 0
seen: .long 0
first: .long 0
base: .long 0
idt_pointer:
    .word 256 * 8 - 1
    .long IDT
fine: .asciz "EVENTS FINE\r\n"
wrong_one: .ascii "EVENTS WRONG "
letter: .asciz "  \r\n"
    .org 1536
