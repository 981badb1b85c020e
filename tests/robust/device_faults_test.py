"""Agents of real processes that die or hang while shards go onto devices.  On the stand-ins of CUDA and NCCL."""

import contextlib
import itertools
import os
import pathlib
import shutil
import signal
import sys
import tempfile
import time
import unittest
from unittest import mock

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import cluster  # noqa: E402

CHECKPOINT = cluster.DATA / "checkpoints" / "mixtral"
# Two nodes of two ranks, one a device.  Rounds of so many bytes are several.
LAYOUT = ("--world-size", 4, "--device", "cuda", "--round-bytes", "64K")
SETTLE_S = 60
# What a call to devices and peers may take.  An agent that is silent for less is lost before.
STAGE_TIMEOUT_S = 30


def zc(running, *args, **kwargs):
    return cluster.zerocast("--server", running.address, "--output", "json", *args, **kwargs)


def until(what, ready):
    deadline = time.monotonic() + SETTLE_S
    while not ready():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited in vain for {what}")
        time.sleep(0.05)


class DeviceFaultsTest(unittest.TestCase):

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="zc_device_faults_"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    @contextlib.contextmanager
    def cluster(self, **environment):
        """Its first agent is node0; node1 comes by start_node1."""
        new = cluster.Cluster(num_agents=1, server_args=("--heartbeat-interval=1s",), agent_args=("--read-rate", "8M"))
        with mock.patch.dict(os.environ, environment):
            new.__enter__()
        with contextlib.ExitStack() as stack:
            stack.push(new)
            yield new

    def start_node1(self, running, **environment):
        with mock.patch.dict(os.environ, environment):
            running.start_agent(1)
        running.wait_for_agents(2)

    def lose_node1(self, running):
        running.processes.pop("node1").wait()
        until("the server to forget node1", lambda: len(running.agents()) == 1)

    def expect_a_good_load(self, running):
        """After what happened both agents load as ever."""
        result = zc(running, "load", CHECKPOINT, *LAYOUT, "--nodes", 2, "--verify", "--release")
        self.assertEqual(result.code, 0, result)

    def large_checkpoint(self):
        folder = self.folder / "large"
        folder.mkdir()
        block = os.urandom(1 << 20)
        cluster.write_safetensors(folder / "model.safetensors", {
            f"w{index}": ("BF16", [len(block) // 2], block) for index in range(32)})
        return folder

    def test_an_agent_that_dies_before_any_exchange(self):
        deaths = 0
        with self.cluster() as running:
            for rank in (2, 3):
                for job in itertools.count(1):
                    self.start_node1(running, EMU_NCCL_DIE=f"{rank}:{job}")
                    started = time.monotonic()
                    result = zc(running, "load", CHECKPOINT, *LAYOUT, "--nodes", 2, "--move", "broadcast",
                                "--release")
                    self.assertLess(time.monotonic() - started, STAGE_TIMEOUT_S)
                    if result.code == 0:
                        break
                    deaths += 1
                    self.assertEqual(result.code, 5, result)
                    self.assertIn("node1", result.json()["error"]["message"])
                    self.lose_node1(running)
                os.kill(running.pid("node1"), signal.SIGTERM)
                self.lose_node1(running)
            self.start_node1(running)
            self.expect_a_good_load(running)
        print(f"died before {deaths} exchanges in turn")
        self.assertGreaterEqual(deaths, 4)

    def lose_in_the_middle(self, how, environment, stage):
        """Loads up to a stage, and sends node1 the signal `how`: the load ends with its name."""
        with self.cluster(**environment) as running:
            self.start_node1(running, **environment)
            job = zc(running, "job", "submit", self.large_checkpoint(), *LAYOUT, "--node", "node0", "--node",
                     "node1", "--start")
            self.assertEqual(job.code, 0, job)
            job = job.json()["job"]

            def is_there():
                (load,) = zc(running, "job", "get", job).json()["loads"]
                self.assertIn(load["state"], ("pending", "inspecting", "preparing", "loading"))
                return stage(load)

            until("the load to come so far", is_there)
            node1 = running.pid("node1")
            os.kill(node1, how)
            result = zc(running, "job", "watch", job, "--deadline", 60)
            self.assertEqual(result.code, 5, result)
            self.assertIn("node1", result.json()["error"]["message"])
            if how == signal.SIGSTOP:
                os.kill(node1, signal.SIGCONT)
                running.wait_for_agents(2)
            else:
                self.lose_node1(running)
                self.start_node1(running)
            if not environment:
                self.expect_a_good_load(running)

    def test_an_agent_that_is_killed_between_exchanges(self):
        self.lose_in_the_middle(signal.SIGKILL, {}, lambda load: any(node["bytes_sent"] > 0 for node in load["nodes"]))

    def test_an_agent_that_hangs_between_exchanges(self):
        self.lose_in_the_middle(signal.SIGSTOP, {}, lambda load: any(node["bytes_sent"] > 0 for node in load["nodes"]))

    def test_an_agent_that_is_killed_while_nccl_connects(self):
        self.lose_in_the_middle(signal.SIGKILL, {"EMU_NCCL_CONNECT_MS": "600000"},
                                lambda load: load["transport"] == "nccl")

    def test_an_agent_that_hangs_while_nccl_connects(self):
        self.lose_in_the_middle(signal.SIGSTOP, {"EMU_NCCL_CONNECT_MS": "600000"},
                                lambda load: load["transport"] == "nccl")


if __name__ == "__main__":
    unittest.main()
