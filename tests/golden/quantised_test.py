"""Loads of quantised checkpoints equal what the library loads with dequantize=True.

tests/data/quantised holds checkpoints in fp8 blocks, in mxfp8 and in mxfp4 and the SHA-256 of every
parameter for each dtype (tests/oracle/make_quantised.py). The partitions of all ranks are joined, cut
to the parameter's elements and compared; --verify must agree.
"""

import hashlib
import itertools
import json
import pathlib
import shutil
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import cluster  # noqa: E402

QUANTISED = cluster.DATA / "quantised"
# What is "stored" of a decoded weight: the dtype of its scales, or bfloat16 where they are bytes.
STORED = {"deepseek_v3-fp8": "float32", "deepseek_v3-mxfp8": "bfloat16", "gpt_oss-mxfp4": "bfloat16"}
MODES = ("parallel", "rank0", "local")
TORCH_NAMES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
SIZES = {"bfloat16": 2, "float16": 2, "float32": 4}


def expected_of(name):
    return json.loads((QUANTISED / name / "expected.json").read_text())


def joined(folder, world_size):
    """Yields (name, torch dtype, bytes of all ranks) of every partitioned target."""
    ranks = [cluster.read_safetensors(folder / f"rank_{rank:05d}.safetensors")[0]
             for rank in range(world_size)]
    for name, (dtype, _, _) in ranks[0].items():
        yield name, TORCH_NAMES[dtype], b"".join(rank[name][2] for rank in ranks)


class QuantisedTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="zc_quantised_")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def check(self, folder, world_size, expected, dtype_of):
        elements = {}
        for param in expected["params"]:
            count = 1
            for size in param["shape"]:
                count *= size
            elements[param["name"]] = count
        compared = 0
        for name, dtype, data in joined(folder, world_size):
            if name not in elements:
                continue
            self.assertEqual(dtype, dtype_of(name), name)
            if name not in expected["dtypes"][dtype]:
                continue  # the library keeps it in another dtype
            data = data[:elements[name] * SIZES[dtype]]
            self.assertEqual(hashlib.sha256(data).hexdigest(), expected["dtypes"][dtype][name], name)
            compared += 1
        recorded = sum(name in expected["dtypes"][dtype_of(name)] for name in elements)
        self.assertGreater(recorded, 10)
        self.assertEqual(compared, recorded)
        return compared

    def test_every_parameter_is_the_librarys(self):
        loads = compared = 0
        for name in STORED:
            expected = expected_of(name)
            spec = QUANTISED / name / "expected.json"
            sources = [cluster.copy_checkpoint(QUANTISED / name, self.folder / f"{name}-{files}", files)
                       for files in (1, 3)]
            ways = itertools.cycle(itertools.product(sources, (1, 2), ("scatter", "broadcast"),
                                                     ("3000", "32M")))
            for world_size, mode, dtype in itertools.product((2, 4), MODES, ("bf16", "fp32", "fp16", "spec")):
                source, nodes, move, round_bytes = next(ways)
                torch_dtype = {"bf16": "bfloat16", "fp32": "float32", "fp16": "float16"}.get(dtype, "bfloat16")
                with self.subTest(name=name, ranks=world_size, mode=mode, dtype=dtype, source=source.name,
                                  nodes=nodes, move=move, round_bytes=round_bytes):
                    out = self.folder / f"out{loads}"
                    result = cluster.zerocast(
                        "load", source, "--world-size", world_size, "--nodes", nodes, "--mode", mode,
                        "--move", move, "--round-bytes", round_bytes, "--dtype", dtype, "--out", out,
                        "--verify", "--model-spec", spec)
                    self.assertEqual(result.code, 0, result)
                    compared += self.check(out, world_size, expected, lambda _: torch_dtype)
                loads += 1
        print(f"{loads} loads, {compared} parameters equal")

    def test_stored_without_a_spec(self):
        for name, decoded_dtype in STORED.items():
            expected = expected_of(name)
            tensors, _ = cluster.read_safetensors(QUANTISED / name / "model.safetensors")

            def dtype_of(target, tensors=tensors, decoded_dtype=decoded_dtype):
                plain = tensors.get(target)
                return "bfloat16" if plain is not None and plain[0] == "BF16" else decoded_dtype

            for mode in MODES:
                with self.subTest(name=name, mode=mode):
                    out = self.folder / f"{name}-{mode}"
                    result = cluster.zerocast("load", QUANTISED / name, "--world-size", 2, "--nodes", 2,
                                              "--mode", mode, "--out", out, "--verify")
                    self.assertEqual(result.code, 0, result)
                    self.check(out, 2, expected, dtype_of)

    def damaged(self, change):
        name = "deepseek_v3-fp8"
        folder = self.folder / "damaged"
        shutil.copytree(QUANTISED / name, folder)
        tensors, _ = cluster.read_safetensors(folder / "model.safetensors")
        config = json.loads((folder / "config.json").read_text())
        change(tensors, config)
        cluster.write_safetensors(folder / "model.safetensors", tensors)
        (folder / "config.json").write_text(json.dumps(config))
        return cluster.zerocast("load", folder, "--world-size", 2, "--dtype", "bf16", "--out",
                                self.folder / "out", "--model-spec", folder / "expected.json")

    def test_a_lost_scale_stops_the_load(self):
        lost = "model.layers.1.mlp.experts.2.up_proj.weight_scale_inv"
        result = self.damaged(lambda tensors, _: tensors.pop(lost))
        self.assertEqual(result.code, 4, result)
        self.assertIn("4 weights vs 3 scales", result.stderr)

    def test_a_config_without_the_method_stops_the_load(self):
        result = self.damaged(lambda _, config: config.pop("quantization_config"))
        self.assertEqual(result.code, 4, result)
        self.assertIn("no quantization_config", result.stderr)

    def test_another_method_is_refused_by_name(self):
        result = self.damaged(lambda _, config: config.update(
            quantization_config={"quant_method": "gptq", "bits": 4}))
        self.assertNotEqual(result.code, 0, result)
        self.assertIn("quant_method 'gptq'", result.stderr)
        self.assertIn("dequantize()", result.stderr)


if __name__ == "__main__":
    cluster.skip_without_gpus(4)
    unittest.main()
