"""The golden checkpoints as files of torch.save load as the library loaded them.

Each checkpoint of tests/data/checkpoints is written as pytorch_model.bin, as the files of an index, of a variant, as a
zip or a legacy stream, its tensors in every form that torch.save knows (torch_files.py), tied weights under both names;
then loaded, verified and compared as in checkpoints_test.py.

usage: torch_checkpoints_test.py embedded|server
"""

import itertools
import json
import os
import pathlib
import shutil
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import checkpoints_test  # noqa: E402
import cluster  # noqa: E402
import torch_files  # noqa: E402

# (files, legacy, variant)
KINDS = ((1, False, ""), (3, False, ""), (1, True, ""), (1, False, "fp16"), (2, True, "x.y"))
# Second names of weights, as the checkpoints of older releases have them.
TIES = {"aya_vision": {"language_model.lm_head.weight": "language_model.model.embed_tokens.weight"}}
# What of an agent's reading depends on where in a file the bytes are.
READS = ((), ("--io", "direct"))


def write_folder(source, target, kind):
    """Writes `source` as files of torch.save; the number of tied names that share a storage."""
    num_files, is_legacy, variant = kind
    target.mkdir()
    shutil.copy(source / "config.json", target / "config.json")
    tensors = {}
    for file in sorted(source.glob("*.safetensors")):
        tensors.update(cluster.read_safetensors(file)[0])
    part = f".{variant}" if variant else ""
    num_ties, weight_map = 0, {}
    for index in range(num_files):
        views = torch_files.place(dict(list(tensors.items())[index::num_files]))
        for alias, name in TIES.get(source.name, {}).items():
            if name in views:
                views[alias] = views[name]
                num_ties += 1
        name = f"pytorch_model{part}.bin" if num_files == 1 else f"weights-{index}{part}.bin"
        torch_files.write(target / name, views, is_legacy)
        weight_map.update(dict.fromkeys(views, name))
    if num_files > 1:
        (target / f"pytorch_model.bin.index{part}.json").write_text(
            json.dumps({"metadata": {}, "weight_map": weight_map}))
    return num_ties


class TorchCheckpointsTest(checkpoints_test.CheckpointsTest):
    reads = READS

    def server(self):
        self.reads = ((),)  # agents read as they were started
        super().server()

    def run_all(self, load):
        kinds, reads, ways = itertools.cycle(KINDS), itertools.cycle(self.reads), itertools.cycle(checkpoints_test.WAYS)
        most_ranks = cluster.num_gpus()[0] if os.environ.get("ZC_NEEDS_GPU") else max(checkpoints_test.WORLD_SIZES)
        sizes = itertools.cycle(size for size in checkpoints_test.WORLD_SIZES if size <= most_ranks)
        num_ties = loads = 0
        with tempfile.TemporaryDirectory(prefix="zc_torch_checkpoints_") as folder:
            for source, expected in checkpoints_test.golden_checkpoints():
                kind, world_size, (mode, move, round_bytes) = next(kinds), next(sizes), next(ways)
                target, out = pathlib.Path(folder) / source.name, pathlib.Path(folder) / f"out_{source.name}"
                num_ties += write_folder(source, target, kind)
                with self.subTest(checkpoint=source.name, kind=kind, ranks=world_size, mode=mode):
                    result = load(target, "--world-size", world_size, "--mode", mode, "--move",
                                  "scatter" if mode == "local" else move, "--round-bytes", round_bytes, "--dtype",
                                  "spec", "--allow-missing", ".*", "--ignore-mismatched", "--out", out, "--verify",
                                  "--model-spec", source / "expected.json", *(("--variant", kind[2]) if kind[2] else ()), *next(reads))
                    self.assertEqual(result.code, 0, result)
                    self.check(out, world_size, expected)
                loads += 1
        print(f"{loads} loads, {num_ties} ties, {self.compared} parameters and buffers equal")
        self.assertEqual(num_ties, len(TIES))
        self.assertEqual(self.dtypes, set(checkpoints_test.SIZES))
        self.assertGreater(self.compared, 1000)


if __name__ == "__main__":
    cluster.skip_without_gpus(1)
    outcome = unittest.TextTestRunner().run(TorchCheckpointsTest(sys.argv[1]))
    sys.exit(0 if outcome.wasSuccessful() else 1)
