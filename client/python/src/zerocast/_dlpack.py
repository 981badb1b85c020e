"""Arrays in memory of devices, as frameworks take them: DLPack, without a copy.

The layout is that of dlpack.h, version 0.x: every framework takes it.
"""

from __future__ import annotations

import atexit
import ctypes
from typing import Any, Dict, Optional, Protocol, Tuple

_CUDA = 2  # kDLCUDA
_CPU = 1  # kDLCPU
_NAME = b"dltensor"
# torch's name -> code and bits of DLDataType.
_TYPES = {
    "bool": (6, 8), "uint8": (1, 8), "int8": (0, 8), "uint16": (1, 16), "int16": (0, 16),
    "uint32": (1, 32), "int32": (0, 32), "uint64": (1, 64), "int64": (0, 64),
    "float8_e4m3fn": (10, 8), "float8_e5m2": (12, 8), "float16": (2, 16), "bfloat16": (4, 16),
    "float32": (2, 32), "float64": (2, 64),
}


class Memory(Protocol):
    """What an array lies in; it is kept as long as an array needs it."""

    @property
    def address(self) -> int: ...

    @property
    def device(self) -> Optional[int]: ...  # None: the host's


class _Tensor(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("device_type", ctypes.c_int32),
                ("device_id", ctypes.c_int32), ("ndim", ctypes.c_int32), ("code", ctypes.c_uint8),
                ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16),
                ("shape", ctypes.POINTER(ctypes.c_int64)),
                ("strides", ctypes.POINTER(ctypes.c_int64)), ("byte_offset", ctypes.c_uint64)]


class _ManagedTensor(ctypes.Structure):
    _fields_ = [("tensor", _Tensor), ("manager", ctypes.c_void_p), ("deleter", ctypes.c_void_p)]


class _Export(ctypes.Structure):
    """A managed tensor with what it points to."""

    _fields_ = [("managed", _ManagedTensor), ("shape", ctypes.c_int64),
                ("stride", ctypes.c_int64)]


# By address: what frameworks hold, with the memory that it lies in.
_exports: Dict[int, Tuple[_Export, Memory]] = {}


def _delete(managed: int) -> None:
    _exports.pop(managed, None)


# Of our own: others may set the types of those that ctypes.pythonapi has.
_is_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(
    ("PyCapsule_IsValid", ctypes.pythonapi))
_pointer_of = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi))


def _drop_capsule(capsule: int) -> None:
    # One that a framework took has another name, and the framework calls the deleter.
    if _is_valid(capsule, _NAME):
        _exports.pop(_pointer_of(capsule, _NAME), None)


_Callback = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_DELETE = _Callback(_delete)
_DROP_CAPSULE = _Callback(_drop_capsule)


_new_capsule = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p,
                                 ctypes.c_void_p)(("PyCapsule_New", ctypes.pythonapi))
_incref = ctypes.PYFUNCTYPE(None, ctypes.py_object)(("Py_IncRef", ctypes.pythonapi))


@atexit.register
def _forget() -> None:
    """Frameworks free tensors after Python's end, too: then nobody is there to be called."""
    for export, _ in _exports.values():
        export.managed.deleter = None
        _incref(export)  # so that it is there for them


class DeviceArray:
    """A 1-D array in memory of a CUDA device (or, for a shard for the host, of the host).

    What takes DLPack takes it without a copy: torch.from_dlpack(array), cupy.from_dlpack(array).
    The memory is given back when the last such tensor and the last DeviceArray are gone.

    Attributes:
        dtype: torch's name, without "torch.".
        shape: the number of elements, as a tuple.
        nbytes: of all elements.
        address: of the first element.
        device: the number of its CUDA device in this process; None: host memory.
    """

    def __init__(self, memory: Optional[Memory], dtype: str, count: int, offset: int) -> None:
        self._memory = memory
        self.dtype = dtype
        self.shape = (count,)
        self.nbytes = count * _TYPES[dtype][1] // 8
        self.address = memory.address + offset if memory is not None else 0
        self.device = memory.device if memory is not None else None

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        place = "host" if self.device is None else f"cuda:{self.device}"
        return f"DeviceArray(shape={self.shape}, dtype={self.dtype!r}, {place})"

    def reshape(self, shape: Any) -> Any:
        raise TypeError("a DeviceArray has one dimension: reshape the tensor that a framework makes "
                        "of it")

    def __dlpack_device__(self) -> Tuple[int, int]:
        return (_CPU, 0) if self.device is None else (_CUDA, self.device)

    def __dlpack__(self, *, stream: Any = None, max_version: Any = None, dl_device: Any = None,
                   copy: Any = None) -> Any:
        # Whatever wrote to the memory has ended: no stream has to wait for it.
        if copy:
            raise BufferError("a shard is given without a copy: copy the tensor")
        if dl_device is not None and tuple(dl_device) != self.__dlpack_device__():
            raise BufferError(f"a shard stays on its device, {self.__dlpack_device__()}")
        export = _Export()
        export.shape, export.stride = self.shape[0], 1
        tensor = export.managed.tensor
        tensor.data = self.address or None
        tensor.device_type, tensor.device_id = self.__dlpack_device__()
        tensor.ndim = 1
        tensor.code, tensor.bits = _TYPES[self.dtype]
        tensor.lanes = 1
        begin = ctypes.addressof(export)
        tensor.shape = ctypes.cast(begin + _Export.shape.offset, ctypes.POINTER(ctypes.c_int64))
        tensor.strides = ctypes.cast(begin + _Export.stride.offset, ctypes.POINTER(ctypes.c_int64))
        export.managed.deleter = ctypes.cast(_DELETE, ctypes.c_void_p).value
        if self._memory is not None:
            _exports[begin] = (export, self._memory)
        else:
            _exports[begin] = (export, _NOTHING)
        return _new_capsule(begin, _NAME, ctypes.cast(_DROP_CAPSULE, ctypes.c_void_p))


class _Nothing:
    address = 0
    device: Optional[int] = None


_NOTHING = _Nothing()
