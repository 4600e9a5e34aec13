# A guest that draws: a boot program of eight sectors which waits for keys. A digit or letter sets the video mode of the table at
# the end by the VGA BIOS, and draws in it what uses that mode's ways to the planes; then COM1 says the key and an exclamation
# mark. In the planar mode the mouse draws too: a block follows it, and a click leaves one behind.

    .set ROW, 80                    # bytes of a row of the planar mode

    BEGIN
    sti
    mov al, '?'
    call say
wait_key:
    xor ax, ax
    int 0x16
    mov [key], al
    mov si, offset table
1:  cmp byte ptr [si], 0
    je wait_key
    cmp [si], al
    je 2f
    add si, 4
    jmp 1b
2:  push si
    mov al, [si + 1]
    xor ah, ah
    int 0x10
    pop si
    call [si + 2]
    xor ax, ax
    mov ds, ax
    mov al, [key]
    call say
    mov al, '!'
    call say
    jmp wait_key

say:                                # AL to COM1
    PUT

    SIGNATURE

gr:                                 # graphics controller: index AL, value AH
    push dx
    mov dx, 0x3ce
    out dx, ax
    pop dx
    ret
sr:                                 # sequencer
    push dx
    mov dx, 0x3c4
    out dx, ax
    pop dx
    ret
cr:                                 # CRT controller
    push dx
    mov dx, 0x3d4
    out dx, ax
    pop dx
    ret

colours:                            # all 256 colours of the DAC: components that are not round numbers
    mov dx, 0x3c8
    xor al, al
    out dx, al
    inc dx
    xor cx, cx
1:  mov al, cl
    out dx, al
    mov al, cl
    shr al, 2
    out dx, al
    mov al, cl
    not al
    out dx, al
    inc cl
    jnz 1b
    ret

# Text: every character but those of which two makers of VGAs think differently, in all colours but blinking ones; two characters
# of our own; a cursor that is four lines high.
text:
    mov ax, 0x1100                  # 2 characters of 16 bytes from ES:BP, the first is 'A'
    mov bx, 0x1000
    mov cx, 2
    mov dx, 'A'
    mov bp, offset glyphs
    int 0x10
text_plain:
    mov ax, 0xb800
    mov es, ax
    xor di, di
    xor ax, ax
1:  stosw
    inc al
    cmp al, 0xb0
    jne 2f
    mov al, 0xc0
2:  add ah, 3
    and ah, 0x7f
    cmp di, 2 * 80 * 12
    jb 1b
    xor ax, ax
    mov es, ax
    mov ah, 1                       # the cursor's lines, and its place
    mov cx, 0x0407
    int 0x10
    mov ah, 2
    xor bx, bx
    mov dx, 0x0e11
    int 0x10
    ret
text_small:                         # the same with the font of 8 lines: 50 rows
    mov ax, 0x1112
    xor bx, bx
    int 0x10
    jmp text_plain

# Bytes, each a pixel of its own colour.
bytes:
    call colours
    mov ax, 0xa000
    mov es, ax
    xor di, di
1:  mov ax, di
    add al, ah
    stosb
    cmp di, 64000
    jb 1b
    xor ax, ax
    mov es, ax
    ret

# Both banks of the CGA's memory.
cga:
    mov ax, 0xb800
    mov es, ax
    xor di, di
1:  mov ax, di
    xor al, ah
    stosb
    cmp di, 0x4000
    jb 1b
    xor ax, ax
    mov es, ax
    ret

# Planes one by one.
planes:
    mov ax, 0xa000
    mov es, ax
    mov bx, 1
1:  mov ah, bl
    mov al, 2
    call sr
    xor di, di
2:  mov ax, di
    mov cl, bl
    rol al, cl
    stosb
    cmp di, 8000
    jb 2b
    shl bx, 1
    cmp bx, 16
    jb 1b
    xor ax, ax
    mov es, ax
    ret

# Sixteen colours in planes, through all write modes, functions and read modes.
planar:
    mov ax, 0xa000
    mov es, ax
    mov ax, 0x0f01                  # write mode 0 with set/reset: bands of all colours
    call gr
    xor di, di
    xor bl, bl
1:  mov ah, bl
    xor al, al
    call gr
    mov cx, 30 * ROW
    rep stosb
    inc bl
    cmp bl, 16
    jb 1b
    mov ax, 0x0001
    call gr
    mov ax, 0x1803                  # exclusive or under a bit mask
    call gr
    mov ax, 0x3c08
    call gr
    xor di, di
1:  mov al, es:[di]
    mov byte ptr es:[di], 0xff
    add di, 2 * ROW + 3
    cmp di, 480 * ROW
    jb 1b
    mov ax, 0xff08
    call gr
    mov ax, 0x1303                  # or, rotated by 3, in planes 0 and 2
    call gr
    mov ax, 0x0502
    call sr
    mov di, 40
    mov ah, 0x81
    call column
    mov ax, 0x0803                  # and, in planes 1 and 3
    call gr
    mov ax, 0x0a02
    call sr
    mov di, 50
    mov ah, 0x55
    call column
    mov ax, 0x0003
    call gr
    mov ax, 0x0f02
    call sr
    mov ax, 0x0205                  # write mode 2: a line, pixel by pixel
    call gr
    xor bx, bx
