"""Loads for GPUs, which are stand-ins, whose config offloads parameters: the GPUs fill shards in host memory.

Needs numpy.
"""

import json
import os
import pathlib
import sys
import tarfile
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
import cluster  # noqa: E402

sys.path.insert(0, str(pathlib.Path(os.environ["ZC_SOURCE_DIR"]) / "client/python/src"))
import numpy  # noqa: E402
import zerocast  # noqa: E402

CHECKPOINT = cluster.DATA / "checkpoints" / "mixtral"
ZERO3 = {"bf16": {"enabled": True}, "zero_optimization": {"stage": 3}}
RANKS = 4
NUMPY_TYPES = {"BF16": numpy.uint16, "F32": numpy.float32}


class OffloadTest(unittest.TestCase):

    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory(prefix="zc_offload_")))

    def config(self, device):
        """The flags for a config that offloads parameters to the device; to none where that is None."""
        config = json.loads(json.dumps(ZERO3))
        if device is not None:
            config["zero_optimization"]["offload_param"] = {"device": device, "nvme_path": "/somewhere"}
        path = self.folder / f"{device}.json"
        path.write_text(json.dumps(config))
        return ["--world-size", RANKS, "--ds-config", path]

    def run_json(self, *args):
        result = cluster.zerocast("--output", "json", *args)
        self.assertEqual(result.code, 0, result)
        return result.json()

    def shards(self, out):
        return [cluster.read_safetensors(out / f"rank_{rank:05d}.safetensors")[0] for rank in range(RANKS)]

    def test_shards_are_the_hosts_and_the_report_says_why(self):
        self.run_json("load", CHECKPOINT, *self.config(None), "--out", self.folder / "of_host")
        expected = self.shards(self.folder / "of_host")
        for device in ("cpu", "nvme"):
            for nodes in (1, 2):
                with self.subTest(device=device, nodes=nodes):
                    out = self.folder / f"{device}{nodes}"
                    report = self.run_json("load", CHECKPOINT, *self.config(device), "--device", "cuda",
                                           "--nodes", nodes, "--out", out, "--verify")
                    for where in (report, json.loads((out / "report.json").read_text())):
                        self.assertEqual((where["placement"], where["placement_reason"]),
                                         ("host", f"offload_param.device is {device}"))
                    self.assertEqual(report["transport"], "nccl")
                    for node in report["nodes"]:
                        self.assertEqual((node["hand_over_way"], node["hand_over_because"]), ("memfd", ""))
                        self.assertEqual(node["device_arena_bytes"], 0)
                        self.assertGreater(node["device_buffer_bytes"], 0)
                    self.assertEqual(self.shards(out), expected)
        text = cluster.zerocast("load", CHECKPOINT, *self.config("cpu"), "--device", "cuda").stdout
        self.assertIn("\nshards in host memory: offload_param.device is cpu\n0 B on GPUs, buffers there of at most", text)
        self.assertIn("hand-over by memfd\n", text)

    def test_others_lie_on_the_gpus(self):
        report = self.run_json("load", CHECKPOINT, *self.config("none"), "--device", "cuda")
        self.assertEqual((report["placement"], report["placement_reason"]), ("device", "--device"))
        self.assertEqual(report["nodes"][0]["device_arena_bytes"], report["nodes"][0]["arena_bytes"])

    def test_a_plan_counts_them_as_the_hosts(self):
        for device, placement in ((None, "device"), ("cpu", "host")):
            plan = self.run_json("plan", CHECKPOINT, *self.config(device), "--device", "cuda")
            self.assertEqual(plan["placement"], placement)
            self.assertEqual(len(plan["memory_by_node"]), RANKS)
            for memory in plan["memory_by_node"]:
                self.assertEqual(memory["arena_bytes"], plan["arena_bytes"])
                self.assertEqual(memory["device_arena_bytes"], plan["arena_bytes"] if device is None else 0)
        self.assertIn("\nshards in host memory: offload_param.device is cpu\n", cluster.zerocast(
            "plan", CHECKPOINT, *self.config("cpu"), "--device", "cuda").stdout)

    def test_shards_with_offloaded_optimizer_states_are_the_hosts(self):
        with tarfile.open(cluster.DATA / "deepspeed" / "folders.tar.xz") as archive:
            archive.extractall(self.folder, [each for each in archive if each.name.startswith("keep_c1/")], filter="data")
        saved = self.folder / "keep_c1"
        for stage in (1, 3):
            config = self.folder / f"optimizer{stage}.json"
            config.write_text(json.dumps({"bf16": {"enabled": True}, "zero_optimization": {
                "stage": stage, "offload_optimizer": {"device": "cpu"}}}))
            flags = ["--world-size", RANKS, "--ds-config", config]
            self.run_json("load", saved, *flags, "--out", self.folder / f"of_host{stage}")
            out = self.folder / f"of_gpus{stage}"
            report = self.run_json("load", saved, *flags, "--device", "cuda", "--nodes", 2, "--out", out, "--verify")
            self.assertEqual(self.shards(out), self.shards(self.folder / f"of_host{stage}"))
            self.assertEqual(report["transport"], "nccl")
            for shown in (report, self.run_json("plan", saved, *flags, "--device", "cuda")):
                self.assertEqual((shown["placement"], shown["placement_reason"]),
                                 ("host", "offload_optimizer.device is cpu"))
            # What has no states is on the GPUs, whatever the config says of states.
            for checkpoint, more in ((saved, ["--no-optimizer"]), (CHECKPOINT, [])):
                shown = self.run_json("load", checkpoint, *flags, "--device", "cuda", *more)
                self.assertEqual((shown["placement"], shown["placement_reason"]), ("device", "--device"))

    def test_processes_take_them_as_the_hosts_and_later_loads_find_them(self):
        out = self.folder / "of_host"
        self.run_json("load", CHECKPOINT, *self.config(None), "--out", out)
        expected = self.shards(out)
        load = ["load", CHECKPOINT, *self.config("cpu"), "--device", "cuda"]
        with cluster.Cluster(1) as running:
            server = ["--server", running.address]
            report = self.run_json(*server, *load)
            (job,) = self.run_json(*server, "job", "list")["jobs"]
            shown = self.run_json(*server, "job", "get", job["job"])
            self.assertEqual((shown["placement"], shown["placement_reason"]),
                             ("host", "offload_param.device is cpu"))

            def attach(rank, mode):
                return zerocast.attach(report["load"], rank, token=report["attach_token"], mode=mode,
                                       framework="numpy", socket=report["shards"][rank]["agent_socket"])

            for rank, mode in ((0, "private"), (0, "private"), (1, "shared")):
                shard = attach(rank, mode)
                self.assertEqual((shard.way, shard.because, shard.device, shard.mode), ("memfd", "", "", mode))
                compared = 0
                for name, (dtype, _, data) in expected[rank].items():
                    array = shard[name].array
                    self.assertIsInstance(array, numpy.ndarray)
                    self.assertEqual(array.tobytes(), data, name)
                    array.view(NUMPY_TYPES[dtype])[:] = 0  # it is the process's own
                    compared += 1
                self.assertEqual(compared, len(expected[rank]))
            with self.assertRaises(zerocast.AttachError) as caught:
                attach(1, "private")
            self.assertEqual(caught.exception.reason, "WRONG_STATE")
            # All but rank 1, which has left for good, are still here: the next load reads them anew.
            again = self.run_json(*server, *load)
            self.assertEqual(again["source"], "files")
            self.assertEqual(self.run_json(*server, *load)["source"], "cache")


if __name__ == "__main__":
    unittest.main()
