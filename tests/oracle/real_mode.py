#!/usr/bin/env python3
"""Makes real_mode.txt: what QEMU, as the library Unicorn, does with single instructions of real mode.

    pip install unicorn==2.1.4
    python3 real_mode.py > real_mode.txt

A line has a seed, the instruction's bytes, and what it leaves: IP, FLAGS with the mask of those that the manuals define, then the
other registers and the bytes of memory that have changed. The state before follows from seed and bytes alone, by the rules of
`State` here and in emulator_real.rs. Left out: what faults, ports, system registers, and INT, which Unicorn hands to its user.
"""

import sys

from unicorn import UC_ARCH_X86, UC_MODE_16, Uc, UcError
from unicorn import x86_const as x86

MEMORY = 0x110000
MASK64 = (1 << 64) - 1
CF, PF, AF, ZF, SF, DF, OF = 1, 4, 0x10, 0x40, 0x80, 0x400, 0x800
# All flags of FLAGS but the reserved ones.
ALL = 0x7FD5
NAMES = ["eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi"]
SEGMENTS = ["es", "cs", "ss", "ds", "fs", "gs"]


def fill(a):
    """The byte at an address before anything is written there."""
    return (a * 0x9D + (a >> 8) * 0x3B + (a >> 16) * 0x11) & 0xFF


FILL = bytes(fill(a) for a in range(MEMORY))


class Random:
    """Marsaglia's xorshift, as hv_core::testing::Random."""

    def __init__(self, seed):
        self.x = seed

    def next(self):
        x = self.x
        x ^= x << 13 & MASK64
        x ^= x >> 7
        x ^= x << 17 & MASK64
        self.x = x
        return x

    def below(self, n):
        return (self.next() >> 3) % n


class State:
    """The registers before an instruction. Those that form addresses are such that no operand leaves its segment."""

    def __init__(self, seed, code):
        r = Random(seed)
        prefixes = [b for b in code[:4] if b in (0x66, 0x67, 0xF2, 0xF3)]
        self.regs = []
        for n in range(8):
            value = r.next() & 0xFFFFFFFF
            if n == 4:
                value = value & 0x3FFE | 0x4000
            elif n in (3, 5, 6, 7):
                value = value & 0xFFF | 0x200 if 0x67 in prefixes else value & 0xFFFF3FFF | 0x200
            if n == 1 and (0xF2 in prefixes or 0xF3 in prefixes):
                value &= 0x3F
            self.regs.append(value)
        self.flags = r.next() & (CF | PF | AF | ZF | SF | DF | OF) | 0x202
        self.segments = [r.next() & 0x3FFF for _ in range(6)]
        self.segments[1] = self.segments[1] & 0xFFF | 0x6000
        self.ip = r.next() & 0x3FFF | 0x100


REGS = [getattr(x86, "UC_X86_REG_" + n.upper()) for n in NAMES]
SEGS = [getattr(x86, "UC_X86_REG_" + n.upper()) for n in SEGMENTS]


def run(seed, code):
    """The state after the instruction; None if it faults or leaves real mode's code segment."""
    before = State(seed, code)
    uc = Uc(UC_ARCH_X86, UC_MODE_16)
    uc.mem_map(0, MEMORY)
    uc.mem_write(0, FILL)
    for reg, value in zip(SEGS + REGS, before.segments + before.regs):
        uc.reg_write(reg, value)
    uc.reg_write(x86.UC_X86_REG_EFLAGS, before.flags)
    start = before.segments[1] * 16 + before.ip
    uc.mem_write(start, code)
    repeated = 0xF2 in code[:4] or 0xF3 in code[:4]
    try:
        if repeated:
            uc.emu_start(start, start + len(code))
        else:
            uc.emu_start(start, 0xFFFFFF, count=1)
    except UcError:
        return None
    ip = uc.reg_read(x86.UC_X86_REG_EIP)
    if ip > 0xFFFF:
        return None
    out = [f"ip={ip:x}"]
    flags = uc.reg_read(x86.UC_X86_REG_EFLAGS)
    for name, reg, old in zip(SEGMENTS + NAMES, SEGS + REGS, before.segments + before.regs):
        new = uc.reg_read(reg)
        if new != old:
            out.append(f"{name}={new:x}")
    memory = bytearray(uc.mem_read(0, MEMORY))
    memory[start:start + len(code)] = FILL[start:start + len(code)]
    if memory != FILL:
        at = [a for a in range(0x80000) if memory[a] != FILL[a]]
        while at:
            first = at[0]
            last = max(a for a in at if a < first + 16)
            out.append(f"{first:x}:{memory[first:last + 1].hex()}")
            at = [a for a in at if a > last]
    return flags, out


