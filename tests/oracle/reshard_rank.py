"""One rank of reshard_oracle_test: runs jobs, one after the other, each with an engine of its own.

    reshard_rank.py JOBS

JOBS is a JSON file, a list of {case, groups, config, seed, save} or {case, groups, config, seed, load, groups_of, out}: trains
3 steps and saves the folder `save`; or loads the folder `load` by engine.load_checkpoint, trains 2 steps, and rank 0 writes to
`out` the losses of all ranks, what was loaded, and digests of parameters, masters and moments at the end.
"""

import hashlib
import json
import pathlib
import sys

import deepspeed
import torch
from torch import nn

STEPS_BEFORE, STEPS_AFTER = 3, 2
LEARNING_RATES = (1e-3, 4e-3)  # by group


class Small(nn.Module):
    """Odd sizes; a tied embedding, frozen matrices, buffers, one that is not saved, a scalar."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(13, 6)
        self.into = nn.Linear(6, 7)
        self.frozen = nn.Linear(7, 7, bias=False)
        self.norm = nn.LayerNorm(7)
        self.out = nn.Linear(7, 6, bias=False)
        self.scale = nn.Parameter(torch.ones(1))
        self.head = nn.Linear(6, 13, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("shift", torch.arange(7.0) / 5)
        self.register_buffer("count", torch.tensor([3, 1, 4]))
        self.register_buffer("temporary", torch.ones(2), persistent=False)
        self.frozen.weight.requires_grad_(False)

    def forward(self, tokens, labels):
        hidden = torch.tanh(self.frozen(self.into(self.embed(tokens)))) + self.shift.to(self.scale.dtype)
        logits = self.head(self.out(self.norm(hidden) * self.scale))
        return nn.functional.cross_entropy(logits.float().view(-1, 13), labels.view(-1))


def groups_of(model, count):
    """Parameters by their dimensions, with learning rates of their own; frozen ones among them, as many scripts have it."""
    parts = [[] for _ in range(count)]
    for param in model.parameters():
        parts[0 if param.dim() < 2 else -1].append(param)
    return [{"params": part, "lr": lr, "weight_decay": 0.01 * number}
            for number, (part, lr) in enumerate(zip(parts, LEARNING_RATES, strict=False))]


def engine_of(job):
    """An engine of a new model, made from the job's seed."""
    torch.manual_seed(job["seed"])
    model = Small()
    engine, *_ = deepspeed.initialize(model=model, model_parameters=groups_of(model, job["groups"]), config=job["config"])
    return engine


def train(engine, first, count):
    """The losses of this rank."""
    losses = []
    for step in range(first, first + count):
        generator = torch.Generator().manual_seed(1000 * step + torch.distributed.get_rank())
        tokens = torch.randint(0, 13, (2, 5), generator=generator)
        loss = engine(tokens, tokens.flip(1))
        engine.backward(loss)
        engine.step()
        losses.append(float(loss.detach()).hex())
    return losses


def digest(tensor):
    """Of a tensor's bytes."""
    return hashlib.sha256(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()).hexdigest()


def state_of(engine, moments):
    """Digests of the model and its masters, and of the moments, which engines of stages 1 and 2 show after a step."""
    states = {}
    for name, param in engine.module.named_parameters():
        if param.requires_grad:
            for key in (None, "exp_avg", "exp_avg_sq") if moments else (None,):
                whole = deepspeed.utils.safe_get_full_fp32_param(param) if key is None \
                    else deepspeed.utils.safe_get_full_optimizer_state(param, key)
                states[f"{name} {key}"] = digest(whole)
        else:
            with deepspeed.zero.GatheredParameters([param], enabled=hasattr(param, "ds_id")):
                states[name] = digest(param.data)
    states |= {name: digest(buffer) for name, buffer in engine.module.named_buffers()}
    return states


def saved_groups(folder):
    """The hyper-parameters of each group as rank 0 saved them."""
    tag = pathlib.Path(folder, (pathlib.Path(folder) / "latest").read_text(encoding="utf-8").strip())
    saved = torch.load(next(tag.glob("*zero_pp_rank_0_mp_rank_00_optim_states.pt")), weights_only=False)["optimizer_state_dict"]
    base = saved.get("base_optimizer_state") or saved["optimizer_state_dict"]
    return [{key: value for key, value in group.items() if key != "params"} for group in base["param_groups"]]


def resume(job):
    """Loads, trains on, and tells what came of it."""
    engine = engine_of(job)
    path, client = engine.load_checkpoint(job["load"])
    if path is None:
        raise RuntimeError(f"{job['load']} was not loaded")
    if job["groups_of"] is not None:
        # From a universal checkpoint stage 3 gives every group the hyper-parameters of the first, and every sub-group the same
        # tensor as its step, so that it counts several steps at once.
        for group, saved in zip(engine.optimizer.optimizer.param_groups, saved_groups(job["groups_of"]), strict=True):
            group.update(saved)
        for state in engine.optimizer.optimizer.state.values():
            state["step"] = state["step"].clone()
    told = {"client": client["told"], "steps": engine.global_steps, "skipped": engine.skipped_steps,
            "rates": [group["lr"] for group in engine.optimizer.param_groups],
            "loaded": state_of(engine, moments=False), "losses": train(engine, STEPS_BEFORE, STEPS_AFTER),
            "trained": state_of(engine, moments=True),
            "scale": float(engine.optimizer.loss_scale), "schedule": engine.lr_scheduler.state_dict()}
    everyone = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(everyone, told)
    if torch.distributed.get_rank() == 0:
        pathlib.Path(job["out"]).write_text(json.dumps(everyone), encoding="utf-8")
    engine.destroy()


def main():
    """All jobs."""
    # fp16 is slow on a CPU, but works: DeepSpeed refuses it where there are no instructions of its own.
    type(deepspeed.accelerator.get_accelerator()).is_fp16_supported = lambda _: True
    deepspeed.init_distributed("gloo")
    for job in json.loads(pathlib.Path(sys.argv[1]).read_text(encoding="utf-8")):
        if "save" in job:
            engine = engine_of(job)
            train(engine, 0, STEPS_BEFORE)
            engine.save_checkpoint(job["save"], client_state={"told": {"epoch": 7, "name": job["case"]}})
            engine.destroy()
        else:
            resume(job)
        torch.distributed.barrier()


if __name__ == "__main__":
    main()
