"""Loads for ZeRO stages 0 to 2, which leave parameters whole, and with hierarchical partitions.

Whole parameters are compared with the digests of tests/data/checkpoints, hierarchical partitions with what
DeepSpeed itself made (tests/data/hpz, by tests/oracle/make_hpz.py).

usage: stages_test.py embedded|server
"""

import contextlib
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
import hpz_model  # noqa: E402

# Fused experts, parameters of two dtypes, a buffer.
CHECKPOINTS = ("mixtral", "flint", "deepseek_v3")
MODES = ("parallel", "rank0", "local")
MOVES = ("scatter", "broadcast")
TORCH_NAMES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def bytes_sent(result):
    return sum(node["bytes_sent"] for node in result.json()["nodes"])


class StagesTest(unittest.TestCase):
    def setUp(self):
        self.stack = contextlib.ExitStack()
        self.addCleanup(self.stack.close)
        self.folder = pathlib.Path(self.stack.enter_context(
            tempfile.TemporaryDirectory(prefix="zc_stages_")))
        self.loads = 0
        if sys.argv[1] == "server":
            running = self.stack.enter_context(cluster.Cluster(num_agents=2))
            self.arguments = ("--server", running.address, "--output", "json", "load")
            self.more = ("--nodes", 2, "--release")
            self.nodes = itertools.repeat(2)
        else:
            self.arguments, self.more = ("--output", "json", "load"), ()
            self.nodes = itertools.cycle((1, 2))

    def load(self, *args, nodes=None):
        """One load with --verify; returns its result and the folder of its files."""
        out = self.folder / f"out{self.loads}"
        self.loads += 1
        nodes = nodes or next(self.nodes)
        result = cluster.zerocast(*self.arguments, *args, "--out", out, "--verify",
                                  *(self.more or ("--nodes", nodes)))
        self.assertEqual(result.code, 0, result)
        return result, out

    def config(self, name, document):
        path = self.folder / name
        path.write_text(json.dumps(document))
        return path

    def test_every_rank_holds_whole_parameters(self):
        compared = 0
        for checkpoint, stage, (mode, move) in itertools.product(
                CHECKPOINTS, (0, 1, 2), itertools.product(MODES, MOVES)):
            if mode == "local" and move == "broadcast":
                continue
            source = cluster.DATA / "checkpoints" / checkpoint
            expected = json.loads((source / "expected.json").read_text())
            how = ("--zero-stage", stage, "--dtype", "spec")
            if move == "scatter" and stage != 1:  # the config decides, too, stage 0 where it names none
                zero = {"zero_optimization": {"stage": stage}} if stage else {}
                how = ("--ds-config", self.config("ds.json", {"train_batch_size": 3, **zero}),
                       "--dtype", "spec")
            with self.subTest(checkpoint=checkpoint, stage=stage, mode=mode, move=move):
                _, out = self.load(source, "--world-size", 3, "--mode", mode, "--move", move, *how,
                                   "--model-spec", source / "expected.json", "--round-bytes", "8K")
                for rank in range(3):
                    tensors, metadata = cluster.read_safetensors(out / f"rank_{rank:05d}.safetensors")
                    self.assertEqual(list(tensors), [p["name"] for p in expected["params"]])
                    shapes = json.loads(metadata["shapes"])
                    for parameter in expected["params"]:
                        dtype, shape, data = tensors[parameter["name"]]
                        self.assertEqual(TORCH_NAMES[dtype], parameter["dtype"])
                        self.assertEqual(shape, [math.prod(parameter["shape"])])
                        self.assertEqual(shapes[parameter["name"]], parameter["shape"])
                        self.assertEqual(sha256(data), parameter["sha256"], parameter["name"])
                        compared += 1
                buffers, _ = cluster.read_safetensors(out / "buffers.safetensors")
                self.assertEqual(sorted(buffers), sorted(b["name"] for b in expected["buffers"]))
        print(f"{self.loads} loads, {compared} parameters equal")
        self.assertGreater(compared, 1000)

    def test_whole_parameters_travel_once_a_node(self):
        source = self.tiny_checkpoint()
        total = 4 * sum(math.prod(shape) for shape in hpz_model.SHAPES.values())
        for stage, world_size in ((0, 2), (2, 6)):
            result, _ = self.load(source, "--world-size", world_size, "--zero-stage", stage, nodes=2)
            self.assert_sent(result, total, pieces=len(hpz_model.SHAPES) + 1)

    def assert_sent(self, result, num_bytes, pieces):
        """So much, but for what brings each piece to a multiple of 16 bytes."""
        self.assertGreaterEqual(bytes_sent(result), num_bytes)
        if os.environ.get("ZC_LOAD_DEVICE") == "cuda":
            return  # there each rank gets it, not each node
        self.assertLessEqual(bytes_sent(result), num_bytes + 15 * pieces)

    def tiny_checkpoint(self):
        source = self.folder / "tiny"
        if not source.exists():
            source.mkdir()
            cluster.write_safetensors(source / "model.safetensors", {
                name: ("F32", list(shape), hpz_model.float32_bytes(name))
                for name, shape in hpz_model.SHAPES.items()})
        return source

    def test_hierarchical_partitions_are_deepspeeds(self):
        source, compared = self.tiny_checkpoint(), 0
        for path in sorted((cluster.DATA / "hpz").glob("*.json")):
            golden = json.loads(path.read_text())
            config = self.config("ds.json", {
                "train_batch_size": golden["world_size"], "bf16": {"enabled": True},
                "zero_optimization": {
                    "stage": 3, "zero_hpz_partition_size": golden["zero_hpz_partition_size"]}})
            for mode, move in itertools.product(MODES, MOVES):
                if mode == "local" and move == "broadcast":
                    continue
                with self.subTest(golden=path.name, mode=mode, move=move):
                    _, out = self.load(source, "--world-size", golden["world_size"], "--ds-config",
                                       config, "--mode", mode, "--move", move, "--round-bytes", 97)
                    compared += self.check_hierarchical(out, golden)
        print(f"{compared} secondary partitions equal DeepSpeed's")
        self.assertGreater(compared, 200)

    def check_hierarchical(self, out, golden):
        group_size = min(golden["zero_hpz_partition_size"], golden["world_size"])
        for rank, parameters in enumerate(golden["ranks"]):
            primary, _ = cluster.read_safetensors(out / f"rank_{rank:05d}.safetensors")
            secondary, metadata = cluster.read_safetensors(out / f"secondary_{rank:05d}.safetensors")
            self.assertEqual(metadata["secondary_group_size"], str(group_size))
            self.assertEqual(metadata["rank"], str(rank))
            self.assertEqual(sorted(secondary), [p["name"] for p in parameters])
            for parameter in parameters:
                name = parameter["name"]
                dtype, shape, data = secondary[name]
                self.assertEqual((TORCH_NAMES[dtype], shape),
                                 (parameter["dtype"], [parameter["secondary_numel"]]), name)
                self.assertEqual(sha256(data), parameter["secondary_sha256"],
                                 f"secondary partition of {name}, rank {rank}")
                _, shape, data = primary[name]
                self.assertEqual(shape, [parameter["partition_numel"]], name)
                self.assertEqual(sha256(data[:2 * parameter["held_numel"]]),
                                 parameter["held_sha256"], f"{name}, rank {rank}")
        return sum(len(parameters) for parameters in golden["ranks"])

    def test_a_node_gets_what_both_partitions_share_once(self):
        source = self.tiny_checkpoint()
        config = self.config("ds.json", {"train_batch_size": 4, "zero_optimization": {
            "stage": 3, "zero_hpz_partition_size": 2}})
        result, _ = self.load(source, "--world-size", 4, "--ds-config", config, "--dtype", "stored",
                              nodes=2)
        # Each of the two nodes needs all, and reads half of it.
        self.assert_sent(result, 4 * sum(math.prod(shape) for shape in hpz_model.SHAPES.values()),
                         pieces=2 * len(hpz_model.SHAPES) + 1)

    def test_groups_that_do_not_divide_the_ranks_are_refused_by_name(self):
        config = self.config("ds.json", {"train_batch_size": 4, "zero_optimization": {
            "stage": 3, "zero_hpz_partition_size": 3}})
        result = cluster.zerocast(*self.arguments, self.tiny_checkpoint(), "--world-size", 4,
                                  "--ds-config", config, *self.more)
        self.assertEqual(result.code, 2, result)
        self.assertIn("zero_hpz_partition_size must divide the world size, 4, was 3", result.stdout)

    def test_files_of_secondary_partitions_do_not_stay_beside_other_loads(self):
        source = self.tiny_checkpoint()
        config = self.config("ds.json", {"train_batch_size": 2, "zero_optimization": {
            "stage": 3, "zero_hpz_partition_size": 2}})
        _, out = self.load(source, "--world-size", 2, "--ds-config", config)
        before = {path.name: path.read_bytes() for path in out.iterdir()}
        result = cluster.zerocast(*self.arguments, source, "--world-size", 2, "--out", out, *self.more)
        self.assertEqual(result.code, 4, result)
        self.assertIn("secondary_0000", result.stdout)
        self.assertEqual({path.name: path.read_bytes() for path in out.iterdir()}, before)


if __name__ == "__main__":
    cluster.skip_without_gpus(6)
    outcome = unittest.main(argv=sys.argv[:1], exit=False)
    sys.exit(0 if outcome.result.wasSuccessful() else 1)
