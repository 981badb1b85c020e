"""Reads files that torch.save wrote, zip or legacy stream, for tests: no torch is needed.

Nothing of a file is run: what it would call is a Stub, but for dicts and tensors.
"""

import collections
import math
import pathlib
import pickle
import struct
import zipfile

TYPES = {"BFloat16Storage": ("BF16", 2), "HalfStorage": ("F16", 2), "FloatStorage": ("F32", 4),
         "DoubleStorage": ("F64", 8), "LongStorage": ("I64", 8), "IntStorage": ("I32", 4),
         "ByteStorage": ("U8", 1), "BoolStorage": ("BOOL", 1)}


class Stub:
    """A value that only a call could make."""

    def __init__(self, *args):
        self.args = args

    def __setstate__(self, state):
        self.state = state


class Storage:
    """Bytes, read behind the pickle."""

    def __init__(self, kind):
        self.dtype, self.size = TYPES[kind]
        self.data = b""


class Tensor:
    """A contiguous view of a storage."""

    def __init__(self, storage, offset, shape, strides, *_):
        self.storage, self.offset, self.shape = storage, offset, list(shape)
        expected = [math.prod(self.shape[k + 1:]) for k in range(len(self.shape))]
        if 0 not in self.shape and any(s != e for s, e, n in zip(strides, expected, shape) if n > 1):
            raise ValueError(f"a tensor with strides {strides} of shape {shape}")

    @property
    def dtype(self):
        return self.storage.dtype

    @property
    def data(self):
        begin = self.offset * self.storage.size
        return self.storage.data[begin:begin + math.prod(self.shape) * self.storage.size]


class Unpickler(pickle.Unpickler):
    """Unpickles what torch.save pickled; `storages` by key."""

    def __init__(self, file, storages):
        super().__init__(file)
        self._storages = storages

    def find_class(self, module, name):
        if module == "collections" and name == "OrderedDict":
            return collections.OrderedDict
        if module == "torch" and name == "Size":
            return tuple
        if module == "torch" and name in TYPES:
            return name
        if module == "torch._utils" and name == "_rebuild_tensor_v2":
            return Tensor
        if module == "torch._utils" and name == "_rebuild_parameter":
            return lambda data, *_: data
        if module == "torch._tensor" and name == "_rebuild_from_type_v2":
            return lambda function, _, args, state: function(*args)
        return Stub

    def persistent_load(self, pid):
        _, kind, key = pid[:3]
        return self._storages.setdefault(key, Storage(kind))


def read(path):
    """The object of a file; tensors are Tensor."""
    storages = {}
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            top = archive.namelist()[0].split("/")[0]
            with archive.open(f"{top}/data.pkl") as file:
                value = Unpickler(file, storages).load()
            for key, storage in storages.items():
                storage.data = archive.read(f"{top}/data/{key}")
        return value
    with open(path, "rb") as file:
        for _ in range(3):  # magic number, protocol, sizes of this machine
            Unpickler(file, storages).load()
        value = Unpickler(file, storages).load()
        for key in Unpickler(file, storages).load():
            (count,) = struct.unpack("<q", file.read(8))
            storages[key].data = file.read(count * storages[key].size)
    return value


def read_folder(folder):
    """(model states by rank, optimizer states by rank) of the tag that `latest` names."""
    folder = pathlib.Path(folder)
    tag = folder / (folder / "latest").read_text().strip()
    models = [read(tag / "mp_rank_00_model_states.pt")] if (tag / "mp_rank_00_model_states.pt").exists() else []
    optimizers = []
    while True:
        rank = len(optimizers)
        found = [*tag.glob(f"*zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")]
        if not found:
            return models, optimizers
        model = tag / f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt"
        if model.exists():
            models.append(read(model))
        optimizers.append(read(found[0])["optimizer_state_dict"])
