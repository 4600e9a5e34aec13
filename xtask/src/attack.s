# A guest that attacks: behind `protected.s`, it reads and writes random ports, model-specific registers, control registers and device
# memory, and executes the instructions of hypervisors. It says on COM1 how it goes.
# Everything random comes from one fixed seed. Left out is only what lets a guest end or overwrite itself: reset and power
# registers, DMA engines, configuration space, its own console, and interrupt commands.

    .set ROUNDS, 20000
    .set IDT, 0x9000
    .set ROM, 0xfffe0000
    .set ROM_LENGTH, 0x4000

    mov edi, IDT                    # every vector notes itself by its gate and goes on at [resume]
    mov ecx, 256
    mov edx, offset trap
1:  mov eax, edx
    and eax, 0xffff
    or eax, 0x00080000
    mov [edi], eax
    mov eax, edx
    mov ax, 0x8e00
    mov [edi + 4], eax
    add edi, 8
    dec ecx
    jnz 1b
    mov eax, offset general_protection
    mov [IDT + 13 * 8], ax
    lidt [idt_pointer]
    mov esi, offset begins
    call say

    # Ports that nobody has read all ones.
    mov edx, 0x5678
    xor eax, eax
    in al, dx
    cmp eax, 0xff
    mov esi, offset bad_port
    jne bad
    in ax, dx
    cmp eax, 0xffff
    jne bad
    in eax, dx
    cmp eax, -1
    jne bad

    # Model-specific registers that nobody has fault.
    mov esi, offset bad_msr
    mov dword ptr [resume], offset 1f
    mov ecx, 0x12345678
    rdmsr
    jmp bad
1:  cmp dword ptr [faults], 1
    jne bad
    mov dword ptr [resume], offset 2f
    wrmsr
    jmp bad
2:  cmp dword ptr [faults], 2
    jne bad

    # The firmware's ROM stays what it is, whatever writes to it.
    call rom_sum
    mov ebp, ebx
    mov edi, ROM
    mov eax, 0x12345678
    mov [edi], eax
    mov [edi + 4], al
    mov [edi + 0xfff], eax          # on two pages
    not word ptr [edi + 8]
    xchg [edi + 12], eax
    lock inc dword ptr [edi + 16]
    push dword ptr [faults]
    pop dword ptr [edi + 20]
    mov ecx, ROM_LENGTH / 4
    rep stosd
    mov edi, ROM
    mov esi, 0x7c00
    mov ecx, 512
    rep movsb
    mov edi, ROM
    mov ecx, 512
    mov edx, 0x5678
    rep insw
    call rom_sum
    mov esi, offset bad_rom
    cmp ebx, ebp
    jne bad

    # Ports.
    mov ebp, ROUNDS
ports:
    mov dword ptr [resume], offset ports_next
    call random
    mov edx, eax
    movzx edx, dx
    mov ebx, eax
    test ebx, 0x10000
    jz 3f
    mov esi, offset left_out
1:  lodsd                           # low word first, high word last
    test eax, eax
    jz 2f
    cmp dx, ax
    jb 1b
    shr eax, 16
    cmp dx, ax
    jbe ports_next
    jmp 1b
2:  call random
    test ebx, 0x20000
    jz 4f
    test ebx, 0x40000
    jz 5f
    out dx, eax
    jmp ports_next
4:  out dx, al
    jmp ports_next
5:  out dx, ax
    jmp ports_next
3:  test ebx, 0x20000
    jz 6f
    test ebx, 0x40000
    jz 7f
    in eax, dx
    jmp ports_next
6:  in al, dx
    jmp ports_next
7:  in ax, dx
ports_next:
    dec ebp
    jnz ports
    mov esi, offset after_ports
    call say

    # Model-specific registers.
    mov ebp, ROUNDS
registers:
    mov dword ptr [resume], offset registers_next
    call random
    mov ebx, eax
    mov ecx, eax
    and ecx, 0x1fff
    shr eax, 13
    and eax, 7
    add ecx, [bases + eax * 4]
    mov eax, ecx
    and eax, -16
    cmp eax, 0x830                  # interrupt command and local vectors of the x2APIC
    je registers_next
    call random
    mov edx, eax
    call random
    test ebx, 0x10000
    jz 1f
    wrmsr
    jmp registers_next
1:  rdmsr
registers_next:
    dec ebp
    jnz registers
    mov esi, offset after_registers
    call say

    # Control registers, without paging.
    mov ebp, ROUNDS / 10
controls:
    mov dword ptr [resume], offset controls_next
    call random
    mov ebx, eax
    mov cr4, eax
    call random
    and eax, 0x7fffffff
    or eax, 1
    mov cr0, eax
    mov cr3, ebx
    clts
    lmsw bx
    invlpg [ebx]
    xor ecx, ecx
    mov edx, ebx
    xsetbv
controls_next:
    mov eax, 0x11
    mov cr0, eax
    xor eax, eax
    mov cr4, eax
    dec ebp
    jnz controls
    mov esi, offset after_controls
    call say

    # The instructions of hypervisors, and rare ones.
    mov ebp, 16
rare:
    mov ebx, offset table
1:  mov edx, [ebx]
    test edx, edx
    jz rare_next
    push ebx
    mov [saved], ebx
    mov dword ptr [resume], offset 2f
    call random
    mov ecx, eax
    call random
    call edx
2:  mov esp, STACK
    mov ebx, [saved]
    add ebx, 4
    jmp 1b
rare_next:
    dec ebp
    jnz rare
    mov esi, offset after_rare
    call say

    # Device memory and ROM, and places where nothing is.
    mov ebp, ROUNDS
