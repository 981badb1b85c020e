"""The golden ZeRO-3 loads by an agent a rank, all of them on one GPU: processes that NCCL takes for hosts of their own.

On the stand-ins, or on the machine's first GPU (ZC_NEEDS_GPU=1: exit status 77 with the reason where there is none). Every
partition is compared with what client/verify makes of the files, whose results zero3_test compares with the library's.
"""

import gzip
import json
import os
import pathlib
import sys
import unittest
from unittest import mock

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import cluster  # noqa: E402

AGENTS = 4


def golden_cases():
    """(checkpoint, dtype, world size) of each recorded load."""
    for path in sorted((cluster.DATA / "zero3").glob("*.json.gz")):
        with gzip.open(path) as file:
            golden = json.load(file)
        yield golden["checkpoint"], golden["dtype"], golden["world_size"]


class SharedGpuTest(unittest.TestCase):

    def test_every_golden_load(self):
        loads = partitions = 0
        with cluster.Cluster(num_agents=0) as running:
            for agent in range(AGENTS):
                with mock.patch.dict(os.environ, {"NCCL_HOSTID": f"zerocast-{agent}", "CUDA_VISIBLE_DEVICES": "0"}):
                    running.start_agent(agent)
            running.wait_for_agents(AGENTS)
            for checkpoint, dtype, world_size in golden_cases():
                for move in ("scatter", "broadcast"):
                    with self.subTest(checkpoint=checkpoint, dtype=dtype, world_size=world_size, move=move):
                        folder = cluster.DATA / "checkpoints" / checkpoint
                        result = cluster.zerocast(
                            "--server", running.address, "--output", "json", "load", folder, "--model-spec",
                            folder / "expected.json", "--world-size", world_size, "--nodes", world_size, "--dtype", dtype,
                            "--move", move, "--device", "cuda", "--round-bytes", "64K", "--verify", "--release")
                        self.assertEqual(result.code, 0, result)
                        report = result.json()
                        self.assertEqual(report["transport"], "nccl")
                        loads += 1
                        partitions += report["verified"]["partitions"]
        print(f"{loads} loads, {partitions} partitions equal")
        self.assertEqual(loads, 38)
        self.assertGreater(partitions, 1000)


if __name__ == "__main__":
    cluster.skip_without_gpus(1)
    unittest.main()
