"""Agents with and without GPUs, which are stand-ins: what they tell of them, and how shards for GPUs go over."""

import os
import pathlib
import socket
import sys
import unittest
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
import cluster  # noqa: E402

sys.path.insert(0, str(pathlib.Path(os.environ["ZC_SOURCE_DIR"]) / "client/python/src"))
import zerocast  # noqa: E402

CHECKPOINT = cluster.DATA / "checkpoints" / "mixtral"
LOAD = ["load", CHECKPOINT, "--world-size", 4, "--device", "cuda", "--verify"]
NODES = ["--node", "node0", "--node", "node1"]


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class GpusTest(unittest.TestCase):

    def run_command(self, running, *args, json=True):
        result = cluster.zerocast("--server", running.address, *(["--output", "json"] if json else []), *args)
        self.assertEqual(result.code, 0, result)
        return result.json() if json else result.stdout

    def test_agents_are_listed_with_their_gpus(self):
        with cluster.Cluster(1) as running:
            (agent,) = self.run_command(running, "agents")["agents"]
            self.assertEqual(len(agent["gpus"]), int(os.environ["EMU_DEVICES"]))
            for gpu in agent["gpus"]:
                self.assertRegex(gpu["uuid"], "^GPU-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")
                self.assertGreater(gpu["memory_bytes"], 0)
                self.assertTrue(gpu["name"])
            self.assertEqual(agent["no_gpus_because"], "")
            text = self.run_command(running, "agents", json=False)
            self.assertIn("GPUs of node0:\n", text)
            for gpu in agent["gpus"]:
                self.assertIn(gpu["uuid"], text)
            # Of the other table the socket's path decides.
            for line in text.partition("GPUs of")[2].splitlines():
                self.assertLessEqual(len(line), 80, line)

    def test_shards_on_gpus_go_over_by_descriptors_and_are_counted(self):
        port = free_port()
        with cluster.Cluster(1, agent_args=["--metrics-listen", f"127.0.0.1:{port}"]) as running:
            report = self.run_command(running, *LOAD)
            (node,) = report["nodes"]
            self.assertEqual((node["hand_over_way"], node["hand_over_because"]), ("cuda_vmm", ""))
            self.assertEqual(node["device_arena_bytes"], node["arena_bytes"])
            self.assertGreater(node["device_buffer_bytes"], 0)
            shard = zerocast.attach(report["load"], 2, token=report["attach_token"], framework="dlpack",
                                    socket=report["shards"][2]["agent_socket"])
            (agent,) = self.run_command(running, "agents")["agents"]
            self.assertEqual((shard.way, shard.device), ("cuda_vmm", agent["gpus"][2]["uuid"]))
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
                metrics = answer.read().decode()
            self.assertIn('zerocast_agent_hand_overs_total{mode="shared",way="cuda_vmm"} 1', metrics)
            self.assertIn('zerocast_agent_hand_overs_total{mode="shared",way="host_copy"} 0', metrics)
            # The agent's report is on its way.
            for _ in range(200):
                shown = self.run_command(running, "job", "get", report["load"])
                if shown["shards"][2]["handed_over"]:
                    break
            self.assertEqual((shown["shards"][2]["handed_over"], shown["shards"][2]["way"]), ("shared", "cuda_vmm"))
            self.assertIn("on GPUs", cluster.zerocast("--server", running.address, *LOAD).stdout)

    def test_agents_without_gpus_make_them_in_host_memory(self):
        with cluster.Cluster(2, agent_args=["--no-gpu"]) as running:
            for agent in self.run_command(running, "agents")["agents"]:
                self.assertEqual(agent["gpus"], [])
                self.assertIn("--no-gpu", agent["no_gpus_because"])
            report = self.run_command(running, *LOAD, *NODES)
            self.assertEqual(report["transport"], "gloo")
            for node in report["nodes"]:
                self.assertEqual((node["hand_over_way"], node["device_arena_bytes"]), ("host_copy", 0))
                self.assertIn("--no-gpu", node["hand_over_because"])
            text = self.run_command(running, *LOAD, *NODES, json=False)
            self.assertIn("hand-over by host_copy\n", text)
            self.assertIn("no better way of hand-over: the agent opens no GPU (--no-gpu)\n", text)
            shard = zerocast.attach(report["load"], 3, token=report["attach_token"], framework="dlpack",
                                    socket=report["shards"][3]["agent_socket"])
            self.assertEqual(shard.way, "host_copy")
            self.assertTrue(shard.device.startswith("GPU-"))

    def test_agents_with_and_without_gpus_do_not_mix(self):
        with cluster.Cluster(1) as running:
            running.start_agent(1, extra=["--no-gpu"])
            running.wait_for_agents(2)
            refused = cluster.zerocast("--server", running.address, *LOAD, *NODES)
            self.assertEqual(refused.code, 4, refused)
            self.assertIn("start the agents of all nodes with --no-gpu, or none", refused.stderr)


if __name__ == "__main__":
    unittest.main()
