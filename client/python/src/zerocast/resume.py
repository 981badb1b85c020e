"""load_checkpoint: a folder that DeepSpeed's engine saved into an engine that is there, of any world size.

RESUME.md, beside this package's sources, says how.
"""

from __future__ import annotations

import glob
import os
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Optional, Set, Tuple

from zerocast import _engine, _fill, _run_load, _saved, _zero3, pretrained
from zerocast._agreement import Ranks, open_ranks
from zerocast._errors import LoadError, ResumeError
from zerocast._progress import logger
from zerocast.attach import Partition, Shard
from zerocast.pretrained import DEFAULT_LOAD_TIMEOUT, DEFAULT_TIMEOUT

_MOST_NAMED = 6


@dataclass(frozen=True)
class _Call:
    """What load_checkpoint was asked for."""

    load_dir: str
    tag: Optional[str]
    strict: bool
    optimizer: bool  # its states, too
    lr_scheduler: bool
    module_only: bool
    server: Optional[str]
    weights_only: bool
    mode: str
    timeout: float
    load_timeout: float


def load_checkpoint(engine: Any, load_dir: Any, tag: Optional[str] = None, load_module_strict: bool = True,
                    load_optimizer_states: bool = True, load_lr_scheduler_states: bool = True,
                    load_module_only: bool = False, custom_load_fn: Optional[Callable[..., Any]] = None, *,
                    server: Optional[str] = None, weights_only: bool = True, mode: str = "auto",
                    timeout: float = DEFAULT_TIMEOUT, load_timeout: float = DEFAULT_LOAD_TIMEOUT,
                    ) -> Tuple[Optional[str], Optional[Dict[str, Any]]]:
    """What engine.load_checkpoint(load_dir, ...) does, whatever number of ranks and ZeRO stage saved the folder, and of
    universal folders, too. Every rank calls it.

    Args:
        engine: a deepspeed.DeepSpeedEngine of ZeRO stage 0 to 3, its states on the device or offloaded to the CPU.
        load_dir: the folder that engine.save_checkpoint was given; under this path on every node.
        tag, load_module_strict, load_optimizer_states, load_lr_scheduler_states, load_module_only: as there.
        custom_load_fn: refused.
        server, mode, timeout, load_timeout: as in zerocast.from_pretrained.
        weights_only: client state, schedulers and counters are read as plain values; False: as DeepSpeed does, by
            running what the folder's pickles tell to.

    Returns:
        (path of the model states, the client's state), or (None, None), with a warning, where no tag is given and the
        folder names none as its latest.

    Raises:
        TypeError: engine or load_dir are none.
        LoadError: the same on every rank; before anything is written, unless it says what DeepSpeed said.
    """
    import deepspeed
    ranks = pretrained._open_ranks(mode, timeout, load_timeout, [
        (isinstance(engine, deepspeed.DeepSpeedEngine), f"engine is a {type(engine).__name__}; give what "
         "deepspeed.initialize returns first"),
        (isinstance(load_dir, (str, os.PathLike)), f"load_dir is {load_dir!r}; give the path of a folder")])
    with ranks.step("load_checkpoint"):
        if custom_load_fn is not None:
            raise LoadError("UNIMPLEMENTED", "custom_load_fn is given, which wants the whole state dict on every rank; "
                            "use engine.load_checkpoint", "UNSUPPORTED")
        call = _Call(os.path.abspath(os.fspath(load_dir)), tag, load_module_strict,
                     load_optimizer_states and not load_module_only,
                     load_lr_scheduler_states and not load_module_only, load_module_only,
                     server or os.environ.get("ZEROCAST_SERVER") or None, weights_only, mode, timeout, load_timeout)
        return _load_checkpoint(ranks, engine, call, load_optimizer_states, load_lr_scheduler_states)


