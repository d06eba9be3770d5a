"""What a kernel's machine code is made of: its loops of matrix instructions, its local memory, the width of its accesses.

Reads the text of `nvdisasm -c`. A loop is a natural one: the blocks that reach a backward branch without leaving its target. What lies behind
that branch is the way back of a wait that failed once, and not counted.
"""

import re
import struct
from collections import Counter
from dataclasses import dataclass, field

INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P[0-9T]+ +)?([A-Z][A-Za-z0-9_.]*)(.*?);?\s*$")
LABEL = re.compile(r"^(\.L\w+):")
TARGET = re.compile(r"(\.L\w+)")
# m64nNkK of one warpgroup.
MATRIX = re.compile(r"^[HQI]GMMA\.(\d+x\d+x\d+)")
FALLS_NOT = ("BRA", "EXIT", "RET", "BRX", "JMP")
GUARD = re.compile(r"^\s*/\*[0-9a-f]+\*/\s+@")


@dataclass
class Block:
    ops: list = field(default_factory=list)
    next: list = field(default_factory=list)


def blocks(text):
    """Basic blocks in the order of their addresses; a block ends at a branch or in front of a label."""
    found, labels, branches = [Block()], {}, {}
    for line in text.splitlines():
        if label := LABEL.match(line):
            if found[-1].ops:
                found.append(Block())
            labels[label[1]] = len(found) - 1
        elif op := INSTRUCTION.match(line):
            name, operands = op[1], op[2]
            found[-1].ops.append((name, operands))
            if name.split(".")[0] in FALLS_NOT:
                conditional = GUARD.match(line) or "UP" in operands or "ANY" in name
                target = TARGET.search(operands)
                branches[len(found) - 1] = (target and target[1], bool(conditional))
                found.append(Block())
    for i, block in enumerate(found):
        target, falls = branches.get(i, (None, True))
        block.next = ([i + 1] if falls and i + 1 < len(found) else []) + ([labels[target]] if target in labels else [])
    return found


def loops(found):
    """(first, last, body) of every loop: the block branched back to, the one that does, and all between."""
    before = {i: [] for i in range(len(found))}
    for i, block in enumerate(found):
        for to in block.next:
            before[to].append(i)
    out = {}
    for last, block in enumerate(found):
        for first in block.next:
            if first > last:
                continue
            body, todo = {first}, [last]
            while todo:
                at = todo.pop()
                if at not in body:
                    body.add(at)
                    todo += before[at]
            # A branch back of what lies out of line is none: its target does not begin all that leads there.
            if min(body) == first:
                kept = out.get(first)
                out[first] = (max(last, kept[0]), body | kept[1]) if kept else (last, body)
    return [(first, last, body) for first, (last, body) in out.items()]


def main_loops(text):
    """Of each innermost loop with matrix instructions: how many instructions, how many matrix instructions, of which shapes."""
    found = blocks(text)
    matrix = {i for i, block in enumerate(found) if any(MATRIX.match(op) for op, _ in block.ops)}
    holding = [loop for loop in loops(found) if loop[2] & matrix]
    inner = [a for a in holding if not any(b[2] < a[2] for b in holding)]
    out = []
    for first, last, body in sorted(inner):
        line = [op for i in sorted(body) if i <= last for op, _ in found[i].ops]
        products = Counter(m[1] for op in line if (m := MATRIX.match(op)))
        kinds = Counter(op.split(".")[0] for op in line)
        out.append({"instructions": len(line), "products": dict(products), "kinds": dict(kinds.most_common())})
    return out


def registers(cubin):
    """Registers of a thread, as the ELF of one kernel's machine code says (EIATTR_REGCOUNT)."""
    at = cubin.index(b"\x04\x2f\x08\x00")
    return struct.unpack_from("<I", cubin, at + 8)[0]


def facts(text):
    """All of it as one object."""
    ops = [op for block in blocks(text) for op in block.ops]
    kinds = Counter(op.split(".")[0] for op, _ in ops)
    wide = [int(m[1]) if (m := re.search(r"\.(64|128)\b", op)) else 32 for op, _ in ops if op.startswith(("LDG", "STG"))]
    registers = [int(r) for _, operands in ops for r in re.findall(r"\bR(\d+)\b", operands)]
    return {
        "instructions": sum(kinds.values()) - kinds["NOP"],
        "kinds": dict(kinds.most_common()),
        "local": kinds["LDL"] + kinds["STL"],
        "highest_register": max(registers, default=-1),
        "global_bits": dict(Counter(wide)),
        "loops": main_loops(text),
    }
