#!/usr/bin/env python3
"""Records how torch casts elements to floating types, as tests/data/casts/*.txt.

    python3 -m venv venv && venv/bin/pip install torch==2.15.0 numpy
    venv/bin/python tests/oracle/make_casts.py

hashes.txt holds a line for every pair of types, the first floating or an integer, bool too:
    FROM TO BLOCK_SIZE HASH HASH ...
with a HASH for every BLOCK_SIZE inputs: FNV-1a, 64 bits, over the outputs as little-endian
bytes.  Inputs are all 256 (8-bit types) or 65,536 (16-bit types) bit patterns in order, or for
wider types those of inputs() below, which casts_test.cc makes again.

edges.txt holds the outputs of single inputs, in full: FROM TO INPUT OUTPUT, in hexadecimal.

Tensors are long and contiguous, a multiple of every vector length, so that torch's vectorised
kernels do all of the work; its scalar ones differ in the NaNs of two pairs (kernels/copy/cast.h).
The AVX2 kernels are recorded.
"""

import pathlib

import numpy as np
import torch
from splitmix import mix

FLOATS = {
    "float8_e4m3fn": (torch.float8_e4m3fn, np.uint8),
    "float8_e5m2": (torch.float8_e5m2, np.uint8),
    "float16": (torch.float16, np.uint16),
    "bfloat16": (torch.bfloat16, np.uint16),
    "float32": (torch.float32, np.uint32),
    "float64": (torch.float64, np.uint64),
}
INTEGERS = {
    "bool": (torch.bool, np.uint8),
    "uint8": (torch.uint8, np.uint8),
    "int8": (torch.int8, np.uint8),
    "uint16": (torch.uint16, np.uint16),
    "int16": (torch.int16, np.uint16),
    "uint32": (torch.uint32, np.uint32),
    "int32": (torch.int32, np.uint32),
    "uint64": (torch.uint64, np.uint64),
    "int64": (torch.int64, np.uint64),
}
TYPES = {**FLOATS, **INTEGERS}
WIDE_INPUTS = 1 << 16
OUT = pathlib.Path(__file__).resolve().parent.parent / "data" / "casts"


def inputs(name):
    bits = TYPES[name][1]
    width = np.dtype(bits).itemsize * 8
    if width <= 16:
        return np.arange(1 << width, dtype=bits)
    index = np.arange(WIDE_INPUTS, dtype=np.uint64)
    upper = index << np.uint64(width - 16)
    tie = np.uint64(1) << np.uint64(width - 17)
    parts = [
        upper,
        upper | tie,
        upper | (tie - np.uint64(1)),
        upper | tie | np.uint64(1),
        upper | (mix(index) >> np.uint64(64 - (width - 16))),
        mix(index) >> np.uint64(64 - width),
    ]
    if name in INTEGERS:
        parts += around_ties(index, width)
    elif width == 64:
        # Exponents that float32 has, with what float32 drops just below, at and above a tie.
        mantissa = mix(index) & np.uint64(0x000FFFFFE0000000)
        exponent = np.uint64(1023 - 160) + index % np.uint64(300)
        sign = (index & np.uint64(1)) << np.uint64(63)
        base = sign | (exponent << np.uint64(52)) | mantissa
        parts += [base | np.uint64(low) for low in (0, 0x0FFFFFFF, 0x10000000, 0x10000001)]
    return np.concatenate(parts).astype(bits)


def around_ties(index, width):
    """Integers of every magnitude and sign just below, at and above a tie of each precision."""
    one = np.uint64(1)
    top = index % np.uint64(width)
    number = (one << top) | (mix(index) & ((one << top) - one))
    negative = (index & np.uint64(64)) != 0
    parts = []
    for precision in (8, 11, 24, 53):
        dropped = np.where(top > precision, top - np.uint64(precision), np.uint64(0))
        tie = one << dropped
        at = number & ~(tie + tie - one) | tie
        for value in (at - one, at, at + one):
            parts.append(np.where(negative, ~value + one, value))
    return parts


def cast(values, source, target):
    tensor = torch.from_numpy(values.view(np.dtype(f"int{values.itemsize * 8}")).copy())
    result = tensor.view(TYPES[source][0]).to(TYPES[target][0])
    out = TYPES[target][1]
    return result.view(getattr(torch, f"int{np.dtype(out).itemsize * 8}")).numpy().view(out)


