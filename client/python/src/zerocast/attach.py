"""Attaching to a shard: the client's side of the agent's hand-over protocol.

The protocol is described in client/agent/HANDOVER.md.
"""

from __future__ import annotations

import json
import mmap
import os
import socket as sockets
import time
from dataclasses import dataclass
from typing import Any, Iterator, List, Mapping, Optional, Tuple

DEFAULT_SOCKET = "/run/zerocast/agent.sock"
# An index of 100,000 targets has about 30 MB.
_MAX_ANSWER_BYTES = 256 << 20
_CONNECT_PAUSE = 0.01  # seconds

# torch's name -> bytes of an element, numpy's name; the name of ml_dtypes where numpy has none, and
# then the integer that holds the bits.
_DTYPES = {
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


class AttachError(RuntimeError):
    """A shard could not be attached.

    Attributes:
        code: the status code's name, such as "PERMISSION_DENIED" or "UNAVAILABLE".
        reason: a word from the server's closed list of reasons; may be empty.
    """

    def __init__(self, code: str, message: str, reason: str = "") -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.reason = reason


class UnfilledError(AttachError, KeyError):
    """A weight was asked for that the checkpoint has nothing for."""

    def __init__(self, name: str) -> None:
        super().__init__(
            "NOT_FOUND", f"{name} is not in the checkpoint, or has another shape there, which the "
            "job allowed; its elements are zero. Initialize it, and attach with "
            "allow_unfilled=True", "NOT_FOUND")

    __str__ = RuntimeError.__str__  # KeyError's would quote the message


@dataclass(frozen=True)
class Partition:
    """What one rank holds of one parameter or buffer.

    Attributes:
        name: the model's name.
        array: the elements, 1-D, in the dtype of the load; padding at the end is zero. A numpy
            array, or a torch tensor.
        shape: of the whole parameter.
        dtype: torch's name of the dtype, without "torch.".
        num_elements: of the whole parameter.
        partitioned: False: every rank holds all of it.
        secondary: with zero_hpz_partition_size this rank's secondary partition, as array; else
            None. Shard.secondary_group_size neighbouring ranks hold all of the parameter
            together: rank r has block r mod secondary_group_size.
        is_buffer: it is a buffer, not a parameter.
        aliases: other names of the same weight.
        filled: False: the checkpoint has nothing for it, which the job allowed (missing, or of
            another shape); the elements are zero and are no weight.
    """

    name: str
    array: Any
    shape: Tuple[int, ...]
    dtype: str
    num_elements: int
    partitioned: bool
    is_buffer: bool
    aliases: Tuple[str, ...]
    filled: bool
    secondary: Any = None

    @property
    def whole(self) -> Any:
        """The array in the parameter's shape; ValueError where this rank holds a part of it alone."""
        if self.partitioned:
            raise ValueError(f"{self.name} is partitioned: no rank holds the whole of it")
        return self.array.reshape(self.shape)


class Shard(Mapping[str, Partition]):
    """The partitions of one rank, by name, in the plan's order. Aliases are found too.

    What the checkpoint does not fill is listed too, in `unfilled` as well; shard[name] raises
    UnfilledError for it unless attach() was told allow_unfilled=True.

    The arrays own the memory: it is unmapped when the last of them is gone, whether the Shard is
    still there or not.
    """

    def __init__(self, load: str, rank: int, world_size: int, plan_digest: str, mode: str,
                 way: str, num_bytes: int, partitions: List[Partition],
                 allow_unfilled: bool, secondary_group_size: int = 0) -> None:
        self.load = load
        self.rank = rank
        self.world_size = world_size
        self.plan_digest = plan_digest
        self.mode = mode
        self.way = way
        self.num_bytes = num_bytes
        self.secondary_group_size = secondary_group_size  # 0: there are no secondary partitions
        self.unfilled = tuple(part.name for part in partitions if not part.filled)
        self._allow_unfilled = allow_unfilled
        self._partitions = {partition.name: partition for partition in partitions}
        self._aliases = {alias: partition.name
                         for partition in partitions for alias in partition.aliases}

    def __getitem__(self, name: str) -> Partition:
        partition = self._partitions[name if name in self._partitions else self._aliases[name]]
        if not partition.filled and not self._allow_unfilled:
            raise UnfilledError(partition.name)
        return partition

    def __contains__(self, name: object) -> bool:
        return name in self._partitions or name in self._aliases

    def __iter__(self) -> Iterator[str]:
        return iter(self._partitions)

    def __len__(self) -> int:
        return len(self._partitions)

    def __repr__(self) -> str:
        return (f"Shard({self.load!r}, rank={self.rank}, world_size={self.world_size}, "
                f"mode={self.mode!r}, {len(self)} partitions, {self.num_bytes} bytes)")


class _Connection:
    """A connection to an agent, all of whose waits end by one deadline."""

    def __init__(self, path: str, timeout: float) -> None:
        self._path = path
        self._deadline = time.monotonic() + timeout
        self._socket = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM)
        self.fd = -1
        try:
            self._connect()
        except OSError as error:
            self._socket.close()
            raise AttachError("UNAVAILABLE", f"connect to the agent at {path}: {error}",
                              "AGENT_LOST") from error
        except AttachError:
            self._socket.close()
            raise

    def _connect(self) -> None:
        while True:
            self._arm()
            try:
                return self._socket.connect(self._path)
            except BlockingIOError:  # the agent's queue is full; nothing can wait for that
                time.sleep(_CONNECT_PAUSE)

    def close(self) -> None:
        self._socket.close()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def _arm(self) -> None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise AttachError("DEADLINE_EXCEEDED", f"the agent at {self._path} did not answer in "
                              "time", "DEADLINE_EXCEEDED")
        self._socket.settimeout(left)

    def _failed(self, error: object) -> AttachError:
        if isinstance(error, TimeoutError):  # socket.timeout since Python 3.10
            return AttachError("DEADLINE_EXCEEDED", f"the agent at {self._path} did not answer in "
                               "time", "DEADLINE_EXCEEDED")
        return AttachError("UNAVAILABLE", f"talk to the agent at {self._path}: {error}",
                           "AGENT_LOST")

    def send(self, message: Mapping[str, Any]) -> None:
        text = json.dumps(message).encode()
        try:
            self._arm()
            self._socket.sendall(len(text).to_bytes(4, "little") + text)
        except OSError as error:
            raise self._failed(error) from error

    def receive(self) -> Any:
        """One answer; a descriptor that comes with it is in self.fd."""
        length = int.from_bytes(self._read(4), "little")
        if length > _MAX_ANSWER_BYTES:
            raise AttachError("DATA_LOSS", f"an answer of {length} bytes from {self._path}")
        try:
            return json.loads(self._read(length))
        except ValueError as error:
            raise AttachError("DATA_LOSS", f"the answer of {self._path} is not JSON") from error

    def _read(self, num_bytes: int) -> bytes:
        data = bytearray()
        while len(data) < num_bytes:
            try:
                self._arm()
                got, fds, _, _ = sockets.recv_fds(self._socket, num_bytes - len(data), 1,
                                                  sockets.MSG_CMSG_CLOEXEC)
            except OSError as error:
                raise self._failed(error) from error
            for fd in fds:
                if self.fd >= 0:
                    os.close(self.fd)
                self.fd = fd
            if not got:
                raise self._failed("it closed the connection")
            data += got
        return bytes(data)


