# Measures what interrupts between CPUs and a lock cost: behind `several.s`, says on COM1 what the time-stamp counter counted: a letter,
# eight hexadecimal digits, a blank. M: REPEATED writes to the local APIC's page; S: REPEATED interrupts to itself, through x2APIC; P: the same, ended by KVM's word where it is offered, as
# Linux does; R, if there are several CPUs: so many to another CPU, which answers with one, both halted when they wait; L: all CPUs together
# take a lock REPEATED * 64 times, with work inside and outside.

    .set SELF, 0x41
    .set ASK, 0x50
    .set ANSWER, 0x51
    .set GO, 0x52
    .set count, VARIABLES + 0x40
    .set answers, VARIABLES + 0x80
    .set go, VARIABLES + 0xc0
    .set locked, VARIABLES + 0x100
    .set finished, VARIABLES + 0x140
    .set inside, VARIABLES + 0x180
    .set offered, VARIABLES + 0x1c0 # KVM's word: bit 0 says that the interrupt ends without EOI

    test ebp, ebp
    jnz 2f
    rdtsc
    mov edi, eax
    mov ebx, REPEATED
1:  mov dword ptr ds:[0xfee00080], 0
    dec ebx
    jnz 1b
    mov al, 'M'
    call tell
2:  mov ecx, 0x1b                   # x2APIC mode
    rdmsr
    or eax, 0xc00
    wrmsr
    lock inc dword ptr [finished]
1:  pause
    cmp dword ptr [finished], CPUS
    jb 1b
    test ebp, ebp
    jnz helper

    call itself
    mov al, 'S'
    call tell
    mov ecx, 0x4b564d04             # MSR_KVM_EOI_EN
    mov eax, offset offered + 1
    xor edx, edx
    wrmsr
    call itself
    mov al, 'P'
    call tell
    mov ecx, 0x4b564d04
    xor eax, eax
    xor edx, edx
    wrmsr

    .if CPUS > 1
    rdtsc
    mov edi, eax
    mov ebx, REPEATED
4:  mov esi, [answers]
    mov eax, 0x4000 + ASK
    mov edx, 1
    call send
5:  cli
    cmp [answers], esi
    jne 6f
    sti
    hlt
    jmp 5b
6:  sti
    dec ebx
    jnz 4b
    mov al, 'R'
    call tell
    .endif

    rdtsc
    mov edi, eax
    mov dword ptr [go], 1
    .if CPUS > 1
    mov eax, 0xc4000 + GO
    xor edx, edx
    call send
    .endif
    call work
7:  pause
    cmp dword ptr [finished], 2 * CPUS
    jne 7b
    mov al, 'L'
    call tell
    mov al, '.'
    call put
8:  hlt
    jmp 8b

itself:                             # REPEATED interrupts to itself; EDI says when they began
    rdtsc
    mov edi, eax
    mov ebx, REPEATED
1:  mov esi, [count]
    mov eax, 0x44000 + SELF
    xor edx, edx
    call send
2:  cmp [count], esi
    je 2b
    dec ebx
    jnz 1b
    ret

helper:
    cli
    cmp dword ptr [go], 0
    jne 1f
    sti
    hlt
    jmp helper
1:  sti
    call work
2:  hlt
    jmp 2b

work:
    mov ebx, REPEATED * 64 / CPUS
1:  mov eax, 1
    xchg eax, [locked]
    test eax, eax
    jz 3f
2:  pause
    cmp dword ptr [locked], 0
    jne 2b
    jmp 1b
3:  mov ecx, 50
4:  inc dword ptr [inside]
    dec ecx
    jnz 4b
    mov dword ptr [locked], 0
    mov ecx, 100
5:  dec ecx
    jnz 5b
    dec ebx
    jnz 1b
    lock inc dword ptr [finished]
    ret

tell:                               # the letter in AL, and how long it took since EDI
    push eax
    rdtsc
    sub eax, edi
    mov ebx, eax
    pop eax
    call put
    call hexadecimal
    mov al, ' '
    jmp put

send:                               # EAX to the interrupt command register, for the CPU with the ID EDX
    mov ecx, 0x830
    wrmsr
    ret
end:                                # of an interrupt
    btr dword ptr [offered], 0
    jc 1f
    xor eax, eax
    xor edx, edx
    mov ecx, 0x80b
    wrmsr
1:  popad
    iretd
counted:
    pushad
    inc dword ptr [count]
    jmp end
asked:
    pushad
    mov eax, 0x4000 + ANSWER
    xor edx, edx
    call send
    jmp end
answered:
    pushad
    inc dword ptr [answers]
    jmp end
gone:
    pushad
    jmp end

prepare:
    GATES SELF, 1, counted
    GATES ASK, 1, asked
    GATES ANSWER, 1, answered
    GATES GO, 1, gone
    ret

fault:
    mov al, '!'
    call put
    cli
    hlt
    .org LOADED * 512 + 512
