#!/usr/bin/env python3
"""Records how torch decodes quantised weights, as tests/data/decodes/checksums.txt.

    python3 -m venv venv && venv/bin/pip install torch==2.15.0 numpy
    venv/bin/python tests/oracle/make_decodes.py

The arithmetic is that of Transformers 5.23.0, Fp8Dequantize._dequantize_one and
_convert_moe_packed_tensors, on whole vectors. A line for each stored, scale and target type:
    KIND STORED SCALE TARGET CHECKSUM
over all bytes in order with the first of 256 scales, then with the second, and so on. Scales are those
of scales() below, which decode_test.cc makes again.
"""

import pathlib

import numpy
import torch
from splitmix import mix

TARGETS = ("float8_e4m3fn", "float8_e5m2", "float16", "bfloat16", "float32", "float64")
FP4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
NUM_SCALES = 256
OUT = pathlib.Path(__file__).resolve().parent.parent / "data" / "decodes"


def checksum(tensor):
    """Changes whenever any one element does."""
    size = tensor.element_size()
    bits = tensor.contiguous().view(torch.uint8).numpy().view(f"<u{size}").astype(numpy.uint64)
    weights = mix(numpy.arange(bits.size, dtype=numpy.uint64)) | numpy.uint64(1)
    return f"{int((bits.reshape(-1) * weights).sum(dtype=numpy.uint64)):016x}"


def scales(name):
    """NUM_SCALES bit patterns; the first ones are special."""
    dtype = getattr(torch, name)
    size = torch.empty(0, dtype=dtype).element_size()
    bits = mix(numpy.arange(NUM_SCALES, dtype=numpy.uint64)) >> numpy.uint64(64 - 8 * size)
    if size == 1:
        bits = numpy.arange(NUM_SCALES, dtype=numpy.uint64) & numpy.uint64(255)
    elif size > 1:
        special = torch.tensor([0.0, -0.0, float("inf"), -float("inf"), 1.0, -1.0, 0.5, 3.0], dtype=dtype)
        bits[:8] = special.view(torch.uint8).numpy().view(f"<u{size}").astype(numpy.uint64)
    raw = bits.astype(f"<u{size}").view(numpy.uint8)
    return torch.from_numpy(raw.copy()).view(dtype)


def scale_to_float32(tensor):
    if tensor.dtype == torch.uint8:
        return (tensor.to(torch.float32) - 127.0).exp2()
    return tensor.to(torch.float32)


def main():
    torch.set_num_threads(1)
    raw = torch.arange(256, dtype=torch.uint8)
    lut = torch.tensor(FP4, dtype=torch.float32)
    fp4 = torch.stack([lut[(raw & 15).long()], lut[(raw >> 4).long()]], dim=-1).reshape(512)
    lines = []
    for scale_name in ("uint8", "float8_e8m0fnu", "float8_e4m3fn", "float8_e5m2", "float16", "bfloat16",
                       "float32", "float64"):
        factor = scale_to_float32(scales(scale_name)).unsqueeze(1)
        for kind, stored in (("fp8", "float8_e4m3fn"), ("fp8", "float8_e5m2"), ("fp4", "uint8")):
            value = fp4 if kind == "fp4" else raw.view(getattr(torch, stored)).to(torch.float32)
            product = value.expand(NUM_SCALES, -1).contiguous() * factor
            for target in TARGETS:
                decoded = product.to(getattr(torch, target))
                lines.append(f"{kind} {stored} {scale_name} {target} {checksum(decoded)}")
    exponents = scales("uint8").to(torch.int32).unsqueeze(1) - 127
    for target in ("float16", "bfloat16", "float32"):
        value = fp4.to(getattr(torch, target)).expand(NUM_SCALES, -1).contiguous()
        torch.ldexp(value, exponents, out=value)
        lines.append(f"mxfp4 uint8 uint8 {target} {checksum(value)}")
    OUT.mkdir(exist_ok=True)
    (OUT / "checksums.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
