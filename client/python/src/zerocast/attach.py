"""Attaching to a shard: the client's side of the agent's hand-over protocol.

The protocol is described in client/agent/HANDOVER.md.
"""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass
from typing import Any, Dict, Iterator, List, Mapping, Optional, Tuple

from zerocast._arrays import DTYPES, FRAMEWORKS, HostMapping, Memory
from zerocast._connection import Connection
from zerocast._cuda import DeviceMemory, Driver
from zerocast._errors import AttachError, UnfilledError

DEFAULT_SOCKET = "/run/zerocast/agent.sock"


@dataclass(frozen=True)
class Partition:
    """What one rank holds of one parameter or buffer.

    Attributes:
        name: the model's name.
        array: the elements, 1-D, in the dtype of the load; padding at the end is zero. A numpy
            array, a torch tensor, or a DeviceArray (framework "dlpack").
        shape: of the whole parameter.
        dtype: torch's name of the dtype, without "torch.".
        num_elements: of the whole parameter.
        partitioned: False: every rank holds all of it.
        secondary: with zero_hpz_partition_size this rank's secondary partition, as array; else
            None. Shard.secondary_group_size neighbouring ranks hold all of the parameter
            together: rank r has block r mod secondary_group_size.
        is_buffer: it is a buffer, not a parameter.
        is_state: it is a state of the optimizer: "optimizer/STATE/NAME", as the parameter NAME is;
            under ZeRO stages 1 and 2 "optimizer/STATE/GROUP", this rank's part of a group's flat
            tensor, whose aliases are the group's parameters by place (server/plan/README.md).
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
    is_state: bool = False

    @property
    def whole(self) -> Any:
        """The array in the parameter's shape; ValueError where this rank holds a part of it alone."""
        if self.partitioned:
            raise ValueError(f"{self.name} is partitioned: no rank holds the whole of it")
        return self.array.reshape(self.shape)


class Shard(Mapping[str, Partition]):
    """The partitions of one rank, by name, in the plan's order. Aliases of weights are found too.

    What the checkpoint does not fill is listed too, in `unfilled` as well; shard[name] raises
    UnfilledError for it unless attach() was told allow_unfilled=True.

    The arrays own the memory: it is unmapped when the last of them is gone, whether the Shard is
    still there or not.

    `way` says how it came: "memfd", host memory; "cuda_vmm" and "cuda_ipc", memory of the GPU
    `device` (its UUID), without a copy; "host_copy", for a GPU, but by way of host memory, which
    was copied here to `device` (framework "numpy": which the arrays lie in, and `device` is
    empty). `because` says why by no better way; empty where it was the best.
    """

    def __init__(self, load: str, rank: int, world_size: int, plan_digest: str, mode: str,
                 way: str, num_bytes: int, partitions: List[Partition],
                 allow_unfilled: bool, secondary_group_size: int = 0, because: str = "",
                 device: str = "") -> None:
        self.load = load
        self.rank = rank
        self.world_size = world_size
        self.plan_digest = plan_digest
        self.mode = mode
        self.way = way
        self.because = because
        self.device = device
        self.num_bytes = num_bytes
        self.secondary_group_size = secondary_group_size  # 0: there are no secondary partitions
        self.unfilled = tuple(part.name for part in partitions if not part.filled)
        self._allow_unfilled = allow_unfilled
        self._partitions = {partition.name: partition for partition in partitions}
        self._aliases = {alias: partition.name
                         for partition in partitions if not partition.is_state
                         for alias in partition.aliases}

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

    def take_states(self) -> Dict[str, Partition]:
        """The optimizer's states, by name. This shard has them no more: each array goes, and its
        memory with it, when the caller drops it."""
        names = [name for name, partition in self._partitions.items() if partition.is_state]
        return {name: self._partitions.pop(name) for name in names}

    def __repr__(self) -> str:
        return (f"Shard({self.load!r}, rank={self.rank}, world_size={self.world_size}, "
                f"mode={self.mode!r}, {len(self)} partitions, {self.num_bytes} bytes)")


_FLAGS = {"shared": mmap.MAP_SHARED, "private": mmap.MAP_PRIVATE}
MODES = ("auto", *_FLAGS)
_ON_DEVICE = ("cuda_vmm", "cuda_ipc")
_WAYS = ("memfd", "host_copy", *_ON_DEVICE)
# An agent proposes no more, one after the other.
_MOST_WAYS = 3


def _map_arena(fd: int, num_bytes: int, mode: str) -> Optional[mmap.mmap]:
    if num_bytes == 0:
        return None
    if fd < 0 or os.fstat(fd).st_size < num_bytes:
        raise AttachError("DATA_LOSS", f"no arena of {num_bytes} bytes came with the answer")
    try:
        mapping = HostMapping(fd, num_bytes, _FLAGS[mode], mmap.PROT_READ | mmap.PROT_WRITE)
    except (OSError, ValueError) as error:
        raise AttachError("RESOURCE_EXHAUSTED", f"map an arena of {num_bytes} bytes: {error}") \
            from error
    if mode == "shared":
        mapping.advice = mmap.MADV_REMOVE
    return mapping


