# Work for a test guest, as a static Linux program for 64 or 32 bits, that says how it went in one line:
#
#   GUEST-WORK name checksum start end
#
# The checksum is that of the memory it touched, in hexadecimal, and the same for both widths; start and end are readings of the
# time stamp counter, in decimal. In assembly, so that every machine that builds it makes the same instructions of it.
#
#   work fork   processes: pages shared with a child and written by it, another program executed, its end
#   work mmap   memory mapped, read where nothing was written (the page of zeros), written, read, unmapped
#   work pipe   two processes that take turns over two pipes, each with pages of its own
#   work walk   64 MiB in pages of 4 KiB, page after page and in a pseudo-random order
#   work tsc    only says the time stamp counter
#
# Assembled by work.rs, with the C preprocessor.

#ifdef __x86_64__
# define AX rax
# define CX rcx
# define SP rsp
# define SI rsi
# define DI rdi
# define WORD .quad
# define SIZE 8
# A system call's arguments: System V ABI, AMD64 supplement, A.2.1, "Calling Conventions". RBP keeps its value, RCX does not.
# define A1 rdi
# define A2 rsi
# define A3 rdx
# define A4 r10
# define SYSTEM syscall
# define READ 0
# define WRITE 1
# define MUNMAP 11
# define PIPE 22
# define MADVISE 28
# define FORK 57
# define EXECVE 59
# define EXIT 60
# define WAIT4 61
#else
# define AX eax
# define CX ecx
# define SP esp
# define SI esi
# define DI edi
# define WORD .long
# define SIZE 4
# define A1 ebx
# define A2 ecx
# define A3 edx
# define A4 esi
# define SYSTEM int 0x80
# define READ 3
# define WRITE 4
# define MUNMAP 91
# define PIPE 42
# define MADVISE 219
# define FORK 2
# define EXECVE 11
# define EXIT 1
# define WAIT4 114
#endif

# How often each kind of work is done.
#define FORKS 300
#define MAPPINGS 400
#define TURNS 4000
#define ROUNDS 8
#define STEPS 0x200000

#define PAGE 4096
# Pages of one mapping of `mmap`.
#define MAPPED 64
# Pages of a process that forks or takes turns.
#define OWN 32
# The area of `walk`: 64 MiB.
#define AREA_PAGES 0x4000
#define AREA (AREA_PAGES * PAGE)
#define MADV_NOHUGEPAGE 15

    .intel_syntax noprefix

# A system call with up to three arguments, which are no registers.
    .macro system number, a=0, b=0, c=0
    mov A1, \a
    mov A2, \b
    mov A3, \c
    mov eax, \number
    SYSTEM
    .endm

# Takes EAX into the checksum.
    .macro mix
    rol dword ptr [sum], 5
    add dword ptr [sum], eax
    .endm

# The next pseudo-random number, in EAX: its upper bits are the better ones.
    .macro random
    imul eax, dword ptr [seed], 1664525
    add eax, 1013904223
    mov dword ptr [seed], eax
    .endm

    .text
    .globl _start
_start:
    cld
    cmp dword ptr [SP], 2
    jb failed
    mov SI, [SP + 2 * SIZE]
    mov eax, [SI]
    cmp eax, dword ptr [leaf_name]
    je leaf
    lea DI, [jobs]
1:  cmp eax, [DI]
    je 2f
    add DI, 4 + SIZE
    cmp DI, offset jobs_end
    jb 1b
failed:
    system EXIT, 1

2:  mov dword ptr [name], eax
    push [DI + 4]
    rdtsc
    mov dword ptr [start], eax
    mov dword ptr [start + 4], edx
    pop AX
    call AX
    rdtsc
    mov dword ptr [end], eax
    mov dword ptr [end + 4], edx
    lea DI, [line]
    lea SI, [said]
    mov ecx, said_end - said
    rep movsb
    mov al, ' '
    stosb
    mov ebx, dword ptr [sum]
    mov ecx, 8
