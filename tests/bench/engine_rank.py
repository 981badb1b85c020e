#!/usr/bin/env python3
"""One rank of engine_bench: brings a checkpoint into a DeepSpeed engine and trains one step.

    engine_rank.py HOW CKPT [PHASE_FILE]

HOW is "library", "zerocast", or "unloaded": the model is made under zero.Init and gets no weights. Rank 0 prints the seconds of the
load as JSON; imports and the process group are outside of the clock. With PHASE_FILE the model is trained one step, and rank 0 keeps
the name of the present phase in it: "load", "initialize", "step", "end"; without it, the load is all.
"""

import json
import os
import pathlib
import sys
import time

import deepspeed
import torch
import transformers
from deepspeed.accelerator import get_accelerator

CONFIG = {"train_micro_batch_size_per_gpu": 1, "bf16": {"enabled": True}, "zero_allow_untested_optimizer": True,
          "zero_optimization": {"stage": 3}}


def loader(how):
    """The function that loads a model's class; what it needs is imported here."""
    if how == "zerocast":
        import zerocast._client  # noqa: F401
        import zerocast._embedded
        import zerocast.pretrained
        return lambda cls, ckpt: zerocast.from_pretrained(cls, ckpt, CONFIG)
    from transformers import initialization
    from transformers.integrations import HfDeepSpeedConfig
    alive = HfDeepSpeedConfig(CONFIG)  # from_pretrained looks at it as long as it lives

    def load(cls, ckpt):
        if how == "unloaded":
            with initialization.no_init_weights():
                model = cls._from_config(cls.config_class.from_pretrained(ckpt))
        else:
            model = cls.from_pretrained(ckpt)
        model.kept_alive = alive
        return model
    return load


def train(model, phase):
    phase("initialize")
    model.train()
    # Without a state of its own: that of Adam, thrice the model, is alike and would hide all else.
    engine, *_ = deepspeed.initialize(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=1e-3), config=CONFIG)
    phase("step")
    tokens = torch.arange(8, device=engine.device).reshape(1, 8)
    engine.backward(engine(input_ids=tokens, labels=tokens).loss)
    engine.step()
    phase("end")


def main():
    how, ckpt, phase_file = (*sys.argv[1:], None)[:3]
    transformers.logging.set_verbosity_error()
    deepspeed.init_distributed("nccl" if get_accelerator().device_name() == "cuda" else "gloo")
    torch.distributed.barrier()  # NCCL connects at its first use
    rank = torch.distributed.get_rank()

    def phase(name):
        torch.distributed.barrier()
        if rank == 0 and phase_file is not None:
            pathlib.Path(phase_file).write_text(name, encoding="utf-8")

    architecture = json.loads((pathlib.Path(ckpt) / "config.json").read_text(encoding="utf-8"))["architectures"][0]
    cls = getattr(transformers, architecture)
    load = loader(how)
    phase("load")
    start = time.perf_counter()
    model = load(cls, ckpt)
    torch.distributed.barrier()
    get_accelerator().synchronize()
    seconds = time.perf_counter() - start
    if phase_file is not None:
        train(model, phase)
    if rank == 0:
        print(json.dumps({"seconds": seconds}), flush=True)
    torch.distributed.barrier()
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