def templates():
    """Opcodes with what follows them: m a ModRM byte, /n one with that reg field, then b w v f immediates (8, 16, operand size,
    far pointer). And the flags that are undefined after them, or a function of the bytes behind the prefixes."""
    t = []

    def add(opcodes, operands="", undefined=0, prefixes=(b"",)):
        for o in opcodes:
            for p in prefixes:
                t.append((p, bytes([o]) if isinstance(o, int) else o, operands, undefined))

    logic = {1: AF, 4: AF, 6: AF}
    for k in range(8):
        u = logic.get(k, 0)
        add([8 * k + o for o in range(4)], "m", u)
        add([8 * k + 4], "b", u)
        add([8 * k + 5], "v", u)
        add([0x80, 0x82, 0x83], f"/{k}b", u)
        add([0x81], f"/{k}v", u)
        add([0xD0, 0xD1], f"/{k}", 0 if k < 4 else AF)
        add([0xC0, 0xC1, 0xD2, 0xD3], f"/{k}" , "shift")
    add([0x06, 0x0E, 0x16, 0x1E, 0x07, 0x17, 0x1F])
    add([b"\x0f\xa0", b"\x0f\xa8", b"\x0f\xa1", b"\x0f\xa9"])
    add([0x27, 0x2F], "", OF)
    add([0x37, 0x3F], "", OF | SF | ZF | PF)
    add(range(0x40, 0x62))
    add([0x68], "v")
    add([0x6A], "b")
    add([0x69], "mv", SF | ZF | AF | PF)
    add([0x6B], "mb", SF | ZF | AF | PF)
    add(range(0x70, 0x80), "b")
    add([0x84, 0x85], "m", AF)
    add([0x86, 0x87, 0x88, 0x89, 0x8A, 0x8B, 0x8D], "m")
    for s in (0, 1, 2, 3, 4, 5):
        add([0x8C], f"/{s}")
        if s != 1:
            add([0x8E], f"/{s}")
    add([0x8F], "/0")
    add(range(0x90, 0x9A))
    add([0x9A, 0xEA], "f")
    add([0x9C, 0x9D, 0x9E, 0x9F])
    add(range(0xA0, 0xA4), "w")
    add([0xA4, 0xA5, 0xA6, 0xA7, 0xAA, 0xAB, 0xAC, 0xAD, 0xAE, 0xAF], "", 0, (b"", b"\xf3", b"\xf2"))
    add([0xA8], "b", AF)
    add([0xA9], "v", AF)
    add(range(0xB0, 0xB8), "b")
    add(range(0xB8, 0xC0), "v")
    add([0xC2, 0xCA], "w")
    add([0xC3, 0xC9, 0xCB, 0xCF])
    add([0xC4, 0xC5, b"\x0f\xb2", b"\x0f\xb4", b"\x0f\xb5"], "M")
    add([0xC6], "/0b")
    add([0xC7], "/0v")
    add([0xC8], "e")
    add([0xD4, 0xD5], "b", OF | AF | CF)
    add([0xD6, 0xD7])
    add(range(0xE0, 0xE4), "b")
    add([0xE8, 0xE9], "v")
    add([0xEB], "b")
    add([0xF5, 0xF8, 0xF9, 0xFA, 0xFB, 0xFC, 0xFD])
    add([0xF6], "/0b", AF)
    add([0xF7], "/0v", AF)
    add([0xF6, 0xF7], "/2")
    add([0xF6, 0xF7], "/3")
    for k in (4, 5):
        add([0xF6, 0xF7], f"/{k}", SF | ZF | AF | PF)
    for k in (6, 7):
        add([0xF6, 0xF7], f"/{k}", CF | PF | AF | ZF | SF | OF)
    for k in (0, 1):
        add([0xFE, 0xFF], f"/{k}")
    for k in (2, 4, 6):
        add([0xFF], f"/{k}")
    for k in (3, 5):
        add([0xFF], f"M{k}")
    for cc in range(16):
        add([bytes([0x0F, 0x40 + cc]), bytes([0x0F, 0x90 + cc])], "m")
        add([bytes([0x0F, 0x80 + cc])], "v")
    for o in (0xA3, 0xAB, 0xB3, 0xBB):
        add([bytes([0x0F, o])], "R", OF | SF | AF | PF)
    for k in range(4, 8):
        add([b"\x0f\xba"], f"/{k}b", OF | SF | AF | PF)
    for o in (0xA4, 0xAC):
        add([bytes([0x0F, o])], "mc", AF | OF)
    add([b"\x0f\xaf"], "m", SF | ZF | AF | PF)
    for o in (0xB0, 0xB1, 0xC0, 0xC1, 0xB6, 0xB7, 0xBE, 0xBF):
        add([bytes([0x0F, o])], "m")
    add([b"\x0f\xbc", b"\x0f\xbd"], "m", CF | OF | SF | AF | PF)
    for n in range(8):
        add([bytes([0x0F, 0xC8 + n])], "32")
    return t


