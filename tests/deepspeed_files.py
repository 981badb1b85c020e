"""Writes DeepSpeed folders of ZeRO stage 3 as torch.save would, without torch: large ones for tests. Only the standard library."""

import collections
import contextlib
import io
import pickle
import sys
import types
import zipfile

BYTES_AT_ONCE = 1 << 20


class Floats:
    """A flat tensor of float32: `pattern` (some bytes, a divisor of BYTES_AT_ONCE) over and over."""

    def __init__(self, count, pattern):
        self.count, self.pattern = count, pattern


class _Storage:
    def __init__(self, key, count):
        self.key, self.count = key, count


@contextlib.contextmanager
def _fake_torch():
    """The names that the pickles hold: pickle looks each of them up."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")

    def _rebuild_tensor_v2():
        raise AssertionError("never called")

    for module, name, value in ((utils, "_rebuild_tensor_v2", _rebuild_tensor_v2), (torch, "Size", type("Size", (tuple,), {})),
                                (torch, "FloatStorage", type("FloatStorage", (), {}))):
        value.__module__, value.__qualname__ = module.__name__, name
        setattr(module, name, value)
    torch._utils = utils
    before = {name: sys.modules.get(name) for name in ("torch", "torch._utils")}
    sys.modules.update({"torch": torch, "torch._utils": utils})
    try:
        yield torch
    finally:
        for name, module in before.items():
            sys.modules.pop(name)
            if module is not None:
                sys.modules[name] = module


class _Tensor:
    def __init__(self, torch, storage):
        self.torch, self.storage = torch, storage

    def __reduce__(self):
        return (self.torch._utils._rebuild_tensor_v2,
                (self.storage, 0, (self.storage.count,), (1,), False, collections.OrderedDict()))


def save(path, document):
    """torch.save of dicts, lists, texts, numbers and Floats, each object of which has one storage wherever it is; tuples of
    numbers become torch.Size."""
    data = []
    with _fake_torch() as torch:
        class Pickler(pickle.Pickler):
            def persistent_id(self, obj):
                if isinstance(obj, _Storage):
                    return ("storage", torch.FloatStorage, obj.key, "cpu", obj.count)
                return None

        class Size(tuple):
            def __reduce__(self):
                return (torch.Size, (tuple(self),))

        def plain(value):
            if isinstance(value, Floats):
                if not any(value is each for each in data):
                    data.append(value)
                key = next(index for index, each in enumerate(data) if each is value)
                return _Tensor(torch, _Storage(str(key), value.count))
            if isinstance(value, dict):
                return type(value)((key, plain(each)) for key, each in value.items())
            if isinstance(value, list):
                return [plain(each) for each in value]
            return Size(value) if isinstance(value, tuple) else value

        stream = io.BytesIO()
        Pickler(stream, protocol=2).dump(plain(document))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", stream.getvalue())
        archive.writestr("archive/byteorder", "little")
        for key, floats in enumerate(data):
            block = floats.pattern * (BYTES_AT_ONCE // len(floats.pattern))
            with archive.open(f"archive/data/{key}", "w", force_zip64=True) as entry:
                left = 4 * floats.count
                while left > 0:
                    entry.write(block[:left])
                    left -= min(left, BYTES_AT_ONCE)
        archive.writestr("archive/version", "3\n")


def write_stage_0(folder, module):
    """What an engine without ZeRO saves of one rank."""
    tag = folder / "global_step1"
    tag.mkdir(parents=True)
    (folder / "latest").write_text("global_step1")
    save(tag / "mp_rank_00_model_states.pt", {
        "module": collections.OrderedDict(module), "buffer_names": [], "param_shapes": None, "frozen_param_shapes": None,
        "shared_params": None, "frozen_param_fragments": None, "dp_world_size": 1, "mp_world_size": 1, "global_steps": 1,
        "global_samples": 1, "skipped_steps": 0, "ds_config": {}, "ds_version": "0.19.8"})


def write_stage_3(folder, shapes, world_size=2, frozen_shapes=(), seed=0):
    """A checkpoint of bf16 training with no moments; rank r's masters are `rank_pattern(r + seed)` over and over.

    frozen_shapes None: saved with exclude_frozen_parameters.
    """
    tag = folder / "global_step1"
    tag.mkdir(parents=True)
    (folder / "latest").write_text("global_step1")
    partition = 0
    for shape in shapes.values():
        count = 1
        for extent in shape:
            count *= extent
        partition += -(-count // world_size)
    frozen = None if frozen_shapes is None else dict(frozen_shapes)
    for rank in range(world_size):
        save(tag / f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt", {
            "module": {}, "buffer_names": [], "param_shapes": [collections.OrderedDict(shapes)], "frozen_param_shapes": frozen,
            "shared_params": {}, "frozen_param_fragments": None if frozen is None else {}, "dp_world_size": world_size, "mp_world_size": 1,
            "global_steps": 1, "global_samples": 1, "skipped_steps": 0, "ds_config": {"bf16": {"enabled": True}},
            "ds_version": "0.19.8"})
        save(tag / f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt", {
            "optimizer_state_dict": {
                "zero_stage": 3, "partition_count": world_size, "fp32_flat_groups": [Floats(partition, rank_pattern(rank + seed))],
                "optimizer_state_dict": {"state": {}, "param_groups": [{"lr": 0.5, "params": [0]}]}},
            "ds_config": {}, "ds_version": "0.19.8"})


def rank_pattern(rank):
    return bytes((37 * rank + 11 * k) % 128 for k in range(256))
