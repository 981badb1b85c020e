"""Models train under a real DeepSpeed engine after zerocast.from_pretrained as after the library's, bit for bit.

Wants ZC_SOURCE_DIR and ZC_BUILD_DIR (its python folder has the package). DeepSpeed compiles its operator for NVMe when it
is first used, which wants libaio-dev.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

import deepspeed_releases as releases

SOURCE = pathlib.Path(os.environ["ZC_SOURCE_DIR"])
BUILD = pathlib.Path(os.environ["ZC_BUILD_DIR"])
PACKAGE = BUILD / "python"
DEEPSPEED = releases.install(BUILD / "oracle" / "deepspeed", "0.19.8")
RANK = pathlib.Path(__file__).with_name("training_rank.py")
RANKS = 2
SECONDS = 1200
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{PACKAGE}:{DEEPSPEED}:{RANK.parent}", "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1",
               "PYTHONDONTWRITEBYTECODE": "1"}
MAKE_LLAMA = """
import sys, torch, transformers
torch.manual_seed(1)
config = transformers.LlamaConfig(vocab_size=128, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                                  num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True)
transformers.LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(sys.argv[1])
"""
COMPARE_SAVED = """
import sys, transformers
from pretrained_rank import digest
for folder in sys.argv[1:]:
    model, info = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    print(sorted((name, digest(param.data)) for name, param in model.named_parameters()), info)
"""


def config(offload):
    zero = {"stage": 3}
    if offload is not None:
        zero["offload_param"] = offload
    return {"train_micro_batch_size_per_gpu": 2, "bf16": {"enabled": True}, "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False, "zero_optimization": zero}


class Training(unittest.TestCase):

    def run_python(self, *arguments):
        done = subprocess.run([sys.executable, *map(str, arguments)], env=ENVIRONMENT, capture_output=True, text=True,
                              timeout=SECONDS, check=False)
        self.assertEqual(done.returncode, 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
        return done.stdout

    def compare(self, checkpoint, offload, *how):
        with tempfile.TemporaryDirectory() as folder:
            made = {}
            for loader in ("library", "zerocast"):
                if offload is not None and offload["device"] == "nvme":
                    offload = {**offload, "nvme_path": folder}
                self.run_python("-m", "torch.distributed.run", "--nproc-per-node", RANKS, RANK, loader,
                                json.dumps(config(offload)), folder, checkpoint, *how)
                made[loader] = json.loads(pathlib.Path(folder, f"{loader}.json").read_text(encoding="utf-8"))
            library, ours = made["library"], made["zerocast"]
            self.assertEqual(len(set(ours["losses"])), 3, "nothing was trained")
            self.assertNotEqual(ours["before"], ours["after"])
            for what in ("before", "losses", "after"):
                self.assertEqual(ours[what], library[what], what)
            if not how:
                self.assertGreater(ours["arenas_loaded"], 0)
                self.assertEqual(ours["arenas_initialized"], 0, "an arena outlives deepspeed.initialize")
                saved = self.run_python("-c", COMPARE_SAVED, pathlib.Path(folder, "library-saved"),
                                        pathlib.Path(folder, "zerocast-saved")).splitlines()
                self.assertEqual(saved[0], saved[1])
                self.assertIn("'missing_keys': set()", saved[0])
            for loader in made:
                tag = pathlib.Path(folder, f"{loader}-checkpoint", "latest").read_text(encoding="utf-8")
                states = list(pathlib.Path(folder, f"{loader}-checkpoint", tag).glob("*_states.pt"))
                self.assertEqual(len(states), 2 * RANKS)

    def every_placement(self, checkpoint):
        for offload in (None, {"device": "cpu", "pin_memory": True},
                        {"device": "nvme", "buffer_size": 1000000, "buffer_count": 5}):
            with self.subTest(offload=offload and offload["device"]):
                self.compare(checkpoint, offload)

    def test_mixtral(self):
        self.every_placement(SOURCE / "tests/data/checkpoints/mixtral")

    def test_llama_with_tied_embeddings(self):
        with tempfile.TemporaryDirectory() as folder:
            self.run_python("-c", MAKE_LLAMA, folder)
            self.every_placement(folder)

    def test_lora_over_a_frozen_base(self):
        self.compare(SOURCE / "tests/data/checkpoints/mixtral", None, "lora")


if __name__ == "__main__":
    unittest.main()
