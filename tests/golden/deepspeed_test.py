"""Loads of folders that DeepSpeed's engine saved, at the same and at other world sizes.

tests/data/deepspeed holds checkpoints of stages 1 to 3, universal ones, and the same saved again by engines of
other world sizes: what a rank holds must be what such an engine had, tensor by tensor. NAME.fp32.json has the digests of
what DeepSpeed's own zero_to_fp32 makes of NAME. Where shards go onto the machine's GPUs, world sizes are those
for which there are enough.

usage: deepspeed_test.py embedded|server
"""

import contextlib
import hashlib
import itertools
import json
import math
import os
import pathlib
import shutil
import struct
import sys
import tarfile
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import cluster  # noqa: E402
import torch_reader  # noqa: E402

NAMES = ("c2", "ernie-z1-w3", "keep_c1", "mixtral-z3-w2", "olmoe-z3-w2", "qwen3moe-z2-w2", "tiny-z1-w2-fp16",
         "tiny-z2-w4")
UNIVERSAL = ("mixtral-z3-w2-uni", "tiny-z2-w4-uni")
STATES = ("fp32", "exp_avg", "exp_avg_sq")
TORCH_NAMES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "I64": "int64"}
SIZES = {"BF16": 2, "F16": 2, "F32": 4, "I64": 8}


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def rounded(data, dtype):
    """float32 elements in another dtype, to nearest even."""
    if dtype == "F32":
        return data
    if dtype == "F16":
        values = struct.unpack(f"<{len(data) // 4}f", data)
        return struct.pack(f"<{len(values)}e", *values)
    words = struct.unpack(f"<{len(data) // 4}I", data)
    return struct.pack(f"<{len(words)}H", *((word + 0x7FFF + (word >> 16 & 1)) >> 16 for word in words))


def widened(data, dtype):
    """Elements as float32."""
    if dtype == "BF16":
        words = struct.unpack(f"<{len(data) // 2}H", data)
        return struct.pack(f"<{len(words)}I", *(word << 16 for word in words))
    if dtype == "F16":
        return struct.pack(f"<{len(data) // 2}f", *struct.unpack(f"<{len(data) // 2}e", data))
    return data


class Loaded:
    """What a load wrote with --out."""

    def __init__(self, folder, world_size):
        files = [cluster.read_safetensors(folder / f"rank_{rank:05d}.safetensors") for rank in range(world_size)]
        self.ranks = [tensors for tensors, _ in files]
        self.shapes = json.loads(files[0][1]["shapes"])
        self.buffers, _ = cluster.read_safetensors(folder / "buffers.safetensors")
        self.report = json.loads((folder / "report.json").read_text())

    def joined(self, name):
        """(dtype, bytes) of all elements of a partitioned tensor."""
        dtype = self.ranks[0][name][0]
        data = b"".join(tensors[name][2] for tensors in self.ranks)
        size = math.prod(self.shapes[name]) * SIZES[dtype]
        assert not any(data[size:]), f"padding of {name}"
        return dtype, data[:size]