3:  rol ebx, 4
    mov al, bl
    and al, 15
    add al, '0'
    cmp al, '9'
    jbe 4f
    add al, 'a' - '0' - 10
4:  stosb
    loop 3b
    mov al, ' '
    stosb
    lea SI, [start]
    call number
    mov al, ' '
    stosb
    lea SI, [end]
    call number
    jmp finish

# Only the counter, as a line of its own.
tsc:
    rdtsc
    mov dword ptr [start], eax
    mov dword ptr [start + 4], edx
    lea DI, [line]
    lea SI, [start]
    call number
finish:
    mov al, 10
    stosb
    sub DI, offset line
    mov dword ptr [length], edi
    system WRITE, 1, "offset line", [length]
    system EXIT

# Appends the 64-bit number at SI to the line at DI, in decimal.
number:
    mov ebx, [SI]
    mov ebp, [SI + 4]
    lea SI, [digits_end]
1:  mov eax, ebp
    xor edx, edx
    div dword ptr [ten]
    mov ebp, eax
    mov eax, ebx
    div dword ptr [ten]
    mov ebx, eax
    add dl, '0'
    dec SI
    mov [SI], dl
    or eax, ebp
    jnz 1b
2:  movsb
    cmp SI, offset digits_end
    jb 2b
    ret

# Adds EBP to the first word of each of ECX pages of our own.
touch:
    lea DI, [own]
1:  add [DI], ebp
    add DI, PAGE
    loop 1b
    ret

# Takes the first word of each page of our own into the checksum.
own_sum:
    lea DI, [own]
    mov ecx, OWN
1:  mov eax, [DI]
    mix
    add DI, PAGE
    loop 1b
    ret

fork:
    mov ebp, FORKS
1:  mov ecx, OWN
    call touch
    system FORK
    test eax, eax
    jz 2f
    js failed
    call wait_for_child
    dec ebp
    jnz 1b
    jmp own_sum
# The child writes half of the pages, and tells the program that takes its place what is in all of them.
2:  mov ecx, OWN / 2
    call touch
    call own_sum
    mov eax, dword ptr [sum]
    and al, 15
    add al, 'A'
    mov byte ptr [letter], al
    system EXECVE, "offset itself", "offset leaf_arguments"
    jmp failed

# The program in the child's place: its letter goes through fresh pages into its status.
leaf:
    mov SI, [SP + 3 * SIZE]
    movzx ebp, byte ptr [SI]
    mov ecx, OWN
    call touch
    call own_sum
    mov eax, dword ptr [sum]
    and eax, 0x7f
    mov dword ptr [length], eax
    system EXIT, [length]

# Waits for the child to end, and takes its status into the checksum.
wait_for_child:
    mov A4, 0
    system WAIT4, -1, "offset status"
    test eax, eax
    js failed
    mov eax, dword ptr [status]
    mix
    ret

mmap:
    mov dword ptr [seed], 1
    mov dword ptr [length], MAPPED * PAGE
    mov ebp, MAPPINGS
1:  call map
# Nothing was written: every page is the page of zeros.
    mov SI, [area]
    mov ecx, MAPPED
2:  mov eax, [SI]
    mix
    add SI, PAGE
    loop 2b
# Now each needs memory of its own.
    mov SI, [area]
    mov ecx, MAPPED
3:  random
    mov [SI + 8], eax
    add SI, PAGE
    loop 3b
    mov SI, [area]
    mov ecx, MAPPED
4:  mov eax, [SI + 8]
    mix
    add SI, PAGE
    loop 4b
    system MUNMAP, [area], [length]
    test eax, eax
    js failed
    dec ebp
    jnz 1b
    ret

# Maps `length` bytes and notes where.
map:
#ifdef __x86_64__
    mov eax, 9
    xor edi, edi
    mov rsi, [length]
    mov edx, 3
    mov r10d, 0x22
    mov r8, -1
    xor r9d, r9d
    SYSTEM