def _partition(entry: Mapping[str, Any], num_bytes: int, make: Any, is_there: bool) -> Partition:
    # The answer comes from another process: what it says of memory is checked.
    dtype = entry["dtype"]
    if dtype not in DTYPES:
        raise AttachError("UNIMPLEMENTED", f"{entry['name']} has the dtype {dtype}")

    def array(prefix: str) -> Any:
        count, offset = int(entry[prefix + "elements"]), int(entry[prefix + "offset"])
        size = DTYPES[dtype][0]
        if min(count, offset) < 0 or offset % size or offset + count * size > num_bytes:
            raise AttachError("DATA_LOSS", f"{entry['name']} does not fit into its arena")
        return make(dtype, count if is_there else 0, offset)

    primary = array("")
    if not isinstance(entry["filled"], bool):
        raise AttachError("DATA_LOSS", f"{entry['name']}: filled is {entry['filled']!r}")
    return Partition(
        name=entry["name"], array=primary, shape=tuple(entry["shape"]), dtype=dtype,
        num_elements=int(entry["num_elements"]), partitioned=bool(entry["partitioned"]),
        is_buffer=bool(entry.get("buffer", False)),
        aliases=tuple(entry.get("aliases", ())), filled=entry["filled"],
        secondary=array("secondary_") if "secondary_elements" in entry else None,
        is_state=bool(entry.get("state", False)))


def _shard(answer: Mapping[str, Any], memory: Optional[Memory], framework: str,
           allow_unfilled: bool, because: str = "", device: str = "") -> Shard:
    """Without `memory` all arrays are empty: that checks the answer, and that the framework can work."""
    try:
        num_bytes = int(answer["arena_bytes"])
        if answer["mode"] not in _FLAGS:
            raise ValueError(f"mode {answer['mode']!r}")
        make = FRAMEWORKS[framework](memory)
        partitions = [_partition(entry, num_bytes, make, memory is not None)
                      for entry in answer["targets"]]
        return Shard(answer["load"], int(answer["rank"]), int(answer["world_size"]),
                     answer["plan_digest"], answer["mode"], answer["way"], num_bytes, partitions,
                     allow_unfilled, int(answer.get("secondary_group_size", 0)),
                     because, device)
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


def _target(answer: Mapping[str, Any], device: Optional[str]) -> int:
    """The number of the device that a shard in host memory is to be copied to."""
    uuid = device or str(answer.get("device", ""))
    return Driver.get().find(uuid) if uuid else Driver.get().current_device()


def _hex(text: Any) -> bytes:
    try:
        return bytes.fromhex(text)
    except (TypeError, ValueError) as error:
        raise AttachError("DATA_LOSS", f"the agent's answer has {text!r}, no hexadecimal digits") \
            from error


def _take(way: str, device: int, fd: int, handle: Any, allocation_bytes: int, num_bytes: int,
          connection: Optional[Connection] = None) -> DeviceMemory:
    """Memory of a device, by a descriptor or a handle."""
    if way == "cuda_vmm" and fd < 0:
        raise AttachError("DATA_LOSS", "no descriptor came with the answer")
    memory = DeviceMemory(Driver.get(), device)
    try:
        if way == "cuda_vmm":
            memory.import_descriptor(fd, allocation_bytes, num_bytes)
        else:
            if connection is not None:
                # Tells the agent, whose memory it is, how long it is used.
                memory.keep_until_given_back(connection.keep())
            memory.open_handle(_hex(handle), num_bytes)
    except AttachError:
        memory.close()
        raise
    return memory


def _device_memory(answer: Mapping[str, Any], last: Mapping[str, Any],
                   connection: Connection) -> DeviceMemory:
    return _take(answer["way"], Driver.get().find(answer["device"]), connection.fd,
                 last.get("handle"), int(answer["allocation_bytes"]), int(answer["arena_bytes"]),
                 connection)


def _try(answer: Mapping[str, Any], device: int, fd: int) -> None:
    """Whether this process gets at memory that comes by that way; AttachError says why not."""
    trial = answer.get("trial")
    if trial is None:  # an agent of an older version
        return
    wanted = _hex(trial["bytes"])
    memory = _take(answer["way"], device, fd, trial.get("handle"), int(trial["allocation_bytes"]),
                   len(wanted))
    try:
        if memory.read(0, len(wanted)) != wanted:
            raise AttachError("DATA_LOSS", f"memory that came by {answer['way']} does not hold the "
                              "agent's bytes")
    finally:
        memory.close()


def _agree(connection: Connection, mode: str, framework: str,
           allow_unfilled: bool) -> Mapping[str, Any]:
    """The agent's answer that this process can acknowledge.

    All that can be wrong with it must show before the ack: after that the agent forgets a shared
    shard.
    """
    failed: Optional[AttachError] = None
    for _ in range(_MOST_WAYS):
        try:
            answer = _check(connection.receive())
        except AttachError as error:
            # Where the answer to a "cannot" is a refusal, what could not be explains it.
            if failed is None:
                raise
            raise AttachError(failed.code, f"{failed.message}; then {error}",
                              failed.reason) from error
        if mode != "auto" and answer.get("mode") != mode:
            raise AttachError("DATA_LOSS", f"asked for mode {mode}, got {answer.get('mode')!r}")
        _shard(answer, None, framework, allow_unfilled)
        failed = _cannot(answer, framework, connection.fd)
        connection.close_descriptor()  # of the memory for trial
        if failed is None:
            return answer
        connection.send({"op": "cannot", "why": failed.message})
    raise failed or AttachError("INTERNAL", "the agent proposes nothing")


