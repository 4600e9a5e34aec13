# A guest with the largest screen that there can be: behind `protected.s`, with PICTURE 0 a text mode of 1,024 rows, each one line high;
# with PICTURE 1 the widest and highest mode of the display interface, with a picture that `largest.rs` knows. Then it says SET on COM1, and
# AGAIN from time to time.

    .set WIDTH, 2560
    .set HEIGHT, 1600
    .set SPIN, 20000000

    .if PICTURE
    mov eax, 0x80001010             # the frame buffer: base address register 0 of PCI function 0:2.0
    mov edx, 0xcf8
    out dx, eax
    mov edx, 0xcfc
    in eax, dx
    and eax, ~0xf
    mov edi, eax
    mov esi, offset modes
    mov ecx, 5
1:  mov ax, [esi]
    mov edx, 0x1ce
    out dx, ax
    mov ax, [esi + 2]
    inc edx
    out dx, ax
    add esi, 4
    loop 1b
    xor ebx, ebx                    # row
2:  xor ecx, ecx                    # column
3:  mov eax, ecx
    shr eax, 4
    imul eax, eax, 40503
    imul edx, ebx, 69069
    xor eax, edx
    and eax, 0xffffff
    stosd
    inc ecx
    cmp ecx, WIDTH
    jb 3b
    inc ebx
    cmp ebx, HEIGHT
    jb 2b
    .else
    mov edi, 0xb8000                # full blocks, each row in another colour than the one above
    xor ebx, ebx
1:  inc ebx
    cmp ebx, 16
    jb 2f
    mov ebx, 1
2:  mov ah, bl
    mov al, 0xdb
    mov ecx, 80
    rep stosw
    cmp edi, 0xc0000 - 160
    jb 1b
    mov edx, 0x3d4
    mov ax, 0x0311                  # CR11: the other registers may be written
    out dx, ax
    mov ax, 0x0009                  # CR9: one line a row
    out dx, ax
    mov ax, 0xff12                  # CR12 and CR7: 1,024 lines
    out dx, ax
    mov ax, 0xff07
    out dx, ax
    mov ax, 0x2f0a                  # CRA: no cursor
    out dx, ax
    .endif
    mov esi, offset set
    call say
4:  mov ecx, SPIN
5:  dec ecx
    jnz 5b
    mov esi, offset again
    call say
    jmp 4b

    .balign 4
modes:                              # register and value: off, width, height, depth, on with the linear frame buffer
    .word 4, 0, 1, WIDTH, 2, HEIGHT, 3, 32, 4, 0x41
set:    .asciz "SET\n"
again:  .asciz "AGAIN\n"

    .org 1024
