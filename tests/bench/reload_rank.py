#!/usr/bin/env python3
"""One rank that loads what save_rank.py saved into an engine of this world size, and prints how long that took.

    reload_rank.py FOLDER STAGE GB universal|saved|zerocast

zerocast: by zerocast.load_checkpoint, whatever world size saved the folder; else by engine.load_checkpoint.

The model and the engine are made before the clock starts; the seconds are those of the slowest rank.
"""

import json
import os
import sys
import time

import deepspeed
import torch
from save_rank import BYTES_A_PARAMETER, model_of


def main():
    folder, stage, gigabytes, form = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
    deepspeed.init_distributed("gloo")
    config = {"train_micro_batch_size_per_gpu": 1, "bf16": {"enabled": True}, "zero_optimization": {"stage": stage},
              "checkpoint": {"load_universal": form == "universal"},
              "optimizer": {"type": "AdamW", "params": {"lr": 1e-4, "torch_adam": True}}}
    torch.manual_seed(8)
    model = model_of(gigabytes * 1e9 / BYTES_A_PARAMETER.get(stage, 14))
    engine, *_ = deepspeed.initialize(model=model, model_parameters=model.parameters(), config=config)
    load = engine.load_checkpoint
    if form == "zerocast":
        import zerocast._client  # noqa: F401
        import zerocast._embedded
        import zerocast.resume

        def load(folder):
            return zerocast.load_checkpoint(engine, folder)
    torch.distributed.barrier()
    start = time.perf_counter()
    path, _ = load(folder)
    seconds = torch.tensor(time.perf_counter() - start, dtype=torch.float64)
    if path is None or engine.global_steps != 1:
        raise RuntimeError(f"{folder} was not loaded")
    torch.distributed.all_reduce(seconds, torch.distributed.ReduceOp.MAX)
    if torch.distributed.get_rank() == 0:
        print(json.dumps({"seconds": float(seconds)}), flush=True)
    torch.distributed.barrier()
    os._exit(0)


if __name__ == "__main__":
    main()
