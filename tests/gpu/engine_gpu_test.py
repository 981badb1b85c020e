"""Models train on a GPU under a real DeepSpeed engine after zerocast.from_pretrained as after the library's, bit for bit.

For a Python that has torch, transformers, accelerate and DeepSpeed, for example that of a training image; compared is with those. Exit
status 77 with the reason where it lacks one, or where there is no GPU. ZC_BUILD_DIR's python folder has the package.
"""

import importlib.util
import os
import pathlib
import sys
import unittest

TESTS = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "oracle")]
import cluster  # noqa: E402
import ranks  # noqa: E402
import training_cases  # noqa: E402

NEEDED = ("torch", "transformers", "accelerate", "deepspeed", "grpc", "google.protobuf", "google.rpc")
PINNED = {"device": "cpu", "pin_memory": True}


def environment():
    package = pathlib.Path(os.environ["ZC_BUILD_DIR"]) / "python"
    paths = [str(package), str(TESTS / "oracle"), *filter(None, [os.environ.get("PYTHONPATH")])]
    # cuBLAS gives the same sums each time only with a workspace of its own.
    return {**ranks.environment(*paths), "DS_ACCELERATOR": "cuda", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}


class OnGpu(training_cases.TrainingCase):

    pins_memory = True

    def test_one_rank(self):
        for model in ("mixtral", "llama"):
            for offload in (None, PINNED):
                with self.subTest(model=model, offload=offload):
                    self.compare(self.models / model, offload, size=1)

    def test_two_ranks_that_share_the_gpu(self):
        self.compare(self.models / "mixtral", None, size=2)

    def run_ranks(self, size, *arguments):
        # Each a node of its own, whose agent and process NCCL takes for another host's.
        done = ranks.run(size, [training_cases.RANK, *arguments], self.environment, training_cases.SECONDS,
                         lambda rank: {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "ZEROCAST_NODE": f"node-{rank}",
                                       "NCCL_HOSTID": f"zerocast-{rank}", "CUDA_VISIBLE_DEVICES": "0"})
        for rank, (status, output) in enumerate(done):
            self.assertEqual(status, 0, f"rank {rank}: {output[-6000:]}")


def lacks(module):
    try:
        return importlib.util.find_spec(module) is None
    except ModuleNotFoundError:  # the package that it would be in
        return True


if __name__ == "__main__":
    cluster.skip_without_gpus(1)
    missing = [module for module in NEEDED if lacks(module)]
    if missing:
        print(f"2 tests skipped: {sys.executable} has no {', '.join(missing)}")
        sys.exit(77)
    OnGpu.environment = environment()
    unittest.main()
