"""Bad input to the command line: a clear message, the promised exit code, nothing left behind."""

import json
import os
import pathlib
import shutil
import stat
import struct
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
import cluster  # noqa: E402

CHECKPOINT = cluster.DATA / "checkpoints" / "mixtral"
SPEC = CHECKPOINT / "expected.json"


def tensor_bytes(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


class BadInputTest(unittest.TestCase):

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="zc_bad_"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.checkpoint = cluster.copy_checkpoint(CHECKPOINT, self.folder / "ckpt")
        self.out = self.folder / "out"

    def load(self, *args, code, says, checkpoint=None, world_size=2, out=True):
        """Runs a load that must fail with `code`, naming each of `says`, leaving no output."""
        result = cluster.zerocast("--output", "json", "load", checkpoint or self.checkpoint,
                                  "--world-size", world_size, *args,
                                  *(["--out", self.out] if out else []))
        self.assertEqual(result.code, code, result)
        for text in says:
            self.assertIn(text, result.stderr, result)
        if code != 2 or result.stdout:
            error = result.json()["error"]
            self.assertTrue(error["reason"], result)
            self.assertNotEqual(error["reason"], "INTERNAL", result)
        self.assertFalse(self.out.exists(), "output was left behind")
        return result

    def sharded(self):
        return cluster.copy_checkpoint(CHECKPOINT, self.folder / "sharded", 3)

    def write_model(self, content):
        (self.checkpoint / "model.safetensors").write_bytes(content)

    # Folders and files.

    def test_missing_folder(self):
        self.load(checkpoint=self.folder / "none", code=3, says=["none"])

    def test_empty_folder(self):
        (self.checkpoint / "model.safetensors").unlink()
        self.load(code=3, says=["neither model.safetensors nor"])

    def test_dangling_link(self):
        (self.checkpoint / "model.safetensors").unlink()
        (self.checkpoint / "model.safetensors").symlink_to("../blobs/gone")
        self.load(code=3, says=["model.safetensors", "dangling link", "../blobs/gone"])

    def test_no_tensor(self):
        self.write_model(tensor_bytes({}))
        self.load(code=6, says=["model.safetensors", "holds no tensor"])

    def test_missing_shard_file(self):
        checkpoint = self.sharded()
        (checkpoint / "model-00002-of-00003.safetensors").unlink()
        self.load(checkpoint=checkpoint, code=3, says=["model-00002-of-00003.safetensors", "missing"])

    def test_index_names_a_tensor_its_file_lacks(self):
        checkpoint = self.sharded()
        path = checkpoint / "model.safetensors.index.json"
        index = json.loads(path.read_text())
        index["weight_map"]["model.ghost.weight"] = "model-00001-of-00003.safetensors"
        path.write_text(json.dumps(index))
        self.load(checkpoint=checkpoint, code=6,
                  says=["model.ghost.weight", "model-00001-of-00003.safetensors"])

    def test_truncated_data(self):
        path = self.checkpoint / "model.safetensors"
        os.truncate(path, path.stat().st_size - 1)
        self.load(code=6, says=["model.safetensors", "truncated", "tensor"])

    # Headers.

    def test_header_length_beyond_the_file(self):
        self.write_model(struct.pack("<Q", 1000) + b"{}")
        self.load(code=6, says=["model.safetensors", "header length 1000 at offset 0"])

    def test_header_length_beyond_100_mb(self):
        self.write_model(struct.pack("<Q", 100_000_001) + b"{}")
        self.load(code=6, says=["model.safetensors", "100000001"])

    def test_header_not_utf8(self):
        self.write_model(tensor_bytes(b'{"\xff\xfe": {}}'))
        self.load(code=6, says=["model.safetensors", "not valid UTF-8 at byte"])

    def test_deep_json(self):
        self.write_model(tensor_bytes(b'{"w":' + b"[" * 200_000 + b"]" * 200_000 + b"}"))
        self.load(code=6, says=["model.safetensors", "tensor w must be an object", "found an array"])

    def test_metadata_that_is_no_text(self):
        self.write_model(tensor_bytes({"__metadata__": {"format": None}}))
        self.load(code=6, says=["model.safetensors",
                                '__metadata__ key "format" must be a string, found null'])

    def test_tensor_without_a_name(self):
        self.write_model(tensor_bytes(
            {"": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}, b"x"))
        self.load(code=6, says=["model.safetensors", "a tensor has an empty name"])

    def test_names_do_not_reach_the_terminal_raw(self):
        entry = {"dtype": "F\x1b6", "shape": [1], "data_offsets": [0, 1]}
        self.write_model(tensor_bytes({"a\x1b[2J\nb\u00e9": entry}))
        result = self.load(code=6, says=['tensor a\\x1b[2J\\nb\u00e9: unknown dtype "F\\x1b6"'])
        self.assertNotIn("\x1b", result.stderr)
        self.write_model(tensor_bytes({"odd\x1b[2J\nname": {**entry, "dtype": "U8"}}, b"x"))
        result = cluster.zerocast("load", self.checkpoint, "--world-size", 2, "--model-spec", SPEC)
        self.assertEqual(result.code, 4, result)
        self.assertNotIn("\x1b", result.stderr + result.stdout)

    def test_config_that_is_broken(self):
        for text in ("{", "[]"):
            (self.checkpoint / "config.json").write_text(text)
            self.load(code=6, says=[str(self.checkpoint / "config.json"), "JSON"])

    def test_duplicate_keys(self):
        entry = b'"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}'
        self.write_model(tensor_bytes(b"{" + entry + b"," + entry + b"}", b"x"))
        self.load(code=6, says=["model.safetensors", '"w" appears twice'])

    def offsets(self, first, second, size, code=6, dtype="U8", shape=(4,)):
        self.write_model(tensor_bytes(
            {"a": {"dtype": "U8", "shape": [4], "data_offsets": first},
             "b": {"dtype": dtype, "shape": list(shape), "data_offsets": second}}, b"x" * size))
        return code

    def test_offsets_overlap(self):
        self.load(code=self.offsets([0, 4], [2, 6], 6), says=["a and b overlap at byte"])

    def test_offsets_leave_a_gap(self):
        self.load(code=self.offsets([0, 4], [5, 9], 9), says=["before tensor b belong to no tensor"])

    def test_offsets_overflow(self):
        self.load(code=self.offsets([0, 4], [4, 2**63 - 1], 8), says=["tensor b"])

    def test_offsets_end_at_the_largest_number(self):
        self.write_model(tensor_bytes(
            {"a": {"dtype": "U8", "shape": [2**63 - 1], "data_offsets": [0, 2**63 - 1]}}))
        size = (self.checkpoint / "model.safetensors").stat().st_size
        self.load(code=6, says=["tensor a", f"ends at byte {2**63 - 1 + size} but the file has {size}"])

    def test_offsets_do_not_match_shape_times_dtype(self):
        self.load(code=self.offsets([0, 4], [4, 8], 8, dtype="F32"),
                  says=["tensor b", "hold 4 bytes", "needs 16"])

    def test_unknown_dtype(self):
        self.load(code=self.offsets([0, 4], [4, 8], 8, dtype="F6"), says=['tensor b: unknown dtype "F6"'])

    # Weights that do not fit.

    def test_missing_weights(self):
        tensors, _ = cluster.read_safetensors(self.checkpoint / "model.safetensors")
        del tensors["model.norm.weight"]
        cluster.write_safetensors(self.checkpoint / "model.safetensors", tensors)
        self.load("--model-spec", SPEC, code=4, says=["model.norm.weight"])
        result = cluster.zerocast("load", self.checkpoint, "--world-size", 2, "--model-spec", SPEC,
                                  "--allow-missing", r"^model\.norm\.weight$", "--out", self.out)
        self.assertEqual(result.code, 0, result)
        self.assertEqual(json.loads((self.out / "report.json").read_text())["missing"],
                         ["model.norm.weight"])
        _, metadata = cluster.read_safetensors(self.out / "rank_00000.safetensors")
        self.assertEqual(json.loads(metadata["unfilled"]), ["model.norm.weight"])
        _, metadata = cluster.read_safetensors(self.out / "buffers.safetensors")
        self.assertEqual(json.loads(metadata["unfilled"]), [])

    def test_mismatched_weights(self):
        tensors, _ = cluster.read_safetensors(self.checkpoint / "model.safetensors")
        tensors["model.norm.weight"] = ("BF16", [16], b"\0" * 32)
        cluster.write_safetensors(self.checkpoint / "model.safetensors", tensors)
        self.load("--model-spec", SPEC, code=4, says=["model.norm.weight"])
        result = cluster.zerocast("--output", "json", "load", self.checkpoint, "--world-size", 2,
                                  "--model-spec", SPEC, "--ignore-mismatched", "--verify")
        self.assertEqual(result.code, 0, result)
        self.assertEqual(result.json()["mismatched"],
                         [{"name": "model.norm.weight", "checkpoint_shape": [16], "model_shape": [32]}])

    # Arguments.

    def test_world_size_zero(self):
        self.load(world_size=0, code=2, says=["--world-size", "at least 1"])

    def test_whole_numbers_say_what_is_allowed(self):
        for text in ("x", "", "2.5", "2147483648", "-1", "99999999999999999999"):
            self.load(world_size=text, code=2, says=[
                "--world-size", f'"{text}" is not a whole number of at least 1 and at most 2147483647'])
        self.load("--nodes", 0, code=2, says=["--nodes", '"0"', "at least 1"])
        self.load("--num-training-steps", "many", code=2, says=["--num-training-steps", "at least 0"])
        for args in (["resolve", "--num-training-steps", "x"], ["resolve", "--num-parameters", "0"],
                     ["lint", "ds.json", "--world-size", "x"]):
            result = cluster.zerocast("config", *args)
            self.assertEqual(result.code, 2, result)
            self.assertIn(f'{args[-2]}: "{args[-1]}" is not a whole number', result.stderr)

    def test_what_is_empty_is_not_what_was_left_out(self):
        for flag in ("--out", "--ds-config", "--args", "--model-config", "--model-spec",
                     "--key-mapping", "--rules"):
            self.load(flag, "", code=2, says=[f"{flag}: the value is empty"], out=False)
            self.load(f"{flag}=", code=2, says=[flag], out=False)
        result = cluster.zerocast("load", "", "--world-size", 2)
        self.assertEqual(result.code, 2, result)
        self.assertIn("checkpoint: the value is empty", result.stderr)

    def test_more_ranks_than_elements(self):
        result = cluster.zerocast("load", self.checkpoint, "--world-size", 100, "--verify", "--out",
                                  self.out)
        self.assertEqual(result.code, 0, result)
        tensors, _ = cluster.read_safetensors(self.out / "rank_00099.safetensors")
        self.assertEqual(tensors["model.norm.weight"][1], [1])
        self.assertEqual(tensors["model.norm.weight"][2], b"\0\0")

    def test_tensors_without_elements(self):
        tensors, _ = cluster.read_safetensors(self.checkpoint / "model.safetensors")
        tensors["model.empty"] = ("BF16", [0, 7], b"")
        cluster.write_safetensors(self.checkpoint / "model.safetensors", tensors)
        result = cluster.zerocast("load", self.checkpoint, "--world-size", 3, "--verify", "--out",
                                  self.out)
        self.assertEqual(result.code, 0, result)
        loaded, _ = cluster.read_safetensors(self.out / "rank_00002.safetensors")
        self.assertEqual(loaded["model.empty"][1], [0])

    def test_output_that_cannot_be_written(self):
        file = self.folder / "file"
        file.write_text("in the way")
        self.load("--out", file / "x", code=3, says=[str(file)], out=False)
        self.load("--out", "/proc/zerocast", code=3, says=["/proc/zerocast"], out=False)

    def test_output_deep_below_is_made_and_goes_again(self):
        deep = self.folder / "new" / "deep"
        self.load("--out", deep, checkpoint=self.folder / "none", code=3, says=["none"], out=False)
        self.assertFalse((self.folder / "new").exists())

    @unittest.skipIf(os.geteuid() == 0, "root may write everywhere")
    def test_output_without_permission(self):
        closed = self.folder / "closed"
        closed.mkdir()
        closed.chmod(stat.S_IRUSR | stat.S_IXUSR)
        self.load("--out", closed / "x", code=7, says=[str(closed)], out=False)

    def test_unknown_option(self):
        result = cluster.zerocast("load", self.checkpoint, "--world-size", 2, "--mode", "sideways")
        self.assertEqual(result.code, 2, result)
        self.assertIn("--mode", result.stderr)

    def test_what_is_misspelt_is_named_and_json_stays_json(self):
        for args, word in ((["bogus"], "bogus"), (["load", "--bogus"], "--bogus"),
                           (["rules", "list", "--bogus"], "--bogus")):
            result = cluster.zerocast("--output", "json", *args)
            self.assertEqual(result.code, 2, result)
            self.assertIn(f"unknown argument: {word}", result.stderr)
            self.assertEqual(result.json()["error"]["reason"], "INVALID_FIELDS")

    def test_times_are_finite(self):
        for text in ("0", "-1", "nan", "1e300", "soon"):
            result = cluster.zerocast("load", self.checkpoint, "--world-size", 2, "--deadline", text)
            self.assertEqual(result.code, 2, result)
            self.assertIn("not a time in seconds", result.stderr)

    def test_names_of_resources_are_checked(self):
        for name in ("", "x", "job/1"):
            result = cluster.zerocast("--server", "127.0.0.1:1", "job", "watch", name)
            self.assertEqual(result.code, 2, result)

    def test_config_that_is_no_text(self):
        self.load("--ds-config", self.checkpoint / "model.safetensors", code=2,
                  says=["--ds-config", "not UTF-8"])

    def test_output_folder_of_more_ranks(self):
        result = cluster.zerocast("load", self.checkpoint, "--world-size", 3, "--out", self.out)
        self.assertEqual(result.code, 0, result)
        result = cluster.zerocast("load", self.checkpoint, "--world-size", 2, "--out", self.out)
        self.assertEqual(result.code, 4, result)
        self.assertIn("rank_00002.safetensors", result.stderr)
        self.assertEqual(len(list(self.out.glob("rank_*"))), 3)

    def test_a_node_that_this_process_does_not_have(self):
        self.load("--node", "elsewhere", code=2, says=["--node", "elsewhere"])

    def test_server_that_is_not_there(self):
        result = cluster.zerocast("--server", "127.0.0.1:1", "--timeout", 3, "agents")
        self.assertEqual(result.code, 5, result)
        self.assertIn("127.0.0.1:1", result.stderr)

    def test_config_that_contradicts_its_arguments(self):
        config = self.folder / "ds.json"
        config.write_text(json.dumps({"train_micro_batch_size_per_gpu": 3, "gradient_clipping": 2,
                                      "zero_optimization": {"stage": 3}}))
        arguments = self.folder / "args.json"
        arguments.write_text(json.dumps({"per_device_train_batch_size": 4, "max_grad_norm": 1.0}))
        self.load("--ds-config", config, "--args", arguments, code=4,
                  says=["- ds train_micro_batch_size_per_gpu=3 vs hf per_device_train_batch_size=4",
                        "- ds gradient_clipping=2 vs hf max_grad_norm=1.0"])


GATE_UP = "model.layers.0.mlp.experts.gate_up_proj"
EXPERT = "model.layers.0.block_sparse_moe.experts"
GATE_UP_RULE = "rule [.experts.*.w1.weight, .experts.*.w3.weight] -> [.experts.gate_up_proj]"
CATASTROPHIC = r"(\w+\w+)+\.$"


class BadConversionTest(unittest.TestCase):
    """Rules and tensors that do not fit: planned or loaded, the message names rule, key and file."""

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
        """load fails and names the target and each of `says`; so does the report of plan."""
        result = self.run_command("load", args, spec)
        self.assertEqual(result.code, 4, result)
        self.assert_says(result, [f"{target} (", *says])
        self.assertEqual(result.json()["error"]["reason"], "WEIGHTS_INCOMPLETE")
        result = self.run_command("plan", args, spec)
        self.assertEqual(result.code, 0, result)
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
        self.refused("--key-mapping", mapping, code=5,
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
        result = self.run_command("load", (), spec=True)
        self.assertEqual(result.code, 4, result)
        self.assert_says(result, [f"{GATE_UP} is (3, 96, 32) in the checkpoint, (4, 96, 32) in the model",
                                  GATE_UP_RULE, absent, first])
        result = self.run_command("load", (), spec=False)
        self.assertEqual(result.code, 4, result)
        self.assert_says(result, ["config.json does not say that there are 3 experts", GATE_UP_RULE,
                                  absent, first])

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