def fnv1a(rows):
    """FNV-1a of every row of bytes."""
    value = np.full(rows.shape[0], 0xCBF29CE484222325, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for column in range(rows.shape[1]):
            value = (value ^ rows[:, column]) * np.uint64(0x100000001B3)
    return value


EDGES = {
    "float32": [
        0x00000000, 0x80000000, 0x00000001, 0x3F800000, 0xBF800000, 0x7F800000, 0xFF800000,
        0x7FC00000, 0x7F800001, 0xFFFFFFFF, 0x7FA00000, 0x43E00000, 0x43E80000, 0x43E80001,
        0xC3E80001, 0x47600000, 0x476FFFFF, 0x47700000, 0x477FDFFF, 0x477FEFFF, 0x477FF000,
        0x7F7FFFFF, 0x7F7F7FFF, 0x7F7F8000, 0x33000000, 0x33000001, 0x37000000, 0x3A800000,
        0x3A800001, 0x3F808000, 0x3F818000,
    ],
    "float64": [
        0x0000000000000000, 0x8000000000000000, 0x0000000000000001, 0x3FF0000000000000,
        0x7FF0000000000000, 0xFFF0000000000000, 0x7FF8000000000000, 0x7FF0000000000001,
        0xFFFFFFFFFFFFFFFF, 0x47EFFFFFEFFFFFFF, 0x47EFFFFFF0000000, 0x3690000000000000,
        0x3690000000000001, 0x36A0000000000000, 0x380FFFFFFFFFFFFF, 0x3FF0100000000001,
        0x3FF0080000000001, 0x40EFFDFFFFFFFFFF, 0x40EFFE0000000000,
    ],
    "float16": [0x7E00, 0x7C01, 0xFFFF, 0x7C00, 0x0001, 0x7BFF],
    "bfloat16": [0x7FC0, 0x7F81, 0xFFFF, 0x7F80, 0x0001, 0x7F7F],
    "float8_e4m3fn": [0x7F, 0xFF, 0x7E, 0x01],
    "float8_e5m2": [0x7D, 0x7E, 0x7F, 0xFF, 0x7C, 0x7B, 0x01],
    "bool": [0, 1],
    "uint8": [0, 1, 17, 255],
    "int8": [0, 1, 0x7F, 0x80, 0xFF],
    "uint16": [0, 257, 464, 465, 2049, 61439, 61440, 65519, 65520, 65535],
    "int16": [0, 257, 0x7FFF, 0x8000, 0xFFFF],
    "uint32": [0, 65519, 65520, 2**24 + 1, 2**24 + 3, 2**32 - 1],
    "int32": [0, 65519, 65520, 2**24 + 1, 2**24 + 3, 2**31 - 1, 2**31, 2**32 - 1],
    # 2^40 + 2^32 is a tie of bfloat16; float32 loses the 1 that is beyond it.
    "uint64": [0, 2**24 + 1, 2**40 + 2**32, 2**40 + 2**32 + 1, 2**53 + 1, 2**53 + 3, 2**63, 2**64 - 1],
    "int64": [0, 2**24 + 1, 2**24 + 3, 2**40 + 2**32, 2**40 + 2**32 + 1, 2**53 - 1, 2**53 + 1,
              2**53 + 3, 2**63 - 1, 2**63, 2**64 - 1, 2**64 - 2**24 - 1, 2**64 - 2**53 - 1],
}


def main():
    assert torch.__version__.startswith("2.15."), torch.__version__
    assert torch.backends.cpu.get_cpu_capability() == "AVX2", "needs a CPU or setting with AVX2"
    OUT.mkdir(parents=True, exist_ok=True)
    head = f"# torch {torch.__version__.split('+')[0]}, by tests/oracle/make_casts.py\n"
    with open(OUT / "hashes.txt", "w") as hashes, open(OUT / "edges.txt", "w") as edges:
        hashes.write(head)
        edges.write(head)
        for source in TYPES:
            values = inputs(source)
            edge_values = np.array(EDGES[source], dtype=TYPES[source][1])
            for target in FLOATS:
                if target == source:
                    continue
                result = cast(values, source, target)
                block = 256 if values.itemsize <= 2 else 8192
                if source in INTEGERS:
                    block = min(len(values), WIDE_INPUTS)
                rows = np.ascontiguousarray(result).view(np.uint8).reshape(len(values) // block, -1)
                words = " ".join(f"{int(value):016x}" for value in fnv1a(rows))
                hashes.write(f"{source} {target} {block} {words}\n")
                for index, value in enumerate(edge_values):
                    result = cast(np.full(64, value), source, target)
                    assert (result == result[0]).all()
                    edges.write(f"{source} {target} {int(value):x} {int(result[0]):x}\n")


if __name__ == "__main__":
    main()
