"""Parameters of DeepSpeed's ZeRO-3 whose partitions come from elsewhere.

Follows DeepSpeed 0.19.8, deepspeed/runtime/zero/partition_parameters.py (Init).
"""

from __future__ import annotations

import functools
import sys
from typing import Any, Dict, Optional

from zerocast._errors import LoadError

# Elements. A model's own constants, scales and the like, which its initialisation may leave alone.
_SMALL = 1 << 16


# Where it is the path of a folder, nodes may have other ones.
_OWN_TO_A_NODE = ("nvme_path",)


def check_config(config: Any) -> None:
    """Raises LoadError for what is no DeepSpeed config, or has no ZeRO stage that is known."""

    def refuse(what: str) -> None:
        raise LoadError("INVALID_ARGUMENT", f"read the DeepSpeed config: {what}", "INVALID_FIELDS")

    if not isinstance(config, dict):
        refuse(f"it is of type {type(config).__name__}; give a dict, the path of a file, or JSON text")
    zero = config.get("zero_optimization")
    if zero is not None and not isinstance(zero, dict):
        refuse(f"zero_optimization is {zero!r}; it must be an object, such as {{\"stage\": 3}}")
    stage = (zero or {}).get("stage", 0)
    if isinstance(stage, bool) or stage not in (0, 1, 2, 3):
        refuse(f"zero_optimization.stage is {stage!r}; it must be 0, 1, 2 or 3")


def what_makes_parameters(config: Dict[str, Any]) -> Dict[str, Any]:
    """What of a DeepSpeed config decides how parameters are made, by its path: for ranks to compare."""
    found: Dict[str, Any] = {}

    def add(path: str, value: Any) -> None:
        if isinstance(value, dict):
            for name, inner in value.items():
                if name not in _OWN_TO_A_NODE:
                    add(f"{path}.{name}", inner)
        else:
            found[path] = value

    for name in ("zero_optimization", "bf16", "fp16", "data_types"):
        add(name, config.get(name))
    return found


def refuse_what_cannot_be(config: Dict[str, Any]) -> None:
    """Raises LoadError for a DeepSpeed config whose partitions no checkpoint can fill."""
    zero = config.get("zero_optimization") or {}

    def refuse(what: str, why: str) -> None:
        raise LoadError("UNIMPLEMENTED", f"{what} cannot be loaded into: {why}", "UNSUPPORTED")

    if zero.get("mics_shard_size", -1) not in (-1, None):
        refuse("zero_optimization.mics_shard_size", "MiCS was removed from DeepSpeed 0.19.7; "
               "zero_hpz_partition_size keeps a copy of the parameters in each group of ranks")
    if zero.get("zero_quantized_nontrainable_weights"):
        refuse("zero_optimization.zero_quantized_nontrainable_weights", "it keeps frozen parameters as int8 "
               "with scales, which no checkpoint has; set it to false")
    if _get(config, "weight_quantization", "quantized_initialization"):
        refuse("weight_quantization.quantized_initialization", "it keeps weights quantised, which no "
               "checkpoint has; remove it")
    for path, size in (("tensor_parallel.autotp_size", _get(config, "tensor_parallel", "autotp_size")),
                       ("inference.tensor_parallel.tp_size",
                        _get(config, "inference", "tensor_parallel", "tp_size"))):
        if isinstance(size, int) and size > 1:
            refuse(path, f"with {size} each rank has another model; set it to 1")


def _get(config: Any, *path: str) -> Any:
    for name in path:
        config = config.get(name) if isinstance(config, dict) else None
    return config


