"""Models train under a real DeepSpeed engine after zerocast.from_pretrained as after the library's, bit for bit.

Wants ZC_SOURCE_DIR and ZC_BUILD_DIR (its python folder has the package), and libaio-dev, with which DeepSpeed compiles its
operator for NVMe when it is first used.
"""

import os
import pathlib
import unittest

import deepspeed_releases as releases
import ranks
import training_cases

SOURCE = pathlib.Path(os.environ["ZC_SOURCE_DIR"])
BUILD = pathlib.Path(os.environ["ZC_BUILD_DIR"])
DEEPSPEED = releases.install(BUILD / "oracle" / "deepspeed", "0.19.8")
ENVIRONMENT = ranks.environment(BUILD / "python", DEEPSPEED, pathlib.Path(__file__).parent)


def setUpModule():
    ranks.compile_operators(ENVIRONMENT, "ShareMemCommBuilder", "AsyncIOBuilder", "PinMemoryBuilder")


class Training(training_cases.TrainingCase):

    environment = ENVIRONMENT

    def every_placement(self, checkpoint):
        for offload in (None, {"device": "cpu", "pin_memory": True}, training_cases.NVME):
            with self.subTest(offload=offload and offload["device"]):
                self.compare(checkpoint, offload)

    def test_mixtral(self):
        self.every_placement(self.models / "mixtral")

    def test_llama_with_tied_embeddings(self):
        self.every_placement(self.models / "llama")

    def test_lora_over_a_frozen_base(self):
        self.compare(self.models / "mixtral", None, "lora")

    def test_three_ranks(self):
        self.compare(SOURCE / "tests/data/checkpoints/mixtral", None, size=3)


if __name__ == "__main__":
    unittest.main()
