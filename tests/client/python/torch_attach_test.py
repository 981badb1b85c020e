#!/usr/bin/env python3
"""zerocast.attach(framework="torch") against the agent's own hand-over socket (hand_over_fixture).

Runs where a Python with torch is: this one, the one that ZC_TORCH_PYTHON names, or, with
ZC_TORCH_INSTALL=1, a virtual environment in ZC_TORCH_VENV that torch is installed into (gigabytes).
Exits 77, skipped, where there is none, and says so.
"""

import gc
import importlib.util
import os
import subprocess
import sys
import unittest
from pathlib import Path

SKIPPED = 77
HERE = Path(__file__).resolve().parent


def has_torch(python):
    try:
        return subprocess.run([python, "-c", "import numpy, torch"], capture_output=True,
                              timeout=300, check=False).returncode == 0
    except OSError:
        return False


def find_python():
    """A Python with torch, or None."""
    named = os.environ.get("ZC_TORCH_PYTHON")
    if named:
        if not has_torch(named):
            sys.exit(f"ZC_TORCH_PYTHON={named} cannot import numpy and torch")
        return named
    if importlib.util.find_spec("torch") is not None and has_torch(sys.executable):
        return sys.executable
    if os.environ.get("ZC_TORCH_INSTALL") == "1":
        in_venv = Path(os.environ["ZC_SOURCE_DIR"]) / "tests/house/in_venv.py"
        subprocess.run([sys.executable, str(in_venv), os.environ["ZC_TORCH_VENV"],
                        str(HERE / "requirements-torch.txt"), "python", "-c", "import torch"],
                       check=True)
        return os.environ["ZC_TORCH_VENV"] + "/bin/python"
    return None


if __name__ == "__main__" and os.environ.get("ZC_TORCH_FOUND") != "1":
    PYTHON = find_python()
    if PYTHON is None:
        print("skipped: no Python with torch here: set ZC_TORCH_PYTHON to one, or "
              "ZC_TORCH_INSTALL=1 to have it installed")
        sys.exit(SKIPPED)
    os.environ["ZC_TORCH_FOUND"] = "1"
    sys.stdout.flush()
    os.execv(PYTHON, [PYTHON, "-B", __file__, *sys.argv[1:]])

import torch  # noqa: E402
from agent_fixture import AgentTest, expected_bytes  # noqa: E402

import zerocast  # noqa: E402  (on the path since agent_fixture)


def bytes_of(tensor):
    return bytes(tensor.view(torch.uint8).tolist())


def arena_ranges():
    """Where arenas are mapped in this process."""
    return [tuple(int(end, 16) for end in line.split()[0].split("-"))
            for line in Path("/proc/self/maps").read_text().splitlines() if "/memfd:" in line]


class TorchAttachTest(AgentTest):
    attach_arguments = {"framework": "torch"}

    def test_dtypes_shapes_and_bytes_are_the_arenas(self):
        shard = self.attach(rank=1)
        for name, dtype, offset, count in (("bf16", torch.bfloat16, 0, 8),
                                           ("fp32", torch.float32, 64, 2),
                                           ("fp8", torch.float8_e4m3fn, 128, 5),
                                           ("positions", torch.int64, 192, 5)):
            tensor = shard[name].array
            self.assertIsInstance(tensor, torch.Tensor)
            self.assertEqual(tensor.dtype, dtype)
            self.assertEqual(tuple(tensor.shape), (count,))
            self.assertEqual(bytes_of(tensor),
                             expected_bytes(1, offset, count * tensor.element_size()))
        self.assertEqual(shard["bf16"].shape, (3, 5))
        self.assertEqual(shard["empty"].array.numel(), 0)
        self.assertEqual(shard["empty"].array.dtype, torch.float16)

    def test_tensors_lie_in_the_arena_itself(self):
        shard = self.attach()
        (begin, end), = arena_ranges()
        for name, offset in (("bf16", 0), ("fp32", 64), ("fp8", 128), ("positions", 192)):
            self.assertEqual(shard[name].array.data_ptr(), begin + offset)
        self.assertLess(begin + 192 + 40, end)

    def test_an_alias_is_the_same_memory(self):
        shard = self.attach()
        shard["tied"].array.fill_(2)
        self.assertEqual(shard["bf16"].array.tolist(), [2.0] * 8)

    def test_training_writes_into_them(self):
        weight = torch.nn.Parameter(self.attach()["fp32"].array)
        with torch.no_grad():
            weight.fill_(1)
        (weight * torch.tensor([2.0, 3.0])).sum().backward()
        torch.optim.SGD([weight], lr=0.5).step()
        self.assertEqual(weight.tolist(), [0.0, -0.5])

    def test_private_writes_stay_here(self):
        first = self.attach(mode="private")
        first["positions"].array.zero_()
        second = self.attach(mode="private")
        self.assertEqual(bytes_of(second["positions"].array), expected_bytes(0, 192, 40))
        self.assertEqual(first["positions"].array.tolist(), [0] * 5)

    def test_the_memory_lives_as_long_as_a_tensor_and_no_longer(self):
        tensor = self.attach()["bf16"].array
        gc.collect()
        self.assertEqual(len(arena_ranges()), 1)
        part = tensor[2:].view(torch.int16)
        del tensor
        gc.collect()
        self.assertEqual(len(arena_ranges()), 1)
        self.assertEqual(bytes_of(part), expected_bytes(0, 4, 12))
        del part
        gc.collect()
        self.assertEqual(arena_ranges(), [])

    def test_what_the_checkpoint_does_not_fill_is_no_weight(self):
        with self.assertRaises(zerocast.UnfilledError):
            self.attach(mode="private")["unfilled"]
        allowed = self.attach(mode="private", allow_unfilled=True)["unfilled"]
        self.assertFalse(allowed.filled)
        self.assertEqual(allowed.array.dtype, torch.float32)


if __name__ == "__main__":
    print(f"torch {torch.__version__}")
    unittest.main()
