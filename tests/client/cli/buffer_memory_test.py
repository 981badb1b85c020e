"""Loads with --max-buffer-memory 64M that would use more without: right bytes and digests, within that memory.

What the ranks must hold is made here by the plain rules, from the bytes that the checkpoint was made of.
"""

import array
import json
import os
import pathlib
import shutil
import sys
import tempfile
import threading
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
import cluster  # noqa: E402

LIMIT = 64 << 20
WORLD_SIZE = 4
# Beside buffers: plans, the records of jobs, what the allocator keeps.
SLACK = 32 << 20
SAMPLE_S = 0.002


def random_tensors(shapes):
    """{name: (dtype, shape, bytes)} of bf16 tensors."""
    tensors = {}
    for name, shape in shapes.items():
        count = 1
        for extent in shape:
            count *= extent
        tensors[name] = ("BF16", shape, os.urandom(2 * count))
    return tensors


def transposed(data, rows, columns):
    """A matrix of elements of two bytes, the other way round."""
    elements = array.array("H", data)
    return b"".join(elements[column::columns].tobytes() for column in range(columns))


def mixtral():
    """Experts to stack and to join, 250 MB: the stored tensors, and what each target holds."""
    hidden, inter, experts, layers, vocabulary = 1024, 3072, 4, 3, 4099
    shapes = {"model.embed_tokens.weight": [vocabulary, hidden], "lm_head.weight": [vocabulary, hidden]}
    for layer in range(layers):
        for expert in range(experts):
            prefix = f"model.layers.{layer}.block_sparse_moe.experts.{expert}"
            shapes.update({f"{prefix}.w1.weight": [inter, hidden], f"{prefix}.w2.weight": [hidden, inter],
                           f"{prefix}.w3.weight": [inter, hidden]})
    stored = random_tensors(shapes)
    targets = {name: stored[name][2] for name in ("model.embed_tokens.weight", "lm_head.weight")}
    for layer in range(layers):
        def part(expert, which, layer=layer):
            return stored[f"model.layers.{layer}.block_sparse_moe.experts.{expert}.{which}.weight"][2]

        prefix = f"model.layers.{layer}.mlp.experts"
        targets[f"{prefix}.gate_up_proj"] = b"".join(
            part(expert, which) for expert in range(experts) for which in ("w1", "w3"))
        targets[f"{prefix}.down_proj"] = b"".join(part(expert, "w2") for expert in range(experts))
    return "mixtral", stored, targets, None


def qwen3_vl_moe():
    """Experts to transpose, 113 MB."""
    hidden, inter, experts, layers = 1024, 768, 6, 4
    shapes = {f"model.language_model.layers.{layer}.mlp.experts.{which}": [experts, *matrix]
              for layer in range(layers)
              for which, matrix in (("gate_up_proj", [hidden, 2 * inter]), ("down_proj", [inter, hidden]))}
    stored = random_tensors(shapes)
    targets = {}
    for name, (_, (_, rows, columns), data) in stored.items():
        size = 2 * rows * columns
        targets[name] = b"".join(transposed(data[k * size:(k + 1) * size], rows, columns)
                                 for k in range(experts))
    # Which way they lie is told by the model's own shapes.
    spec = {"architecture": "Qwen3VLMoeForConditionalGeneration", "model_type": "qwen3_vl_moe",
            "base_model_prefix": "model",
            "params": [{"name": name, "shape": [experts, columns, rows], "dtype": "bfloat16"}
                       for name, (_, rows, columns) in shapes.items()]}
    return "qwen3_vl_moe", stored, targets, spec


class AnonymousPeak:
    """The most anonymous memory that each process has while the context lasts. Arenas, memfds, do not count."""

    def __init__(self, pids):
        self._files = [pathlib.Path(f"/proc/{pid}/status") for pid in pids]
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self.before = [self._look(file) for file in self._files]
        self.most = list(self.before)

    @staticmethod
    def _look(file):
        return next(int(line.split()[1]) << 10 for line in file.read_text().splitlines()
                    if line.startswith("RssAnon:"))

    def _sample(self):
        while not self._done.wait(SAMPLE_S):
            self.most = [max(most, self._look(file)) for most, file in zip(self.most, self._files)]

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._done.set()
        self._thread.join()


class BufferMemoryTest(unittest.TestCase):

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="zc_buffers_"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def write(self, model_type, stored):
        folder = self.folder / model_type
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
        weight_map, names = {}, list(stored)
        for part in range(2):
            file = f"model-{part + 1:05d}-of-00002.safetensors"
            tensors = {name: stored[name] for name in names[part::2]}
            cluster.write_safetensors(folder / file, tensors)
            weight_map.update({name: file for name in tensors})
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
        return folder

    def assert_holds(self, out, targets):
        """The ranks' partitions, one behind the other, are the targets, and zero behind them."""
        ranks = [cluster.read_safetensors(out / f"rank_{rank:05d}.safetensors")[0] for rank in range(WORLD_SIZE)]
        for rank in ranks:
            self.assertEqual(sorted(rank), sorted(targets))
        for name, expected in targets.items():
            held = b"".join(rank[name][2] for rank in ranks)
            # Not assertEqual: it would print them.
            self.assertTrue(held[:len(expected)] == expected, name)
            self.assertFalse(any(held[len(expected):]), name)

    def check(self, made):
        model_type, stored, targets, spec = made
        checkpoint = self.write(model_type, stored)
        out = self.folder / "out"
        with cluster.Cluster(num_agents=2) as running:
            load = ["--server", running.address, "--output", "json", "load", checkpoint, "--nodes", 2, "--release",
                    "--move", "broadcast"]  # each node gets half of it from the other
            if spec is not None:
                (self.folder / "spec.json").write_text(json.dumps(spec))
                load += ["--model-spec", self.folder / "spec.json"]
            pids = [running.pid("node0"), running.pid("node1")]
            with AnonymousPeak(pids) as peak:
                result = cluster.zerocast(*load, "--world-size", WORLD_SIZE, "--max-buffer-memory", "64M",
                                          "--verify", "--out", out)
            self.assertEqual(result.code, 0, result)
            report = result.json()
            self.assertEqual(report["source"], "files")
            self.assertEqual(report["verified"]["bytes"], sum(map(len, targets.values())))
            used = [node["buffer_bytes"] for node in report["nodes"]]
            self.assertLessEqual(max(used), LIMIT)
            grown = [most - before for most, before in zip(peak.most, peak.before)]
            print(f"{model_type}: buffers of {used} bytes stated, {grown} bytes of memory more at most")
            if not os.environ.get("ZC_SANITIZED"):  # which keeps what is freed
                self.assertLessEqual(max(grown), max(used) + SLACK)
            self.assert_holds(out, targets)
            # It is the limit that kept them small.  Other ranks: not from the memory of the first load.
            result = cluster.zerocast(*load, "--world-size", 2)
            self.assertEqual(result.code, 0, result)
            self.assertGreater(max(node["buffer_bytes"] for node in result.json()["nodes"]), LIMIT)

    def test_experts_that_are_stacked(self):
        self.check(mixtral())

    def test_experts_that_are_transposed(self):
        self.check(qwen3_vl_moe())


if __name__ == "__main__":
    unittest.main()
