"""Every byte is read once per cluster, and the server's memory does not grow with the model.

The kernel is the witness: rchar of each agent's /proc/PID/io, VmHWM of the server's /proc/PID/status.
"""

import json
import os
import pathlib
import shutil
import struct
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import cluster  # noqa: E402

SMALL, LARGE = 90 << 20, 2 << 30
# Headers and sockets are read besides: 3 to 8 kB with the small model, below 200 kB with the large
# one (of 50 MB and 1.1 GB a node), so that even the small one needs no allowance of its own.
TOLERANCE = 0.02
# What an allocator may keep from one load to the next; far below the difference of the two models.
PEAK_SLACK_KB = 16 << 10


def make_checkpoint(folder, total_bytes):
    """A Mixtral-shaped checkpoint of about total_bytes in two files, with random contents."""
    folder.mkdir()
    hidden, experts = 1024, 8
    layer_bytes = 2 * experts * 3 * hidden * 2 * hidden
    layers = max(1, round(total_bytes / layer_bytes))
    (folder / "config.json").write_text(json.dumps(
        {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "hidden_size": hidden}))
    names = {f"model.layers.{layer}.block_sparse_moe.experts.{expert}.{matrix}.weight":
             [hidden, 2 * hidden] if matrix == "w2" else [2 * hidden, hidden]
             for layer in range(layers) for expert in range(experts) for matrix in ("w1", "w2", "w3")}
    size = 2 * 2 * hidden * hidden
    block = os.urandom(size + 4096)
    weight_map = {}
    for part in range(2):
        file = f"model-{part + 1:05d}-of-00002.safetensors"
        chosen = list(names.items())[part::2]
        header = {name: {"dtype": "BF16", "shape": shape,
                         "data_offsets": [index * size, (index + 1) * size]}
                  for index, (name, shape) in enumerate(chosen)}
        text = json.dumps(header).encode()
        with open(folder / file, "wb") as out:
            out.write(struct.pack("<Q", len(text)) + text)
            for index in range(len(chosen)):
                # Every tensor begins elsewhere in the block: no two are equal.
                shift = (index * 2 + part) % 4096
                out.write(block[shift:shift + size])
        weight_map.update({name: file for name, _ in chosen})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return len(names) * size


def rchar(pid):
    for line in pathlib.Path(f"/proc/{pid}/io").read_text().splitlines():
        if line.startswith("rchar:"):
            return int(line.split()[1])
    raise AssertionError("no rchar")


def peak_kb(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    raise AssertionError("no VmHWM")


class AccountingTest(unittest.TestCase):

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="zc_accounting_"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def load(self, running, checkpoint):
        result = cluster.zerocast("--server", running.address, "--output", "json", "load", checkpoint,
                                  "--world-size", 4, "--nodes", 2, "--release", timeout=300)
        self.assertEqual(result.code, 0, result)
        return result.json()

    def test_reads_and_memory(self):
        small, large = self.folder / "small", self.folder / "large"
        small_bytes, large_bytes = make_checkpoint(small, SMALL), make_checkpoint(large, LARGE)
        server_peak = {}
        for checkpoint, num_bytes in ((small, small_bytes), (large, large_bytes)):
            with cluster.Cluster(num_agents=2) as running:
                before = [rchar(running.pid(f"node{k}")) for k in range(2)]
                report = self.load(running, checkpoint)
                after = [rchar(running.pid(f"node{k}")) for k in range(2)]
                server_peak[num_bytes] = peak_kb(running.pid("server"))
            counted = [node["bytes_read"] for node in report["nodes"]]
            seen = [end - start for start, end in zip(before, after)]
            print(f"{num_bytes / 1e6:.0f} MB: counters {counted}, rchar {seen}")
            self.assertEqual(sum(counted), num_bytes)
            for node in range(2):
                self.assertLessEqual(abs(counted[node] - num_bytes / 2), TOLERANCE * num_bytes / 2)
            for node in range(2):
                self.assertLessEqual(abs(seen[node] - counted[node]), TOLERANCE * counted[node])
        print(f"server peak: {server_peak} kB")
        self.assertLess(abs(server_peak[large_bytes] - server_peak[small_bytes]), PEAK_SLACK_KB)


if __name__ == "__main__":
    unittest.main()
