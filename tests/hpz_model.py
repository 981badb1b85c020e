"""A tiny checkpoint for hierarchical partitions: sizes that divide by nothing, values from a formula.

The test that loads it and the script that shows it to the real DeepSpeed make it themselves.
"""

import hashlib
import math

# Name -> shape. With 4 ranks the elements are 30, 7, 3, 1, 105 and 64: one divides, one leaves ranks empty.
SHAPES = {
    "layers.0.weight": (10, 3),
    "layers.0.bias": (7,),
    "norm.weight": (3,),
    "scale": (1,),
    "layers.1.weight": (3, 5, 7),
    "head.weight": (8, 8),
}


def float32_bytes(name):
    """Little-endian float32 between 1 and 2: the mantissas are SHA-256 digests of the name and a count."""
    count = math.prod(SHAPES[name])
    data = bytearray()
    for index in range(count):
        mantissa = int.from_bytes(hashlib.sha256(f"{name}/{index}".encode()).digest()[:3], "little") >> 1
        data += (0x3F800000 | mantissa).to_bytes(4, "little")
    return bytes(data)