1:  mov cl, bl
    and cl, 7
    mov ah, 0x80
    shr ah, cl
    mov al, 8
    call gr
    mov di, bx
    shr di, 3
    imul si, bx, ROW
    add di, si
    mov al, es:[di]
    mov ax, bx
    shr ax, 5
    mov es:[di], al
    inc bx
    cmp bx, 480
    jb 1b
    mov ax, 0x0305                  # write mode 3 in yellow
    call gr
    mov ax, 0x0e00
    call gr
    mov ax, 0x7e08
    call gr
    mov di, 60
    mov ah, 0xd6
    call column
    mov ax, 0xff08
    call gr
    mov ax, 0x0000
    call gr
    mov ax, 0x0105                  # write mode 1: 60 rows copied
    call gr
    mov ax, 0xa000
    mov ds, ax
    mov si, 100 * ROW
    mov di, 400 * ROW
    mov cx, 60 * ROW
    rep movsb
    xor ax, ax
    mov ds, ax
    mov ax, 0x0805                  # read mode 1: where colour 5 is, into plane 1; and plane 2 read, into plane 3
    call gr
    mov ax, 0x0502
    call gr
    mov ax, 0x0f07
    call gr
    mov di, 160 * ROW
    mov bx, 300 * ROW
    mov ax, 0x0202
    call copied
    mov ax, 0x0005
    call gr
    mov ax, 0x0204
    call gr
    mov di, 350 * ROW
    mov bx, 310 * ROW
    mov ax, 0x0802
    call copied
    mov ax, 0x0f02
    call sr
    xor ax, ax
    mov es, ax
    mov ax, 0x1010                  # two colours of the DAC
    mov bx, 2
    mov dh, 21
    mov cx, 0x2532
    int 0x10
    mov ax, 0x1010
    mov bx, 0x3c
    mov dh, 1
    mov cx, 0x0203
    int 0x10
    mov si, offset name             # text, as the BIOS draws it
1:  lodsb
    test al, al
    jz 2f
    mov ah, 0x0e
    mov bx, 0x000b
    int 0x10
    jmp 1b
2:  mov ax, 0x030c                  # the picture begins 10 rows lower, and its last 40 rows are the first
    call cr
    mov ax, 0x200d
    call cr
    mov ax, 0xb718                  # line compare 1b7h: its bit 9 is bit 6 of CR9
    call cr
    mov ax, 0x0009
    call cr
    jmp mouse_on

column:                             # AH into the byte at DI of every row, the latches filled first
    mov al, es:[di]
    mov es:[di], ah
    add di, ROW
    cmp di, 480 * ROW
    jb column
    ret

copied:                             # ten rows from DI to BX in the planes of AX
    call sr
    mov cx, 10 * ROW
1:  mov al, es:[di]
    mov es:[bx], al
    inc di
    inc bx
    loop 1b
    ret

# The mouse: INT 15h, AH = C2h.
mouse_on:
    mov ax, 0xc205                  # packets of 3 bytes
    mov bh, 3
    int 0x15
    mov ax, 0xc207
    mov bx, offset moved
    int 0x15
    mov ax, 0xc200
    mov bh, 1
    int 0x15
    jmp block

# The BIOS's call: status, x, y and 0 are on the stack.
moved:
    push bp
    mov bp, sp
    pusha
    push ds
    push es
    xor ax, ax
    mov ds, ax
    call block                      # gone from here
    mov bx, [bp + 12]
    mov al, [bp + 10]
    mov ah, bl
    shl ah, 3                       # bit 4 is the sign
    sar ah, 7
    add [x], ax
    mov al, [bp + 8]
    mov ah, bl
    shl ah, 2
    sar ah, 7
    sub [y], ax
    and bl, 7
    mov al, bl
    xchg al, [held]
    not al
    and al, bl                      # pressed now, and not before
    jz 1f
    mov [colour], al
    call block
    mov byte ptr [colour], 0x0f
1:  call block
    pop es
    pop ds
    popa
    pop bp
    retf

block:                              # a block of eight by eight pixels at x, y in the colour, by exclusive or
    mov ax, 0xa000
    mov es, ax
    mov ax, 0x0205
    call gr
    mov ax, 0x1803
    call gr
    imul di, [y], ROW
    mov ax, [x]
    mov cl, al
    and cl, 7
    shr ax, 3
    add di, ax
    mov bx, 0xff00
    shr bx, cl
    mov cx, 8
1:  mov ah, bh
    mov al, 8
    call gr
    mov al, es:[di]
    mov al, [colour]
    mov es:[di], al
    mov ah, bl
    mov al, 8
    call gr
    mov al, es:[di + 1]
    mov al, [colour]
    mov es:[di + 1], al
    add di, ROW
    loop 1b
    mov ax, 0x0005
    call gr
    mov ax, 0x0003
    call gr
    mov ax, 0xff08
    call gr
    xor ax, ax
    mov es, ax
    ret

    .balign 2
x:      .word 320
y:      .word 240
colour: .byte 0x0f
held:   .byte 0
key:    .byte 0
name:   .asciz "planar"
glyphs:
    .byte 0xff, 0x81, 0x81, 0x81, 0x99, 0xbd, 0xff, 0xff, 0xff, 0xbd, 0x99, 0x81, 0x81, 0x81, 0x81, 0xff
    .byte 0xaa, 0x55, 0xaa, 0x55, 0xaa, 0x55, 0xaa, 0x55, 0xaa, 0x55, 0xaa, 0x55, 0xaa, 0x55, 0xaa, 0x55
    .balign 4
table:                              # key, mode, and what draws
    .byte 't', 0x03
    .word text
    .byte '5', 0x03
    .word text_small
    .byte 'p', 0x12
    .word planar
    .byte 'd', 0x0d
    .word planes
    .byte 'b', 0x13
    .word bytes
    .byte 'c', 0x04
    .word cga
    .byte 'm', 0x06
    .word cga
    .byte 0

    .org 4096