memory:
    mov dword ptr [resume], offset memory_next
    call random
    mov ebx, eax
    mov edi, eax
    and edi, 0xfff
    shr eax, 13
    and eax, 7
    add edi, [windows + eax * 4]
    mov eax, edi
    and eax, 0xffffff00
    cmp eax, 0xfee00300             # interrupt command and local vectors of the local APIC
    je memory_next
    call random
    test ebx, 0x10000
    jz 1f
    test ebx, 0x20000
    jz 2f
    mov [edi], eax
    jmp memory_next
2:  mov [edi], al
    xchg [edi], ax
    jmp memory_next
1:  test ebx, 0x20000
    jz 3f
    add eax, [edi]
    push dword ptr [edi]
    pop eax
    jmp memory_next
3:  lock or word ptr [edi], 1
    movzx eax, byte ptr [edi]
    mov esi, 0x00100000
    mov ecx, 8
    rep movsd
memory_next:
    cld
    dec ebp
    jnz memory

    # Strings to and from ports, far beyond the end of memory.
    mov dword ptr [resume], offset 1f
    mov edi, 0xfff00000
    mov ecx, 0x10000
    mov edx, 0x5678
    rep insd
1:  mov dword ptr [resume], offset 2f
    mov esi, 0x80000000
    mov ecx, 0x10000
    mov edx, 0x5678
    rep outsd
2:  mov esi, offset survived
    call say
    lidt [nothing]
    int3

bad:
    call say
1:  hlt
    jmp 1b

    # What is in the ROM, in EBX.
rom_sum:
    mov esi, ROM
    mov ecx, ROM_LENGTH / 4
    xor ebx, ebx
1:  lodsd
    rol ebx, 1
    add ebx, eax
    loop 1b
    ret

general_protection:
    inc dword ptr [faults]
trap:
    mov esp, STACK
    cld
    jmp [resume]

    # Xorshift.
random:
    mov eax, [state]
    mov ecx, eax
    shl ecx, 13
    xor eax, ecx
    mov ecx, eax
    shr ecx, 17
    xor eax, ecx
    mov ecx, eax
    shl ecx, 5
    xor eax, ecx
    mov [state], eax
    ret

    # Writes the text at ESI to COM1.
do_vmrun: .byte 0x0f, 0x01, 0xd8
    ret
do_vmmcall: .byte 0x0f, 0x01, 0xd9
    ret
do_vmload: .byte 0x0f, 0x01, 0xda
    ret
do_vmsave: .byte 0x0f, 0x01, 0xdb
    ret
do_stgi: .byte 0x0f, 0x01, 0xdc
    ret
do_clgi: .byte 0x0f, 0x01, 0xdd
    ret
do_skinit: .byte 0x0f, 0x01, 0xde
    ret
do_invlpga: .byte 0x0f, 0x01, 0xdf
    ret
do_vmcall: .byte 0x0f, 0x01, 0xc1
    ret
do_monitor: .byte 0x0f, 0x01, 0xc8
    ret
do_rdpmc: rdpmc
    ret
do_wbinvd: wbinvd
    ret
do_invd: invd
    ret
do_cpuid: cpuid
    ret
do_rdtscp: rdtscp
    ret
do_rsm: rsm
    ret
do_ud2: ud2
    ret
do_icebp: .byte 0xf1
    ret
do_int: int 0x80
    ret

    .balign 4
table:
    .long do_vmrun, do_vmmcall, do_vmload, do_vmsave, do_stgi, do_clgi, do_skinit, do_invlpga, do_vmcall, do_monitor
    .long do_rdpmc, do_wbinvd, do_invd, do_cpuid, do_rdtscp, do_rsm, do_ud2, do_icebp, do_int, 0
state:
    .long 0x2545f491
resume:
    .long 0
faults:
    .long 0
saved:
    .long 0
bases:
    .long 0, 0, 0x400, 0xc0000000, 0xc0010000, 0x40000000, 0x4b564d00, 0x12340000
windows:
    .long 0xa0000, 0xb8000, 0xf0000, 0xe0000000, 0xfec00000, 0xfee00000, 0xfed00000, 0xfffff000
    # First and last port, where an access may begin three ports earlier.
left_out:
    .word 0x005d, 0x0064            # keyboard controller
    .word 0x006d, 0x0071            # CMOS
    .word 0x008f, 0x0092            # fast reset
    .word 0x016d, 0x0177, 0x01ed, 0x01f7, 0x0373, 0x0376, 0x03f3, 0x03f6    # IDE
    .word 0x03f5, 0x03ff            # COM1
    .word 0x050d, 0x051b            # fw_cfg
    .word 0x05fd, 0x063f, 0xaffd, 0xb03f    # power management
    .word 0x0cf5, 0x0cff            # configuration space and reset
    .word 0xbffd, 0xffff            # PCI devices
    .long 0
idt_pointer:
    .word 256 * 8 - 1
    .long IDT
nothing:
    .word 0
    .long 0
begins: .asciz "ATTACK BEGINS\r\n"
after_ports: .asciz "ATTACK: ports done\r\n"
after_registers: .asciz "ATTACK: registers done\r\n"
after_controls: .asciz "ATTACK: controls done\r\n"
after_rare: .asciz "ATTACK: instructions done\r\n"
survived: .asciz "ATTACK SURVIVED\r\n"
bad_port: .asciz "ATTACK FAILED: an unknown port is not all ones\r\n"
bad_msr: .asciz "ATTACK FAILED: an unknown register does not fault\r\n"
bad_rom: .asciz "ATTACK FAILED: the ROM was written\r\n"
    .org 2560