def modrm(r, out, reg, memory, registers, long_addresses):
    mod = 3 if registers else r.below(3) if memory else r.below(4)
    rm = r.below(8)
    reg = r.below(8) if reg is None else reg
    if long_addresses and rm == 4 and mod != 3:
        rm = 6
    out.append(mod << 6 | reg << 3 | rm)
    displacement = 0
    if mod == 1:
        displacement = 1
    elif mod != 3:
        direct = rm == (5 if long_addresses else 6)
        if mod == 2 or direct:
            displacement = 4 if long_addresses else 2
    if displacement == 1:
        out.append(r.next() & 0xFF)
    elif displacement:
        value = r.next() & 0x3FFF
        out += value.to_bytes(displacement, "little")


def encode(r, template):
    prefix, opcode, operands, undefined = template
    wide = operands == "32" or r.below(3) == 0
    long_addresses = r.below(4) == 0
    out = bytearray()
    if r.below(5) == 0:
        out.append((0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65)[r.below(6)])
    if wide:
        out.append(0x66)
    if long_addresses:
        out.append(0x67)
    out += prefix
    behind = len(out)
    out += opcode
    size = 4 if wide else 2
    if operands.startswith("/"):
        modrm(r, out, int(operands[1]), False, False, long_addresses)
        operands = operands[2:]
    elif operands.startswith("M"):
        modrm(r, out, int(operands[1]) if len(operands) > 1 else None, True, False, long_addresses)
        operands = ""
    elif operands.startswith("R"):
        modrm(r, out, None, False, True, long_addresses)
        operands = ""
    elif operands.startswith("m"):
        modrm(r, out, None, opcode == b"\x8d", False, long_addresses)
        operands = operands[1:]
    if opcode in (b"\xc0", b"\xc1"):
        operands = "b"
    for kind in operands:
        if kind == "b":
            out.append(r.next() & 0xFF)
        elif kind == "c":
            out.append(r.next() & 15)
        elif kind == "w":
            out += (r.next() & 0x1FFF).to_bytes(4 if long_addresses and 0xA0 <= opcode[0] <= 0xA3 else 2, "little")
        elif kind == "v":
            out += (r.next() & ((1 << 8 * size) - 1)).to_bytes(size, "little")
        elif kind == "f":
            out += (r.next() & 0x3FFF).to_bytes(size, "little") + (r.next() & 0x3FFF).to_bytes(2, "little")
        elif kind == "e":
            out += (r.next() & 0xFF).to_bytes(2, "little") + bytes([r.below(5)])
    return bytes(out), behind, undefined


def shift_undefined(code, behind, seed):
    opcode, reg = code[behind], code[behind + 1] >> 3 & 7
    count = (code[-1] if opcode in (0xC0, 0xC1) else State(seed, code).regs[1]) & 31
    width = 8 if opcode in (0xC0, 0xD2) else 32 if 0x66 in code[:behind] else 16
    undefined = 0
    if count and reg >= 4:
        undefined |= AF
    if count > 1:
        undefined |= OF
    # The carry of a shift by more than the width, and of one by exactly the width to the right with its sign, is nobody's word.
    if reg >= 4 and count >= width:
        undefined |= CF
    return undefined


def main():
    r = Random(0x9E3779B97F4A7C15)
    print("# Made by real_mode.py. SEED CODE FLAGS/DEFINED ip=.. register=.. address:bytes")
    seed = 0
    for template in templates():
        for _ in range(3):
            for _ in range(20):
                seed += 1
                code, behind, undefined = encode(r, template)
                result = run(seed * 0x1234567, code)
                if result is not None:
                    break
            else:
                print(f"{template} always faults", file=sys.stderr)
                continue
            flags, out = result
            if undefined == "shift":
                undefined = shift_undefined(code, behind, seed * 0x1234567)
            defined = ALL & ~undefined
            print(f"{seed * 0x1234567:x} {code.hex()} {flags & defined:x}/{defined:x} {' '.join(out)}")


main()