class DeepSpeedTest(unittest.TestCase):
    def setUp(self):
        self.stack = contextlib.ExitStack()
        self.addCleanup(self.stack.close)
        self.folder = pathlib.Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="zc_deepspeed_")))
        with tarfile.open(cluster.DATA / "deepspeed" / "folders.tar.xz") as archive:
            archive.extractall(self.folder / "in", filter="data")
        self.data = self.folder / "in"
        self.loads = 0
        self.most_ranks = cluster.num_gpus()[0] if os.environ.get("ZC_NEEDS_GPU") else 4
        if sys.argv[1] == "server":
            running = self.stack.enter_context(cluster.Cluster(num_agents=2))
            self.arguments, self.nodes = ("--server", running.address, "load"), itertools.repeat(2)
            self.more = ("--release",)
        else:
            self.arguments, self.more, self.nodes = ("load",), (), itertools.cycle((1, 2))

    def load(self, folder, *args, world_size, nodes=None):
        out = self.folder / f"out{self.loads}"
        self.loads += 1
        nodes = nodes or min(next(self.nodes), world_size)
        result = cluster.zerocast(*self.arguments, folder, "--world-size", world_size, "--nodes", nodes, "--out", out,
                                  *self.more, *args)
        self.assertEqual(result.code, 0, result)
        loaded = Loaded(out, world_size)
        shutil.rmtree(out)
        return loaded

    def stage(self, name):
        how = self.data / f"{name}.how.json"
        return json.loads(how.read_text())["stage"] if how.exists() else 3

    def check_values(self, name, loaded):
        """Parameters, masters and buffers against what zero_to_fp32 made, and each other; partitioned ones."""
        expected = {t["name"]: t for t in json.loads((self.data / f"{name}.fp32.json").read_text())}
        prefix = "optimizer/fp32/"
        compared = 0
        for key in [k for k in loaded.shapes if not k.startswith("optimizer/")]:
            dtype, data = loaded.joined(key)
            if prefix + key in loaded.shapes:
                kind, master = loaded.joined(prefix + key)
                self.assertEqual((kind, sha256(master)), ("F32", expected[key]["sha256"]), key)
                self.assertEqual(data, rounded(master, dtype), key)
                for state in STATES[1:]:
                    self.assertEqual(loaded.shapes[f"optimizer/{state}/{key}"], loaded.shapes[key])
            elif key in expected:  # frozen; stage 1 leaves them out there
                self.assertEqual(TORCH_NAMES[dtype], expected[key]["dtype"])
                self.assertEqual(sha256(data), expected[key]["sha256"], key)
            compared += 1
        for key, (dtype, shape, data) in loaded.buffers.items():
            self.assertEqual(shape, expected[key]["shape"])
            self.assertEqual(sha256(widened(data, dtype)), expected[key]["sha256"], key)
            compared += 1
        return compared

    def test_parameters_and_masters_are_what_deepspeed_consolidates(self):
        compared = 0
        world_sizes = range(1, min(self.most_ranks, 3) + 1)
        for name, world_size in itertools.product(NAMES + UNIVERSAL, world_sizes):
            with self.subTest(name=name, ranks=world_size):
                loaded = self.load(self.data / name, "--zero-stage", 3, "--verify", world_size=world_size)
                compared += self.check_values(name.removesuffix("-uni"), loaded)
                self.assertEqual(loaded.report["engine"]["states"], list(STATES))
        print(f"{self.loads} loads, {compared} tensors compared")
        self.assertGreater(compared, 130 * len(world_sizes))

    def check_flats(self, saved, loaded):
        """Stages 1 and 2: each rank's flat partitions against those of an engine of that world size."""
        _, optimizers = saved
        compared = 0
        for rank, optimizer in enumerate(optimizers):
            moments = optimizer["base_optimizer_state"]["state"]
            for group, master in enumerate(optimizer["single_partition_of_fp32_groups"]):
                for state in STATES:
                    tensor = master if state == "fp32" else moments[group][state]
                    dtype, _, data = loaded.ranks[rank][f"optimizer/{state}/{group}"]
                    self.assertEqual(dtype, tensor.dtype)
                    self.assertEqual(data[:len(tensor.data)], tensor.data, f"{state} of group {group}, rank {rank}")
                    self.assertFalse(any(data[len(tensor.data):]))
                    if state != "fp32":  # saved with the padding
                        self.assertEqual(len(data), len(tensor.data))
                    compared += 1
        return compared

    def check_partitions(self, saved, loaded):
        """Stage 3: each rank's partitions against the sub-groups of an engine of that world size."""
        models, optimizers = saved
        compared = 0
        for rank, optimizer in enumerate(optimizers):
            moments = optimizer["optimizer_state_dict"]["state"]
            for number, shapes in enumerate(models[0]["param_shapes"]):
                for state in STATES:
                    tensor = optimizer["fp32_flat_groups"][number] if state == "fp32" else moments[number][state]
                    at = 0
                    for key, shape in shapes.items():
                        count = math.prod(shape)
                        part = -(-count // len(optimizers))
                        own = max(0, min(part, count - rank * part))  # the engine leaves padding as it was
                        _, _, data = loaded.ranks[rank][f"optimizer/{state}/{key}"]
                        self.assertEqual(len(data), 4 * part)
                        self.assertEqual(data[:4 * own], tensor.data[4 * at:4 * (at + own)], f"{state} of {key}")
                        at += part
                        compared += 1
                    self.assertEqual(at * 4, len(tensor.data))
        return compared

    def test_ranks_hold_what_an_engine_of_that_world_size_has(self):
        compared = 0
        for name in NAMES:
            for folder in sorted(self.data.glob(f"{name}*")):
                if not folder.is_dir() or folder.name.endswith("-uni"):
                    continue
                saved = torch_reader.read_folder(folder)
                world_size, stage = len(saved[1]), self.stage(name)
                if world_size > self.most_ranks:
                    continue
                check = self.check_partitions if stage == 3 else self.check_flats
                universal = [self.data / f"{name}-uni"] if f"{name}-uni" in UNIVERSAL else []
                for source in [self.data / name, *universal]:
                    with self.subTest(name=source.name, ranks=world_size):
                        loaded = self.load(source, "--zero-stage", stage, "--verify", world_size=world_size)
                        compared += check(saved, loaded)
        print(f"{self.loads} loads, {compared} tensors compared")
        self.assertGreater(compared, 1000 if self.most_ranks >= 4 else 0)

    def test_weights_alone_and_the_plan_of_them(self):
        source = self.data / "tiny-z1-w2-fp16"
        loaded = self.load(source, "--no-optimizer", "--tag", "global_step6",
                           world_size=min(self.most_ranks, 2))
        self.assertFalse([key for key in loaded.shapes if key.startswith("optimizer/")])
        engine = loaded.report["engine"]
        self.assertEqual((engine["tag"], engine["zero_stage"], engine["world_size"], engine["states"]),
                         ("global_step6", 1, 2, []))
        self.assertEqual((engine["global_steps"], engine["optimizer_step"]), (6, 5))
        plan = cluster.zerocast("--output", "json", *self.arguments[:-1], "plan", source, "--world-size", 2)
        self.assertEqual(plan.code, 0, plan)
        self.assertEqual(plan.json()["engine"]["states"], list(STATES))
        wide = self.load(source, "--dtype", "fp32", "--no-optimizer", world_size=1)
        expected = {t["name"]: t for t in json.loads((self.data / "tiny-z1-w2-fp16.fp32.json").read_text())}
        trained = {key for shapes in torch_reader.read_folder(source)[0][0]["param_shapes"] for key in shapes}
        for key in trained:
            self.assertEqual(sha256(wide.joined(key)[1]), expected[key]["sha256"], key)

    def refused(self, code, words, folder, *args):
        result = cluster.zerocast(*self.arguments, folder, "--world-size", min(self.most_ranks, 2), *args)
        self.assertEqual(result.code, code, result)
        for word in words:
            self.assertIn(word, result.stderr)

    def test_what_cannot_be_resumed_from_is_named(self):
        empty = self.folder / "empty"
        empty.mkdir()
        self.refused(3, [f"Can't find a valid checkpoint at {empty}"], empty, "--format", "deepspeed")
        self.refused(3, ["[deepspeed] failed to resume from checkpoint", "global_step9"],
                     self.data / "keep_c1", "--tag", "global_step9")
        for name, damage, code in (("missing", pathlib.Path.unlink, 3),
                                   ("torn", lambda path: path.write_bytes(path.read_bytes()[:-100]), 6)):
            folder = self.folder / name
            shutil.copytree(self.data / "keep_c1", folder)
            damage(folder / "global_step2" / "bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt")
            self.refused(code, [f"[deepspeed] failed to resume from checkpoint {folder}", "zero_pp_rank_1"], folder)
        self.refused(2, ["--tag"], self.data / "keep_c1", "--tag", "")
        both = self.folder / "both"
        shutil.copytree(self.data / "keep_c1", both)
        cluster.write_safetensors(both / "model.safetensors", {"w": ("F32", [1], bytes(4))})
        result = cluster.zerocast("--output", "json", *self.arguments, both, "--world-size", 1, *self.more)
        self.assertEqual(result.code, 0, result)
        self.assertIsNone(result.json()["engine"])
        self.assertIn("--format deepspeed", result.json()["note"])


if __name__ == "__main__":
    cluster.skip_without_gpus(1)
    tests = unittest.defaultTestLoader.loadTestsFromTestCase(DeepSpeedTest)
    outcome = unittest.TextTestRunner().run(tests)
    sys.exit(0 if outcome.wasSuccessful() else 1)
