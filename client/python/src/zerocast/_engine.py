"""What a DeepSpeed engine has of a model and of an optimizer on this rank, and how it takes what was saved.

Follows DeepSpeed 0.19.8: runtime/engine.py (load_checkpoint), zero/stage3.py, zero/stage_1_and_2.py.
"""

from __future__ import annotations

from typing import Any, Dict, Iterable, List, Optional, Sequence, Set

from zerocast._errors import LoadError
from zerocast._saved import SavedOptimizer, own_copy
from zerocast.attach import Partition

_MASTERS = "fp32"
_MOST_NAMED = 6


def refuse_what_cannot_be(engine: Any) -> None:
    """Raises LoadError (UNIMPLEMENTED) for an engine that zerocast cannot put a checkpoint into."""

    def refuse(what: str, instead: str) -> None:
        raise LoadError("UNIMPLEMENTED", f"{what} cannot be loaded into; {instead}", "UNSUPPORTED")

    own_way = "use engine.load_checkpoint"
    if any(base.__name__ == "PipelineModule" for base in type(engine.module).__mro__):
        refuse("an engine of pipeline stages", own_way)
    if engine.has_moe_layers:
        refuse("an engine whose experts lie on other ranks (MoE, AutoEP)", own_way)
    if engine.mp_world_size > 1:
        refuse(f"an engine of {engine.mp_world_size} tensor-parallel ranks", own_way)
    offload = engine.zero_offload_param()
    if engine.zero_nvme_offload_optimizer() or str(getattr(offload, "device", "")).endswith("nvme"):
        refuse("an engine with offload_optimizer.device or offload_param.device nvme",
               "set it to cpu, or use engine.load_checkpoint")
    if getattr(engine.optimizer, "zenflow", False):
        refuse("an engine with ZenFlow", own_way)
    if getattr(engine._config.zero_config, "zero_quantized_nontrainable_weights", False):
        refuse("an engine with zero_quantized_nontrainable_weights", "set it to false")


def optimizer_of(engine: Any) -> Optional["EngineOptimizer"]:
    """None where the engine has none. Raises LoadError (UNIMPLEMENTED) for one of a kind that is not known."""
    optimizer = engine.optimizer
    if optimizer is None or not hasattr(optimizer, "param_groups"):
        return None  # under stage 3 there is something, but no optimizer
    stage = int(engine.zero_optimization_stage())
    if stage == 3 and hasattr(optimizer, "fp32_partitioned_groups_flat"):
        return Stage3Optimizer(engine)
    if stage in (1, 2) and hasattr(optimizer, "single_partition_of_fp32_groups"):
        return FlatOptimizer(engine)
    if stage == 0 and optimizer is getattr(engine, "basic_optimizer", None):
        return WholeOptimizer(engine)
    raise LoadError("UNIMPLEMENTED", f"the optimizer of ZeRO stage {stage} is a {type(optimizer).__name__}, whose "
                    "states zerocast cannot fill; use ZeRO stage 1 to 3, or load_optimizer_states=False", "UNSUPPORTED")