def _numpy_array(memory: Optional[mmap.mmap], dtype: str, count: int, offset: int) -> Any:
    import numpy

    _, name, extension = _DTYPES[dtype]
    wanted = numpy.dtype(name)
    if extension is not None:
        try:
            import ml_dtypes

            wanted = numpy.dtype(getattr(ml_dtypes, extension))
        except ImportError:
            pass  # the bits, as documented
    if count == 0 or memory is None:
        return numpy.empty(0, wanted)
    return numpy.frombuffer(memory, wanted, count, offset)


def _torch_tensor(memory: Optional[mmap.mmap], dtype: str, count: int, offset: int) -> Any:
    import torch

    wanted = getattr(torch, dtype, None)
    if wanted is None:
        raise AttachError("UNIMPLEMENTED", f"torch {torch.__version__} has no dtype {dtype}")
    if count == 0 or memory is None:
        return torch.empty(0, dtype=wanted)
    return torch.frombuffer(memory, dtype=wanted, count=count, offset=offset)


_FRAMEWORKS = {"numpy": _numpy_array, "torch": _torch_tensor}
_FLAGS = {"shared": mmap.MAP_SHARED, "private": mmap.MAP_PRIVATE}
_MODES = ("auto", *_FLAGS)


def _map_arena(fd: int, num_bytes: int, mode: str) -> Optional[mmap.mmap]:
    if num_bytes == 0:
        return None
    if fd < 0 or os.fstat(fd).st_size < num_bytes:
        raise AttachError("DATA_LOSS", f"no arena of {num_bytes} bytes came with the answer")
    try:
        return mmap.mmap(fd, num_bytes, _FLAGS[mode], mmap.PROT_READ | mmap.PROT_WRITE)
    except (OSError, ValueError) as error:
        raise AttachError("RESOURCE_EXHAUSTED", f"map an arena of {num_bytes} bytes: {error}") \
            from error


