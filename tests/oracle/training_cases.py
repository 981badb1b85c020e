"""Models that train under a real DeepSpeed engine, after zerocast.from_pretrained and after the library's: the same, bit for bit."""

import json
import pathlib
import sys
import tempfile
import unittest

import ranks

RANK = pathlib.Path(__file__).with_name("training_rank.py")
SECONDS = 1200
# The embeddings are as large as what the swapper of NVMe takes at least, a MiB a rank.
MAKE = """
import sys, torch, transformers
torch.manual_seed(1)
sizes = dict(vocab_size=40_000, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2)
for name, config in (("llama", transformers.LlamaConfig(**sizes, tie_word_embeddings=True)),
                     ("mixtral", transformers.MixtralConfig(**sizes, num_local_experts=4))):
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(f"{sys.argv[1]}/{name}")
"""
SAVED = "saved: "
COMPARE_SAVED = f"""
import json, sys, transformers
from pretrained_rank import digest
for folder in sys.argv[1:]:
    model, info = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    parameters = {{name: digest(param.data) for name, param in model.named_parameters()}}
    print({SAVED!r} + json.dumps({{"parameters": parameters, "missing": sorted(info["missing_keys"]),
                                  "unexpected": sorted(info["unexpected_keys"])}}))
"""
NVME = {"device": "nvme", "buffer_size": 1000000, "buffer_count": 5}


def config(offload):
    zero = {"stage": 3}
    if offload is not None:
        zero["offload_param"] = offload
    return {"train_micro_batch_size_per_gpu": 2, "bf16": {"enabled": True}, "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False, "zero_optimization": zero}


class TrainingCase(unittest.TestCase):
    """compare() trains twice. `environment` is that of every process; pins_memory: its accelerator can, what is pinned is a copy then."""

    environment: dict
    pins_memory = False
    models: pathlib.Path

    @classmethod
    def setUpClass(cls):
        holder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(holder.cleanup)
        cls.models = pathlib.Path(holder.name)
        status, output = ranks.launch([sys.executable, "-c", MAKE, holder.name], cls.environment, SECONDS)
        if status != 0:
            raise RuntimeError(f"make models: {status}\n{output}")

    def run_python(self, *arguments):
        status, output = ranks.launch([sys.executable, *arguments], self.environment, SECONDS)
        self.assertEqual(status, 0, output[-6000:])
        return output

    def run_ranks(self, size, *arguments):
        self.run_python("-m", "torch.distributed.run", "--nproc-per-node", size, RANK, *arguments)

    def compare(self, checkpoint, offload, *how, size=2):
        with tempfile.TemporaryDirectory() as folder:
            made = {}
            for loader in ("library", "zerocast"):
                placed = {**offload, "nvme_path": f"{folder}/{loader}-nvme"} if offload == NVME else offload
                with ranks.told(" ".join([pathlib.Path(checkpoint).name, str(offload and offload["device"]), loader, *how])):
                    self.run_ranks(size, loader, json.dumps(config(placed)), folder, checkpoint, *how)
                made[loader] = json.loads(pathlib.Path(folder, f"{loader}.json").read_text(encoding="utf-8"))
            library, ours = made["library"], made["zerocast"]
            self.assertEqual(len(set(ours["losses"])), 3, "nothing was trained")
            self.assertNotEqual(ours["before"], ours["after"])
            for what in ("placed", "before", "losses", "after", "next"):
                self.assertEqual(ours[what], library[what], what)
            # The engine's checkpoint: what was trained after it is forgotten when it is loaded, and comes again.
            self.assertEqual(ours["next"]["again"], ours["next"]["first"])
            self.assertNotEqual(ours["next"]["first"]["loss"], ours["losses"][-1])
            self.assertEqual(ours["swapped"], library["swapped"])
            self.assertEqual(ours["swapped"] > 0, offload == NVME)
            if not how:
                is_copied = self.pins_memory and (offload or {}).get("pin_memory", False)
                self.assertEqual(ours["arenas_loaded"] > 0, not is_copied, "arenas after the load")
                self.assertEqual(ours["arenas_initialized"], 0, "an arena outlives deepspeed.initialize")
                output = self.run_python("-c", COMPARE_SAVED, *(pathlib.Path(folder, f"{loader}-saved") for loader in made))
                library_saved, saved = [json.loads(line[len(SAVED):]) for line in output.splitlines() if line.startswith(SAVED)]
                self.assertEqual(saved, library_saved)
                self.assertEqual(saved["missing"], [])
                self.assertEqual(saved["parameters"], {name: ours["after"][name] for name in saved["parameters"]})
            for loader in made:
                tag = pathlib.Path(folder, f"{loader}-checkpoint", "latest").read_text(encoding="utf-8")
                states = list(pathlib.Path(folder, f"{loader}-checkpoint", tag).glob("*_states.pt"))
                self.assertEqual(len(states), 2 * size)
