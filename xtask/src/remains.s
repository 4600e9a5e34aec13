# A guest that looks for what others have left in its memory, behind `protected.s`: PATTERN from 1 MiB to MEMORY. It says on COM1 "clear", or
# "remains", and then "looked".

    mov esi, 0x100000
    mov ebx, ~PATTERN               # the pattern itself is nowhere in the program
    not ebx
1:  cmp [esi], ebx
    je 2f
    add esi, 4
    cmp esi, MEMORY
    jb 1b
    mov esi, offset clear
    jmp 3f
2:  mov esi, offset remains
3:  call say
    mov esi, offset looked
    call say
4:  hlt
    jmp 4b

clear:
    .asciz "clear\r\n"
remains:
    .asciz "remains\r\n"

looked:
    .asciz "looked\r\n"

    .org 1024