#else
    mov eax, dword ptr [length]
    mov dword ptr [map_length], eax
    mov eax, 90
    lea ebx, [map_arguments]
    SYSTEM
#endif
    mov [area], AX
    cmp AX, -PAGE
    ja failed
    ret

pipe:
    system PIPE, "offset there"
    test eax, eax
    js failed
    system PIPE, "offset back"
    test eax, eax
    js failed
    system FORK
    test eax, eax
    js failed
    jz 2f
    mov ebp, TURNS
1:  mov ecx, OWN
    call touch
    call own_sum
    mov eax, dword ptr [sum]
    mov dword ptr [message], eax
    mov eax, dword ptr [there + 4]
    call send
    mov eax, dword ptr [back]
    call receive
    mov eax, dword ptr [message]
    mix
    dec ebp
    jnz 1b
    jmp wait_for_child
# The child answers each message with what it makes of its own pages.
2:  mov dword ptr [turns], TURNS
3:  mov eax, dword ptr [there]
    call receive
    mov ebp, dword ptr [message]
    mov ecx, OWN
    call touch
    call own_sum
    mov eax, dword ptr [sum]
    mov dword ptr [message], eax
    mov eax, dword ptr [back + 4]
    call send
    dec dword ptr [turns]
    jnz 3b
    system EXIT

# Sends the message to the pipe in EAX, or receives it from there.
send:
    mov dword ptr [end_of_pipe], eax
    system WRITE, [end_of_pipe], "offset message", 4
    jmp 1f
receive:
    mov dword ptr [end_of_pipe], eax
    system READ, [end_of_pipe], "offset message", 4
1:  cmp eax, 4
    jne failed
    ret

walk:
    mov dword ptr [seed], 1
    mov dword ptr [length], AREA
    call map
    system MADVISE, [area], [length], MADV_NOHUGEPAGE
    mov ebp, ROUNDS
# Page after page: a word of each.
1:  mov SI, [area]
    mov ecx, AREA_PAGES
2:  mov eax, [SI]
    mix
    random
    mov [SI], eax
    add SI, PAGE
    dec ecx
    jnz 2b
    dec ebp
    jnz 1b
# Here and there: the upper bits of the number are the page, those below the word.
    mov ebp, STEPS
3:  random
    mov ecx, eax
    shr eax, 18
    shl eax, 12
    shr ecx, 6
    and ecx, 0xffc
    add ecx, eax
    add CX, [area]
    mov eax, [CX]
    mix
    mov eax, dword ptr [sum]
    mov [CX], eax
    dec ebp
    jnz 3b
    ret

    .data
jobs:
    .ascii "tsc\0"
    WORD tsc
    .ascii "fork"
    WORD fork
    .ascii "mmap"
    WORD mmap
    .ascii "pipe"
    WORD pipe
    .ascii "walk"
    WORD walk
jobs_end:
leaf_name:
    .asciz "leaf"
itself:
    .asciz "/proc/self/exe"
letter:
    .asciz "A"
said:
    .ascii "GUEST-WORK "
name:
    .ascii "name"
said_end:
    .balign 8
leaf_arguments:
    WORD itself, leaf_name, letter, 0
# Arguments of the older mmap: address, length, read and write, private and anonymous, no file, offset.
map_arguments:
    .long 0
map_length:
    .long 0, 3, 0x22, -1, 0
ten:
    .long 10

    .bss
    .balign 8
start:
    .skip 8
end:
    .skip 8
area:
    .skip 8
length:
    .skip 8
end_of_pipe:
    .skip 8
status:
    .skip 4
sum:
    .skip 4
seed:
    .skip 4
message:
    .skip 4
turns:
    .skip 4
there:
    .skip 8
back:
    .skip 8
digits:
    .skip 24
digits_end:
line:
    .skip 128
    .balign PAGE
own:
    .skip OWN * PAGE
    .section .note.GNU-stack, "", @progbits