def _load_checkpoint(ranks: Ranks, engine: Any, call: _Call, skips_optimizer: bool,
                     skips_lr_scheduler: bool) -> Tuple[Optional[str], Optional[Dict[str, Any]]]:
    _engine.refuse_what_cannot_be(engine)
    if engine.seq_dp_world_size != ranks.world_size:
        raise LoadError("UNIMPLEMENTED", f"the engine partitions over {engine.seq_dp_world_size} ranks of "
                        f"{ranks.world_size}; use engine.load_checkpoint", "UNSUPPORTED")
    tag = _saved.find_tag(call.load_dir, call.tag, engine.load_universal_checkpoint())
    ranks.alike("begin", {"the call": "load_checkpoint", "load_dir": call.load_dir, "the tag": tag,
                          "the ZeRO stage": int(engine.zero_optimization_stage()), "strict": call.strict,
                          "optimizer": call.optimizer, "lr_scheduler": call.lr_scheduler,
                          "module_only": call.module_only, "server": call.server})
    if tag is None:
        if ranks.rank == 0:
            logger.warning("there is no file latest in %s: give the tag, or a folder that engine.save_checkpoint was "
                           "given", call.load_dir)
        return None, None
    optimizer = _engine.optimizer_of(engine) if call.optimizer else None
    saved = _saved.read(call.load_dir, tag, ranks.rank, ranks.world_size, optimizer is not None, call.weights_only)
    if optimizer is not None and saved.optimizer is None:
        raise _saved.failed("UNIMPLEMENTED", call.load_dir, f"{saved.path} was saved without ZeRO, or without an "
                            "optimizer; use engine.load_checkpoint, which loads such into an engine without ZeRO at "
                            "any world size, or load_optimizer_states=False", "UNSUPPORTED")
    if call.lr_scheduler and engine.lr_scheduler is not None and saved.model_states.get("lr_scheduler") is None:
        raise LoadError("FAILED_PRECONDITION", f"{saved.path} was saved without an lr scheduler; load it with "
                        "load_lr_scheduler_states=False", "WEIGHTS_INCOMPLETE")
    shard = _run_load.run(ranks, _wanted(engine, call, tag, optimizer), call.timeout).shard
    names = _check_module(engine.module, shard, call)
    states = shard.take_states()
    if optimizer is not None and saved.optimizer is not None:
        optimizer.check(states, saved.optimizer, names)
    ranks.exchange("ready", None)  # from here on the engine is written to

    if engine._optimizer_has_ckpt_event_prologue():
        engine.optimizer.checkpoint_event_prologue()
    _fill_module(engine, shard, _trained(optimizer))
    del shard  # its memory goes
    if optimizer is not None and saved.optimizer is not None:
        optimizer.take(states, saved.optimizer, names)
    elif hasattr(engine.optimizer, "refresh_fp32_params"):
        engine.optimizer.refresh_fp32_params()
    _set_counters(engine, saved.model_states, call)
    ranks.exchange("loaded", None)  # what follows is a collective
    if engine._optimizer_has_ckpt_event_epilogue():
        engine.optimizer.checkpoint_event_epilogue()
    return saved.path, _client_state(saved.model_states, call.module_only, skips_optimizer, skips_lr_scheduler)


def _wanted(engine: Any, call: _Call, tag: str, optimizer: Optional[_engine.EngineOptimizer]) -> _run_load.Wanted:
    import torch

    from zerocast._proto import types_pb2
    stage = int(engine.zero_optimization_stage())
    zero: Dict[str, Any] = {"stage": stage}
    dtypes = {param.dtype for param in engine.module.parameters() if param.is_floating_point()}
    if isinstance(optimizer, _engine.FlatOptimizer):
        zero.update(optimizer.layout(len(dtypes) > 1))
    # Masters that are rounded once: where the parameters differ, when they are copied.
    policies = {torch.bfloat16: types_pb2.DTYPE_POLICY_BF16, torch.float16: types_pb2.DTYPE_POLICY_FP16}
    policy = policies.get(dtypes.pop() if len(dtypes) == 1 else None, types_pb2.DTYPE_POLICY_FP32)
    return _run_load.Wanted(
        checkpoint=call.load_dir, tag=tag, spec={}, config={"zero_optimization": zero},
        options={"zero_stage": stage, "dtype": policy, "weights_only": optimizer is None},
        server=call.server, mode=call.mode, load_timeout=call.load_timeout)


def _trained(optimizer: Optional[_engine.EngineOptimizer]) -> Set[str]:
    """Parameters that need not be filled, for they are made from the masters."""
    if not isinstance(optimizer, _engine.Stage3Optimizer):
        return set()
    return {name for group in optimizer.groups() for name in group}


def _check_module(model: Any, shard: Shard, call: _Call) -> Dict[str, str]:
    """The checkpoint's names of what the model has; raises LoadError unless it can be loaded into the model."""
    import torch
    own = model.state_dict(keep_vars=True)
    odd = [name for name, value in own.items() if not isinstance(value, torch.Tensor)]
    if odd:
        raise LoadError("UNIMPLEMENTED", f"the model has an extra state, {odd[0]}, which is no tensor; use "
                        "engine.load_checkpoint", "UNSUPPORTED")
    found: Dict[str, Partition] = {name: shard[name] for name in own if name in shard and shard[name].filled}
    wrong = [f"{name} has the shape {list(part.shape)} in the checkpoint, {list(_shape_of(own[name]))} in the model"
             for name, part in found.items() if tuple(part.shape) != _shape_of(own[name])]
    missing = [name for name in own if name not in found]
    used = {part.name for part in found.values()}
    unexpected = [part.name for part in shard.values() if part.filled and not part.is_state and part.name not in used]
    if wrong or (call.strict and (missing or unexpected)):
        said = [*wrong[:_MOST_NAMED]]
        if call.strict:
            said += [f"{what}: {_abridged(names)}" for what, names in (
                ("not in the checkpoint", missing), ("not in the model", unexpected)) if names]
        raise _saved.failed("FAILED_PRECONDITION", call.load_dir, f"it does not fit {type(model).__name__}: "
                            f"{'; '.join(said)}", "WEIGHTS_INCOMPLETE")
    return {name: part.name for name, part in found.items()}


