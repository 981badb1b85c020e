"""Loads by an agent a rank, all of them on one GPU: processes that NCCL takes for hosts of their own.

The golden ZeRO-3 loads, and folders of DeepSpeed with their optimizer states under every stage.

On the stand-ins, or on the machine's first GPU (ZC_NEEDS_GPU=1: exit status 77 with the reason where there is none). Every
partition is compared with what client/verify makes of the files, whose results zero3_test compares with the library's.
"""

import gzip
import itertools
import json
import os
import pathlib
import sys
import tarfile
import tempfile
import unittest
from unittest import mock

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import cluster  # noqa: E402

AGENTS = 4
FOLDERS = ("mixtral-z3-w2", "qwen3moe-z2-w2", "tiny-z1-w2-fp16", "mixtral-z3-w2-uni")


def golden_cases():
    """(checkpoint, dtype, world size) of each recorded load."""
    for path in sorted((cluster.DATA / "zero3").glob("*.json.gz")):
        with gzip.open(path) as file:
            golden = json.load(file)
        yield golden["checkpoint"], golden["dtype"], golden["world_size"]


class SharedGpuTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.running = cls.enterClassContext(cluster.Cluster(num_agents=0))
        for agent in range(AGENTS):
            with mock.patch.dict(os.environ, {"NCCL_HOSTID": f"zerocast-{agent}", "CUDA_VISIBLE_DEVICES": "0"}):
                cls.running.start_agent(agent)
        cls.running.wait_for_agents(AGENTS)

    def load(self, folder, world_size, *args):
        """How many partitions of a load were compared."""
        result = cluster.zerocast(
            "--server", self.running.address, "--output", "json", "load", folder, "--world-size", world_size, "--nodes",
            world_size, "--device", "cuda", "--round-bytes", "64K", "--verify", "--release", *args)
        self.assertEqual(result.code, 0, result)
        report = result.json()
        self.assertEqual(report["transport"], "nccl")
        return report["verified"]["partitions"]

    def test_every_golden_load(self):
        loads = partitions = 0
        for checkpoint, dtype, world_size in golden_cases():
            for move in ("scatter", "broadcast"):
                with self.subTest(checkpoint=checkpoint, dtype=dtype, world_size=world_size, move=move):
                    folder = cluster.DATA / "checkpoints" / checkpoint
                    partitions += self.load(folder, world_size, "--model-spec", folder / "expected.json", "--dtype", dtype,
                                            "--move", move)
                    loads += 1
        print(f"{loads} loads, {partitions} partitions equal")
        self.assertEqual(loads, 38)
        self.assertGreater(partitions, 1000)

    def test_deepspeed_folders(self):
        partitions = 0
        with tempfile.TemporaryDirectory(prefix="zc_shared_gpu_") as holder:
            with tarfile.open(cluster.DATA / "deepspeed" / "folders.tar.xz") as archive:
                archive.extractall(holder, filter="data")
            for name, stage, world_size in itertools.product(FOLDERS, range(4), (2, 3)):
                with self.subTest(name=name, stage=stage, world_size=world_size):
                    partitions += self.load(pathlib.Path(holder, name), world_size, "--zero-stage", stage)
        print(f"{partitions} partitions equal")
        self.assertGreater(partitions, 1000)


if __name__ == "__main__":
    cluster.skip_without_gpus(1)
    unittest.main()
