"""Loads through a server: what is told of the shards that the agents keep, and who reads."""

import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
import cluster  # noqa: E402

CHECKPOINT = cluster.DATA / "checkpoints" / "mixtral"


class ServerTest(unittest.TestCase):

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="zc_server_"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def zc(self, running, *args, code=0):
        result = cluster.zerocast("--server", running.address, *args)
        self.assertEqual(result.code, code, result)
        return result

    def test_a_load_tells_how_its_shards_are_taken_and_freed(self):
        load = ["load", CHECKPOINT, "--world-size", 2]
        with cluster.Cluster(num_agents=1) as running:
            printed = self.zc(running, *load).stdout
            told = dict(line.split("=", 1) for line in printed.splitlines()
                        if line.startswith("ZEROCAST_"))
            self.assertEqual(sorted(told), ["ZEROCAST_JOB", "ZEROCAST_LOAD", "ZEROCAST_TOKEN"])
            shown = self.zc(running, "--output", "json", "job", "get", told["ZEROCAST_JOB"]).json()
            self.assertEqual([each["load"] for each in shown["loads"]], [told["ZEROCAST_LOAD"]])
            (hint,) = [line for line in printed.splitlines() if line.startswith("held by the agents")]
            command = hint.split("free with: zerocast ")[1].split()
            result = cluster.zerocast(*command)
            self.assertEqual(result.code, 0, result)
            self.assertEqual(result.stdout, f"{told['ZEROCAST_JOB']} cancelled\n")
            # What is freed already needs neither.
            printed = self.zc(running, *load, "--release").stdout
        for word in ("ZEROCAST_", "held by"):
            self.assertNotIn(word, printed)
        result = cluster.zerocast(*load)  # no agent outlives it
        self.assertEqual(result.code, 0, result)
        for word in ("ZEROCAST_", "held by"):
            self.assertNotIn(word, result.stdout)

    def test_released_shards_do_not_pass_for_ready(self):
        with cluster.Cluster(num_agents=1) as running:
            made = self.zc(running, "--output", "json", "job", "submit", CHECKPOINT, "--world-size",
                           2, "--wait").json()
            job, load = made["job"], made["loads"][0]["load"]
            self.assertIn(f"{load} ready\n", self.zc(running, "job", "get", job).stdout)
            self.assertIn(f"{load} ready: ", self.zc(running, "job", "watch", job).stdout)
            self.zc(running, "job", "cancel", job)
            self.assertIn(f"{load} ready, released: ", self.zc(running, "job", "get", job).stdout)
            self.assertIn(f"{load} ready, released: ", self.zc(running, "job", "get", load).stdout)
            self.assertIn(f"{load} ready, released: ", self.zc(running, "job", "watch", job).stdout)
            self.assertEqual(self.zc(running, "job", "cancel", load).stdout,
                             f"{load} ready, released\n")

    def test_without_a_config_the_report_says_that_no_rules_were_chosen(self):
        checkpoint = cluster.copy_checkpoint(CHECKPOINT, self.folder / "ckpt")
        said = "no config.json and no --model-spec: no conversion rules were chosen\n"
        with cluster.Cluster(num_agents=1) as running:
            for command in ("load", "plan"):
                text = self.zc(running, command, checkpoint, "--world-size", 2).stdout
                self.assertNotIn(said, text)
            (checkpoint / "config.json").unlink()
            for command in ("load", "plan"):
                text = self.zc(running, command, checkpoint, "--world-size", 2).stdout
                self.assertIn(said, text)
            text = self.zc(running, "plan", checkpoint, "--world-size", 2, "--model-spec",
                           CHECKPOINT / "expected.json").stdout
            self.assertNotIn(said, text)

    def test_one_node_alone_has_the_files(self):
        for node in ("a", "b"):
            (self.folder / node).mkdir()
        checkpoint = cluster.copy_checkpoint(CHECKPOINT, self.folder / "b" / "ckpt")
        load = ["load", checkpoint, "--world-size", 4, "--mode", "rank0", "--verify"]
        with cluster.Cluster(num_agents=0) as running:
            running.start_agent(0, roots=[self.folder / "a"])
            running.start_agent(1, roots=[self.folder / "b"])
            running.wait_for_agents(2)
            # Of two with as many loads the server takes the first by name.
            failed = self.zc(running, *load, "--nodes", 2, code=7)
            self.assertIn("outside of the folders that this agent may read", failed.stderr)
            self.assertIn("--mode rank0 reads on the node of rank 0", failed.stderr)
            self.assertIn("--node, first one that has the files", failed.stderr)
            failed = self.zc(running, "job", "submit", *load[1:-1], "--nodes", 2, "--wait", code=7)
            self.assertIn("--node, first one that has the files", failed.stderr)
            job = self.zc(running, "--output", "json", "job", "list").json()["jobs"][-1]["job"]
            for name in (job, cluster.zerocast("--server", running.address, "--output", "json", "job",
                                               "get", job).json()["loads"][0]["load"]):
                failed = self.zc(running, "job", "watch", name, code=7)
                self.assertIn("--node, first one that has the files", failed.stderr)
            plan = ["plan", *load[1:-1]]
            failed = self.zc(running, *plan, "--nodes", 2, code=7)
            self.assertIn("--node, first one that has the files", failed.stderr)
            self.zc(running, *plan, "--node", "node1", "--node", "node0")
            failed = self.zc(running, *plan, "--node", "node0", "--node", "node1", code=7)
            self.assertNotIn("first one that has the files", failed.stderr)
            loaded = self.zc(running, "--output", "json", *load, "--node", "node1", "--node", "node0",
                             "--release").json()
            read = {node["name"]: node["bytes_read"] for node in loaded["nodes"]}
            self.assertEqual(read["node0"], 0)
            self.assertGreater(read["node1"], 0)
            self.assertGreater(loaded["verified"]["partitions"], 0)
            # Named the wrong way round, the error needs no advice.
            failed = self.zc(running, *load, "--node", "node0", "--node", "node1", code=7)
            self.assertNotIn("first one that has the files", failed.stderr)

    def test_an_interrupted_watch_ends_and_leaves_the_load_alone(self):
        with cluster.Cluster(0, server_args=["--drain-timeout=1s"]) as running:
            job = self.zc(running, "--output", "json", "job", "submit", CHECKPOINT, "--world-size", "2",
                          "--start").json()["job"]
            watch = subprocess.Popen(
                [str(cluster.BIN / "zerocast"), "--server", running.address, "job", "watch", job],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            try:
                time.sleep(1)  # it may still be starting; interrupted then, it ends as well
                watch.send_signal(signal.SIGINT)
                _, errors = watch.communicate(timeout=cluster.COMMAND_TIMEOUT_S)
            finally:
                watch.kill()
            self.assertEqual(watch.returncode, 130, errors)
            self.assertEqual(errors, "zerocast: interrupted by SIGINT\n")
            self.assertEqual(self.zc(running, "--output", "json", "job", "get", job).json()["state"], "active")


if __name__ == "__main__":
    unittest.main()
