"""Shards that no training process took and that are gone: the server knows, and says why."""

import os
import pathlib
import signal
import sys
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import cluster  # noqa: E402

CHECKPOINT = cluster.DATA / "checkpoints" / "mixtral"
# What a loaded machine may take.
PATIENCE_S = 90


def zc(running, *args):
    return cluster.zerocast("--server", running.address, "--output", "json", *args)


class FreedShardsTest(unittest.TestCase):

    def load(self, running):
        result = zc(running, "job", "submit", CHECKPOINT, "--world-size", 2, "--nodes", 1, "--start")
        self.assertEqual(result.code, 0, result)
        return result.json()["job"]

    def await_load(self, running, job, condition):
        """The job's load once it meets the condition."""
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            (load,) = zc(running, "job", "get", job).json()["loads"]
            if condition(load):
                return load
            time.sleep(0.05)
        self.fail(f"waited in vain: {load}")

    def assert_shown(self, running, job, says, state="ready, freed"):
        text = cluster.zerocast("--server", running.address, "job", "get", job)
        self.assertEqual(text.code, 0, text)
        self.assertIn(f"{state}: ranks 0, 1 of node node0: ", text.stdout)
        self.assertIn(says, text.stdout)

    def test_after_unclaimed_ttl(self):
        with cluster.Cluster(1, agent_args=["--unclaimed-ttl=500ms"]) as running:
            job = self.load(running)
            load = self.await_load(running, job, lambda load: "freed" in load)
            self.assertEqual(load["state"], "ready")
            self.assertEqual(load["freed"]["reason"], "WRONG_STATE")
            self.assertEqual([shard["freed"]["reason"] for shard in load["shards"]],
                             ["WRONG_STATE"] * 2)
            self.assert_shown(running, job, "--unclaimed-ttl")
            # Who waits for it is not told that all is well.
            watched = zc(running, "job", "watch", job)
            self.assertEqual(watched.code, 4, watched)
            self.assertIn("--unclaimed-ttl", watched.json()["error"]["message"])
            self.assertEqual(zc(running, "agents").json()["agents"][0]["loads"], [])

    def test_with_an_agent_that_is_killed_and_started_again(self):
        with cluster.Cluster(1) as running:
            job = self.load(running)
            load = self.await_load(running, job, lambda load: load["state"] == "ready")
            self.assertNotIn("freed", load)
            os.kill(running.pid("node0"), signal.SIGKILL)
            running.processes["node0"].wait()
            running.start_agent(0)
            load = self.await_load(running, job, lambda load: "freed" in load)
            self.assertEqual(load["freed"]["reason"], "AGENT_LOST")
            self.assert_shown(running, job, "restarted")

    def test_with_a_cancel(self):
        with cluster.Cluster(1) as running:
            job = self.load(running)
            self.await_load(running, job, lambda load: load["state"] == "ready")
            self.assertEqual(zc(running, "job", "cancel", job).code, 0)
            load = self.await_load(running, job, lambda load: "freed" in load)
            self.assertEqual(load["freed"]["reason"], "CANCELLED")
            self.assert_shown(running, job, f"{job} was cancelled", "ready, released")
            self.assertEqual(zc(running, "job", "watch", job).code, 0, "it was wanted so")


if __name__ == "__main__":
    unittest.main()
