"""Each keyword of the library's from_pretrained that zerocast.from_pretrained takes does under ZeRO-3 what it does in the library.

Wants ZC_SOURCE_DIR and ZC_BUILD_DIR (its python folder has the package).
"""

import pathlib
import sys
import tempfile
import unittest

import ranks
from engine_cases import ENVIRONMENT, SECONDS, Cases, config

FULL = config({"stage": 3})
MAKE = """
import json, pathlib, sys
import safetensors.torch, torch, transformers
folder = pathlib.Path(sys.argv[1])
torch.manual_seed(2)
sizes = dict(vocab_size=128, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes)).to(torch.bfloat16)
model.save_pretrained(folder / "plain")
model.save_pretrained(folder / "above" / "within")

renamed = folder / "renamed"
model.config.save_pretrained(renamed)
state = {name.replace("model.", "language.", 1): tensor for name, tensor in model.state_dict().items()}
safetensors.torch.save_file(state, renamed / "model.safetensors", {"format": "pt"})

remote = folder / "remote"
model.save_pretrained(remote)
(remote / "configuration_own.py").write_text('''
from transformers import LlamaConfig


class OwnConfig(LlamaConfig):
    model_type = "own_llama"
''')
(remote / "modeling_own.py").write_text('''
import torch
from transformers import LlamaForCausalLM

from .configuration_own import OwnConfig


class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig

    def __init__(self, config):
        super().__init__(config)
        self.own_scale = torch.nn.Parameter(torch.full((3, 5), 2.5))
''')
made = json.loads((remote / "config.json").read_text())
made.update(model_type="own_llama", architectures=["OwnForCausalLM"],
            auto_map={"AutoConfig": "configuration_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnForCausalLM"})
(remote / "config.json").write_text(json.dumps(made))
"""


class Keywords(Cases):

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        holder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(holder.cleanup)
        cls.own = pathlib.Path(holder.name)
        status, output = ranks.launch([sys.executable, "-c", MAKE, holder.name], ENVIRONMENT, SECONDS)
        if status != 0:
            raise RuntimeError(f"make checkpoints: {status}\n{output}")
        # Where the library puts a checkpoint's code.
        ENVIRONMENT["HF_MODULES_CACHE"] = f"{holder.name}/modules"

    def test_each(self):
        plain = str(self.own / "plain")
        made = self.compare(2, [
            {"name": "key_mapping", "checkpoint": str(self.own / "renamed"), "config": FULL,
             "keywords": {"key_mapping": {"^language": "model"}}},
            {"name": "subfolder", "checkpoint": str(self.own / "above"), "config": FULL, "keywords": {"subfolder": "within"}},
            {"name": "eager", "checkpoint": plain, "config": FULL, "keywords": {"attn_implementation": "eager"}},
            {"name": "sdpa", "checkpoint": plain, "config": FULL, "keywords": {"attn_implementation": "sdpa"}},
            {"name": "config", "checkpoint": plain, "config": FULL, "kind": "config", "change": {"num_hidden_layers": 1}},
            {"name": "remote", "checkpoint": str(self.own / "remote"), "config": FULL, "keywords": {"trust_remote_code": True},
             "steps": 3},
            {"name": "dtype", "checkpoint": plain, "config": FULL, "keywords": {"dtype": "float32"}},
            {"name": "whole", "checkpoint": str(self.own / "renamed"), "config": config({"stage": 2}),
             "keywords": {"key_mapping": {"^language": "model"}, "attn_implementation": "eager"}},
        ])
        # That the cases are what their names say.
        self.assertEqual(made["key_mapping"][0]["before"], made["subfolder"][0]["before"])
        self.assertEqual([made[name][0]["attention"] for name in ("eager", "sdpa")], ["eager", "sdpa"])
        self.assertFalse([name for name in made["config"][0]["before"] if "layers.1." in name])
        self.assertEqual(made["remote"][0]["class"], "OwnForCausalLM")
        self.assertIn("own_scale", made["remote"][0]["before"])


if __name__ == "__main__":
    unittest.main()
