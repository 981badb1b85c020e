"""Loads of one checkpoint of each kind of conversion equal what the library loads from it.

tests/data/checkpoints holds, beside each checkpoint, the SHA-256 of every parameter and buffer that the library
loaded. The partitions of all ranks are joined, cut to the parameter's elements and compared. Every operation of
conversion and every dtype of the golden checkpoints is among them.

usage: checkpoints_test.py embedded|server
"""

import hashlib
import itertools
import json
import math
import os
import pathlib
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import cluster  # noqa: E402

OPERATIONS = {"MergeModulelist", "Concatenate", "Chunk", "Transpose", "PermuteForRope"}
SIZES = {"bfloat16": 2, "float32": 4, "int64": 8}
WORLD_SIZES = (1, 2, 4)
WAYS = tuple(itertools.product(("parallel", "rank0", "local"), ("scatter", "broadcast"), ("3000", "32M")))


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def golden_checkpoints():
    """Yields (folder, expected); not those that the library refuses."""
    for path in sorted((cluster.DATA / "checkpoints").glob("*/expected.json")):
        expected = json.loads(path.read_text())
        if "error" not in expected:
            yield path.parent, expected


class CheckpointsTest(unittest.TestCase):
    def setUp(self):
        self.operations, self.dtypes = set(), set()
        self.compared = 0

    def check(self, out, world_size, expected):
        ranks = [cluster.read_safetensors(out / f"rank_{rank:05d}.safetensors")[0] for rank in range(world_size)]
        for parameter in expected["params"]:
            if "sha256" not in parameter:
                continue  # nothing was loaded for it
            name, size = parameter["name"], SIZES[parameter["dtype"]] * math.prod(parameter["shape"])
            stored = name if name in ranks[0] else expected["tied"][name]
            whole = b"".join(rank[stored][2] for rank in ranks)
            self.assertEqual(sha256(whole[:size]), parameter["sha256"], name)
            self.assertEqual(whole[size:].count(0), len(whole) - size, f"padding of {name}")
            self.note(parameter)
        buffers, _ = cluster.read_safetensors(out / "buffers.safetensors")
        for buffer in expected["buffers"]:
            if "sha256" in buffer:
                self.assertEqual(sha256(buffers[buffer["name"]][2]), buffer["sha256"], buffer["name"])
                self.note(buffer)

    def note(self, tensor):
        self.dtypes.add(tensor["dtype"])
        self.compared += 1

    def run_all(self, load):
        loads, ways = 0, itertools.cycle(WAYS)
        most_ranks = cluster.num_gpus()[0] if os.environ.get("ZC_NEEDS_GPU") else max(WORLD_SIZES)
        world_sizes = [size for size in WORLD_SIZES if size <= most_ranks]
        with tempfile.TemporaryDirectory(prefix="zc_checkpoints_") as folder:
            for source, expected in golden_checkpoints():
                for rule in expected["transforms"]:
                    self.operations.update(operation["op"] for operation in rule.get("operations", ()))
                for world_size in world_sizes:
                    mode, move, round_bytes = next(ways)
                    move = "scatter" if mode == "local" else move
                    out = pathlib.Path(folder) / f"out{loads}"
                    with self.subTest(checkpoint=source.name, ranks=world_size, mode=mode, move=move):
                        result = load(source, "--world-size", world_size, "--mode", mode, "--move", move,
                                      "--round-bytes", round_bytes, "--dtype", "spec", "--allow-missing", ".*",
                                      "--ignore-mismatched", "--out", out, "--verify", "--model-spec",
                                      source / "expected.json")
                        self.assertEqual(result.code, 0, result)
                        self.check(out, world_size, expected)
                    loads += 1
        print(f"{loads} loads on {world_sizes} ranks, {self.compared} parameters and buffers equal")
        self.assertEqual(self.operations, OPERATIONS)
        self.assertEqual(self.dtypes, set(SIZES))
        self.assertGreater(self.compared, 1000 * len(world_sizes))

    def embedded(self):
        nodes = itertools.cycle((1, 2))

        def load(*args):
            world_size = args[args.index("--world-size") + 1]
            return cluster.zerocast("load", *args, "--nodes", min(next(nodes), world_size))

        self.run_all(load)

    def server(self):
        with cluster.Cluster(num_agents=2) as running:
            self.run_all(lambda *args: cluster.zerocast(
                "--server", running.address, "load", *args, "--nodes",
                min(2, args[args.index("--world-size") + 1]), "--release"))


if __name__ == "__main__":
    cluster.skip_without_gpus(1)
    outcome = unittest.TextTestRunner().run(CheckpointsTest(sys.argv[1]))
    sys.exit(0 if outcome.wasSuccessful() else 1)
