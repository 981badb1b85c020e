"""Loads equal the library's own ZeRO-3 loading, partition by partition.

tests/data/zero3 holds SHA-256 digests of every partition as DeepSpeed's zero.Init and the library's
loader made them. DeepSpeed leaves padding uninitialised, so where a target's elements do not divide by
the world size the ranks are joined, cut to the target's elements and compared whole: with the digest
of the plain loading (bfloat16), or with a world size that divides.

usage: zero3_test.py embedded|server
"""

import gzip
import hashlib
import itertools
import json
import pathlib
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import cluster  # noqa: E402

MODES = ("parallel", "rank0", "local")
TORCH_NAMES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def golden_cases():
    """Yields (checkpoint, dtype, world size, golden), small world sizes first."""
    for path in sorted((cluster.DATA / "zero3").glob("*.json.gz")):
        with gzip.open(path) as file:
            golden = json.load(file)
        yield golden["checkpoint"], golden["dtype"], golden["world_size"], golden


class Checked:
    """Compares one load's folder with the golden digests; remembers joined targets."""

    def __init__(self, test):
        self._test = test
        self._joined = {}  # (checkpoint, dtype, target) -> digest proven by a world size that divides
        self.partitions = 0
        self.joined = 0

    def check(self, folder, golden):
        dtype, world_size = golden["dtype"], golden["world_size"]
        expected = json.loads(
            (cluster.DATA / "checkpoints" / golden["checkpoint"] / "expected.json").read_text())
        plain = {entry["name"]: entry["sha256"] for entry in expected["params"]}
        ranks = [cluster.read_safetensors(folder / f"rank_{rank:05d}.safetensors")
                 for rank in range(world_size)]
        for rank, (tensors, metadata) in enumerate(ranks):
            self._test.assertEqual(list(tensors), [p["name"] for p in golden["ranks"][rank]])
            self._test.assertEqual(metadata["rank"], str(rank))
            self._test.assertEqual(metadata["world_size"], str(world_size))
        for index, target in enumerate(golden["ranks"][0]):
            self._check_target([r[0] for r in ranks], golden, index, target,
                               plain[target["name"]] if dtype == "bf16" else None)
        buffers, _ = cluster.read_safetensors(folder / "buffers.safetensors")
        for buffer in golden["buffers"][0]:
            stored, shape, data = buffers[buffer["name"]]
            self._test.assertEqual((TORCH_NAMES[stored], shape, sha256(data)),
                                   (buffer["dtype"], buffer["shape"], buffer["sha256"]))
        self._test.assertEqual(len(buffers), len(golden["buffers"][0]))

    def _check_target(self, ranks, golden, index, target, plain):
        name, numel, part = target["name"], target["ds_numel"], target["partition_numel"]
        whole = b""
        for rank, tensors in enumerate(ranks):
            stored, shape, data = tensors[name]
            self._test.assertEqual((TORCH_NAMES[stored], shape), (target["dtype"], [part]), name)
            whole += data
            if (rank + 1) * part <= numel:  # holds no padding
                self._test.assertEqual(sha256(data), golden["ranks"][rank][index]["sha256"],
                                       f"{name} of rank {rank}")
                self.partitions += 1
        size = len(whole) // (part * len(ranks)) if part else 1
        self._test.assertEqual(whole[numel * size:].count(0), len(whole) - numel * size,
                               f"padding of {name}")
        key = (golden["checkpoint"], golden["dtype"], name)
        digest = sha256(whole[:numel * size])
        if numel % len(ranks) == 0:
            self._joined.setdefault(key, digest)
        known = plain or self._joined.get(key)
        self._test.assertIsNotNone(known, f"nothing to compare {key} with")
        self._test.assertEqual(digest, known, f"{name}, joined")
        self.joined += 1


class Zero3Test(unittest.TestCase):
    def run_all(self, load):
        checked = Checked(self)
        loads = 0
        with tempfile.TemporaryDirectory(prefix="zc_golden_") as folder:
            folder = pathlib.Path(folder)
            sources = {}
            for checkpoint, dtype, world_size, golden in golden_cases():
                for num_files in (1, 3):
                    if (checkpoint, num_files) not in sources:
                        sources[checkpoint, num_files] = cluster.copy_checkpoint(
                            cluster.DATA / "checkpoints" / checkpoint,
                            folder / f"{checkpoint}-{num_files}", num_files)
                    for mode in MODES:
                        out = folder / f"out{loads}"
                        with self.subTest(checkpoint=checkpoint, dtype=dtype, ranks=world_size,
                                          files=num_files, mode=mode):
                            result = load(sources[checkpoint, num_files], "--world-size", world_size,
                                          "--dtype", dtype, "--mode", mode, "--out", out, "--verify",
                                          "--model-spec",
                                          cluster.DATA / "checkpoints" / checkpoint / "expected.json")
                            self.assertEqual(result.code, 0, result)
                            checked.check(out, golden)
                        loads += 1
        print(f"{loads} loads, {checked.partitions} partitions equal, "
              f"{checked.joined} targets equal when joined")
        self.assertEqual(loads, 19 * 2 * len(MODES))

    def embedded(self):
        nodes = itertools.cycle((1, 2))
        self.run_all(lambda *args: cluster.zerocast("load", *args, "--nodes", next(nodes)))

    def server(self):
        with cluster.Cluster(num_agents=2) as running:
            self.run_all(lambda *args: cluster.zerocast(
                "--server", running.address, "load", *args, "--nodes", 2, "--release"))


if __name__ == "__main__":
    cluster.skip_without_gpus(4)
    outcome = unittest.TextTestRunner().run(Zero3Test(sys.argv[1]))
    sys.exit(0 if outcome.wasSuccessful() else 1)
