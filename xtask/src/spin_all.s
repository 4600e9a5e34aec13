# A guest whose CPUs all compute for ever, behind `several.s`. The first says SPINS on COM1 when all do.

    .set started, VARIABLES + 0x40

    lock inc dword ptr [started]
    test ebp, ebp
    jnz 2f
1:  pause
    cmp dword ptr [started], CPUS
    jb 1b
    mov esi, offset text
    call say
2:  jmp 2b

prepare:
    ret
fault:
    mov al, '!'
    call put
    cli
    hlt
text:
    .asciz "SPINS\n"
    .org LOADED * 512 + 512
