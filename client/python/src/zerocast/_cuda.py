"""Memory of CUDA devices that an agent hands over, by the driver alone (libcuda.so.1).

No CUDA toolkit is needed, and no package that brings one: whatever the training process uses works
in the same primary context.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import socket
import threading
import weakref
from typing import Any, Iterator, List, Optional

from zerocast._errors import AttachError

_LIBRARY = "libcuda.so.1"
_POSIX_FILE_DESCRIPTOR = 1  # CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR
_LOCATION_DEVICE = 1  # CU_MEM_LOCATION_TYPE_DEVICE
_READ_WRITE = 3  # CU_MEM_ACCESS_FLAGS_PROT_READWRITE
_LAZY_PEER_ACCESS = 1  # CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS
IPC_HANDLE_BYTES = 64
# CUresult -> code of an error; the others are INTERNAL.
_CODES = {2: "RESOURCE_EXHAUSTED", 3: "FAILED_PRECONDITION", 35: "FAILED_PRECONDITION",
          100: "FAILED_PRECONDITION", 101: "INVALID_ARGUMENT", 801: "UNIMPLEMENTED",
          803: "FAILED_PRECONDITION"}


class _AccessDesc(ctypes.Structure):
    _fields_ = [("location_type", ctypes.c_int), ("location_id", ctypes.c_int),
                ("flags", ctypes.c_int)]


class _IpcHandle(ctypes.Structure):
    _fields_ = [("reserved", ctypes.c_char * IPC_HANDLE_BYTES)]


class Driver:
    """CUDA's driver, initialized."""

    _lock = threading.Lock()
    _opened: Optional[Driver] = None

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL(_LIBRARY)
        except OSError as error:
            raise AttachError(
                "FAILED_PRECONDITION", f"open CUDA's driver {_LIBRARY}: {error}; the shard is for a "
                "GPU: run where NVIDIA's driver is (in a container: with its driver libraries), or "
                "load with --device cpu", "UNSUPPORTED") from error
        self.call("initialize CUDA", "cuInit", ctypes.c_uint(0))

    @classmethod
    def get(cls) -> Driver:
        """The one of this process; an error is not kept."""
        with cls._lock:
            if cls._opened is None:
                cls._opened = cls()
            return cls._opened

    def call(self, what: str, name: str, *arguments: Any) -> None:
        """Calls a function of the driver; AttachError when it does not succeed."""
        function = getattr(self._library, name, None)
        if function is None:
            raise AttachError("FAILED_PRECONDITION", f"{what}: CUDA's driver has no {name}; it is "
                              "too old", "UNSUPPORTED")
        result = function(*arguments)
        if result == 0:
            return
        text = ctypes.c_char_p()
        self._library.cuGetErrorName(result, ctypes.byref(text))
        word = text.value.decode() if text.value else "unknown error"
        raise AttachError(_CODES.get(result, "INTERNAL"), f"{what}: {word} ({result})")

    def find(self, uuid: str) -> int:
        """The number of the device of that UUID in this process; CUDA_VISIBLE_DEVICES applies."""
        uuids = self.uuids()
        if uuid in uuids:
            return uuids.index(uuid)
        raise AttachError(
            "INVALID_ARGUMENT", f"find device {uuid}, where the shard lies: this process sees only "
            f"{', '.join(uuids) or 'none'}; let it see that one (CUDA_VISIBLE_DEVICES)",
            "UNSUPPORTED")

    def uuids(self) -> List[str]:
        """Of all devices, by number, as nvidia-smi -L has them."""
        count = ctypes.c_int()
        self.call("count devices", "cuDeviceGetCount", ctypes.byref(count))
        uuids = []
        for number in range(count.value):
            uuid = (ctypes.c_ubyte * 16)()
            self.call(f"name device {number}", "cuDeviceGetUuid_v2", uuid, self.device(number))
            digits = bytes(uuid).hex()
            uuids.append("GPU-" + "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20],
                                            digits[20:])))
        return uuids

    def device(self, number: int) -> ctypes.c_int:
        device = ctypes.c_int()
        self.call(f"find device {number}", "cuDeviceGet", ctypes.byref(device), number)
        return device

    def current_device(self) -> int:
        """The number of the calling thread's device; 0 where it has none."""
        context, device = ctypes.c_void_p(), ctypes.c_int()
        self.call("ask for the current context", "cuCtxGetCurrent", ctypes.byref(context))
        if not context.value:
            return 0
        self.call("ask for the current device", "cuCtxGetDevice", ctypes.byref(device))
        return device.value


def _give_back(steps: contextlib.ExitStack, owner: int) -> None:
    # In a process that was forked from the owner the driver does not work, and the memory is not its.
    if os.getpid() == owner:
        steps.close()


