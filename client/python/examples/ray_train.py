"""The same by Ray Train: python ray_train.py MODEL CONFIG [--workers N] [--steps N]."""

import argparse
import os
from typing import Any, Dict

import ray.train
import torch
from ray.train.torch import TorchTrainer
from train import train


def report(step: int, loss: float) -> None:
    """Tells Ray, and whoever reads the output."""
    print(f"rank {ray.train.get_context().get_world_rank()}, step {step}: loss {loss:.6f}", flush=True)
    ray.train.report({"step": step, "loss": loss})


def work(settings: Dict[str, Any]) -> None:
    """What every worker runs; Ray has opened torch.distributed."""
    train(settings["model"], settings["config"], settings["steps"], report)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=os.path.abspath)
    parser.add_argument("config", type=os.path.abspath)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--steps", type=int, default=10)
    arguments = parser.parse_args()
    scaling = ray.train.ScalingConfig(num_workers=arguments.workers, use_gpu=torch.cuda.is_available())
    TorchTrainer(work, train_loop_config=vars(arguments), scaling_config=scaling).fit()


if __name__ == "__main__":
    main()
