"""The rules command and plan --manifest: recorded keys, catalogues, listings, and what is wrong."""

import gzip
import json
import pathlib
import shutil
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
import cluster  # noqa: E402

MODELS = cluster.DATA / "models"


class RulesTest(unittest.TestCase):

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="zc_rules_"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def write(self, name, value):
        path = self.folder / name
        path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
        return path

    def test_every_recorded_key_is_answered_byte_for_byte(self):
        for version in ("5.23.0", "5.1.0"):
            path = cluster.DATA / "keys" / f"keys-{version}.jsonl.gz"
            with gzip.open(path, "rt", encoding="utf-8") as file:
                cases = [json.loads(line) for line in file.read().split("\n") if line]
            result = cluster.zerocast("rules", "match", "--batch", path)
            self.assertEqual(result.code, 0, result.stderr)
            answers = result.stdout.split("\n")[:-1]
            self.assertEqual(len(answers), len(cases))
            for case, answer in zip(cases, answers):
                if "error" in case["expect"]:
                    self.assertIn("error", json.loads(answer), case)
                    continue
                self.assertEqual(answer, json.dumps({"id": case["id"], **case["expect"]},
                                                    separators=(",", ":"), ensure_ascii=False))

    def test_a_line_that_is_no_case_is_answered_too(self):
        path = self.write("cases", 'x\n{"id": "a", "key": "k"}\n{"id": "b", "key": "q", "rules": []}\n')
        result = cluster.zerocast("rules", "match", "--batch", path)
        self.assertEqual(result.code, 0, result)
        first, second, third = map(json.loads, result.stdout.splitlines())
        self.assertIn("error", first)
        self.assertIn("rules", second["error"])
        self.assertEqual(third, {"id": "b", "renamed": "q", "with_prefix": "q", "source": None})

    def test_list_and_show(self):
        listed = cluster.zerocast("--output", "json", "rules", "list").json()
        self.assertEqual([d["version"] for d in listed["dialects"]], ["5.23.0", "5.1.0"])
        shown = json.loads(cluster.zerocast("rules", "show", "mixtral").stdout)
        self.assertEqual([d["dialect"] for d in shown], ["5.23.0", "5.1.0"])
        rule = shown[0]["rules"][1]
        self.assertEqual(rule["written"]["from"], [".experts.*.w1.weight", ".experts.*.w3.weight"])
        self.assertIn("(?!\\w)", rule["compiled"]["expression"])
        self.assertEqual(cluster.zerocast("rules", "show", "no_such").code, 3)

    def test_check_names_file_and_rule_of_all_that_is_wrong(self):
        rename = {"kind": "rename", "from": "a", "to": "b"}
        bad = self.write("bad.json", [
            rename, {"kind": "rename", "from": "a(", "to": "b"},
            {"kind": "convert", "from": ["a", "b"], "to": ["c", "d"], "ops": [{"op": "cat"}]},
            {"kind": "convert", "from": ["a"], "to": ["c"], "ops": []},
            {"kind": "rename", "from": "x\\1", "to": ["(a|b)", "(c|d)"]},
            {"kind": "convert", "from": ["q"], "to": ["r"], "ops": [{"op": "bnb_4bit"}]}])
        result = cluster.zerocast("rules", "check", bad)
        self.assertEqual(result.code, 2, result)
        for part in ("rules[1]", "a(", "rules[2]", "one to many", "rules[3]", "at least one operation",
                     "rules[4]", "capture groups", "rules[5]", "bnb_4bit", str(bad)):
            self.assertIn(part, result.stderr)
        good = self.write("good.json", [rename])
        self.assertEqual(cluster.zerocast("rules", "check", good).code, 0)

    def test_a_table_of_the_user_loads_a_checkpoint(self):
        table = {"derived_from": {"version": "9.0"},
                 "semantics": {"replace": "first_occurrence", "wildcard": ["*.", ".*\\."],
                               "boundary": "(?!\\w)", "branch_order": "longest_source_first",
                               "natural_key": "v2", "reverse": "v2"},
                 "rule_sets": {"own": [{"kind": "rename", "from": "^old\\.", "to": "new."}],
                               "legacy": []},
                 "bindings": {"by_model_type": {"ours": "own"}, "always_last": ["legacy"]}}
        listing = {"checkpoint": [["old.w", [4, 2], "float32"]], "config": {"model_type": "ours"},
                   "architecture": "Ours", "model_type": "ours",
                   "params": [{"name": "new.w", "shape": [4, 2], "dtype": "float32"}]}
        manifest = self.write("listing.json", listing)
        refused = cluster.zerocast("plan", "--manifest", manifest, "--world-size", 2)
        self.assertEqual(refused.code, 4, refused)
        self.assertIn("new.w", refused.stderr)
        planned = cluster.zerocast("--output", "json", "plan", "--manifest", manifest,
                                   "--world-size", 2, "--rules", self.write("t.json", table))
        self.assertEqual(planned.code, 0, planned)
        self.assertEqual(planned.json()["missing"], [])

    def test_named_nodes_hold_for_a_listing(self):
        manifest = self.write("listing.json", {
            "checkpoint": [["w", [4, 2], "float32"]], "config": {"model_type": "ours"},
            "architecture": "Ours", "model_type": "ours",
            "params": [{"name": "w", "shape": [4, 2], "dtype": "float32"}]})
        arguments = ["--output", "json", "plan", "--manifest", manifest, "--world-size", 3]
        planned = cluster.zerocast(*arguments, "--node", "a", "--node", "b")
        self.assertEqual(planned.code, 0, planned)
        self.assertEqual(len(planned.json()["read_bytes_by_node"]), 2)
        refused = cluster.zerocast(*arguments, "--nodes", 3, "--node", "a", "--node", "b")
        self.assertEqual(refused.code, 2, refused)
        self.assertIn("must be the number of nodes named by --node, 2, was 3", refused.stderr)

    def test_a_key_mapping_and_a_dialect_hold_for_a_listing(self):
        manifest = self.write("listing.json", {
            "checkpoint": [["a.b.a.b.w", [4], "float32"]], "architecture": "X", "model_type": "x",
            "transforms": [],
            "params": [{"name": "c.c.w", "shape": [4], "dtype": "float32"}]})
        mapping = self.write("mapping.json", {"a.b": "c"})
        arguments = ["plan", "--manifest", manifest, "--world-size", 1, "--key-mapping", mapping]
        self.assertEqual(cluster.zerocast(*arguments).code, 4)
        self.assertEqual(cluster.zerocast(*arguments, "--dialect", "5.1.0").code, 0)
        unknown = cluster.zerocast(*arguments, "--dialect", "4.0")
        self.assertEqual(unknown.code, 2)
        self.assertIn("5.23.0", unknown.stderr)


