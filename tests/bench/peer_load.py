#!/usr/bin/env python3
"""Loads a checkpoint once, as one of the peers does, and prints the seconds as JSON.

    peer_load.py METHOD CKPT

METHOD is safetensors, fastsafetensors, runai or zero3 (a rank that torch.distributed.run started). Imports, and of
zero3 also the process group, are outside of the clock; whatever else the load needs is inside. Every tensor is kept.
"""

import gc
import json
import os
import pathlib
import sys
import time


def files_of(ckpt):
    return [str(path) for path in sorted(pathlib.Path(ckpt).glob("*.safetensors"))]


def load_safetensors(ckpt):
    """load_file maps the file; a clone is what brings the bytes into memory of the process's own."""
    import torch  # noqa: F401
    from safetensors.torch import load_file

    def load():
        kept = {}
        for path in files_of(ckpt):
            kept.update({name: tensor.clone() for name, tensor in load_file(path).items()})
        return kept
    return load


def load_fastsafetensors(ckpt):
    from fastsafetensors import SafeTensorsFileLoader, SingleGroup

    def load():
        loader = SafeTensorsFileLoader(SingleGroup(), "cpu", nogds=True)
        loader.add_filenames({0: files_of(ckpt)})
        buffers = loader.copy_files_to_device()
        kept = {name: buffers.get_tensor(name) for name in loader.get_keys()}
        kept[""] = buffers  # owns their memory
        return kept
    return load


def load_runai(ckpt):
    from runai_model_streamer import SafetensorsStreamer

    def load():
        with SafetensorsStreamer() as streamer:
            # owned, the default: each tensor is the caller's, no copy is needed to keep it.
            streamer.stream_files(files_of(ckpt))
            return dict(streamer.get_tensors())
    return load


def load_zero3(ckpt):
    """from_pretrained as a Trainer with a ZeRO-3 config runs it."""
    import importlib

    import deepspeed
    import torch
    import transformers
    from transformers.integrations import HfDeepSpeedConfig
    deepspeed.init_distributed("gloo")
    architecture = json.loads((pathlib.Path(ckpt) / "config.json").read_text(encoding="utf-8"))["architectures"][0]
    model_class = getattr(transformers, architecture)
    importlib.import_module(model_class.__module__)
    config = {"train_micro_batch_size_per_gpu": 1, "bf16": {"enabled": True}, "zero_optimization": {"stage": 3}}

    def load():
        state = HfDeepSpeedConfig(config)  # from_pretrained looks at it as long as it lives
        torch.distributed.barrier()
        start = time.perf_counter()
        model = model_class.from_pretrained(ckpt, dtype=torch.bfloat16)
        torch.distributed.barrier()
        seconds = time.perf_counter() - start
        assert all(hasattr(parameter, "ds_tensor") for parameter in model.parameters()), "not partitioned"
        del state
        return seconds
    return load


def main():
    method, ckpt = sys.argv[1:]
    load = globals()[f"load_{method}"](ckpt)
    gc.collect()
    start = time.perf_counter()
    made = load()
    seconds = made if method == "zero3" else time.perf_counter() - start
    if os.environ.get("RANK", "0") == "0":
        count = None if method == "zero3" else sum(name != "" for name in made)
        print(json.dumps({"seconds": seconds, "tensors": count}), flush=True)


if __name__ == "__main__":
    main()
