#!/usr/bin/env python3
"""What nvcc and ptxas made of the copy kernel, for each architecture: read by cuobjdump.

Environment: ZC_CUDA_LIBRARY, the built library; ZC_CUDA_ARCHITECTURES, CMake's list of them;
ZC_CUOBJDUMP, the program, or "" where a package of this Python has it. Exits 77 (skipped) when the
library holds no machine code, only PTX.
"""

import os
import re
import subprocess
import sys
import sysconfig
import unittest
from pathlib import Path

LIBRARY = os.environ["ZC_CUDA_LIBRARY"]
# "90-real" and "90" have machine code, "90-virtual" has not.
ARCHITECTURES = [a.split("-")[0] for a in re.split(r"[;,]", os.environ["ZC_CUDA_ARCHITECTURES"])
                 if not a.endswith("-virtual")]
SKIPPED = 77
# 6 floating types, each cast to the 5 others; 9 integer types cast to the 6; a copy for each of 4 sizes;
# decoders to each of the 6 floating types.
NUM_KERNELS = 6 * 5 + 9 * 6 + 4 + 6
KERNEL = re.compile(r"(Copy|Decode)Kernel")
# A multiprocessor has 65,536 registers, and at least 163 KiB of shared memory (sm_80). Four blocks of
# 128 threads fit it.
MAX_REGISTERS = 65536 // (4 * 128)
MAX_SHARED = 163 * 1024 // 4


def cuobjdump(*args):
    program, env = os.environ["ZC_CUOBJDUMP"], dict(os.environ)
    if not program:
        folder = Path(sysconfig.get_paths()["purelib"]) / "nvidia/cu13/bin"
        program, env["NVDISASM_PATH"] = str(folder / "cuobjdump"), str(folder)
    return subprocess.run([program, *args, LIBRARY], check=True, text=True, timeout=500, env=env,
                          stdout=subprocess.PIPE).stdout


def resources(text):
    """[(kernel, {resource: number})] of cuobjdump -res-usage."""
    return [(name, {k: int(v) for k, v in re.findall(r"([A-Z]+)(?:\[\d+\])?:(\d+)", usage)})
            for name, usage in re.findall(r"Function (\S+):\n(.*)", text) if KERNEL.search(name)]


def instructions(text):
    """{kernel: [instruction with its modifiers]} of cuobjdump -sass."""
    kernels = {}
    for block in text.split("Function : ")[1:]:
        name, code = block.split("\n", 1)
        if KERNEL.search(name):
            kernels[name.strip()] = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\d+ )?([A-Z][\w.]+)",
                                               code)
    return kernels


def sides(kernel):
    """The bytes of an element of the source, as it is stored, and of the target."""
    numbers = [int(n) for n in re.findall(r"(?:DTypeE|LS\w*?_)(\d+)E", kernel)]
    return (1, size(numbers[0])) if "DecodeKernel" in kernel else tuple(map(size, numbers))


def size(number):
    return {1: 1, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 4, 8: 8, 9: 8,
            10: 1, 11: 1, 12: 2, 13: 2, 14: 4, 15: 8}[number]


class CompiledCode(unittest.TestCase):
    def test_registers_only(self):
        for architecture in ARCHITECTURES:
            found = resources(cuobjdump("-arch", f"sm_{architecture}", "-res-usage"))
            self.assertEqual(len(found), NUM_KERNELS, architecture)
            for name, usage in found:
                with self.subTest(architecture=architecture, kernel=name):
                    self.assertEqual(usage["STACK"], 0, "spills, or an array outside registers")
                    self.assertEqual(usage["LOCAL"], 0)
                    self.assertLessEqual(usage["REG"], MAX_REGISTERS)
                    self.assertLessEqual(usage["SHARED"], MAX_SHARED)

    def test_vectors_of_128_bits(self):
        for architecture in ARCHITECTURES:
            found = instructions(cuobjdump("-arch", f"sm_{architecture}", "-sass"))
            self.assertEqual(len(found), NUM_KERNELS, architecture)
            for name, code in found.items():
                with self.subTest(architecture=architecture, kernel=name):
                    self.assertEqual([i for i in code if re.match(r"(LDL|STL)\b", i)], [],
                                     "local memory")
                    source, target = sides(name)
                    wide = {i.split(".")[0] for i in code if ".128" in i}
                    if source >= target and "CopyKernel" in name:
                        self.assertIn("LDG", wide)
                    # What is decoded to one byte again goes by narrower vectors.
                    if target > source or (target == source and "CopyKernel" in name):
                        self.assertIn("STG", wide)

    def test_the_reader_knows_types(self):
        self.assertEqual(sides("_ZN8zerocast10CopyKernelILNS_5DTypeE14ELS1_13EEEvPKNS_9CopyPieceEPKllll"),
                         (4, 2))
        self.assertEqual(sides("_ZN8zerocast12DecodeKernelILNS_5DTypeE15EEEvPKNS_11DecodePieceEPKllll"),
                         (1, 8))

    def test_the_reader_sees_spills_and_narrow_code(self):
        self.assertEqual(resources(" Function _Z10CopyKernelv:\n  REG:80 STACK:96 SHARED:0 LOCAL:4 "
                                   "CONSTANT[0]:384 TEXTURE:0\n"),
                         [("_Z10CopyKernelv", {"REG": 80, "STACK": 96, "SHARED": 0, "LOCAL": 4,
                                               "CONSTANT": 384, "TEXTURE": 0})])
        self.assertEqual(instructions(
            "Function : _Z10CopyKernelv\n"
            "        /*0070*/                   LDG.E.128 R8, desc[UR4][R2.64] ;  /* 0x0 */\n"
            "        /*1080*/              @!P0 STL.64 [R1], R2 ;                 /* 0x0 */\n"),
            {"_Z10CopyKernelv": ["LDG.E.128", "STL.64"]})


if __name__ == "__main__":
    if not ARCHITECTURES:
        print(f"skipped: {LIBRARY} holds PTX only ({os.environ['ZC_CUDA_ARCHITECTURES']})")
        sys.exit(SKIPPED)
    unittest.main(verbosity=2)
