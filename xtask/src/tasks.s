# A guest that switches tasks in hardware, behind `protected.s`: by JMP, CALL and IRET, through task gates, without paging, with 4 MiB
# pages and with PAE, to level 3 and back; #PF, #DF, NMI and an INT n have task gates. It says on COM1 how far it comes.

    .set IDT, 0x9000
    .set PD1, 0x20000               # identity, in pages of 4 MiB
    .set PD2, 0x21000               # likewise, but what is at 20 MiB appears at 16 MiB
    .set PDPT1, 0x22000             # the same with PAE
    .set PDPT2, 0x23000
    .set PAE_PD1, 0x24000
    .set PAE_PD2, 0x25000
    .set STACKS, 0x30000
    .set HERE, 0x1000000
    .set THERE, 0x1400000
    .set NT, 0x4000
    .set MAIN, 0x18
    .set OTHER, 0x20
    .set FAULT, 0x28
    .set DOUBLE, 0x30
    .set NMI, 0x38
    .set GATE, 0x40
    .set USER, 0x58

    .macro JUMP selector
    .byte 0xea
    .long 0
    .word \selector
    .endm
    .macro CALL_FAR selector
    .byte 0x9a
    .long 0
    .word \selector
    .endm
    .macro SAY label
    mov esi, offset \label
    call say
    .endm
    .macro TASK_GATE vector, selector, kind
    mov dword ptr [IDT + \vector * 8], \selector << 16
    mov dword ptr [IDT + \vector * 8 + 4], \kind << 8
    .endm
    # The next time that the other task runs, it begins here.
    .macro OTHER_DOES label
    mov dword ptr [other_tss + 0x20], offset \label
    mov dword ptr [other_tss + 0x38], STACKS + 0x1000
    .endm
    .macro NEED condition
    j\condition 9f
    jmp bad
9:
    .endm

    mov edi, IDT
    xor eax, eax
    mov ecx, 512
    rep stosd
    lgdt [task_gdt]
    lidt [task_idt]
    mov ax, MAIN
    ltr ax
    mov dword ptr [HERE], 0x11111111
    mov dword ptr [THERE], 0x22222222
    SAY text_begin

    # By jumps, without paging.
    mov ebx, 0x12345678
    OTHER_DOES jumped
    JUMP OTHER
    cmp ebx, 0x12345678
    NEED e
    SAY text_c

    # With paging: the other task has another address space.
    call make_tables
    mov eax, cr4
    or eax, 0x10
    mov cr4, eax
    mov eax, PD1
    mov cr3, eax
    mov eax, cr0
    or eax, 0x80000000
    mov cr0, eax
    mov dword ptr [main_tss + 0x1c], PD1
    mov dword ptr [other_tss + 0x1c], PD2
    OTHER_DOES look
    JUMP OTHER
    call check_seen
    mov eax, cr0                    # a task switch sets TS
    test al, 8
    NEED nz
    clts
    SAY text_paging

    # Nested, and through a task gate.
    OTHER_DOES called
    CALL_FAR OTHER
    OTHER_DOES called
    CALL_FAR GATE
    cmp dword ptr [calls], 2
    NEED e
    SAY text_nested

    # Page faults.
    TASK_GATE 14, FAULT, 0x85
    mov dword ptr [fault_tss + 0x1c], PD1
    call touch
    call touch
    cmp dword ptr [page_faults], 2
    NEED e
    SAY text_page_fault

    # INT n, which is not to be taken for the page fault before it.
    TASK_GATE 0x41, OTHER, 0x85
    OTHER_DOES called
    int 0x41
    cmp dword ptr [calls], 3
    NEED e

    # A double fault: the gate of vector 40h is not present, and neither is that of #NP.
    TASK_GATE 8, DOUBLE, 0x85
    mov dword ptr [double_tss + 0x1c], PD1
    mov [double_stack], esp
    int 0x40
    jmp bad
doubled:
    mov esp, [double_stack]
    SAY text_double

    # Two NMIs, the second of which has to wait for the first one's IRET.
    TASK_GATE 2, NMI, 0x85
    mov dword ptr [nmi_tss + 0x1c], PD1
    mov ecx, 1
    call send_nmi
    mov ecx, 2
    call send_nmi
    SAY text_nmi

    # Level 3, which comes back by an exception.
    TASK_GATE 6, MAIN, 0x85
    mov dword ptr [user_tss + 0x1c], PD1
    mov eax, PD1
    or dword ptr [eax], 4           # its code and stack
    mov eax, cr3
    mov cr3, eax
    JUMP USER
    pushfd                          # main is nested in it now
    pop eax
    test eax, NT
    NEED nz
    and eax, ~NT
    push eax
    popfd
    cmp word ptr [main_tss], USER
    NEED e
    SAY text_user

    # With PAE.
    mov eax, cr0
    and eax, 0x7fffffff
    mov cr0, eax
    mov eax, cr4
    or eax, 0x20
    mov cr4, eax
    mov eax, PDPT1
    mov cr3, eax
    mov eax, cr0
    or eax, 0x80000000
    mov cr0, eax
    mov dword ptr [main_tss + 0x1c], PDPT1
    mov dword ptr [other_tss + 0x1c], PDPT2
    mov byte ptr [tables + OTHER + 5], 0x89
    OTHER_DOES look
    mov dword ptr [seen], 0
    JUMP OTHER
    call check_seen
    SAY text_done
    cli
