//! From the boot loader to 64-bit Rust.
//!
//! The same image starts by Multiboot 1 (QEMU's `-kernel`), Multiboot 2 (GRUB under BIOS and UEFI) and PVH. All three enter in
//! 32-bit protected mode with paging off; the code below maps the first 4 GiB at their own addresses, switches to long mode
//! with SSE on, and calls `umbra_main(magic, info)`.

use core::arch::global_asm;

/// What EAX holds when a Multiboot 1 loader starts us.
pub const MULTIBOOT1: u32 = 0x2bad_b002;
/// What EAX holds when a Multiboot 2 loader starts us.
pub const MULTIBOOT2: u32 = 0x36d7_6289;
/// What our PVH entry puts there.
pub const PVH: u32 = 0x336e_c578;

global_asm!(
    r#"
    .section .boot.header, "a", @progbits
    .align 8
umbra_multiboot1:
    .long 0x1badb002
    .long 0x00010003
    .long -(0x1badb002 + 0x00010003)
    .long umbra_multiboot1
    .long umbra_image_start
    .long umbra_load_end
    .long umbra_image_end
    .long umbra_start

    .align 8
umbra_multiboot2:
    .long 0xe85250d6
    .long 0
    .long umbra_multiboot2_end - umbra_multiboot2
    .long -(0xe85250d6 + (umbra_multiboot2_end - umbra_multiboot2))
    // Framebuffer, if there is one: any size, 32 bits. Optional.
    .short 5, 1
    .long 20
    .long 0, 0, 32
    .long 0
    // Modules page-aligned.
    .short 6, 0
    .long 8
    .short 0, 0
    .long 8
umbra_multiboot2_end:

    .section .note.Xen, "a", @note
    .align 4
    .long 4, 4, 18
    .asciz "Xen"
    .long umbra_start_pvh

    .section .boot.text, "ax", @progbits
    .code32
    .global umbra_start
umbra_start_pvh:
    mov eax, 0x336ec578
umbra_start:
    cli
    cld
    mov esp, offset umbra_stack_top
    mov edi, eax
    mov esi, ebx

    // Long mode?
    mov eax, 0x80000000
    push ebx
    cpuid
    cmp eax, 0x80000001
    jb 9f
    mov eax, 0x80000001
    cpuid
    test edx, 0x20000000
    jz 9f
    pop ebx
    mov ebp, edx

    // 4 GiB in 2 MiB pages: one PML4, one PDPT, four page directories.
    mov eax, offset umbra_pdpt + 3
    mov [umbra_pml4], eax
    mov eax, offset umbra_pd + 3
    mov ecx, 0
2:  mov [umbra_pdpt + ecx * 8], eax
    add eax, 4096
    inc ecx
    cmp ecx, 4
    jne 2b
    mov eax, 0x83
    mov ecx, 0
3:  mov [umbra_pd + ecx * 8], eax
    add eax, 0x200000
    inc ecx
    cmp ecx, 2048
    jne 3b

    mov eax, offset umbra_pml4
    mov cr3, eax
    mov eax, cr4
    or eax, 0x620
    mov cr4, eax
    mov ecx, 0xc0000080
    rdmsr
    or eax, 0x100
    // No execution of data, where the CPU can forbid it (CPUID 8000_0001h EDX.NX).
    bt ebp, 20
    jnc 6f
    or eax, 0x800
6:  wrmsr
    mov eax, cr0
    and eax, 0x9ffffff3
    or eax, 0x80010023
    mov cr0, eax
    lgdt [umbra_boot_gdt_pointer]
    // JMP 08h:4f, which the assembler's Intel syntax cannot say.
    .byte 0xea
    .long 4f
    .short 8
    .code64
4:  mov ax, 16
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov fs, ax
    mov gs, ax
    mov esp, offset umbra_stack_top
    mov edi, edi
    mov esi, esi
    xor ebp, ebp
    call umbra_main
5:  hlt
    jmp 5b

    .code32
    // No long mode: say so on the text screen and on COM1.
9:  mov esi, offset umbra_no_long_mode
    mov edi, 0xb8000
10: lodsb
    test al, al
    jz 5b
    mov [edi], al
    mov byte ptr [edi + 1], 0x4f
    add edi, 2
    mov dx, 0x3f8
    out dx, al
    jmp 10b

    .section .rodata
umbra_no_long_mode:
    .asciz "Umbra cannot run here: this CPU has no 64-bit mode (long mode). "
    .align 8
    // Null, 64-bit code, data, and the 32-bit code that further CPUs come through (`smp::start`).
    .global umbra_boot_gdt
umbra_boot_gdt:
    .quad 0
    .quad 0x00af9a000000ffff
    .quad 0x00cf92000000ffff
    .quad 0x00cf9a000000ffff
umbra_boot_gdt_pointer:
    .short 31
    .quad umbra_boot_gdt

    .section .bss
    .align 4096
    .global umbra_pml4
umbra_pml4:
    .skip 4096
umbra_pdpt:
    .skip 4096
umbra_pd:
    .skip 4096 * 4
    // Below the stack lies a page that is not mapped once `paging::protect` has been called.
    .global umbra_stack_guard
umbra_stack_guard:
    .skip 4096
    .skip 128 * 1024
umbra_stack_top:
    .text
    .code64
"#
);
