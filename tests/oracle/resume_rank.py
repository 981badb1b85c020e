"""One rank of resume_oracle_test: runs jobs, one after the other, each with an engine of its own.

    resume_rank.py JOBS

JOBS is a JSON file, a list of {case, groups, config, seed, ...} with either {save}, which trains 3 steps and saves that
folder, or {how, load, keywords, steps, groups_of, out}: loads the folder by `how`, engine.load_checkpoint ("engine"),
zerocast.load_checkpoint ("zerocast") or zerocast.deepspeed_load_checkpoint ("integration"), after `before` steps of training, trains `steps` steps, and rank 0
writes to `out` what each rank has to tell of it. `dies`: the rank that ends before it loads; the others end after it.
"""

import json
import os
import pathlib
import sys

import deepspeed
import reshard_rank
import torch
from reshard_rank import STEPS_BEFORE, digest, groups_of, saved_groups, state_of, train
from torch import nn

import zerocast

DIED = 9  # exit status of a rank that is to die before it loads


def engine_of(job):
    """An engine of a new model, made from the job's seed; `extra`: the model has a parameter more; `frozen`: one of them is; `wider`:
    one has that many rows; `reversed`: each of the optimizer's groups is."""
    torch.manual_seed(job["seed"])
    model = reshard_rank.Small()
    if job.get("extra"):
        model.extra = nn.Parameter(torch.ones(3, 2))
    if job.get("frozen"):
        model.get_parameter(job["frozen"]).requires_grad_(False)
    if job.get("wider"):
        model.out = nn.Linear(7, job["wider"], bias=False)
    groups = groups_of(model, job["groups"])
    if job.get("reversed"):
        groups = [{**group, "params": group["params"][::-1]} for group in groups]
    engine, *_ = deepspeed.initialize(model=model, model_parameters=groups, config=job["config"])
    return engine


def plain(value):
    """A value of Python objects as JSON can say it, tensors as their digests."""
    if isinstance(value, torch.Tensor):
        return f"{value.dtype} {list(value.shape)} {digest(value)}"
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in sorted(value.items(), key=lambda item: str(item[0]))}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    return value if isinstance(value, (bool, int, float, str, type(None))) else str(value)


def own_parts(engine):
    """Digests of what this rank has of masters and moments, padding apart; the steps."""
    zero, told = engine.optimizer, {}
    if engine.zero_optimization_stage() == 3:
        for number, (group, flat) in enumerate(zip(zero.fp16_groups, zero.fp32_partitioned_groups_flat, strict=True)):
            state, at = zero.optimizer.state[flat], 0
            for param in group:
                size, name = param.partition_numel(), engine.param_names[param]
                own = max(0, min(size, param.ds_numel - engine.global_rank * size))
                for key, tensor in [("fp32", flat), *state.items()]:
                    if getattr(tensor, "ndim", 0):
                        told[f"{name} {key}"] = digest(tensor[at:at + own])
                told[f"{name} bit16"] = digest(param.ds_tensor[:own])
                at += size
            told[f"{number} step"] = plain(state.get("step"))
    elif engine.zero_optimization_stage() in (1, 2):
        for number, flat in enumerate(zero.single_partition_of_fp32_groups):
            padding = zero.groups_padding[number]
            for key, tensor in [("fp32", flat), *zero.optimizer.state[flat].items()]:
                told[f"{number} {key}"] = digest(tensor[:tensor.numel() - padding]) if getattr(tensor, "ndim", 0) else plain(tensor)
            told[f"{number} bit16"] = digest(zero.bit16_groups_flat[number])
    else:
        told = {name: digest(param) for name, param in engine.module.named_parameters()}
    return told


def load(engine, job):
    """What the job's way of loading returns."""
    if isinstance(job["load"], list):
        job = {**job, "load": job["load"][engine.global_rank]}
    if job["how"] == "engine":
        return engine.load_checkpoint(job["load"], **job.get("keywords", {}))
    if job["how"] == "integration":
        return zerocast.deepspeed_load_checkpoint(engine, job["load"], **job.get("keywords", {})), {}
    return zerocast.load_checkpoint(engine, job["load"], **{"timeout": 60.0, **job.get("keywords", {})})


def resume(job):
    """Loads, trains on, and tells what came of it."""
    engine = engine_of(job)
    train(engine, 100, job.get("before", 0))
    before = own_parts(engine)
    if job.get("dies") == engine.global_rank:
        os._exit(DIED)
    try:
        path, client = load(engine, job)
    except Exception as error:  # noqa: BLE001
        told = {"error": type(error).__name__, "kinds": [kind.__name__ for kind in type(error).__mro__], "text": str(error),
                "untouched": own_parts(engine) == before}
    else:
        if job.get("groups_of"):
            # As in reshard_rank: what DeepSpeed's universal way gets wrong at stage 3.
            for group, saved in zip(engine.optimizer.optimizer.param_groups, saved_groups(job["groups_of"]), strict=True):
                group.update(saved)
            for state in engine.optimizer.optimizer.state.values():
                state["step"] = state["step"].clone()
        base = getattr(engine.optimizer, "optimizer", engine.optimizer)
        told = {"path": path and str(pathlib.Path(path).name), "client": plain(client), "steps": engine.global_steps,
                "skipped": engine.skipped_steps, "samples": engine.global_samples, "untouched": own_parts(engine) == before,
                "groups": [plain({key: value for key, value in group.items() if key != "params"}) for group in base.param_groups],
                "scale": float(getattr(engine.optimizer, "loss_scale", 1.0)),
                "scaler": plain(vars(engine.optimizer.loss_scaler)) if hasattr(engine.optimizer, "loss_scaler") else None,
                "schedule": plain(engine.lr_scheduler.state_dict()), "own": own_parts(engine),
                "loaded": state_of(engine, moments=False) if engine.zero_optimization() else None}
        if job.get("steps"):
            told["losses"] = train(engine, STEPS_BEFORE, job["steps"])
            told["trained"] = own_parts(engine)
    if "dies" in job:
        pathlib.Path(job["out"]).write_text(json.dumps([told]), encoding="utf-8")
        os._exit(0)
    everyone = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(everyone, told)
    if torch.distributed.get_rank() == 0:
        pathlib.Path(job["out"]).write_text(json.dumps(everyone), encoding="utf-8")
    engine.destroy()


class Note:
    """Something that no pickle of plain values has."""

    def __init__(self, text):
        self.text = text


def main():
    """All jobs."""
    type(deepspeed.accelerator.get_accelerator()).is_fp16_supported = lambda _: True  # as in reshard_rank
    deepspeed.init_distributed("gloo")
    for job in json.loads(pathlib.Path(sys.argv[1]).read_text(encoding="utf-8")):
        if "save" in job:
            engine = engine_of(job)
            train(engine, 0, STEPS_BEFORE)
            client = {"told": {"epoch": 7, "name": job["case"], "tensor": torch.arange(3)}}
            if job.get("note"):
                client["note"] = Note("x")
            engine.save_checkpoint(job["save"], client_state=client)
            engine.destroy()
        else:
            resume(job)
        torch.distributed.barrier()


if __name__ == "__main__":
    main()