def _shape_of(tensor: Any) -> Tuple[int, ...]:
    return tuple(getattr(tensor, "ds_shape", tensor.shape))


def _abridged(names: List[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more


def _fill_module(engine: Any, shard: Shard, skipped: Set[str]) -> None:
    import torch

    def put(name: str, param: Any, partition: Partition) -> None:
        if engine.param_names.get(param, name) in skipped:
            return
        if _zero3.is_partitioned(param):
            _zero3.write_over(param, partition.array)
            if getattr(param, "ds_secondary_tensor", None) is not None:
                param.ds_secondary_tensor = None  # of the old value; DeepSpeed forgets those of trained ones alone
        else:
            with torch.no_grad():
                param.copy_(partition.whole)

    _fill.parameters(engine.module, shard, put)
    _fill.buffers(engine.module, shard)


def _set_counters(engine: Any, states: Dict[str, Any], call: _Call) -> None:
    engine.loaded_checkpoint_dp_world_size = states["dp_world_size"]
    if call.module_only:
        return
    if call.lr_scheduler and engine.lr_scheduler is not None:
        engine.lr_scheduler.load_state_dict(_saved.own_copy(states["lr_scheduler"]))
    if engine.random_ltd_enabled() and engine.random_ltd_scheduler is not None and "random_ltd" in states:
        engine.random_ltd_scheduler.load_state_dict(_saved.own_copy(states["random_ltd"]))
    if engine.training_dataloader is not None and engine.curriculum_learning_enabled() and "data_sampler" in states:
        engine.training_dataloader.data_sampler.load_state_dict(_saved.own_copy(states["data_sampler"]))
    engine.global_steps = states["global_steps"]
    engine.global_samples = states.get("global_samples", engine.global_steps * engine.train_batch_size())
    engine.skipped_steps = states["skipped_steps"]
    engine.loaded_checkpoint_mp_world_size = states["mp_world_size"]


def _client_state(states: Dict[str, Any], module_only: bool, without_optimizer: bool,
                  without_lr_scheduler: bool) -> Dict[str, Any]:
    """What engine.load_checkpoint returns: what the client saved, among what DeepSpeed does not leave out."""
    left_out = {"module"}
    if not module_only:
        left_out |= {"skipped_steps", "global_steps", "dp_world_size", "mp_world_size", "data_sampler", "random_ltd"}
    left_out |= {name for name, is_out in (("optimizer", without_optimizer), ("lr_scheduler", without_lr_scheduler))
                 if is_out}
    return {name: _saved.own_copy(value) for name, value in states.items() if name not in left_out}


def deepspeed_load_checkpoint(deepspeed_engine: Any, checkpoint_path: Any, load_module_strict: bool = True, *,
                              server: Optional[str] = None, weights_only: bool = True, mode: str = "auto",
                              timeout: float = DEFAULT_TIMEOUT, load_timeout: float = DEFAULT_LOAD_TIMEOUT) -> None:
    """As the function of that name in transformers.integrations.deepspeed, by which the Trainer resumes; by
    load_checkpoint. Every rank calls it.

    Raises:
        ValueError: "Can't find a valid checkpoint at PATH": it has no global_step*; "[deepspeed] failed to resume from
            checkpoint PATH": it has no `latest`.
        ResumeError: a LoadError and ValueError; any other failure, in the latter words.
    """
    ranks = open_ranks(timeout)
    with ranks.step("look for a checkpoint"):
        pattern = os.path.join(glob.escape(os.fspath(checkpoint_path)), "global_step*")
        found = ranks.exchange("found", bool(glob.glob(pattern)))
    if not any(found):
        raise ValueError(f"Can't find a valid checkpoint at {checkpoint_path}")
    if ranks.rank == 0:
        logger.info("resuming from %s", checkpoint_path)
    try:
        path, _ = load_checkpoint(deepspeed_engine, checkpoint_path, load_module_strict=load_module_strict,
                                  server=server, weights_only=weights_only, mode=mode, timeout=timeout,
                                  load_timeout=load_timeout)
    except LoadError as error:
        raise ResumeError(error, str(checkpoint_path)) from error
    if path is None:
        raise ValueError(f"[deepspeed] failed to resume from checkpoint {checkpoint_path}")
