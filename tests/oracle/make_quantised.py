#!/usr/bin/env python3
"""Makes quantised checkpoints and records what the library loads from them.

    python3 -m venv venv && venv/bin/pip install torch==2.15.0 transformers==5.23.0 accelerate==1.15.0
    venv/bin/python tests/oracle/make_quantised.py

tests/data/quantised/NAME: random weights as a Hugging Face folder, and expected.json in the form of
tests/data/checkpoints. `transforms` are the model's own, as of a model that is not quantised;
`quantizer_transforms` those that the library's quantizer made of them. Digests are of the parameters
after from_pretrained with dequantize=True; `dtypes` has them for each load dtype.
"""

import hashlib
import json
import pathlib
import tempfile

import torch
import transformers
from safetensors.torch import save_file
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.quantizers.auto import AutoHfQuantizer

OUT = pathlib.Path(__file__).resolve().parent.parent / "data" / "quantised"
DTYPES = ("bfloat16", "float16", "float32")


def sha256(tensor):
    return hashlib.sha256(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()).hexdigest()


def random_fp8(shape, generator):
    """Every pattern but the two NaNs."""
    bits = torch.randint(0, 254, shape, dtype=torch.uint8, generator=generator)
    return (bits + (bits >= 127).to(torch.uint8)).view(torch.float8_e4m3fn)


def plain(tensors, generator):
    return {name: torch.randn(t.shape, generator=generator).to(t.dtype) for name, t in tensors.items()}


def deepseek(scale_dtype, block):
    generator = torch.Generator().manual_seed(7)
    config = transformers.DeepseekV3Config(
        vocab_size=96, hidden_size=32, intermediate_size=48, moe_intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, n_shared_experts=1, n_routed_experts=4, kv_lora_rank=8,
        q_lora_rank=16, qk_rope_head_dim=4, v_head_dim=8, qk_nope_head_dim=8, n_group=1, topk_group=1,
        num_experts_per_tok=2, first_k_dense_replace=1, max_position_embeddings=64, dtype="bfloat16")
    with tempfile.TemporaryDirectory() as folder:
        model = transformers.DeepseekV3ForCausalLM(config).to(torch.bfloat16)
        model.save_pretrained(folder)
        tensors = transformers.modeling_utils.load_state_dict(f"{folder}/model.safetensors")
    tensors = plain({name: tensor.clone() for name, tensor in tensors.items()}, generator)
    for name in list(tensors):
        if "_proj" not in name or not name.endswith(".weight"):
            continue
        rows, cols = tensors[name].shape
        tensors[name] = random_fp8((rows, cols), generator)
        grid = (rows // block[0], cols // block[1])
        if scale_dtype == torch.uint8:
            scales = torch.randint(110, 140, grid, dtype=torch.uint8, generator=generator)
        else:
            scales = (torch.rand(grid, generator=generator) / 64).to(scale_dtype)
        tensors[name + "_scale_inv"] = scales
    quantization = {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
                    "weight_block_size": list(block)}
    if scale_dtype == torch.uint8:
        quantization.update(quant_method="mxfp8", scale_fmt="ue8m0")
    return transformers.DeepseekV3ForCausalLM, config, tensors, quantization


def gpt_oss():
    generator = torch.Generator().manual_seed(11)
    config = transformers.GptOssConfig(
        num_hidden_layers=2, num_local_experts=3, vocab_size=96, hidden_size=64, intermediate_size=32, head_dim=8,
        num_attention_heads=4, num_key_value_heads=2, sliding_window=16, max_position_embeddings=64,
        num_experts_per_tok=2, dtype="bfloat16")
    model = transformers.GptOssForCausalLM(config).to(torch.bfloat16)
    tensors = plain(model.state_dict(), generator)
    for name in list(tensors):
        if not name.endswith(("gate_up_proj", "down_proj")):
            continue
        experts, cols, rows = tensors.pop(name).shape
        shape = (experts, rows, cols // 32, 16)
        tensors[name + "_blocks"] = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        tensors[name + "_scales"] = torch.randint(100, 135, shape[:3], dtype=torch.uint8, generator=generator)
    quantization = {"modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"], "quant_method": "mxfp4"}
    return transformers.GptOssForCausalLM, config, tensors, quantization


def describe(transform):
    operations = []
    for op in getattr(transform, "operations", []):
        args = {k: v for k, v in vars(op).items() if isinstance(v, (int, str, bool, list)) or v is None}
        operations.append({"op": type(op).__name__, **args})
    described = {"class": type(transform).__name__, "source_patterns": transform.source_patterns,
                 "target_patterns": transform.target_patterns}
    if operations:
        described["operations"] = operations
    described["original"] = transform._original_source_patterns
    described["original_target"] = transform._original_target_patterns
    return described


def load(cls, folder, dtype):
    method = json.loads((folder / "config.json").read_text())["quantization_config"]["quant_method"]
    make = transformers.Mxfp4Config if method == "mxfp4" else transformers.FineGrainedFP8Config
    return cls.from_pretrained(folder, dtype=dtype, quantization_config=make(dequantize=True),
                               output_loading_info=True)


def write(name, made):
    cls, config, tensors, quantization = made
    folder = OUT / name
    folder.mkdir(parents=True, exist_ok=True)
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / "model.safetensors",
              metadata={"format": "pt"})
    config.architectures = [cls.__name__]
    text = json.loads(config.to_json_string(use_diff=False))
    text["quantization_config"] = quantization
    (folder / "config.json").write_text(json.dumps(text, indent=1, sort_keys=True) + "\n")
    with torch.device("meta"):
        bare = cls(config)
    quantizer = AutoHfQuantizer.from_config({**quantization, "dequantize": True}, pre_quantized=True)
    own = [describe(t) for t in get_model_conversion_mapping(bare, hf_quantizer=quantizer)]
    dtypes = {}
    for dtype in DTYPES:
        model, info = load(cls, folder, dtype)
        # Not those that the library keeps in float32 whatever is asked for: ZeRO-3 does not.
        dtypes[dtype] = {key: sha256(value) for key, value in model.named_parameters()
                         if value.dtype == getattr(torch, dtype)}
        if dtype != "bfloat16":
            continue
        info = {key: sorted(map(str, value)) for key, value in info.items()}
        params = [{"name": key, "shape": list(value.shape), "dtype": str(value.dtype)[6:],
                   "sha256": sha256(value)} for key, value in model.named_parameters()]
        persistent = set(model.state_dict())
        buffers = [{"name": key, "shape": list(value.shape), "dtype": str(value.dtype)[6:],
                    "sha256": sha256(value)} for key, value in model.named_buffers() if key in persistent]
    expected = {
        "model_type": config.model_type, "architecture": cls.__name__,
        "base_model_prefix": cls.base_model_prefix, "tied": {},
        "transforms": [describe(t) for t in get_model_conversion_mapping(bare)], "quantizer_transforms": own,
        "params": params, "buffers": buffers, "dtypes": dtypes, "loading_info": info}
    (folder / "expected.json").write_text(json.dumps(expected, indent=1, default=sorted) + "\n")
    print(name, len(params), "parameters;", info)


def main():
    write("deepseek_v3-fp8", deepseek(torch.float32, (4, 8)))
    write("deepseek_v3-mxfp8", deepseek(torch.uint8, (1, 8)))
    write("gpt_oss-mxfp4", gpt_oss())


if __name__ == "__main__":
    main()