class DeviceMemory:
    """Memory of one device. It is given back when the last reference to this object goes, in the
    process that has made it.

    At the end of the process nothing is given back: the driver does that, and others may still use
    the memory until then.

    Attributes:
        address: of the device; host code must not follow it.
        num_bytes: that may be used from there on.
        device: its number in this process.
    """

    def __init__(self, driver: Driver, device: int) -> None:
        self.address = 0
        self.num_bytes = 0
        self.device = device
        self._driver = driver
        self._number = driver.device(device)
        # What is to be undone, the last first.
        self._undo = contextlib.ExitStack()
        self.close = weakref.finalize(self, _give_back, self._undo, os.getpid())
        self.close.atexit = False
        self._context = ctypes.c_void_p()
        driver.call(f"open the primary context of device {device}", "cuDevicePrimaryCtxRetain",
                    ctypes.byref(self._context), self._number)
        self._later("cuDevicePrimaryCtxRelease_v2", self._number, in_context=False)

    def _later(self, name: str, *arguments: Any, in_context: bool = True) -> None:
        driver, context = self._driver, self._context

        def undo() -> None:
            with _current(driver, context) if in_context else contextlib.nullcontext():
                driver.call(f"give back memory of a device by {name}", name, *arguments)

        self._undo.callback(undo)

    def keep_until_given_back(self, connection: socket.socket) -> None:
        """Ends `connection` after all that is called after this has been given back."""

        def end() -> None:
            # Processes that were forked from this one have it open, too.
            with contextlib.suppress(OSError):  # the agent is gone
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

        self._undo.callback(end)

    def import_descriptor(self, fd: int, allocation_bytes: int, num_bytes: int) -> None:
        """Maps what a descriptor of exportable memory stands for; it may be closed then."""
        what = f"import {num_bytes} bytes of device {self.device} by a descriptor"
        call = self._driver.call
        handle, address = ctypes.c_ulonglong(), ctypes.c_ulonglong()
        size = ctypes.c_size_t(allocation_bytes)
        call(what, "cuMemImportFromShareableHandle", ctypes.byref(handle), ctypes.c_void_p(fd),
             ctypes.c_int(_POSIX_FILE_DESCRIPTOR))
        self._later("cuMemRelease", handle)
        call(f"{what}: reserve addresses", "cuMemAddressReserve", ctypes.byref(address), size,
             ctypes.c_size_t(0), ctypes.c_ulonglong(0), ctypes.c_ulonglong(0))
        self._later("cuMemAddressFree", address, size)
        call(f"{what}: map them", "cuMemMap", address, size, ctypes.c_size_t(0), handle,
             ctypes.c_ulonglong(0))
        self._later("cuMemUnmap", address, size)
        access = _AccessDesc(_LOCATION_DEVICE, self.device, _READ_WRITE)
        call(f"{what}: let the device use them", "cuMemSetAccess", address, size,
             ctypes.byref(access), ctypes.c_size_t(1))
        self.address, self.num_bytes = address.value, num_bytes

    def open_handle(self, handle: bytes, num_bytes: int) -> None:
        """Opens a legacy IPC handle."""
        if len(handle) != IPC_HANDLE_BYTES:
            raise AttachError("DATA_LOSS", f"a legacy IPC handle of {len(handle)} bytes")
        same = _IpcHandle.from_buffer_copy(handle)
        address = ctypes.c_ulonglong()
        with _current(self._driver, self._context):
            self._driver.call(
                f"open {num_bytes} bytes of device {self.device} by a legacy IPC handle",
                "cuIpcOpenMemHandle_v2", ctypes.byref(address), same,
                ctypes.c_uint(_LAZY_PEER_ACCESS))
        self._later("cuIpcCloseMemHandle", address)
        self.address, self.num_bytes = address.value, num_bytes

    def copy_from_host(self, memory: mmap.mmap, num_bytes: int, lock_pages: bool) -> str:
        """Copies host memory into new memory; why its pages could not be locked, or "".

        A private mapping's pages are not to be locked: that would duplicate them.
        """
        address, size = ctypes.c_ulonglong(), ctypes.c_size_t(num_bytes)
        begin = ctypes.c_char.from_buffer(memory)
        host = ctypes.c_void_p(ctypes.addressof(begin))
        not_locked = ""
        call = self._driver.call
        with _current(self._driver, self._context):
            call(f"allocate {num_bytes} bytes on device {self.device}", "cuMemAlloc_v2",
                 ctypes.byref(address), size)
            self._later("cuMemFree_v2", address)
            try:
                if lock_pages:
                    call(f"lock {num_bytes} bytes of host memory", "cuMemHostRegister_v2", host,
                         size, ctypes.c_uint(0))
            except AttachError as error:
                lock_pages, not_locked = False, error.message
            try:
                call(f"copy {num_bytes} bytes to device {self.device}", "cuMemcpyHtoD_v2", address,
                     host, size)
            finally:
                if lock_pages:
                    call("unlock host memory", "cuMemHostUnregister", host)
        self.address, self.num_bytes = address.value, num_bytes
        return not_locked

    def read(self, offset: int, count: int) -> bytes:
        """Copies bytes to the host."""
        data = (ctypes.c_ubyte * count)()
        with _current(self._driver, self._context):
            self._driver.call(f"copy {count} bytes from device {self.device}", "cuMemcpyDtoH_v2",
                              data, ctypes.c_ulonglong(self.address + offset),
                              ctypes.c_size_t(count))
        return bytes(data)


@contextlib.contextmanager
def _current(driver: Driver, context: ctypes.c_void_p) -> Iterator[None]:
    """Makes `context` the thread's current one."""
    driver.call("enter a context", "cuCtxPushCurrent_v2", context)
    try:
        yield
    finally:
        driver.call("leave a context", "cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))
