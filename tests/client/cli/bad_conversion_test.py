"""Rules and tensors that do not fit: load and plan name rule, key and file, and end with the same code."""

import json
import pathlib
import shutil
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
import cluster  # noqa: E402

CHECKPOINT = cluster.DATA / "checkpoints" / "mixtral"
SPEC = CHECKPOINT / "expected.json"
GATE_UP = "model.layers.0.mlp.experts.gate_up_proj"
EXPERT = "model.layers.0.block_sparse_moe.experts"
GATE_UP_RULE = "rule [.experts.*.w1.weight, .experts.*.w3.weight] -> [.experts.gate_up_proj]"
CATASTROPHIC = r"(\w+\w+)+\.$"


class BadConversionTest(unittest.TestCase):

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="zc_bad_"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.spec = json.loads(SPEC.read_text())
        self.tensors, _ = cluster.read_safetensors(CHECKPOINT / "model.safetensors")

    def write(self, name, value):
        path = self.folder / name
        path.write_text(json.dumps(value), encoding="utf-8")
        return path

    def checkpoint(self):
        """The tensors in two files; those of expert 1 and what was added lie in the second."""
        folder = self.folder / "ckpt"
        folder.mkdir(exist_ok=True)
        shutil.copy(CHECKPOINT / "config.json", folder / "config.json")
        original, _ = cluster.read_safetensors(CHECKPOINT / "model.safetensors")
        parts = {"one.safetensors": {}, "two.safetensors": {}}
        for name, tensor in self.tensors.items():
            second = name not in original or ".experts.1." in name
            parts["two.safetensors" if second else "one.safetensors"][name] = tensor
        for name, part in parts.items():
            cluster.write_safetensors(folder / name, part)
        weight_map = {tensor: name for name, part in parts.items() for tensor in part}
        (folder / "model.safetensors.index.json").write_text(
            json.dumps({"metadata": {}, "weight_map": weight_map}))
        return folder

    def run_command(self, command, args, spec):
        if spec:
            args = ("--model-spec", self.write("spec.json", self.spec), *args)
        return cluster.zerocast("--output", "json", command, self.checkpoint(), "--world-size", 2, *args)

    def refused(self, *args, code, says, spec=True):
        """plan and load fail with `code` and name each of `says`."""
        for command in ("plan", "load"):
            result = self.run_command(command, args, spec)
            self.assertEqual(result.code, code, result)
            self.assert_says(result, says)

    def assert_says(self, result, says):
        error = result.json()["error"]
        for text in says:
            self.assertIn(text, error["message"], result)
        self.assertNotIn(error["reason"], ("", "INTERNAL"), result)

    def not_convertible(self, target, *args, says, spec=True):
        """load and plan fail and name the target and each of `says`; so does the report of plan."""
        for command in ("load", "plan"):
            result = self.run_command(command, args, spec)
            self.assertEqual(result.code, 4, result)
            self.assert_says(result, [f"{target} (", *says])
            self.assertEqual(result.json()["error"]["reason"], "WEIGHTS_INCOMPLETE")
        (error,) = result.json()["conversion_errors"]
        self.assertEqual(error["target"], target)
        for text in says:
            self.assertIn(text, error["message"], result)

    def remove(self, *parts):
        for part in parts:
            del self.tensors[f"{EXPERT}.{part}.weight"]

    # Rules.

    def test_rules_of_a_bad_form(self):
        cat = [{"op": "cat"}]
        for rule, name, why in (
                ({"kind": "rename", "from": "a(", "to": "b"}, "rule [a(] -> [b]", "parenthesis"),
                ({"kind": "convert", "from": ["a", "b"], "to": ["c", "d"], "ops": cat},
                 "rule [a, b] -> [c, d]", "one to many"),
                ({"kind": "convert", "from": ["a"], "to": ["b"], "ops": []}, "rule [a] -> [b]",
                 "at least one operation"),
                ({"kind": "rename", "from": ["a"], "to": ["(b|c)", "(d|e)"]},
                 "rule [a] -> [(b|c), (d|e)]", "different capture groups")):
            self.spec["transforms"] = [{"kind": "rename", "from": "x", "to": "y"}, rule]
            path = str(self.folder / "spec.json")
            self.refused(code=2, says=[path, "transforms[1]", name, why])
            checked = cluster.zerocast("rules", "check", path)
            self.assertEqual(checked.code, 2, checked)
            for text in (path, "transforms[1]", name, why):
                self.assertIn(text, checked.stderr)
            table = self.write("table.json", {
                "derived_from": {"version": "9.0"},
                "semantics": {"replace": "first_occurrence", "wildcard": ["*.", ".*\\."],
                              "boundary": "none", "branch_order": "declared", "natural_key": "v2",
                              "reverse": "v2"},
                "rule_sets": {"own": [rule], "legacy": []},
                "bindings": {"by_model_type": {"mixtral": "own"}, "always_last": ["legacy"]}})
            self.refused("--rules", table, spec=False, code=2,
                         says=[str(table), "rule set own", name, why])

    def test_a_key_mapping_that_does_not_compile(self):
        mapping = self.write("mapping.json", {"fine": "fine", "a(": "b"})
        self.refused("--key-mapping", mapping, code=2,
                     says=[str(mapping), "rules[1]", "rule [a(] -> [b]", "parenthesis"])

    def test_a_catastrophic_pattern(self):
        key = "a" * 60 + ".x"
        self.tensors[key] = ("U8", [1], b"x")
        mapping = self.write("mapping.json", {CATASTROPHIC: "b"})
        self.refused("--key-mapping", mapping, code=2,
                     says=[f"rename '{key}' in two.safetensors", f"rule [{CATASTROPHIC}] -> [b]",
                           "match limit"])

    def test_a_spec_that_contradicts_itself(self):
        path = str(self.folder / "spec.json")
        self.spec["params"].append({"name": "model.norm.weight", "shape": [7], "dtype": "float32"})
        self.refused(code=2, says=[path, "params[21].name", "'model.norm.weight' is listed twice"])
        self.spec["params"][-1] = {"name": "tied", "shape": [7], "dtype": "float32"}
        self.spec["tied"] = {"tied": "model.norm.weight"}
        self.refused(code=2, says=[path, "tied.tied", "(7)", "'model.norm.weight' has (32)"])

    def test_a_chain_of_too_many_dimensions(self):
        self.tensors["big.w"] = ("U8", [4, 4, 4, 4], bytes(256))
        self.spec["params"].append({"name": "big.v", "shape": [4, 4, 4, 4], "dtype": "uint8"})
        self.spec["transforms"].append({
            "kind": "convert", "from": ["big.w"], "to": ["big.v"],
            "ops": [{"op": "interleave", "dim": axis} for axis in range(4)]})
        self.refused(code=2, says=["convert 'big.v' by rule [big.w] -> [big.v] from 'big.w' in "
                                   "two.safetensors, operation", "more than 6 loops"])

    # Tensors.

    def test_an_expert_missing_in_the_middle(self):
        self.remove("1.w1", "1.w2", "1.w3")
        absent = f"there is no '{EXPERT}.1.w1.weight', '{EXPERT}.1.w3.weight'"
        first = f"'{EXPERT}.0.w1.weight' in one.safetensors"
        self.refused(code=4, says=[f"{GATE_UP} is (3, 96, 32) in the checkpoint, (4, 96, 32) in the model",
                                   GATE_UP_RULE, absent, first])
        origin = self.run_command("plan", (), spec=True).json()["mismatched_origins"][GATE_UP]
        for text in (GATE_UP_RULE, absent, first):
            self.assertIn(text, origin)
        self.refused(spec=False, code=4, says=["config.json does not say that there are 3 experts",
                                               GATE_UP_RULE, absent, first])

    def test_a_piece_missing_in_the_middle(self):
        self.remove("1.w3")
        for spec in (True, False):
            self.not_convertible(GATE_UP, spec=spec, says=[
                "cat: ", "Expected size 4 but got size 3", GATE_UP_RULE,
                f"there is no '{EXPERT}.1.w3.weight'", f"'{EXPERT}.0.w1.weight' in one.safetensors"])

    def test_an_expert_of_another_shape(self):
        self.tensors[f"{EXPERT}.1.w1.weight"] = ("BF16", [47, 32], bytes(2 * 47 * 32))
        self.not_convertible(GATE_UP, says=[
            "stack: ", GATE_UP_RULE, f"'{EXPERT}.1.w1.weight' in two.safetensors is [47, 32], "
            f"'{EXPERT}.0.w1.weight' in one.safetensors [48, 32]"])

    def test_two_sources_of_one_target(self):
        self.tensors["model.norm.gamma"] = ("BF16", [32], bytes(64))
        mapping = self.write("mapping.json", {"gamma": "weight"})
        self.not_convertible("model.norm.weight", "--key-mapping", mapping, says=[
            "several tensors", "'model.norm.gamma' in two.safetensors by rule [gamma] -> [weight]",
            "'model.norm.weight' in one.safetensors"])

    def test_a_fused_tensor_beside_its_pieces(self):
        self.tensors[GATE_UP] = ("BF16", [4, 96, 32], bytes(2 * 4 * 96 * 32))
        self.not_convertible(GATE_UP, says=[f"no place for '{GATE_UP}' in two.safetensors", GATE_UP_RULE,
                                            f"'{EXPERT}.0.w1.weight' in one.safetensors"])


if __name__ == "__main__":
    unittest.main()