@functools.lru_cache(maxsize=None)
def partitioned_init() -> Any:
    """The class PartitionedInit; made at the first call, for DeepSpeed takes seconds to import."""
    import torch
    from deepspeed.runtime.zero import partition_parameters as zero

    class PartitionedInit(zero.Init):  # type: ignore[misc]
        """deepspeed.zero.Init, but for the data: parameters get their partitions by `fill`.

        A parameter becomes ZeRO-3's as soon as its module is made. Its storage, which nobody has
        written to where initialisation is off, goes untouched: nothing is broadcast, nothing copied. Small ones
        keep what they were made with until they are filled, or turn out not to be in the checkpoint.
        Once it is `filled`, it is as its base: parameters that a model gets later, adapters for
        instance, are converted by that of the parameters that it had.
        """

        local_device: Any
        is_filled = False
        before_gathering: Any = None  # a function that returns once no rank is left that could not take part

        def __init__(self, *arguments: Any, **keywords: Any) -> None:
            self._made: Dict[int, Any] = {}  # by ds_id, the values that small parameters were made with
            super().__init__(*arguments, **keywords)

        def _zero_init_param(self, param: Any) -> None:
            if self.is_filled:
                super()._zero_init_param(param)
                return
            values = param.data
            self._convert_to_deepspeed_param(param)
            zero.free_param(param)
            param.data = torch.empty(0, dtype=param.dtype, device=self.local_device)
            if values.numel() <= _SMALL:
                self._made[param.ds_id] = values

        def _post_init_method(self, module: Any) -> None:
            for param in module.parameters(recurse=False):
                zero.InsertPostInitMethodToModuleSubClasses.num_module_parameters += 1
                zero.InsertPostInitMethodToModuleSubClasses.num_module_elements += param.numel()
                if not zero.is_zero_param(param):
                    self._zero_init_param(param)
            self._keep_in_fp32(module)

        def _add_tensor_creation_wrappers(self) -> None:
            # In host memory, where pages that nobody writes to do not exist: on a device each
            # parameter would be allocated whole.
            device, self.local_device = self.local_device, torch.device("cpu")
            try:
                super()._add_tensor_creation_wrappers()
            finally:
                self.local_device = device

        def _all_gather(self, param_list: Any, async_op: bool = False, hierarchy: Any = None) -> Any:
            # A model that changes its parameters while it is made, or initialises those that the
            # checkpoint does not have, gathers what was not filled yet.
            if not self.is_filled and self.before_gathering is not None:
                self.before_gathering()
            for param in param_list:
                self.fill_if_empty(param)
            return super()._all_gather(param_list, async_op=async_op, hierarchy=hierarchy)

        def filled(self, model: Any, is_all: bool) -> None:
            """Gives the parameters of the model that have no partition one, for the library to initialise. Every
            rank calls it. is_all: then nothing is left to be filled."""
            for param in filter(is_partitioned, model.parameters()):
                self.fill_if_empty(param)
            self.is_filled = is_all
            if is_all:
                self._made.clear()

        def fill_if_empty(self, param: Any) -> None:
            """Gives a parameter that has no partition that of what it was made with on rank 0; zeros, where it is
            not small."""
            if param.ds_tensor is None and param.ds_status == zero.ZeroParamStatus.NOT_AVAILABLE:
                values = self._made.pop(param.ds_id, None)
                if values is not None:
                    param.data = values.to(self.local_device)
                    param.ds_status = zero.ZeroParamStatus.AVAILABLE
                    group = self.get_partition_dp_group(param)
                    first = 0 if zero.dist.get_world_group() == group else zero.dist.get_global_rank(group, 0)
                    zero.dist.broadcast(param.data.view(torch.uint8), first, group)
                    param.partition()
                    return
                size = self._aligned_size(param)
                self.fill(param, torch.zeros(size // self._partition_world_size(param), dtype=param.dtype,
                                             device="cpu"))
                if self.zero_param_process_group is not None:
                    self._set_secondary(param, torch.zeros(
                        size // self.num_ranks_in_param_group, dtype=param.dtype, device="cpu"))

        def fill(self, param: Any, partition: Any, secondary: Optional[Any] = None) -> None:
            """Makes a 1-D tensor of p = ceil(numel / W) elements the parameter's partition on this rank, at the
            place where the config keeps it; without a copy where it lies there. One that the
            parameter has already is written over."""
            if param.ds_tensor is not None:
                write_over(param, partition)
            else:
                size = self._partition_size(param)
                if tuple(partition.shape) != (size,) or partition.dtype != param.dtype:
                    raise LoadError(
                        "INTERNAL", f"a partition of {tuple(partition.shape)} {partition.dtype} came for a "
                        f"parameter of {tuple(param.ds_shape)} {param.dtype}, where {size} elements belong")
                self._set_primary(param, partition, size)
            if secondary is not None:
                self._set_secondary(param, secondary)

        def _partition_size(self, param: Any) -> int:
            return int(self._aligned_size(param) // self._partition_world_size(param))

        def _set_primary(self, param: Any, partition: Any, size: int) -> None:
            on_nvme = (self.remote_device == zero.OffloadDeviceEnum.nvme and
                       self.param_swapper.swappable_tensor(numel=size))
            if on_nvme:
                buffer = self.param_swapper.get_buffer(param, size)
                own = torch.empty(0, dtype=param.dtype, device=buffer.device)
                own.data = buffer.data
                own.copy_(partition)
            else:
                own = self._at_its_place(param, partition)
            own.requires_grad = False
            own.ds_numel = size
            own.status = zero.PartitionedParamStatus.AVAILABLE
            own.final_location = zero.OffloadDeviceEnum.nvme if on_nvme else None
            param.ds_tensor = own
            param.ds_numel_aligned = self._aligned_size(param)
            if on_nvme:
                self.param_swapper.swap_out_and_release([param])

        def _at_its_place(self, param: Any, partition: Any) -> Any:
            if param.ds_persist or self.remote_device not in (zero.OffloadDeviceEnum.cpu,
                                                              zero.OffloadDeviceEnum.nvme):
                return partition.to(self.local_device)
            partition = partition.to("cpu")
            return zero.get_accelerator().pin_memory(partition) if self.pin_memory else partition

        def _set_secondary(self, param: Any, partition: Any) -> None:
            own = partition.to(self.remote_device)
            if self.pin_memory:
                own = zero.get_accelerator().pin_memory(own)
            own.requires_grad = False
            own.ds_numel = partition.numel()
            own.status = zero.PartitionedParamStatus.AVAILABLE
            own.final_location = None
            param.ds_secondary_tensor = own

    return PartitionedInit


def init_around() -> Any:
    """The deepspeed.zero.Init within which modules are made now, the outermost: it makes their parameters,
    whatever others are within it. None where there is none."""
    zero = sys.modules.get("deepspeed.runtime.zero.partition_parameters")
    if zero is None:  # nobody has made one; DeepSpeed may not even be installed
        return None
    return zero.top_level_context if zero.zero_init_context > 0 else None


def is_own(init: Any) -> bool:
    """Whether it is a PartitionedInit."""
    return init is not None and isinstance(init, partitioned_init())


def write_over(param: Any, partition: Any, secondary: Optional[Any] = None) -> None:
    """Copies a 1-D tensor of p = ceil(numel / W) elements into the partition that a parameter of ZeRO-3 has on this
    rank, and one of its secondary partition, wherever they are kept."""
    import torch
    from deepspeed.runtime.zero import partition_parameters as zero
    on_nvme = param.ds_tensor.final_location == zero.OffloadDeviceEnum.nvme
    if on_nvme and param.ds_tensor.status == zero.PartitionedParamStatus.NOT_AVAILABLE:
        param.nvme_swapper.swap_in([param], async_op=False)
    with torch.no_grad():
        param.ds_tensor.copy_(partition)
        if secondary is not None:
            param.ds_secondary_tensor.copy_(secondary)
    if on_nvme:
        param.nvme_swapper.swap_out_and_release([param])


def is_partitioned(param: Any) -> bool:
    """Whether it is a parameter of ZeRO-3."""
    return hasattr(param, "ds_id")
