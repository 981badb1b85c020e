"""Puts what a shard holds into a model."""

from __future__ import annotations

from typing import Any, Callable, Dict, Iterable, List, Optional, Set, Tuple

from zerocast import _zero3
from zerocast._errors import LoadError
from zerocast.attach import Partition, Shard


def _parent(model: Any, name: str) -> Tuple[Any, str]:
    path, _, last = name.rpartition(".")
    return model.get_submodule(path), last


def parameters(model: Any, shard: Shard, put: Callable[[str, Any, Partition], None]) -> Set[str]:
    """Calls put(name, parameter, partition) for each parameter that the shard fills; returns the
    names of all that it fills, other names of the same weight left out."""
    filled = set()
    for name, param in model.named_parameters(remove_duplicate=False):
        partition = _of(shard, name)
        if partition is None or not partition.filled:
            continue
        if name == partition.name:
            filled.add(name)
        elif partition.name in filled and param is model.get_parameter(partition.name):
            continue
        if tuple(partition.shape) != tuple(getattr(param, "ds_shape", param.shape)):
            raise LoadError("INTERNAL", f"{name} came with the shape {list(partition.shape)}")
        put(name, param, partition)
        param._is_hf_initialized = True
    return filled


def _of(shard: Shard, name: str) -> Optional[Partition]:
    return shard.get(name)


def partitioned(model: Any, shard: Shard, init: Optional[Any] = None) -> Set[str]:
    """Fills the parameters of a model under ZeRO-3: those that zero.Init `init` made, a PartitionedInit, get their
    partitions, the others' are written over."""
    _convert_late_ones(model, init)
    own = init if _zero3.is_own(init) else None

    def put(_: str, param: Any, partition: Partition) -> None:
        if own is None:
            _zero3.write_over(param, partition.array, partition.secondary)
        else:
            own.fill(param, partition.array, partition.secondary)

    return parameters(model, shard, put)


def _convert_late_ones(model: Any, init: Optional[Any]) -> None:
    """Makes parameters that a module got when it was already made ZeRO-3's, as deepspeed.initialize would."""
    late = [(name, param) for name, param in model.named_parameters() if not _zero3.is_partitioned(param)]
    if not late:
        return
    if init is None:
        raise LoadError("FAILED_PRECONDITION", f"{late[0][0]} is whole, other parameters of the model are partitioned; "
                        "make it within deepspeed.zero.Init, too", "INVALID_FIELDS")
    init._convert_to_zero_parameters([param for _, param in late])


def whole(model: Any, shard: Shard) -> Set[str]:
    """Fills the parameters of a model that has them whole: those on the meta device become the
    shard's memory, others are written over."""
    import torch

    def put(name: str, param: Any, partition: Partition) -> None:
        if param.device.type != "meta":
            with torch.no_grad():
                param.copy_(partition.whole)
            return
        module, last = _parent(model, name)
        made = torch.nn.Parameter(partition.whole, requires_grad=param.requires_grad)
        made.__dict__.update(param.__dict__)
        made._is_hf_initialized = True
        setattr(module, last, made)

    return parameters(model, shard, put)


def buffers(model: Any, shard: Shard) -> Set[str]:
    """Copies the buffers that the shard fills into the model's, cast to their dtype; those on the
    meta device are made, of the dtype that the spec gave them. Returns their names."""
    import torch
    filled = set()
    for name, buffer in model.named_buffers(remove_duplicate=False):
        partition = _of(shard, name)
        if partition is None or not partition.filled:
            continue
        if buffer.device.type == "meta":
            module, last = _parent(model, name)
            buffer = torch.empty(tuple(buffer.shape), dtype=partition.whole.dtype, device="cpu")
            setattr(module, last, buffer)
        with torch.no_grad():
            buffer.copy_(partition.whole)
        buffer._is_hf_initialized = True
        filled.add(name)
    return filled


def not_filled(model: Any, filled: Iterable[str]) -> Set[str]:
    """The names of the state dict that are not in `filled`."""
    names: Dict[str, Any] = model.state_dict(keep_vars=True)
    return set(names) - set(filled)


def check_dtypes(model: Any, shard: Shard) -> None:
    """Raises LoadError where a partition's dtype is not its parameter's. One on the meta device has none yet: it gets
    what the spec says, which is not the model's where modules are kept in float32."""
    wrong: List[str] = [
        f"{name} is {partition.dtype}, the model's {param.dtype}"
        for name, param in model.named_parameters(remove_duplicate=False)
        for partition in [_of(shard, name)]
        if partition is not None and partition.filled and f"torch.{partition.dtype}" != str(param.dtype)
        and (param.device.type != "meta" or _zero3.is_partitioned(param))]
    if wrong:
        raise LoadError("INTERNAL", f"the load made another dtype than the model has: {'; '.join(wrong[:4])}")