class EngineOptimizer:
    """The optimizer of an engine. `states` are the partitions of the optimizer's states, by the target's name."""

    def __init__(self, engine: Any) -> None:
        self.wrapper = engine.optimizer  # ZeRO's
        self.base = engine.optimizer  # torch's
        self._names = engine.param_names  # by parameter
        self._from_masters = engine.zero_load_from_fp32_weights()

    def groups(self) -> List[List[str]]:
        """The names of each group's trained parameters, by place."""
        raise NotImplementedError

    def check(self, states: Dict[str, Partition], saved: SavedOptimizer, names: Dict[str, str]) -> None:
        """Raises LoadError (FAILED_PRECONDITION) unless what was saved is of such an optimizer. `names`: the
        checkpoint's of the engine's parameters."""
        own = [[names.get(name, name) for name in group] for group in self.groups()]
        theirs = [[names.get(name, name) for name in group] for group in saved.members]
        if len(own) != len(theirs):
            _misfit(f"it was saved with {len(theirs)} groups of parameters, and the engine has {len(own)}")
        for number, (here, there) in enumerate(zip(own, theirs)):
            if set(here) != set(there):
                _misfit(f"group {number} {_both(sorted(set(there) - set(here)), sorted(set(here) - set(there)))}")
        kinds = _kinds(states)
        if not kinds:
            _misfit(f"{saved.path} has no states")
        lacking = sorted(self._wanted_states() - kinds)
        if lacking:
            _misfit(f"the engine's {type(self.base).__name__} wants {', '.join(lacking)}, and it was saved with "
                    f"{', '.join(sorted(kinds))} alone")
        for here, group in zip(self.base.param_groups, saved.groups):
            lacking = sorted((set(self.base.defaults) & set(here)) - set(self._as_set(group)))
            if lacking:
                _misfit(f"the engine's {type(self.base).__name__} wants {', '.join(lacking)}, and it was saved with "
                        f"{', '.join(sorted(group))} alone")

    def _wanted_states(self) -> Set[str]:
        import torch
        found = {_MASTERS} | ({"exp_avg"} if "betas" in self.base.defaults else set())
        for state in self.base.state.values():
            found |= {key for key, value in state.items() if isinstance(value, torch.Tensor) and value.ndim}
        return found

    def _as_set(self, group: Dict[str, Any]) -> Dict[str, Any]:
        """A group's hyper-parameters with what the optimizer's class adds to those of older releases."""
        kind: Any = type(self.base)
        probe = kind.__new__(kind)
        probe.__setstate__({"defaults": dict(self.base.defaults), "state": {},
                            "param_groups": [{**group, "params": []}]})
        added: Dict[str, Any] = probe.param_groups[0]
        return added

    def take(self, states: Dict[str, Partition], saved: SavedOptimizer, names: Dict[str, str]) -> None:
        """Fills masters, moments and steps, hyper-parameters and loss scale; empties `states`."""
        raise NotImplementedError

    def _base_state(self, flats: Sequence[Sequence[Any]], moments: Sequence[Sequence[Dict[str, Any]]],
                    saved: SavedOptimizer) -> Dict[str, Any]:
        """What base.state_dict() would give: `flats`, by group, are its parameters."""
        state: Dict[int, Dict[str, Any]] = {}
        groups, number = [], 0
        for group, (own, parts) in enumerate(zip(flats, moments)):
            groups.append({**saved.groups[group], "params": list(range(number, number + len(own)))})
            for part in parts:
                state[number] = {**own_copy(saved.steps[group]), **part}
                number += 1
        return {"state": state, "param_groups": groups}

    def _load(self, own: Dict[str, Any]) -> None:
        """Has DeepSpeed load what this rank would have saved."""
        import torch.distributed as distributed
        group = self.wrapper.dp_process_group
        by_rank: List[Any] = [None] * distributed.get_world_size(group)
        by_rank[distributed.get_rank(group)] = own
        self.wrapper.load_state_dict(state_dict_list=by_rank, load_optimizer_states=True,
                                     load_from_fp32_weights=self._from_masters)


class Stage3Optimizer(EngineOptimizer):
    """ZeRO-3: sub-groups, each a flat tensor of its parameters' partitions."""

    def __init__(self, engine: Any) -> None:
        super().__init__(engine)
        self.base = self.wrapper.optimizer

    def _sub_groups(self) -> List[List[int]]:
        found: List[List[int]] = [[] for _ in self.base.param_groups]
        for number in range(len(self.wrapper.fp16_groups)):
            found[self.wrapper.sub_group_to_group_id[number]].append(number)
        return found

    def groups(self) -> List[List[str]]:
        return [[self._names[param] for number in own for param in self.wrapper.fp16_groups[number]]
                for own in self._sub_groups()]

    def check(self, states: Dict[str, Partition], saved: SavedOptimizer, names: Dict[str, str]) -> None:
        super().check(states, saved, names)
        for sub_group in self.wrapper.fp16_groups:
            for param in sub_group:
                name = names.get(self._names[param], self._names[param])
                for kind in self._wanted_states():
                    part = states.get(f"optimizer/{kind}/{name}")
                    if part is None or tuple(part.shape) != tuple(param.ds_shape) \
                            or part.array.numel() != param.partition_numel():
                        _misfit(f"{kind} of {name} is not there for the shape {list(param.ds_shape)}")

    def take(self, states: Dict[str, Partition], saved: SavedOptimizer, names: Dict[str, str]) -> None:
        import torch
        kinds = sorted(_kinds(states) - {_MASTERS})
        moments: List[Dict[str, Any]] = []
        for sub_group, flat in zip(self.wrapper.fp16_groups, self.wrapper.fp32_partitioned_groups_flat):
            made = {kind: torch.empty_like(flat, requires_grad=False) for kind in kinds}
            at = 0
            for param in sub_group:
                name, size = names.get(self._names[param], self._names[param]), param.partition_numel()
                for kind, to in ((_MASTERS, flat.data), *made.items()):
                    to.narrow(0, at, size).copy_(states.pop(f"optimizer/{kind}/{name}").array)
                at += size
            moments.append(made)
        by_group = self._sub_groups()
        base = self._base_state(by_group, [[moments[number] for number in own] for own in by_group], saved)
        # The masters are there already.
        self._load({**_scaler_of(self.wrapper), **saved.common, "optimizer_state_dict": base,
                    "fp32_flat_groups": self.wrapper.fp32_partitioned_groups_flat})


