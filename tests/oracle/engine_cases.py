"""What zero_oracle_test and stages_oracle_test share: cases of engine_rank run by the library and by zerocast, and compared."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

import deepspeed_releases as releases
import ranks

SOURCE = pathlib.Path(os.environ["ZC_SOURCE_DIR"])
BUILD = pathlib.Path(os.environ["ZC_BUILD_DIR"])
HERE = pathlib.Path(__file__).parent
CHECKPOINTS = SOURCE / "tests/data/checkpoints"
ENVIRONMENT = ranks.environment(BUILD / "python", releases.install(BUILD / "oracle" / "deepspeed", "0.19.8"), HERE)
SECONDS = 500
MAKE = """
import sys, torch, transformers
from engine_rank import WithEmpty, WithLate
torch.manual_seed(1)
sizes = dict(vocab_size=128, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2)
made = {"llama": transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, tie_word_embeddings=True)),
        "t5": transformers.T5ForConditionalGeneration(transformers.T5Config(
            vocab_size=64, d_model=16, d_kv=4, d_ff=24, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu"))}
for name, model in made.items():
    model.to(torch.bfloat16).save_pretrained(f"{sys.argv[1]}/{name}")
# Within another, the library leaves the second name of a tied weight as it finds the memory.
transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes)).save_pretrained(f"{sys.argv[1]}/inner")
made["llama"].config.other = f"{sys.argv[1]}/inner"
made["llama"].save_pretrained(f"{sys.argv[1]}/outer")
import pathlib
# An expanded tensor is none that zerocast plans.
for name, more in {"pickled": {}, "expanded": {"other": torch.zeros(1).expand(3)}}.items():
    pickled = pathlib.Path(sys.argv[1], name)
    pickled.mkdir()
    (pickled / "config.json").write_bytes(pathlib.Path(sys.argv[1], "llama", "config.json").read_bytes())
    torch.save({**made["llama"].state_dict(), **more}, pickled / "pytorch_model.bin")
empty = WithEmpty(transformers.LlamaConfig(**sizes))
state = {name: tensor for name, tensor in empty.state_dict().items() if "missing" not in name}
empty.save_pretrained(f"{sys.argv[1]}/empty", state_dict=state)
# Whose embeddings are as large as what the swapper of NVMe takes at least, a MiB a rank.
wide = transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**sizes, "vocab_size": 40_000}))
wide.to(torch.bfloat16).save_pretrained(f"{sys.argv[1]}/wide")
late = WithLate(transformers.LlamaConfig(**sizes))
late.model.late.data[2] = 5
late.save_pretrained(f"{sys.argv[1]}/late")
"""


def config(zero, **rest):
    """A DeepSpeed config of bf16, with what is given beside it."""
    return {"train_micro_batch_size_per_gpu": 2, "bf16": {"enabled": True}, "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False, "zero_optimization": zero, **rest}


class Cases(unittest.TestCase):
    """Has `models`, a folder of small checkpoints."""

    maxDiff = 3000
    models: pathlib.Path

    @classmethod
    def setUpClass(cls):
        holder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(holder.cleanup)
        cls.models = pathlib.Path(holder.name)
        subprocess.run([sys.executable, "-c", MAKE, holder.name], check=True, env=ENVIRONMENT, timeout=SECONDS)

    def run_cases(self, how, world_size, cases):
        """{name: [what was made, by rank]}."""
        with tempfile.TemporaryDirectory() as folder:
            done = ranks.run(world_size, [HERE / "engine_rank.py", how, folder, *map(json.dumps, cases)], ENVIRONMENT,
                             SECONDS)
            for rank, (status, output) in enumerate(done):
                self.assertEqual(status, 0, f"{how}, rank {rank}: {output[-6000:]}")
            return {case["name"]: [
                json.loads(pathlib.Path(folder, f"{case['name']}.{how}.{rank}.json").read_text(encoding="utf-8"))
                for rank in range(max(world_size, 1))] for case in cases}

    def compare(self, world_size, cases, how="zerocast"):
        """Runs the cases on so many ranks (0: a process alone); returns {name: [what zerocast made, by rank]}."""
        made = {"library": self.run_cases("library", world_size, cases),
                "zerocast": self.run_cases(how, world_size, cases)}
        for case in cases:
            for rank, (ours, want) in enumerate(zip(made["zerocast"][case["name"]], made["library"][case["name"]])):
                with self.subTest(case=case["name"], rank=rank):
                    self.assertEqual(ours["parameters"].keys(), want["parameters"].keys())
                    for name, told in ours["parameters"].items():
                        self.assertEqual(told, want["parameters"][name], name)
                    self.assertEqual(ours, want)
                    if case.get("steps"):
                        self.assertEqual(len(set(ours["losses"])), case["steps"], "nothing was trained")
                        self.assertNotEqual(ours["before"], ours["after"])
        return made["zerocast"]