1:  hlt
    jmp 1b

bad:
    SAY text_bad
1:  hlt
    jmp 1b

make_tables:
    mov edi, PD1
    mov ebx, 2
1:  mov eax, 0x83
    mov ecx, 1024
2:  stosd
    add eax, 0x400000
    loop 2b
    dec ebx
    jnz 1b
    mov dword ptr [PD2 + 4 * 4], THERE + 0x83
    mov edi, PDPT1
    mov ecx, 0x800
    xor eax, eax
    rep stosd
    mov dword ptr [PDPT1], PAE_PD1 + 1
    mov dword ptr [PDPT2], PAE_PD2 + 1
    mov edi, PAE_PD1
    mov ebx, 2
1:  mov eax, 0x83
    mov ecx, 512
2:  stosd
    mov dword ptr [edi], 0
    add edi, 4
    add eax, 0x200000
    loop 2b
    dec ebx
    jnz 1b
    mov dword ptr [PAE_PD2 + 8 * 8], THERE + 0x83
    ret

check_seen:
    cmp dword ptr [seen], 0x22222222
    NEED e
    cmp dword ptr [HERE], 0x11111111
    NEED e
    ret

touch:                              # a page that is not there
    mov dword ptr [PD1 + 5 * 4], 0
    mov eax, cr3
    mov cr3, eax
    mov eax, [THERE]
    cmp eax, 0x22222222
    NEED e
    ret

send_nmi:                           # until there have been ECX
    mov dword ptr [0xfee00310], 0
    mov dword ptr [0xfee00300], 0x4400
    mov eax, 10000000
1:  cmp [nmis], ecx
    je 2f
    dec eax
    jnz 1b
    jmp bad
2:  ret

    # The other task.
jumped:
    mov ebx, -1
    SAY text_b
    JUMP MAIN
look:
    clts
    mov eax, [HERE]
    mov [seen], eax
    JUMP MAIN
called:
    clts
    pushfd
    pop eax
    test eax, NT
    NEED nz
    cmp word ptr [other_tss], MAIN
    NEED e
    inc dword ptr [calls]
    iretd

fault:
    pop eax                         # the error code
    test eax, eax
    NEED z
    mov eax, cr2
    cmp eax, THERE
    NEED e
    mov dword ptr [PD1 + 5 * 4], THERE + 0x83
    inc dword ptr [page_faults]
    iretd
    jmp fault

double:
    pop eax
    test eax, eax
    NEED z
    mov dword ptr [main_tss + 0x20], offset doubled
    iretd

nmi:
    inc dword ptr [nmis]
    iretd
    jmp nmi

user:
    mov ax, cs
    cmp ax, 0x4b
    NEED e
    ud2

    .macro TSS eip, stack, cs, ss
    .long 0, 0, 0, 0, 0, 0, 0, 0, \eip, 2, 0, 0, 0, 0, \stack, 0, 0, 0, \ss, \cs, \ss, \ss, \ss, \ss, 0, 104 << 16
    .endm
    .balign 8
main_tss: TSS 0, 0, 8, 16
other_tss: TSS 0, 0, 8, 16
fault_tss: TSS fault, STACKS + 0x2000, 8, 16
double_tss: TSS double, STACKS + 0x3000, 8, 16
nmi_tss: TSS nmi, STACKS + 0x4000, 8, 16
user_tss: TSS user, STACKS + 0x5000, 0x4b, 0x53
    .balign 8
tables:
    .quad 0, 0x00cf9a000000ffff, 0x00cf92000000ffff
    .word 103, main_tss, 0x8900, 0
    .word 103, other_tss, 0x8900, 0
    .word 103, fault_tss, 0x8900, 0
    .word 103, double_tss, 0x8900, 0
    .word 103, nmi_tss, 0x8900, 0
    .word 0, OTHER, 0x8500, 0
    .quad 0x00cffa000000ffff, 0x00cff2000000ffff
    .word 103, user_tss, 0x8900, 0
task_gdt:
    .word 0x5f
    .long tables
task_idt:
    .word 0x7ff
    .long IDT
seen: .long 0
calls: .long 0
page_faults: .long 0
nmis: .long 0
double_stack: .long 0
text_begin: .asciz "TASKS BEGIN\r\nTASKS A"
text_b: .asciz " B"
text_c: .asciz " C\r\n"
text_paging: .asciz "TASKS: paging\r\n"
text_nested: .asciz "TASKS: nested\r\n"
text_page_fault: .asciz "TASKS: page faults\r\n"
text_double: .asciz "TASKS: double fault\r\n"
text_nmi: .asciz "TASKS: NMI\r\n"
text_user: .asciz "TASKS: level 3\r\n"
text_done: .asciz "TASKS DONE\r\n"
text_bad: .asciz "TASKS FAILED\r\n"
    .org 4096