class FlatOptimizer(EngineOptimizer):
    """ZeRO stages 1 and 2: of each group one flat tensor, whose part a rank has."""

    def __init__(self, engine: Any) -> None:
        super().__init__(engine)
        self.base = self.wrapper.optimizer

    def layout(self, is_mixed: bool) -> Dict[str, Any]:
        """What of the config decides where the parameters lie. is_mixed: they have several dtypes; LoadError
        (UNIMPLEMENTED) where that decides, too."""
        aligned = bool(getattr(self.wrapper, "parameter_alignment", False))
        if aligned and is_mixed:
            raise LoadError("UNIMPLEMENTED", "zero_optimization.parameter_alignment cannot be loaded into where the "
                            "parameters have several dtypes; use engine.load_checkpoint", "UNSUPPORTED")
        return {"round_robin_gradients": bool(self.wrapper.round_robin_gradients), "parameter_alignment": aligned}

    def groups(self) -> List[List[str]]:
        return [[self._names[param] for param in group] for group in self.wrapper.bit16_groups]

    def check(self, states: Dict[str, Partition], saved: SavedOptimizer, names: Dict[str, str]) -> None:
        super().check(states, saved, names)
        for number, (group, flat) in enumerate(zip(self.groups(), self.wrapper.single_partition_of_fp32_groups)):
            for kind in self._wanted_states():
                part = states.get(f"optimizer/{kind}/{number}")
                if part is None or part.array.numel() != flat.numel():
                    _misfit(f"{kind} of group {number} has {part.array.numel() if part else 'no'} elements on this "
                            f"rank, and the engine's {flat.numel()}")
                elif list(part.aliases) != [names.get(name, name) for name in group]:
                    _misfit(f"group {number} has its parameters in another order: "
                            f"{', '.join(part.aliases[:_MOST_NAMED])} there, {', '.join(group[:_MOST_NAMED])} here")

    def take(self, states: Dict[str, Partition], saved: SavedOptimizer, names: Dict[str, str]) -> None:
        import deepspeed
        import torch
        flats = self.wrapper.single_partition_of_fp32_groups
        kinds = sorted(_kinds(states) - {_MASTERS})
        moments = []
        for number, flat in enumerate(flats):
            made = {kind: torch.empty_like(flat, requires_grad=False) for kind in kinds}
            for kind, to in ((_MASTERS, flat.data), *made.items()):
                to.copy_(states.pop(f"optimizer/{kind}/{number}").array)
            moments.append([made])
        own = {"clip_grad": self.wrapper.clip_grad, "ds_version": deepspeed.__version__, **_scaler_of(self.wrapper),
               **saved.common,
               "base_optimizer_state": self._base_state([[flat] for flat in flats], moments, saved),
               # Where they lie already.
               "single_partition_of_fp32_groups": list(flats)}
        if hasattr(self.wrapper, "round_robin_bit16_padding"):
            own["param_alignment_paddings"] = self.wrapper.round_robin_bit16_padding
        self._load(own)


class WholeOptimizer(EngineOptimizer):
    """No ZeRO, in float32: torch's optimizer of whole parameters."""

    def groups(self) -> List[List[str]]:
        return [[self._names[param] for param in group["params"] if param.requires_grad and param.numel()]
                for group in self.base.param_groups]

    def take(self, states: Dict[str, Partition], saved: SavedOptimizer, names: Dict[str, str]) -> None:
        # The masters are the parameters, which are filled.
        kinds = sorted(_kinds(states) - {_MASTERS})
        state: Dict[int, Dict[str, Any]] = {}
        groups, number = [], 0
        for group, hyper, step in zip(self.base.param_groups, saved.groups, saved.steps):
            first = number
            for param in group["params"]:
                name = names.get(self._names[param], self._names[param])
                if states.pop(f"optimizer/{_MASTERS}/{name}", None) is not None:
                    state[number] = {**own_copy(step), **{kind: states.pop(f"optimizer/{kind}/{name}").whole.clone()
                                                          for kind in kinds}}
                number += 1
            groups.append({**hyper, "params": list(range(first, number))})
        self.base.load_state_dict({"state": state, "param_groups": groups})


def _kinds(states: Iterable[str]) -> Set[str]:
    """The states that targets of these names are of."""
    return {name.split("/", 2)[1] for name in states}


def _scaler_of(wrapper: Any) -> Dict[str, Any]:
    """What an old release did not save stays as it is."""
    return {"loss_scaler": wrapper.loss_scaler, "dynamic_loss_scale": wrapper.dynamic_loss_scale,
            "overflow": wrapper.overflow}


def _misfit(why: str) -> None:
    raise LoadError("FAILED_PRECONDITION", f"the checkpoint's optimizer is another one than the engine's: {why}; make "
                    "the engine as it was made when the checkpoint was saved, or load with load_optimizer_states=False",
                    "WEIGHTS_INCOMPLETE")


def _both(there: Sequence[str], here: Sequence[str]) -> str:
    said = []
    for names, what in ((there, "has in the checkpoint alone"), (here, "has in the engine alone")):
        if names:
            more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
            said.append(f"{what}: {', '.join(names[:_MOST_NAMED])}{more}")
    return "; ".join(said)