class ManifestTest(unittest.TestCase):

    def test_the_size_of_a_plan_does_not_follow_the_world(self):
        boxes = set()
        for world in (8, 8192):
            result = cluster.zerocast("--output", "json", "plan", "--manifest",
                                      MODELS / "mixtral-8x7b.json.gz", "--world-size", world,
                                      "--nodes", world // 8)
            self.assertEqual(result.code, 0, result)
            plan = result.json()
            self.assertEqual(len(plan["read_bytes_by_node"]), world // 8)
            boxes.add((plan["num_targets"], plan["num_boxes"]))
        self.assertEqual(boxes, {(291, 995)})

    def test_bad_listings_are_named(self):
        with tempfile.TemporaryDirectory(prefix="zc_rules_") as folder:
            path = pathlib.Path(folder) / "listing.json"
            for text, says in (("[]", "not a JSON object"), ("{}", "checkpoint"),
                               ('{"checkpoint": [["a", [1], "float99"]]}', "dtype"),
                               ('{"checkpoint": [["a", [1], "float32"], ["a", [1], "float32"]]}',
                                "listed twice"),
                               ('{"checkpoint": [["a", [-1], "float32"]]}', "sizes >= 0")):
                path.write_text(text, encoding="utf-8")
                result = cluster.zerocast("plan", "--manifest", path, "--world-size", 2)
                self.assertEqual(result.code, 2, result)
                self.assertIn(says, result.stderr)
                self.assertIn("listing.json", result.stderr)
        neither = cluster.zerocast("plan", "--world-size", 2)
        self.assertEqual(neither.code, 2, neither)
        self.assertIn("one of CKPT and --manifest", neither.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
