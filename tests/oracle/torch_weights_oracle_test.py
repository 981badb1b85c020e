"""Models that torch.save wrote, loaded by zerocast and by the library: equal, bit for bit.

One process, no DeepSpeed. Wants ZC_BUILD_DIR (its python folder has the package).
"""

import json
import os
import pathlib
import sys
import tempfile
import unittest

import torch
import transformers
from transformers import modeling_utils

sys.path.insert(0, str(pathlib.Path(os.environ["ZC_BUILD_DIR"]) / "python"))
import zerocast  # noqa: E402
from pretrained_rank import digest  # noqa: E402

SIZES = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2}
MODELS = {
    "tied": (transformers.LlamaForCausalLM, transformers.LlamaConfig(**SIZES, tie_word_embeddings=True)),
    "experts": (transformers.MixtralForCausalLM, transformers.MixtralConfig(**SIZES, num_local_experts=4)),
    "thrice_tied": (transformers.T5ForConditionalGeneration, transformers.T5Config(
        vocab_size=64, d_model=16, d_kv=4, d_ff=24, num_layers=2, num_heads=4)),
    "buffers": (transformers.GPT2LMHeadModel, transformers.GPT2Config(vocab_size=64, n_embd=16, n_layer=2, n_head=4)),
}


def everything(model):
    return {name: digest(tensor.data) for name, tensor in [*model.named_parameters(), *model.named_buffers()]}


def as_it_is(state):
    return state


def parameters(state):
    return {name: torch.nn.Parameter(tensor, requires_grad=tensor.is_floating_point()) for name, tensor in state.items()}


def transposed(state):
    """Every matrix in column order."""
    return {name: tensor.t().contiguous().t() if tensor.dim() == 2 else tensor for name, tensor in state.items()}


def columns(state):
    """Every tensor a part of a wider one, with more rows before and after it."""
    views = {}
    for name, tensor in state.items():
        wide = torch.full([size + 3 for size in tensor.shape], 7, dtype=tensor.dtype)
        view = wide[tuple(slice(1, 1 + size) for size in tensor.shape)]
        views[name] = view.copy_(tensor)
    return views


def one_storage(state):
    """All tensors of one dtype views of one vector."""
    views = {}
    for dtype in {tensor.dtype for tensor in state.values()}:
        names = [name for name, tensor in state.items() if tensor.dtype == dtype]
        flat = torch.cat([state[name].reshape(-1) for name in names])
        for name, part in zip(names, flat.split([state[name].numel() for name in names])):
            views[name] = part.view(state[name].shape)
    return views


FORMS = (as_it_is, parameters, transposed, columns, one_storage)


class TorchWeights(unittest.TestCase):
    def setUp(self):
        holder = tempfile.TemporaryDirectory()
        self.addCleanup(holder.cleanup)
        self.folder = pathlib.Path(holder.name)
        transformers.logging.set_verbosity_error()

    def compare(self, cls, folder, **keywords):
        library = cls.from_pretrained(folder, **keywords)
        ours, info = zerocast.from_pretrained(cls, folder, output_loading_info=True, **keywords)
        self.assertEqual(everything(ours), everything(library))
        self.assertEqual({**info, "error_msgs": []}, cls.from_pretrained(folder, output_loading_info=True, **keywords)[1])
        return len(everything(ours))

    def test_every_form_of_every_model(self):
        compared = 0
        for number, (name, (cls, config)) in enumerate(MODELS.items()):
            torch.manual_seed(number)
            state = cls(config).to(torch.bfloat16 if number % 2 else torch.float32).state_dict()
            for form in FORMS:
                for is_zip in (True, False):
                    folder = self.folder / f"{name}_{form.__name__}_{is_zip}"
                    config.save_pretrained(folder)
                    torch.save(form(state), folder / "pytorch_model.bin", _use_new_zipfile_serialization=is_zip)
                    with self.subTest(folder=folder.name):
                        compared += self.compare(cls, folder)
        print(f"{compared} parameters and buffers equal")
        self.assertGreater(compared, 500)

    def test_shards_and_a_variant(self):
        cls, config = MODELS["experts"]
        state = cls(config).state_dict()
        config.save_pretrained(self.folder)
        weight_map = {}
        for index in range(3):
            part = dict(list(state.items())[index::3])
            file = f"pytorch_model.fp16-{index + 1:05d}-of-00003.bin"
            torch.save(part, self.folder / file)
            weight_map.update(dict.fromkeys(part, file))
        index = modeling_utils._add_variant("pytorch_model.bin.index.json", "fp16")
        (self.folder / index).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
        self.compare(cls, self.folder, variant="fp16")
        torch.save(cls(config).state_dict(), self.folder / "pytorch_model.bin")
        self.compare(cls, self.folder)
        self.compare(cls, self.folder, variant="fp16")

    def test_names_of_one_weight_that_the_model_does_not_tie(self):
        cls, config = MODELS["experts"]
        state = cls(config).state_dict()
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
        config.save_pretrained(self.folder)
        torch.save(state, self.folder / "pytorch_model.bin")
        self.compare(cls, self.folder)
        model = zerocast.from_pretrained(cls, self.folder)
        self.assertTrue(torch.equal(model.lm_head.weight, model.model.embed_tokens.weight))
        self.assertIsNot(model.lm_head.weight, model.model.embed_tokens.weight)


if __name__ == "__main__":
    unittest.main()
