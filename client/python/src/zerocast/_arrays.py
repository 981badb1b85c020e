"""The arrays of a shard, of the framework that is wanted."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import weakref
from typing import Any, Mapping, Optional, Type, Union

from zerocast._cuda import DeviceMemory
from zerocast._dlpack import DeviceArray
from zerocast._errors import AttachError

# torch's name -> bytes of an element, numpy's name; the name of ml_dtypes where numpy has none, and
# then the integer that holds the bits.
DTYPES = {
    "bool": (1, "bool", None),
    "uint8": (1, "uint8", None),
    "int8": (1, "int8", None),
    "uint16": (2, "uint16", None),
    "int16": (2, "int16", None),
    "uint32": (4, "uint32", None),
    "int32": (4, "int32", None),
    "uint64": (8, "uint64", None),
    "int64": (8, "int64", None),
    "float8_e4m3fn": (1, "uint8", "float8_e4m3fn"),
    "float8_e5m2": (1, "uint8", "float8_e5m2"),
    "float16": (2, "float16", None),
    "bfloat16": (2, "uint16", "bfloat16"),
    "float32": (4, "float32", None),
    "float64": (8, "float64", None),
}

# Where the bytes of a shard are.
Memory = Union[mmap.mmap, DeviceMemory]


class HostMapping(mmap.mmap):
    """An arena in host memory. The pages of a partition go back to the system when the last array
    on them goes, those at its edges, which neighbours use too, with the mapping.

    Attributes:
        advice: for madvise, by which pages go back. Of a mapping that is this process's alone they
            leave the file, too.
    """

    advice: int = mmap.MADV_DONTNEED

    def part(self, offset: int, num_bytes: int) -> Any:
        """A buffer of these bytes, of which num_bytes must be positive; keeps the mapping."""
        buffer = (ctypes.c_char * num_bytes).from_buffer(self, offset)
        page = mmap.PAGESIZE
        begin, end = -(-offset // page) * page, (offset + num_bytes) // page * page
        if begin < end:
            weakref.finalize(buffer, self._give_back, begin, end - begin).atexit = False
        return buffer

    def _give_back(self, begin: int, num_bytes: int) -> None:
        with contextlib.suppress(OSError, ValueError):  # they go with the mapping at the latest
            self.madvise(self.advice, begin, num_bytes)


class _HostMemory:
    """A mapping of host memory, as DeviceArray wants it."""

    device: Optional[int] = None

    def __init__(self, memory: mmap.mmap) -> None:
        self.num_bytes = len(memory)
        self._begin = ctypes.c_char.from_buffer(memory)  # keeps the mapping
        self.address = ctypes.addressof(self._begin)


class Arrays:
    """Makes the arrays of one shard. Without memory all of them must have no elements."""

    on_devices: bool  # whether they can lie in memory of a device

    def __init__(self, memory: Optional[Memory]) -> None:
        raise NotImplementedError

    def __call__(self, dtype: str, count: int, offset: int) -> Any:
        raise NotImplementedError


class _NumpyArrays(Arrays):
    """Makes numpy arrays of host memory."""

    on_devices = False

    def __init__(self, memory: Optional[Memory]) -> None:
        self._memory = memory

    def __call__(self, dtype: str, count: int, offset: int) -> Any:
        import numpy

        _, name, extension = DTYPES[dtype]
        wanted = numpy.dtype(name)
        if extension is not None:
            try:
                import ml_dtypes

                wanted = numpy.dtype(getattr(ml_dtypes, extension))
            except ImportError:
                pass  # the bits, as documented
        if count == 0 or not isinstance(self._memory, mmap.mmap):
            return numpy.empty(0, wanted)
        if isinstance(self._memory, HostMapping):
            return numpy.frombuffer(self._memory.part(offset, count * wanted.itemsize), wanted, count)
        return numpy.frombuffer(self._memory, wanted, count, offset)


class _TorchTensors(Arrays):
    """Makes torch tensors of memory of the host, or of a device."""

    on_devices = True

    def __init__(self, memory: Optional[Memory]) -> None:
        self._memory = memory
        self._all: Any = None
        if isinstance(memory, DeviceMemory):
            import torch

            # One tensor of all bytes, whose parts the others are: torch knows fewer dtypes from
            # DLPack than it has.
            self._all = torch.from_dlpack(DeviceArray(memory, "uint8", memory.num_bytes, 0))

    def __call__(self, dtype: str, count: int, offset: int) -> Any:
        import torch

        wanted = getattr(torch, dtype, None)
        if wanted is None:
            raise AttachError("UNIMPLEMENTED", f"torch {torch.__version__} has no dtype {dtype}")
        if self._all is not None:
            return self._all[offset:offset + count * DTYPES[dtype][0]].view(wanted)
        if count == 0 or self._memory is None:
            return torch.empty(0, dtype=wanted)
        if isinstance(self._memory, HostMapping):
            return torch.frombuffer(self._memory.part(offset, count * DTYPES[dtype][0]), dtype=wanted, count=count)
        return torch.frombuffer(self._memory, dtype=wanted, count=count, offset=offset)


class _DeviceArrays(Arrays):
    """Makes DeviceArrays of memory of a device, or of the host."""

    on_devices = True

    def __init__(self, memory: Optional[Memory]) -> None:
        self._memory = _HostMemory(memory) if isinstance(memory, mmap.mmap) else memory

    def __call__(self, dtype: str, count: int, offset: int) -> Any:
        return DeviceArray(self._memory, dtype, count, offset)


FRAMEWORKS: Mapping[str, Type[Arrays]] = {"numpy": _NumpyArrays, "torch": _TorchTensors, "dlpack": _DeviceArrays}
