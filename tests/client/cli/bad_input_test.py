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
        self.assertEqual(result.json()["mismatched_origins"],
                         {"model.norm.weight": "from 'model.norm.weight' in model.safetensors"})

    def test_integers_where_the_model_has_floats(self):
        tensors, _ = cluster.read_safetensors(self.checkpoint / "model.safetensors")
        values = [2049 - 3 * k for k in range(32)]  # 2049 is a tie of float16
        tensors["model.norm.weight"] = ("I64", [32], struct.pack("<32q", *values))
        cluster.write_safetensors(self.checkpoint / "model.safetensors", tensors)
        result = cluster.zerocast("load", self.checkpoint, "--world-size", 2, "--model-spec", SPEC,
                                  "--dtype", "fp16", "--verify", "--out", self.out)
        self.assertEqual(result.code, 0, result)
        ranks = [cluster.read_safetensors(self.out / f"rank_0000{rank}.safetensors")[0] for rank in (0, 1)]
        self.assertEqual(b"".join(rank["model.norm.weight"][2] for rank in ranks),
                         struct.pack("<32e", *values))
        tensors["model.norm.weight"] = ("I8", [32], bytes(32))
        cluster.write_safetensors(self.checkpoint / "model.safetensors", tensors)
        shutil.rmtree(self.out)
        self.load("--model-spec", SPEC, "--dtype", "fp16", code=4,
                  says=["stored as int8, which cannot become float16: it looks quantised"])

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


if __name__ == "__main__":
    unittest.main()
