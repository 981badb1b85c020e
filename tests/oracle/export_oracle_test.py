#!/usr/bin/env python3
"""What `zerocast checkpoint export` writes, loaded by the real library: what DeepSpeed consolidates."""

import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import tarfile
import tempfile
import unittest
from typing import Any

import torch
import transformers

DATA = pathlib.Path(os.environ["ZC_TEST_DATA"])
ZEROCAST = pathlib.Path(os.environ["ZC_BUILD_DIR"]) / "bin" / "zerocast"
# By folder: the model's name in the test data, for its spec and its config.
MODELS = {
    "mixtral-z3-w2": "mixtral",
    "olmoe-z3-w2-to-w3": "olmoe",
    "qwen3moe-z2-w2": "qwen3_moe",
    "ernie-z1-w3": "ernie4_5_moe",
}


def digest(tensor: torch.Tensor) -> str:
    """Of its bytes."""
    flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(bytes(flat.tolist())).hexdigest()


class Export(unittest.TestCase):
    """Folders that real engines saved."""

    def setUp(self) -> None:
        """Unpacks them."""
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.top = pathlib.Path(folder.name)
        with tarfile.open(DATA / "deepspeed" / "folders.tar.xz") as archive:
            archive.extractall(self.top, filter="data")

    def load(self, name: str, model: str) -> tuple[Any, dict[str, Any]]:
        """The model that from_pretrained makes, and what it says of it."""
        like = DATA / "checkpoints" / model
        if not like.exists():
            like = DATA / "deepspeed" / "models" / model
        shutil.copy(like / "config.json", self.top / name)
        out = self.top / "out"
        shutil.rmtree(out, ignore_errors=True)
        subprocess.run(
            [ZEROCAST, "checkpoint", "export", self.top / name, "--out", out, "--model-spec",
             like / "expected.json", "--max-shard-size", "40KB"], check=True, timeout=120)
        spec = json.loads((like / "expected.json").read_text(encoding="utf-8"))
        loaded: tuple[Any, dict[str, Any]] = getattr(
            transformers, spec["architecture"]).from_pretrained(
                out, dtype=torch.float32, output_loading_info=True)
        return loaded

    def test_loads_equal(self) -> None:
        """Every weight, under each of its names, with nothing missing or unexpected."""
        for name, model in MODELS.items():
            with self.subTest(name=name):
                made, told = self.load(name, model)
                for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
                    self.assertFalse(told[kind], kind)
                held = made.state_dict()
                base = name.partition("-to-")[0]
                wanted = json.loads((self.top / f"{base}.fp32.json").read_text(encoding="utf-8"))
                for each in wanted:
                    self.assertEqual(list(held[each["name"]].shape), each["shape"])
                    self.assertEqual(digest(held[each["name"]].float()), each["sha256"],
                                     each["name"])
                # Stage 1: DeepSpeed's script leaves the frozen parameters out.
                beyond = held.keys() - {each["name"] for each in wanted}
                module = torch.load(
                    next((self.top / name).glob("*/mp_rank_00_model_states.pt")),
                    weights_only=False)["module"] if beyond else {}
                for each in beyond:
                    self.assertTrue(torch.equal(held[each], module[each].float()), each)


if __name__ == "__main__":
    unittest.main()
