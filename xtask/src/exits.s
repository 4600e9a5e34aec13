# Measures exits from the guest's side: a boot sector that repeats one instruction a thousand times between two readings of the
# time stamp counter, and says on COM1 what the counter counted: a letter, eight hexadecimal digits, a blank. The first is an
# empty loop. Assembled by exits.rs.
    BEGIN
    mov bp, offset nothing
    mov al, 'N'
    call measure
    mov bp, offset do_cpuid
    mov al, 'C'
    call measure
    mov bp, offset do_in
    mov al, 'I'
    call measure
    mov bp, offset do_out
    mov al, 'O'
    call measure
    mov bp, offset do_rdmsr
    mov al, 'R'
    call measure
    mov bp, offset do_wrmsr
    mov al, 'W'
    call measure
    mov bp, offset do_wbinvd
    mov al, 'B'
    call measure
    mov bp, offset do_invd
    mov al, 'V'
    call measure
    mov bp, offset do_read_cr8
    mov al, 'P'
    call measure
    mov bp, offset do_write_cr8
    mov al, 'Q'
    call measure
    mov al, '.'
    call put
1:  hlt
    jmp 1b

measure:
    call put
    rdtsc
    mov edi, eax
    mov si, 1000
2:  call bp
    dec si
    jnz 2b
    rdtsc
    sub eax, edi
    mov si, 8
3:  rol eax, 4
    push eax
    and al, 15
    add al, '0'
    cmp al, '9'
    jbe 4f
    add al, 39
4:  call put
    pop eax
    dec si
    jnz 3b
    mov al, ' '
put:
    PUT
nothing:
    ret
do_cpuid:
    xor eax, eax
    cpuid
    ret
do_in:
    in al, 0x61
    ret
do_out:
    out 0x80, al
    ret
do_rdmsr:
    mov ecx, 0xfe
    rdmsr
    ret
do_wrmsr:
    mov ecx, 0x1d9
    xor eax, eax
    xor edx, edx
    wrmsr
    ret
do_wbinvd:
    wbinvd
    ret
do_invd:
    invd
    ret
do_read_cr8:                        # LOCK MOV EAX, CR0: how AMD CPUs move CR8 outside 64-bit mode
    .byte 0xf0, 0x0f, 0x20, 0xc0
    ret
do_write_cr8:
    xor eax, eax
    .byte 0xf0, 0x0f, 0x22, 0xc0
    ret
    SIGNATURE
