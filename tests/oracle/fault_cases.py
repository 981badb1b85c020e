"""What the tests of pretrained_faults, pretrained_lost and pretrained_jobs share: calls of from_pretrained on ranks that are forked from
this process, which imports what they need, and what must hold of them when something is wrong.

Each fault must come as one exception with the same text on all ranks, which says what was tried, on what, and what to
do; in time; and nothing may be left: no server, no agent, no folder of theirs, no shard that an agent still holds.
Wants ZC_SOURCE_DIR, ZC_BUILD_DIR (its python folder has the package) and ZC_TEST_DATA.
"""

import json
import os
import pathlib
import shutil
import sys
import tempfile
import time
import unittest

import deepspeed_releases as releases

SOURCE, BUILD = pathlib.Path(os.environ["ZC_SOURCE_DIR"]), pathlib.Path(os.environ["ZC_BUILD_DIR"])
os.environ.update(DS_ACCELERATOR="cpu", OMP_NUM_THREADS="1", PYTHONDONTWRITEBYTECODE="1")
DEEPSPEED = str(releases.install(BUILD / "oracle" / "deepspeed", "0.19.8"))
sys.path[1:1] = [DEEPSPEED, str(SOURCE / "tests")]
os.environ["PYTHONPATH"] = os.pathsep.join([str(BUILD / "python"), DEEPSPEED])

import torch.distributed.tensor  # noqa: E402, F401 (here, for all ranks, which are forked)
from deepspeed.comm.torch import build_shm_op  # noqa: E402
from transformers.models.mixtral import modeling_mixtral  # noqa: E402, F401
from zerocast._binaries import find_binary  # noqa: E402

os.environ["ZC_BIN_DIR"] = str(find_binary("zerocast-server").parent)
import cluster  # noqa: E402

CHECKPOINTS = SOURCE / "tests/data/checkpoints"
MIXTRAL = CHECKPOINTS / "mixtral"
STAGE3 = {"train_micro_batch_size_per_gpu": 1, "bf16": {"enabled": True}, "zero_optimization": {"stage": 3}}
TIMEOUT = 6.0  # of from_pretrained, where a test waits for it
GRACE = 20.0  # what a loaded machine may add


def call(checkpoint=MIXTRAL, what="from_pretrained", config=STAGE3, **more):
    return {"call": what, "checkpoint": str(checkpoint), "config": config, **more}


def edited(target, source=MIXTRAL, **config):
    """A copy of a checkpoint with other values in its config.json."""
    shutil.copytree(source, target)
    path = target / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    return target


def prepare():
    """Compiles DeepSpeed's operator for shared memory, which takes minutes when it was never done; all ranks inherit it."""
    print("DeepSpeed's operator for shared memory ...", flush=True)
    build_shm_op()


class Case(unittest.TestCase):
    maxDiff = 4000

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="zc_faults_", dir="/var/tmp"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def all_raise(self, ranks, kind, *texts, reason=None, number=-1, seconds=None, but=()):
        """Asserts that all ranks but some have raised the same, which says each of `texts`."""
        told = {number_: rank.told[number] if rank.told else rank.last
                for number_, rank in enumerate(ranks) if number_ not in but}
        first = next(iter(told.values()))
        for rank, one in told.items():
            self.assertEqual((one["type"], one.get("text")), (kind, first.get("text")), f"rank {rank}: {ranks[rank].log[-4500:]}")
            for text in texts:
                self.assertRegex(one["text"], text)
            if reason is not None:
                self.assertEqual(one["reason"], reason, one)
            if seconds is not None:
                self.assertLess(one["seconds"], seconds + GRACE)
        if number == -1:
            self.assertEqual({ranks[rank].status for rank in told}, {1})
        return first

    def nothing_held(self, running):
        """Asserts that no agent of a cluster holds memory of a load that is over, and no load goes on."""
        deadline = time.monotonic() + GRACE
        while True:
            held = [f"{name} {path.name} {os.readlink(path)}" for name in running.processes if name != "server"
                    for path in pathlib.Path(f"/proc/{running.pid(name)}/fd").iterdir() if "memfd" in os.readlink(path)]
            jobs = cluster.zerocast("--server", running.address, "--output", "json", "job", "list").json()["jobs"]
            active = [job["job"] for job in jobs if job["state"] == "active"]
            if not (held or active) or time.monotonic() > deadline:
                break
            time.sleep(0.1)
        self.assertEqual((held, active), ([], []))
        self.assertTrue(jobs)
        return [job["state"] for job in jobs]

    def all_work(self, ranks, number=-1):
        for rank in ranks:
            self.assertTrue(rank.told, rank.log[-2000:])
            self.assertIsNone(rank.told[number]["type"], rank.told[number])
            self.assertEqual(rank.told[number]["value"], ranks[0].told[number]["value"])
        if number == -1:
            self.assertEqual([rank.status for rank in ranks], [0] * len(ranks))
        return ranks[0].told[number]["value"]
