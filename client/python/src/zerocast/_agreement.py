"""How the ranks of a job agree on what happened, without a collective.

They talk through the key-value store of torch.distributed's rendezvous: a rank that has failed, or is
gone, keeps nobody waiting longer than a deadline, and all ranks raise the same error.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from datetime import timedelta
from typing import Any, Dict, Iterator, List, NoReturn, Optional, Tuple, Type

from zerocast._errors import LoadError, ZerocastError

# How often a rank that waits looks whether another has failed; also the beat of one that works.
_BEAT_SECONDS = 1.0
_calls = 0  # of open_ranks, alike on every rank


class Store:
    """What is needed of torch.distributed.Store, for one process alone."""

    def __init__(self) -> None:
        self._values: Dict[str, bytes] = {}

    def set(self, key: str, value: str) -> None:
        self._values[key] = value.encode()

    def get(self, key: str) -> bytes:
        return self._values[key]

    def check(self, keys: List[str]) -> bool:
        return all(key in self._values for key in keys)

    def wait(self, keys: List[str], timeout: timedelta) -> None:
        if not self.check(keys):
            raise RuntimeError(f"{keys} cannot come from a process that is alone")

    def compare_set(self, key: str, expected: str, desired: str) -> bytes:
        return self._values.setdefault(key, desired.encode())

    def add(self, key: str, amount: int) -> int:
        value = int(self._values.get(key, b"0")) + amount
        self._values[key] = str(value).encode()
        return value


# What an exception that is none of zerocast's says, as a status code.
_CODES: Tuple[Tuple[Type[BaseException], str], ...] = (
    (MemoryError, "RESOURCE_EXHAUSTED"), (FileNotFoundError, "NOT_FOUND"),
    (NotImplementedError, "UNIMPLEMENTED"), (ImportError, "FAILED_PRECONDITION"), (OSError, "NOT_FOUND"),
    (ValueError, "INVALID_ARGUMENT"), (TypeError, "INVALID_ARGUMENT"), (KeyError, "INVALID_ARGUMENT"),
    (RuntimeError, "FAILED_PRECONDITION"))


def _said(error: BaseException) -> Dict[str, str]:
    if isinstance(error, ZerocastError):
        return {"code": error.code, "message": error.message, "reason": error.reason}
    if isinstance(error, KeyboardInterrupt):
        return {"code": "CANCELLED", "message": "interrupted", "reason": "CANCELLED"}
    code = next((code for kind, code in _CODES if isinstance(error, kind)), "INTERNAL")
    return {"code": code, "message": f"{type(error).__name__}: {error}", "reason": ""}


def is_said(error: BaseException, agreed: LoadError) -> bool:
    """Whether an exception is, but for its type, what all ranks have agreed on."""
    said = _said(error)
    return said["code"] == agreed.code and agreed.message in (said["message"], f"rank {agreed.rank}: {said['message']}")


def _agreed(said: str) -> LoadError:
    first = json.loads(said)
    error = LoadError(first["code"], first["message"], first["reason"], rank=first["rank"])
    error.is_agreed = True
    return error


class Ranks:
    """The ranks of one call that all of them make.

    One thread uses it, but for the beat of `working`. All methods raise LoadError, on every rank
    with the same text, once any rank has failed or was silent for `timeout` seconds.

    Attributes:
        rank, world_size: as in torch.distributed.
        timeout: seconds.
    """

    def __init__(self, store: Any, rank: int, world_size: int, timeout: float) -> None:
        global _calls
        _calls += 1
        self._store = store
        self._prefix = f"zerocast/{_calls}"
        self.rank = rank
        self.world_size = world_size
        self.timeout = timeout

    def _key(self, *parts: object) -> str:
        return "/".join([self._prefix, *map(str, parts)])

    def _raise_agreed(self, rank: int, error: Dict[str, str]) -> NoReturn:
        """Tells the others of the error, unless another was first; raises the first."""
        said = json.dumps({"rank": rank, **error})
        with contextlib.suppress(RuntimeError):  # the store is gone, and with it whoever would read it
            said = self._store.compare_set(self._key("failed"), "", said).decode()
        raise _agreed(said)

    def _look_for_failure(self) -> None:
        if self._store.check([self._key("failed")]):
            raise _agreed(self._store.get(self._key("failed")).decode())

    def _lost_store(self, step: str, error: Exception) -> NoReturn:
        # Not to be told to the others: they see it themselves.
        lost = LoadError(
            "UNAVAILABLE", f"rank {self.rank} lost the store of torch.distributed in the step "
            f"\"{step}\": {error}; the process that holds it, usually rank 0, is gone: see its "
            "output", "RANK_LOST", rank=0)
        lost.is_agreed = True
        raise lost from error

    def _wait(self, step: str, key: str, deadline: float) -> bool:
        """Whether the key came before the deadline. At least one look is taken."""
        while True:
            try:
                left = min(_BEAT_SECONDS, max(deadline - time.monotonic(), 0.001))
                try:
                    self._store.wait([key], timedelta(seconds=left))
                    return True
                except RuntimeError:
                    # Either it has not come, or the store is gone; then this raises, too.
                    if self._store.check([key]):
                        return True
                    self._look_for_failure()
            except LoadError:
                raise
            except RuntimeError as error:
                self._lost_store(step, error)
            if time.monotonic() >= deadline:
                return False

    def fail(self, error: BaseException) -> NoReturn:
        """Tells all ranks of what went wrong here; raises the LoadError that all of them raise."""
        if getattr(error, "is_agreed", False):
            raise error
        self._raise_agreed(self.rank, _said(error))

    def exchange(self, step: str, value: Any) -> List[Any]:
        """Gives the value (JSON) of every rank to every rank, by rank."""
        self._tell(step, self.rank, value)
        return self._hear_all(step)

    def _tell(self, step: str, rank: int, value: Any) -> None:
        try:
            self._store.set(self._key(step, rank), json.dumps(value))
            if self._store.add(self._key(step, "count"), 1) == self.world_size:
                self._store.set(self._key(step, "all"), "")
        except RuntimeError as error:
            self._lost_store(step, error)

    def _hear_all(self, step: str) -> List[Any]:
        if not self._wait(step, self._key(step, "all"), time.monotonic() + self.timeout):
            silent = [rank for rank in range(self.world_size)
                      if not self._store.check([self._key(step, rank)])]
            some = ", ".join(map(str, silent[:8])) + (", ..." if len(silent) > 8 else "")
            self._raise_agreed(silent[0] if silent else self.rank, {
                "code": "DEADLINE_EXCEEDED", "reason": "RANK_LOST",
                "message": f"rank {some} said nothing for {self.timeout:g} s in the step \"{step}\", which the "
                           "others have ended; it died or hangs: see its output"})
        return [json.loads(self._store.get(self._key(step, rank)))
                for rank in range(self.world_size)]

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Runs the block on every rank; returns on all of them once it has ended on all, or raises
        the same error on all. KeyboardInterrupt stays what it is on the rank that it hit."""
        try:
            yield
        except BaseException as error:
            try:
                self.fail(error)
            except LoadError as agreed:
                if agreed is not error and isinstance(error, Exception):
                    raise agreed from error
            raise
        self.exchange(name, None)

    @contextlib.contextmanager
    def working(self, name: str) -> Iterator[None]:
        """Tells those who wait for this rank (`result_of`) that it is alive while the block runs."""
        stop = threading.Event()

        def beat() -> None:
            count = 0
            while not stop.wait(_BEAT_SECONDS):
                count += 1
                try:
                    self._store.set(self._key(name, "beat"), str(count))
                except RuntimeError:
                    return

        thread = threading.Thread(target=beat, name="zerocast-beat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def give(self, name: str, value: Any) -> None:
        """Gives a result (JSON) to the ranks that wait for it."""
        try:
            self._store.set(self._key(name, "result"), json.dumps(value))
        except RuntimeError as error:
            self._lost_store(name, error)

    def result_of(self, name: str, rank: int) -> Any:
        """Waits for what `rank` gives, as long as it is seen `working`."""
        beat = b""
        while True:
            deadline = time.monotonic() + self.timeout
            while time.monotonic() < deadline:
                if self._wait(name, self._key(name, "result"), time.monotonic() + _BEAT_SECONDS):
                    return json.loads(self._store.get(self._key(name, "result")))
                if self._store.check([self._key(name, "beat")]):
                    now = self._store.get(self._key(name, "beat"))
                    if now != beat:
                        beat = now
                        break
            else:
                self._raise_agreed(rank, {
                    "code": "DEADLINE_EXCEEDED", "reason": "RANK_LOST",
                    "message": f"rank {rank} was silent for {self.timeout:g} s in the step \"{name}\"; it died or "
                               "hangs: see its output"})


def open_ranks(timeout: float) -> Ranks:
    """The ranks of this job: of torch.distributed, initialised or by torchrun's variables, or this
    process alone. Initialises torch.distributed, by DeepSpeed where that is installed."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 and not _is_initialized():
        return Ranks(Store(), 0, 1, timeout)
    import torch.distributed as distributed
    if not distributed.is_initialized():
        distributed.init_process_group("nccl" if _has_cuda() else "gloo")
    store = distributed.distributed_c10d._get_default_store()
    return Ranks(store, distributed.get_rank(), distributed.get_world_size(), timeout)


def _is_initialized() -> bool:
    import torch.distributed as distributed
    return bool(distributed.is_available() and distributed.is_initialized())


def _has_cuda() -> bool:
    import torch
    return bool(torch.cuda.is_available())


def nodes_of(ranks: Ranks, name: Optional[str] = None) -> Tuple[List[str], int]:
    """The names of the nodes, in the order of their ranks, and how many ranks each has.

    A node is called as its agent is: `name`, else ZEROCAST_NODE, else the host's name.

    Raises:
        LoadError: the ranks of a node are not neighbours, or nodes have different numbers of them.
    """
    own = name or os.environ.get("ZEROCAST_NODE") or socket.gethostname()
    by_rank = ranks.exchange("nodes", own)
    nodes: List[str] = []
    for node in by_rank:
        if not nodes or nodes[-1] != node:
            nodes.append(node)
    each = ranks.world_size // len(nodes)
    wanted = [node for node in nodes for _ in range(each)]
    if len(set(nodes)) != len(nodes) or by_rank != wanted:
        raise LoadError(
            "FAILED_PRECONDITION", "the ranks are not spread over the nodes in equal blocks of neighbours, as a "
            f"load wants them; by rank: {', '.join(by_rank[:16])}{', ...' if len(by_rank) > 16 else ''}",
            "INVALID_FIELDS")
    return nodes, each
