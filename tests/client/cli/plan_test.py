"""zerocast plan: where weights would stop a load, the report and exit 4, of a folder and of a listing."""

import itertools
import json
import pathlib
import shutil
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
import cluster  # noqa: E402

MODEL = {"architecture": "Ours", "model_type": "ours", "transforms": [],
         "params": [{"name": "a.w", "shape": [4, 2], "dtype": "float32"},
                    {"name": "b.w", "shape": [3], "dtype": "float32"}], "buffers": [], "tied": {}}
MISMATCH = {"name": "a.w", "checkpoint_shape": [2, 4], "model_shape": [4, 2]}


class PlanTest(unittest.TestCase):

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="zc_plan_"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.model = {**MODEL, "params": list(MODEL["params"])}

    def forms(self, shapes):
        """The arguments that name a checkpoint of such tensors: as a folder, and as a listing."""
        checkpoint = self.folder / "ckpt"
        checkpoint.mkdir(exist_ok=True)
        cluster.write_safetensors(checkpoint / "model.safetensors",
                                  {name: ("F32", shape, bytes(4 * elements(shape)))
                                   for name, shape in shapes.items()})
        (checkpoint / "config.json").write_text(json.dumps({"model_type": "ours"}))
        spec = self.folder / "spec.json"
        spec.write_text(json.dumps(self.model))
        listing = self.folder / "listing.json"
        listing.write_text(json.dumps({"checkpoint": [[name, shape, "float32"]
                                                      for name, shape in shapes.items()],
                                       **self.model}))
        return [checkpoint, "--model-spec", spec], ["--manifest", listing]

    def plan(self, form, *args, code):
        result = cluster.zerocast("--output", "json", "plan", *form, "--world-size", 2, *args)
        self.assertEqual(result.code, code, result)
        return result

    def refused(self, form, *args, says):
        """Exit 4, the report beside the error, no plan; as text the report on stdout."""
        result = self.plan(form, *args, code=4)
        document = result.json()
        self.assertEqual(document["error"]["reason"], "WEIGHTS_INCOMPLETE")
        self.assertIn(says, document["error"]["message"])
        self.assertIn(says, result.stderr)
        self.assertNotIn("plan_digest", document)
        text = cluster.zerocast("plan", *form, "--world-size", 2, *args)
        self.assertEqual(text.code, 4, text)
        self.assertIn(says, text.stderr)
        return document, text.stdout

    def test_missing_weights(self):
        for form in self.forms({"a.w": [4, 2], "extra": [1]}):
            document, text = self.refused(form, says="1 missing: b.w")
            self.assertEqual(document["missing"], ["b.w"])
            self.assertEqual(document["unexpected"], ["extra"])
            self.assertIn("missing in the checkpoint (1):\n  b.w\n", text)
            document, _ = self.refused(form, "--allow-missing", "^a", says="1 missing: b.w")
            self.assertEqual(document["missing"], ["b.w"])
            planned = self.plan(form, "--allow-missing", "^b", code=0).json()
            self.assertEqual(planned["missing"], ["b.w"])
            self.assertEqual(len(planned["plan_digest"]), 32)
            self.assertNotIn("error", planned)

    def test_mismatched_weights(self):
        for form in self.forms({"a.w": [2, 4], "b.w": [3]}):
            document, text = self.refused(form, says="1 of another shape: a.w is (2, 4) in the checkpoint")
            self.assertEqual(document["mismatched"], [MISMATCH])
            origin = document["mismatched_origins"]["a.w"]
            self.assertTrue(origin.startswith("from 'a.w' in model"), origin)
            self.assertIn(f"mismatched: a.w: checkpoint (2, 4), model (4, 2) ({origin})\n", text)
            planned = self.plan(form, "--ignore-mismatched", code=0).json()
            self.assertEqual(planned["mismatched"], [MISMATCH])
            self.assertEqual(planned["mismatched_origins"], {"a.w": origin})

    def test_a_catastrophic_pattern_is_bad_input(self):
        pattern = r"(\w+\w+)+\.$"
        name = "a" * 60 + ".x"
        self.model["params"].append({"name": name, "shape": [1], "dtype": "float32"})
        for form in self.forms({"a.w": [4, 2], "b.w": [3]}):
            result = self.plan(form, "--allow-missing", pattern, code=2)
            for text in ("allow_missing", pattern, name, "match limit"):
                self.assertIn(text, result.json()["error"]["message"])
            self.assertEqual(result.json()["error"]["reason"], "INVALID_FIELDS")

    def test_the_memory_of_each_node_is_told_before_anything_is_read(self):
        self.model["params"] = [{"name": f"w{k}", "shape": [1024, 64], "dtype": "float32"}
                                for k in range(4)]
        for form in self.forms({f"w{k}": [1024, 64] for k in range(4)}):
            args = ["plan", *form, "--world-size", 4, "--nodes", 2, "--max-buffer-memory", "1M", "--threads", "2"]
            text = cluster.zerocast(*args)
            self.assertEqual(text.code, 0, text)
            self.assertRegex(text.stdout, r"node +reads +shards +to read +to send +to get\n")
            shown = cluster.zerocast("--output", "json", *args).json()
            self.assertEqual(len(shown["memory_by_node"]), 2)
            for memory in shown["memory_by_node"]:
                # 4 weights of 256 KiB: each rank a quarter of each, half of a node's is the other's.
                self.assertEqual(memory["arena_bytes"], 512 << 10)
                # Never more than a quarter of what is allowed.
                self.assertGreater(memory["reading_bytes"], 0)
                self.assertLessEqual(memory["reading_bytes"], 256 << 10)
                for which in ("sending_bytes", "receiving_bytes"):
                    self.assertGreater(memory[which], 0)
                self.assertLessEqual(sum(memory.values()) - memory["arena_bytes"], 1 << 20)

    def test_it_states_what_the_load_with_the_same_flags_then_keeps_to(self):
        stated = set()
        for model in ("mixtral", "qwen3_vl_moe"):
            checkpoint = cluster.DATA / "checkpoints" / model
            for flags in itertools.product(
                    (["--world-size", 2], ["--world-size", 5, "--nodes", 2],
                     ["--world-size", 3, "--nodes", 3, "--move", "broadcast"]),
                    ([], ["--threads", 1], ["--threads", 3]),
                    ([], ["--max-buffer-memory", "4M"], ["--max-buffer-memory", "1G"])):
                flags = ["--model-spec", checkpoint / "expected.json", *sum(flags, [])]
                with self.subTest(model=model, flags=flags):
                    plan = cluster.zerocast("--output", "json", "plan", checkpoint, *flags)
                    self.assertEqual(plan.code, 0, plan)
                    load = cluster.zerocast("--output", "json", "load", checkpoint, *flags)
                    self.assertEqual(load.code, 0, load)
                    before, after = plan.json()["memory_by_node"], load.json()["nodes"]
                    self.assertEqual(len(before), len(after))
                    for memory, node in zip(before, after):
                        arena = memory.pop("arena_bytes")
                        self.assertEqual(arena, node["arena_bytes"])
                        self.assertEqual(sum(memory.values()), node["buffer_bytes"])
                        stated.add(node["buffer_bytes"])
        self.assertGreater(len(stated), 8)

    def test_with_a_server_it_states_what_its_agents_keep_to(self):
        checkpoint = cluster.DATA / "checkpoints" / "mixtral"
        flags = [checkpoint, "--world-size", 4, "--node", "node0", "--node", "node1"]
        with cluster.Cluster(num_agents=0) as running:
            running.start_agent(0, extra=["--threads=1", "--max-buffer-memory=8M"])
            running.start_agent(1, extra=["--threads=3"])
            running.wait_for_agents(2)
            server = ["--server", running.address, "--output", "json"]
            plan = cluster.zerocast(*server, "plan", *flags)
            self.assertEqual(plan.code, 0, plan)
            load = cluster.zerocast(*server, "load", *flags, "--release")
            self.assertEqual(load.code, 0, load)
        before, after = plan.json()["memory_by_node"], load.json()["nodes"]
        self.assertEqual([sum(memory.values()) - memory["arena_bytes"] for memory in before],
                         [node["buffer_bytes"] for node in after])
        self.assertNotEqual(after[0]["buffer_bytes"], after[1]["buffer_bytes"])


def elements(shape):
    return shape[0] * elements(shape[1:]) if shape else 1


if __name__ == "__main__":
    unittest.main()
