"""Folders with pytorch_model.bin on the command line: loads, and what is refused by name with the promised exit code."""

import json
import os
import pathlib
import random
import shutil
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
import cluster  # noqa: E402
import torch_files  # noqa: E402

TENSORS = {"model.a": ("F32", [4, 6], bytes(range(96))), "model.b": ("BF16", [6], bytes(range(100, 112))),
           "c": ("I64", [2], bytes(range(16)))}


class TorchFilesTest(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="zc_torch_"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.checkpoint, self.out = self.folder / "ckpt", self.folder / "out"
        self.checkpoint.mkdir()
        self.file = self.checkpoint / "pytorch_model.bin"
        self.views = torch_files.place(TENSORS)

    def load(self, *args, world_size=2):
        return cluster.zerocast("--output", "json", "load", self.checkpoint, "--world-size", world_size, "--out",
                                self.out, *args)

    def loaded(self, *args, world_size=2):
        """{name: bytes of all ranks, padding too} of a load that must succeed."""
        result = self.load(*args, world_size=world_size)
        self.assertEqual(result.code, 0, result)
        ranks = [cluster.read_safetensors(self.out / f"rank_{rank:05d}.safetensors")[0] for rank in range(world_size)]
        shutil.rmtree(self.out)
        return {name: b"".join(rank[name][2] for rank in ranks) for name in ranks[0]}

    def refused(self, *args, code, says, reason):
        result = self.load(*args)
        self.assertEqual(result.code, code, result)
        for text in says:
            self.assertIn(text, result.stderr, result)
        self.assertEqual(result.json()["error"]["reason"], reason)
        self.assertFalse(self.out.exists(), "output was left behind")

    # Loads.

    def test_both_names_of_a_tie_get_the_value(self):
        views = {**self.views, "tied": self.views["model.a"]}
        for is_legacy in (False, True):
            torch_files.write(self.file, views, is_legacy)
            loaded = self.loaded("--verify", "--nodes", 2)
            self.assertEqual(loaded["model.a"], TENSORS["model.a"][2])
            self.assertEqual(loaded["tied"], TENSORS["model.a"][2])

    def test_large_tensors_at_odd_places_of_a_legacy_stream(self):
        numbers = random.Random(7)
        tensors = {f"w{k}": (dtype, [1000 + k, 700], numbers.randbytes((1000 + k) * 700 * size))
                   for k, (dtype, size) in enumerate([("U8", 1), ("BF16", 2), ("F32", 4), ("U8", 1), ("F32", 4)])}
        for forms in (("own",), ("middle", "shared"), ("parameter", "own", "columns")):
            torch_files.write(self.file, torch_files.place(tensors, forms), is_legacy=True)
            for args in (("--io", "cached"), ("--io", "direct", "--nodes", 2, "--mode", "local"),
                         ("--io", "direct", "--nodes", 3, "--round-bytes", "100003")):
                loaded = self.loaded(*args, world_size=3)
                for name, (_, _, data) in tensors.items():
                    with self.subTest(forms=forms, args=args, tensor=name):
                        self.assertEqual(loaded[name][:len(data)], data)

    def test_a_plan_and_a_variant(self):
        torch_files.write(self.checkpoint / "pytorch_model.fp16.bin", self.views)
        result = cluster.zerocast("--output", "json", "plan", self.checkpoint, "--world-size", 3, "--variant", "fp16")
        self.assertEqual(result.code, 0, result)
        self.assertEqual(result.json()["num_targets"], len(TENSORS))

    # What is refused.

    def test_values_that_are_no_tensors(self):
        torch_files.write(self.file, self.views, more=torch_files.text("step") + b"K\5")
        self.refused(code=2, says=[f"{self.file}: ", "step is the number 5"], reason="UNSUPPORTED")

    def test_a_call_is_not_made(self):
        made = self.folder / "made"
        call = b"cos\nsystem\n" + torch_files.text(f"touch {made}") + b"\x85R"
        for is_legacy in (False, True):
            torch_files.write(self.file, self.views, is_legacy, more=torch_files.text("x") + call)
            self.refused(code=2, says=[f"{self.file}: it would import os.system", "nothing of it was run"],
                         reason="UNSUPPORTED")
            torch_files.write_pickled(self.file, b"cbuiltins\neval\n" + torch_files.text("1") + b"\x85R", (), is_legacy)
            self.refused(code=2, says=["it would import builtins.eval"], reason="UNSUPPORTED")
        self.assertFalse(made.exists())

    def test_an_expanded_tensor(self):
        view = torch_files.View(self.views["c"].storage, [3, 2], 0, [0, 1])
        torch_files.write(self.file, {**self.views, "wide": view})
        self.refused(code=2, says=["tensor wide", "save it again after .contiguous()"], reason="UNSUPPORTED")

    def test_files_that_are_cut_or_none(self):
        torch_files.write(self.file, self.views)
        whole = self.file.read_bytes()
        for is_legacy in (False, True):
            torch_files.write(self.file, self.views, is_legacy)
            os.truncate(self.file, self.file.stat().st_size - 1)
            self.refused(code=6, says=[str(self.file)], reason="CHECKPOINT_CORRUPT")
        pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"
        for data, says in ((whole[:len(whole) // 2], "truncated?"), (b"", "truncated?"), (pointer, "git lfs pull")):
            self.file.write_bytes(data)
            self.refused(code=6, says=[str(self.file), says], reason="CHECKPOINT_CORRUPT")

    def test_a_damaged_pickle_always_and_a_damaged_storage_where_it_is_asked_for(self):
        torch_files.write(self.file, self.views)
        whole = self.file.read_bytes()
        self.file.write_bytes(whole.replace(b"model.a", b"model.x", 1))
        self.refused(code=6, says=["data.pkl", "CRC-32"], reason="CHECKPOINT_CORRUPT")
        self.file.write_bytes(whole.replace(bytes(range(100, 112)), bytes(range(1, 13)), 1))
        self.assertEqual(self.loaded()["model.b"][:12], bytes(range(1, 13)))  # as torch.load
        self.refused("--verify", code=6, says=[str(self.file), "entry archive/data/", "CRC"],
                     reason="CHECKPOINT_CORRUPT")

    def test_an_index_and_its_files(self):
        index = self.checkpoint / "pytorch_model.bin.index.json"
        index.write_text(json.dumps({"weight_map": {"c": "pytorch_model-00001-of-00001.bin"}}))
        self.refused(code=3, says=[str(index), "pytorch_model-00001-of-00001.bin, which is missing"],
                     reason="CHECKPOINT_NOT_FOUND")
        torch_files.write(self.checkpoint / "pytorch_model-00001-of-00001.bin", {"model.a": self.views["model.a"]})
        self.refused(code=6, says=["tensor c should be in pytorch_model-00001-of-00001.bin"],
                     reason="CHECKPOINT_CORRUPT")


if __name__ == "__main__":
    unittest.main()
