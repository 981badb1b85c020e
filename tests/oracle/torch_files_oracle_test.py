#!/usr/bin/env python3
"""Files that were read and written by client/formats, loaded by torch: equal to the originals.

Wants ZC_SOURCE_DIR and ZC_BUILD_DIR; some of the files have DeepSpeed's objects.
"""

import io
import os
import pathlib
import pickle
import subprocess
import sys
import tarfile
import tempfile
import unittest
import zipfile
from typing import Any

import deepspeed_releases as releases
import torch

SOURCE = pathlib.Path(os.environ["ZC_SOURCE_DIR"])
BUILD = pathlib.Path(os.environ["ZC_BUILD_DIR"])
REWRITE = BUILD / "test_bin" / "torch_rewrite"
os.environ["DS_ACCELERATOR"] = "cpu"
sys.path.append(str(releases.install(BUILD / "oracle" / "deepspeed", "0.19.8")))


def dir_of(kind: type) -> set[str]:
    """What a class and its bases but object define."""
    return {name for base in kind.__mro__ if base is not object for name in vars(base)}


def equal(one: Any, other: Any, seen: set[tuple[int, int]]) -> bool:
    """Whether two objects are the same in types, values, tensors' forms and attributes."""
    if (id(one), id(other)) in seen:
        return True
    seen.add((id(one), id(other)))
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        raw = [value.detach().contiguous().reshape(-1) for value in (one, other)]
        return (one.dtype == other.dtype and one.shape == other.shape
                and one.stride() == other.stride() and one.requires_grad == other.requires_grad
                and one.storage_offset() == other.storage_offset()
                and one.untyped_storage().nbytes() == other.untyped_storage().nbytes()
                and (one.numel() == 0
                     or torch.equal(raw[0].view(torch.uint8), raw[1].view(torch.uint8)))
                and equal(one.__dict__, other.__dict__, seen))
    if isinstance(one, dict):
        return (list(one) == list(other)
                and all(equal(one[key], other[key], seen) for key in one)
                and equal(getattr(one, "__dict__", None), getattr(other, "__dict__", None), seen))
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(
            equal(a, b, seen) for a, b in zip(one, other, strict=True))
    if "__eq__" not in dir_of(type(one)) and hasattr(one, "__dict__"):
        return equal(one.__dict__, other.__dict__, seen)
    return bool(one == other)


def storages(value: Any, seen: set[int], out: list[int]) -> None:
    """The storages of all tensors, in order, by the first place where each was met."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, torch.Tensor):
        out.append(value.untyped_storage().data_ptr())
    elif isinstance(value, dict):
        for item in value.values():
            storages(item, seen, out)
    elif isinstance(value, (list, tuple)):
        for item in value:
            storages(item, seen, out)


def sharing(value: Any) -> list[int]:
    """Which tensors share a storage."""
    out: list[int] = []
    storages(value, set(), out)
    return [out.index(place) if place else -1 for place in out]


class TorchFiles(unittest.TestCase):
    """Every file of tests/data/torch, there and back."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.top = pathlib.Path(folder.name)
        with tarfile.open(SOURCE / "tests/data/torch/files.tar.xz") as archive:
            archive.extractall(self.top, filter="data")
        self.files = sorted(self.top.rglob("*.pt"))

    def rewritten(self, path: pathlib.Path, zip64_from: int) -> bytes:
        """What the product makes of a file."""
        to = self.top / "to"
        subprocess.run([REWRITE, path, to, str(zip64_from)], check=True, timeout=60)
        return to.read_bytes()

    def test_loads_equal(self) -> None:
        """Zip and zip64, all protocols, objects of any class."""
        self.assertGreater(len(self.files), 30)
        for path in self.files:
            wanted = torch.load(path, weights_only=False)
            for zip64_from in (0xFFFFFFFF, 0):
                with self.subTest(path=path.name, zip64_from=zip64_from):
                    data = self.rewritten(path, zip64_from)
                    found = torch.load(io.BytesIO(data), weights_only=False)
                    self.assertTrue(equal(wanted, found, set()))
                    self.assertEqual(sharing(wanted), sharing(found))
                    with zipfile.ZipFile(io.BytesIO(data)) as archive:
                        self.assertIsNone(archive.testzip())

    def test_loads_safely_and_mapped(self) -> None:
        """What torch loads with weights_only and mmap before, it does after."""
        loaded = 0
        for path in self.files:
            try:
                wanted = torch.load(path, weights_only=True)
            except pickle.UnpicklingError:  # protocols and classes that this mode refuses
                continue
            with self.subTest(path=path.name):
                self.rewritten(path, 0xFFFFFFFF)
                found = torch.load(self.top / "to", weights_only=True, mmap=True)
                self.assertTrue(equal(wanted, found, set()))
                loaded += 1
        self.assertGreater(loaded, 10)

    def test_a_difference_is_seen(self) -> None:
        """The comparison of these tests is not blind."""
        base = torch.arange(4.0)
        self.assertFalse(equal(base, base + 1, set()))
        self.assertFalse(equal(base[:2], base[:2].clone(), set()))
        self.assertFalse(equal([1, {"a": 1}], [1, {"a": 2}], set()))
        self.assertFalse(equal(base, torch.nn.Parameter(base), set()))
        self.assertNotEqual(sharing([base, base[1:]]), sharing([base, base.clone()]))


if __name__ == "__main__":
    unittest.main()