def _cannot(answer: Mapping[str, Any], framework: str, fd: int) -> Optional[AttachError]:
    """Why another way must be found; raises what no other way would help with."""
    way = answer["way"]
    if way not in _WAYS:
        raise AttachError("UNIMPLEMENTED", f"the agent hands over by {way!r}, which this client "
                          "does not know; use the agent's version of it", "UNSUPPORTED")
    if way == "host_copy" and FRAMEWORKS[framework].on_devices:
        _target(answer, None)
    if way not in _ON_DEVICE:
        return None
    if not FRAMEWORKS[framework].on_devices:
        raise AttachError(
            "FAILED_PRECONDITION", f"the shard lies on the GPU {answer.get('device')}, and arrays of "
            f"{framework} lie in host memory; attach with framework=\"torch\" or \"dlpack\", or load "
            "with --device cpu", "UNSUPPORTED")
    try:
        device = Driver.get().find(str(answer["device"]))
        try:
            _try(answer, device, fd)
        except AttachError as error:
            return error
    except (KeyError, TypeError, ValueError) as error:
        raise AttachError("DATA_LOSS", f"the agent's answer is incomplete: {error!r}") from error
    return None


def attach(load: str, rank: int, *, token: Optional[str] = None, socket: Optional[str] = None,
           mode: str = "auto", framework: str = "numpy", timeout: float = 30.0,
           allow_unfilled: bool = False, device: Optional[str] = None,
           world_size: Optional[int] = None) -> Shard:
    """Takes the shard of a rank over from the agent of this node, without a copy.

    A shard that lies on a GPU is shared only, and wants framework "torch" or "dlpack".

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
        framework: "numpy", "torch" or "dlpack", for the arrays; "dlpack": DeviceArrays, which
            every framework takes without a copy. bfloat16 and float8 are torch's own; in numpy
            they are ml_dtypes' where that is installed, else integers of the same width that hold
            the bits.
        timeout: seconds until it must have ended.
        allow_unfilled: give out partitions that the checkpoint has nothing for, as zeros with
            `filled` False, instead of raising UnfilledError when they are asked for.
        device: the UUID of the GPU ("GPU-...") that a shard which comes by way of host memory
            ("host_copy") is copied to; by default the one that the agent made it for, else the
            calling thread's current one.
        world_size: how many ranks the load must be for; None: any number.

    Raises:
        AttachError: with the agent's message; nothing is attached then. A shared shard whose
            hand-over breaks off after the acknowledgement is lost and must be loaded again.
        ValueError: an argument is not one of the words above.
    """
    if mode not in MODES:
        raise ValueError(f"mode must be one of {sorted(MODES)}, was {mode!r}")
    if framework not in FRAMEWORKS:
        raise ValueError(f"framework must be one of {sorted(FRAMEWORKS)}, was {framework!r}")
    if token is None:
        token = os.environ.get("ZEROCAST_TOKEN", "")
    path = socket or os.environ.get("ZEROCAST_SOCKET") or DEFAULT_SOCKET
    connection = Connection(path, timeout)
    acknowledged = False
    try:
        connection.send({"op": "attach", "load": load, "rank": rank, "token": token, "mode": mode})
        answer = _agree(connection, mode, framework, allow_unfilled)
        if world_size is not None and answer["world_size"] != world_size:
            raise AttachError(
                "FAILED_PRECONDITION", f"attach rank {rank} of {load}: the load is for {answer['world_size']} ranks, "
                f"and here are {world_size}; load the checkpoint again for as many", "WRONG_STATE")
        acknowledged = True
        connection.send({"op": "ack"})
        last = _check(connection.receive())
        because = str(answer.get("because", ""))
        if answer["way"] in _ON_DEVICE:
            on_device = _device_memory(answer, last, connection)
            return _shard(answer, on_device, framework, allow_unfilled, because,
                          str(answer["device"]))
        memory = _map_arena(connection.fd, int(answer["arena_bytes"]), answer["mode"])
        if answer["way"] == "memfd" or memory is None or not FRAMEWORKS[framework].on_devices:
            return _shard(answer, memory, framework, allow_unfilled, because)
        driver = Driver.get()
        copy = DeviceMemory(driver, _target(answer, device))
        not_locked = copy.copy_from_host(memory, len(memory), answer["mode"] == "shared")
        memory.close()
        if not_locked:
            because += f"; copied from pages that are not locked: {not_locked}"
        return _shard(answer, copy, framework, allow_unfilled, because,
                      driver.uuids()[copy.device])
    finally:
        if not acknowledged:
            connection.give_back()
        connection.close()
