"""Trains a causal language model under DeepSpeed: a real script has data where this one has random tokens.

    LAUNCHER train.py MODEL CONFIG [--steps N]

MODEL is a folder that all nodes see, CONFIG a DeepSpeed config such as zero3.json.
"""

import argparse
from typing import Callable

import deepspeed
import torch
from transformers import AutoModelForCausalLM

import zerocast


def train(model: str, config: str, steps: int, report: Callable[[int, float], None]) -> None:
    """What every rank runs; report(step, loss) is called after each step."""
    deepspeed.init_distributed()
    engine, *_ = deepspeed.initialize(
        model=zerocast.from_pretrained(AutoModelForCausalLM, model, config), config=config)
    engine.train()
    torch.manual_seed(engine.global_rank)
    for step in range(steps):
        tokens = torch.randint(engine.module.config.vocab_size, (1, 16), device=engine.device)
        loss = engine(input_ids=tokens, labels=tokens).loss
        engine.backward(loss)
        engine.step()
        report(step, loss.item())
    engine.destroy()


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("config")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--local_rank", help=argparse.SUPPRESS)  # DeepSpeed's launcher gives it
    arguments = parser.parse_args()

    def report(step: int, loss: float) -> None:
        print(f"rank {torch.distributed.get_rank()}, step {step}: loss {loss:.6f}", flush=True)

    train(arguments.model, arguments.config, arguments.steps, report)


if __name__ == "__main__":
    main()