def _partition(entry: Mapping[str, Any], memory: Optional[mmap.mmap], num_bytes: int,
               make: Any) -> Partition:
    # The answer comes from another process: what it says of memory is checked.
    dtype = entry["dtype"]
    if dtype not in _DTYPES:
        raise AttachError("UNIMPLEMENTED", f"{entry['name']} has the dtype {dtype}")

    def array(prefix: str) -> Any:
        count, offset = int(entry[prefix + "elements"]), int(entry[prefix + "offset"])
        if min(count, offset) < 0 or offset + count * _DTYPES[dtype][0] > num_bytes:
            raise AttachError("DATA_LOSS", f"{entry['name']} does not fit into its arena")
        return make(memory, dtype, count, offset)

    primary = array("")
    if not isinstance(entry["filled"], bool):
        raise AttachError("DATA_LOSS", f"{entry['name']}: filled is {entry['filled']!r}")
    return Partition(
        name=entry["name"], array=primary, shape=tuple(entry["shape"]), dtype=dtype,
        num_elements=int(entry["num_elements"]), partitioned=bool(entry["partitioned"]),
        is_buffer=bool(entry.get("buffer", False)),
        aliases=tuple(entry.get("aliases", ())), filled=entry["filled"],
        secondary=array("secondary_") if "secondary_elements" in entry else None)


def _shard(answer: Mapping[str, Any], memory: Optional[mmap.mmap], make: Any,
           allow_unfilled: bool) -> Shard:
    """Without `memory` all arrays are empty: that checks the answer, and that `make` can work."""
    try:
        num_bytes = int(answer["arena_bytes"])
        if answer["mode"] not in _FLAGS:
            raise ValueError(f"mode {answer['mode']!r}")
        if answer["way"] != "memfd":
            raise AttachError("UNIMPLEMENTED", "the shard lies on a device "
                              f"({answer.get('device')}, way {answer['way']!r}), and this client attaches to "
                              "host memory alone; load with --device cpu", "UNSUPPORTED")
        partitions = [_partition(entry, memory, num_bytes, make) for entry in answer["targets"]]
        return Shard(answer["load"], int(answer["rank"]), int(answer["world_size"]),
                     answer["plan_digest"], answer["mode"], answer["way"], num_bytes, partitions,
                     allow_unfilled, int(answer.get("secondary_group_size", 0)))
    except (KeyError, TypeError, ValueError) as error:
        raise AttachError("DATA_LOSS", f"the agent's answer is incomplete: {error!r}") from error


def _check(answer: Any) -> Mapping[str, Any]:
    if not isinstance(answer, dict):
        raise AttachError("DATA_LOSS", "the agent's answer is no JSON object")
    if answer.get("ok") is not True:
        error = answer.get("error") or {}
        raise AttachError(str(error.get("code", "INTERNAL")),
                          str(error.get("message", "refused without a reason")),
                          str(error.get("reason", "")))
    return answer


def attach(load: str, rank: int, *, token: Optional[str] = None, socket: Optional[str] = None,
           mode: str = "auto", framework: str = "numpy", timeout: float = 30.0,
           allow_unfilled: bool = False) -> Shard:
    """Takes the shard of a rank over from the agent of this node, without a copy.

    Args:
        load: the load's name, "loads/ID".
        rank: the rank whose shard is wanted.
        token: the job's attach token; by default the environment's ZEROCAST_TOKEN.
        socket: the agent's socket; by default the environment's ZEROCAST_SOCKET, else
            /run/zerocast/agent.sock.
        mode: "shared": this process becomes the owner and the agent forgets the shard, which can
            be done once, and not while other loads or processes use the same memory; "private":
            the agent keeps it, writes stay in this process (copy on write); "auto": shared where
            that is possible, else private. The shard's `mode` says which it was.
        framework: "numpy" or "torch", for the arrays. bfloat16 and float8 are torch's own; in numpy
            they are ml_dtypes' where that is installed, else integers of the same width that hold
            the bits.
        timeout: seconds until it must have ended.
        allow_unfilled: give out partitions that the checkpoint has nothing for, as zeros with
            `filled` False, instead of raising UnfilledError when they are asked for.

    Raises:
        AttachError: with the agent's message; nothing is attached then. A shared shard whose
            hand-over breaks off after the acknowledgement is lost and must be loaded again.
        ValueError: an argument is not one of the words above.
    """
    if mode not in _MODES:
        raise ValueError(f"mode must be one of {sorted(_MODES)}, was {mode!r}")
    if framework not in _FRAMEWORKS:
        raise ValueError(f"framework must be one of {sorted(_FRAMEWORKS)}, was {framework!r}")
    if token is None:
        token = os.environ.get("ZEROCAST_TOKEN", "")
    path = socket or os.environ.get("ZEROCAST_SOCKET") or DEFAULT_SOCKET
    connection = _Connection(path, timeout)
    try:
        connection.send({"op": "attach", "load": load, "rank": rank, "token": token, "mode": mode})
        answer = _check(connection.receive())
        if mode != "auto" and answer.get("mode") != mode:
            raise AttachError("DATA_LOSS", f"asked for mode {mode}, got {answer.get('mode')!r}")
        make = _FRAMEWORKS[framework]
        # All that can be wrong with it must show before the ack: after that the agent forgets a
        # shared shard.
        _shard(answer, None, make, allow_unfilled)
        connection.send({"op": "ack"})
        _check(connection.receive())
        memory = _map_arena(connection.fd, int(answer["arena_bytes"]), answer["mode"])
        return _shard(answer, memory, make, allow_unfilled)
    finally:
        connection.close()
