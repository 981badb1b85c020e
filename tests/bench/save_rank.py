#!/usr/bin/env python3
"""One rank that makes a DeepSpeed checkpoint: a Llama-shaped model trained one step with AdamW, and saved.

    save_rank.py FOLDER STAGE GB

GB is the size of the checkpoint: 12 bytes of masters and moments a parameter, and below stage 3 two more.
"""

import os
import sys

import deepspeed
import torch
import transformers

BYTES_A_PARAMETER = {3: 12}
VOCABULARY = 8192


def model_of(num_parameters):
    """A model of about so many parameters."""
    hidden = 1024
    shape = {"hidden_size": hidden, "intermediate_size": 2816, "num_attention_heads": 16, "num_key_value_heads": 16,
             "vocab_size": VOCABULARY, "max_position_embeddings": 128}
    layer = 4 * hidden ** 2 + 3 * hidden * shape["intermediate_size"] + 2 * hidden
    layers = max(1, round((num_parameters - 2 * VOCABULARY * hidden) / layer))
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(num_hidden_layers=layers, **shape))


def main():
    folder, stage, gigabytes = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    deepspeed.init_distributed("gloo")
    config = {"train_micro_batch_size_per_gpu": 1, "bf16": {"enabled": True}, "zero_optimization": {"stage": stage},
              "optimizer": {"type": "AdamW", "params": {"lr": 1e-4, "torch_adam": True}}}
    torch.manual_seed(7)
    model = model_of(gigabytes * 1e9 / BYTES_A_PARAMETER.get(stage, 14))
    engine, *_ = deepspeed.initialize(model=model, model_parameters=model.parameters(), config=config)
    tokens = torch.arange(16).reshape(1, 16) + 16 * torch.distributed.get_rank()
    engine.backward(engine(input_ids=tokens, labels=tokens).loss)
    engine.step()
    engine.save_checkpoint(folder)
    if torch.distributed.get_rank() == 0:
        model.config.save_pretrained(folder)
    torch.distributed.barrier()
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
