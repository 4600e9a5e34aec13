# A guest that says SPINS on COM1 and then computes for ever. Its timer ticks.

    BEGIN
    mov esi, offset text
1:  lodsb
    test al, al
    jz 2f
    call put
    jmp 1b
2:  sti
3:  jmp 3b

put:
    PUT
text:
    .asciz "SPINS\r\n"
    SIGNATURE
