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
from typing import Any, Callable, Dict, Iterator, List, NoReturn, Optional, Tuple, Type

from zerocast._errors import LoadError, ZerocastError

# How often a rank that waits looks whether another has failed; also the beat of one that works.
_BEAT_SECONDS = 1.0
# Seconds between two looks of a rank that waits, the second one a rank that there is.
_LEAST_PAUSE, _PAUSE_OF_RANK, _MOST_PAUSE = 0.0005, 2e-5, 0.25
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
    (AssertionError, "INVALID_ARGUMENT"),
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
    error.num_lost = first.get("lost", 0)
    return error


class Ranks:
    """The ranks of one call that all of them make.

    One thread uses it, but for the beat of `working`. All methods raise LoadError, on every rank
    with the same text, once any rank has failed or was silent for `timeout` seconds. Once the store
    is gone all raise, each by itself, that rank 0 is lost.

    Calls may be made within a step of another one: they end with that, too.

    Attributes:
        rank, world_size: as in torch.distributed.
        timeout: seconds.
    """

    def __init__(self, store: Any, rank: int, world_size: int, timeout: float, outer: Optional["Ranks"] = None) -> None:
        global _calls
        self._store = store
        self._outer = outer
        self._inner = 0  # calls within this one
        if outer is None:
            _calls += 1
            self._prefix = f"zerocast/{_calls}"
        else:
            outer._inner += 1
            self._prefix = outer._key("within", outer._inner)
        self.rank = rank
        self.world_size = world_size
        self.timeout = timeout
        self._has_left = False

    def _key(self, *parts: object) -> str:
        return "/".join([self._prefix, *map(str, parts)])

    def _raise_agreed(self, rank: int, error: Dict[str, Any]) -> NoReturn:
        """Tells the others of the error, unless another was first; raises the first."""
        said = json.dumps({"rank": rank, **error})
        with contextlib.suppress(RuntimeError):  # the store is gone, and with it whoever would read it
            said = self._store.compare_set(self._key("failed"), "", said).decode()
        raise _agreed(said)

    def _look_for_failure(self) -> None:
        call: Optional[Ranks] = self
        while call is not None:
            if self._store.check([call._key("failed")]):
                raise _agreed(self._store.get(call._key("failed")).decode())
            call = call._outer

    @contextlib.contextmanager
    def _reaching_store(self) -> Iterator[None]:
        try:
            yield
        except LoadError:
            raise
        except RuntimeError as error:
            # Not to be told to the others: they see it themselves, and raise the same.
            lost = LoadError(
                "UNAVAILABLE", "the store of torch.distributed, by which the ranks agree, is gone, and with it the "
                "process that holds it, rank 0 or its launcher: see its output", "RANK_LOST", rank=0)
            lost.is_agreed = True
            raise lost from error

    def _wait(self, key: str, deadline: float, since: Optional[float] = None) -> bool:
        """Whether the key came before the deadline. At least one look is taken. `since`: when the waiting began.

        It asks again and again: torch.distributed.Store.wait has every wait that ends without the key in the log, at
        each rank."""
        began = time.monotonic() if since is None else since
        next_look = time.monotonic() + _BEAT_SECONDS
        while True:
            with self._reaching_store():
                if self._store.check([key]):
                    return True
                now = time.monotonic()
                if now >= min(next_look, deadline):
                    self._look_for_failure()
                    next_look = now + _BEAT_SECONDS
            if now >= deadline:
                return False
            # So that thousands of ranks do not keep the store busy.
            pause = max(_LEAST_PAUSE, _PAUSE_OF_RANK * self.world_size, (now - began) / 50)
            time.sleep(min(pause, _MOST_PAUSE, deadline - now))

    def _raise_silent(self, step: str, silent: List[int]) -> NoReturn:
        others = ", ".join(map(str, silent[1:8])) + (", ..." if len(silent) > 8 else "")
        self._raise_agreed(silent[0], {
            "code": "DEADLINE_EXCEEDED", "reason": "RANK_LOST", "lost": len(silent),
            "message": f"said nothing for {self.timeout:g} s in the step \"{step}\"" +
                       (f", nor did {others}" if others else "") + "; it died or hangs: see its output"})

    def tell(self, error: BaseException) -> None:
        """Has all other ranks that wait for this one raise a LoadError of what went wrong here."""
        with contextlib.suppress(LoadError):
            self.fail(error)
        self._leave(0)

    def _leave(self, num_lost: int) -> None:
        """After a failure: rank 0, whose process may hold the store, stays until the others know of it, for as long as
        those need that live. num_lost ranks are known not to."""
        if self._has_left:
            return
        self._has_left = True
        deadline = time.monotonic() + 3 * _BEAT_SECONDS
        with contextlib.suppress(RuntimeError):  # the store is gone
            left = self._store.add(self._key("left"), 1)
            while self.rank == 0 and left < self.world_size - num_lost and time.monotonic() < deadline:
                time.sleep(0.02)
                left = self._store.add(self._key("left"), 0)

    def fail(self, error: BaseException) -> NoReturn:
        """Tells all ranks of what went wrong here; raises the LoadError that all of them raise."""
        if getattr(error, "is_agreed", False):
            raise error
        of = error.rank if isinstance(error, LoadError) and error.rank is not None else self.rank
        self._raise_agreed(of, _said(error))

    def _end(self, error: BaseException) -> NoReturn:
        """As fail; what is no Exception, such as KeyboardInterrupt, stays what it is here."""
        try:
            self.fail(error)
        except LoadError as agreed:
            self._leave(agreed.num_lost)
            if agreed is not error and isinstance(error, Exception):
                raise agreed from error
        raise error

    def exchange(self, step: str, value: Any) -> List[Any]:
        """Gives the value (JSON) of every rank to every rank, by rank."""
        self._tell(step, self.rank, value)
        return self._hear_all(step)

    def alike(self, step: str, values: Dict[str, Any]) -> None:
        """Raises LoadError, which names what differs, unless all ranks give the same values (JSON)."""
        by_rank = self.exchange(step, values)
        for rank, other in enumerate(by_rank):
            differing = [f"{name} is {other.get(name)}, on rank 0 {by_rank[0].get(name)}"
                         for name in sorted({*other, *by_rank[0]}) if other.get(name) != by_rank[0].get(name)]
            if differing:
                self._raise_agreed(rank, {
                    "code": "FAILED_PRECONDITION", "reason": "INVALID_FIELDS",
                    "message": f"the ranks do not ask for the same in the step \"{step}\": {'; '.join(differing)}; "
                               "run the same script on all"})

    def _tell(self, step: str, rank: int, value: Any) -> None:
        with self._reaching_store():
            self._store.set(self._key(step, rank), json.dumps(value))
            if self._store.add(self._key(step, "count"), 1) == self.world_size:
                self._store.set(self._key(step, "all"), "")

    def _hear_all(self, step: str) -> List[Any]:
        came = self._wait(self._key(step, "all"), time.monotonic() + self.timeout)
        with self._reaching_store():
            silent = [] if came else [rank for rank in range(self.world_size)
                                      if not self._store.check([self._key(step, rank)])]
            if silent:
                self._raise_silent(step, silent)
            return [json.loads(self._store.get(self._key(step, rank))) for rank in range(self.world_size)]

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Runs the block on every rank; returns on all of them once it has ended on all, or raises
        the same error on all. KeyboardInterrupt stays what it is on the rank that it hit."""
        _steps.of.append(self)
        try:
            yield
        except BaseException as error:
            self._end(error)
        finally:
            _steps.of.pop()
        self.exchange(name, None)

    @contextlib.contextmanager
    def working(self, name: str, stop: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Runs a block that may last, for which the others wait by `result_of`: they see that this rank
        is alive, and it whether they are.

        Args:
            name: of the step.
            stop: called once, by another thread, when another rank has failed or fell silent: it
                has the block end. The error of that rank is then raised, whatever the block raised.
        """
        over = threading.Event()

        def watch() -> None:
            waiting = _Pulse(self, name, [rank for rank in range(self.world_size) if rank != self.rank])
            try:
                while not over.wait(_BEAT_SECONDS):
                    self._beat(name)
                    self._look_for_failure()
                    if waiting.silent():
                        self._raise_silent(name, waiting.silent())
            except RuntimeError:  # agreed on, or the store is gone
                stop()

        thread = threading.Thread(target=watch, name="zerocast-beat", daemon=True)
        thread.start()
        try:
            yield
        except BaseException as error:
            self._end(error)
        finally:
            over.set()
            thread.join()
        with self._reaching_store():
            self._look_for_failure()

    def _beat(self, step: str) -> None:
        with self._reaching_store():
            self._store.add(self._key(step, "beat", self.rank), 1)

    def beats_of(self, step: str, rank: int) -> int:
        """A number that grows as long as the rank is alive in a step of `working` and `result_of`."""
        with self._reaching_store():
            return int(self._store.add(self._key(step, "beat", rank), 0))

    def give(self, name: str, value: Any) -> None:
        """Gives a result (JSON) to the ranks that wait for it."""
        with self._reaching_store():
            self._store.set(self._key(name, "result"), json.dumps(value))

    def result_of(self, name: str, rank: int) -> Any:
        """Waits for what `rank` gives, as long as it is seen `working`."""
        worker = _Pulse(self, name, [rank])
        began = time.monotonic()
        while True:
            self._beat(name)
            if self._wait(self._key(name, "result"), time.monotonic() + _BEAT_SECONDS, began):
                with self._reaching_store():
                    return json.loads(self._store.get(self._key(name, "result")))
            if worker.silent():
                self._raise_silent(name, [rank])


class _Steps(threading.local):
    """The calls whose steps this thread is in, the innermost last."""

    def __init__(self) -> None:
        self.of: List[Ranks] = []


_steps = _Steps()


class _Pulse:
    """Which of some ranks have not beaten for their timeout."""

    def __init__(self, ranks: Ranks, step: str, watched: List[int]) -> None:
        self._ranks = ranks
        self._step = step
        self._seen = {rank: (-1, time.monotonic()) for rank in watched}  # beats, and when they came
        self._next_look = 0.0

    def silent(self) -> List[int]:
        """Looks at them, though at most eight times within the timeout: there may be thousands."""
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + self._ranks.timeout / 8
            for rank, (count, _) in self._seen.items():
                beats = self._ranks.beats_of(self._step, rank)
                if beats != count:
                    self._seen[rank] = (beats, now)
        return [rank for rank, (_, since) in self._seen.items() if now - since >= self._ranks.timeout]


def open_ranks(timeout: float) -> Ranks:
    """The ranks of this job: of torch.distributed, initialised or by torchrun's variables, or this
    process alone; within a step of another call its. Initialises torch.distributed where that was
    not done.

    Raises:
        LoadError: not all ranks came within `timeout` seconds.
    """
    if _steps.of:
        outer = _steps.of[-1]
        return Ranks(outer._store, outer.rank, outer.world_size, timeout, outer)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 and not _is_initialized():
        return Ranks(Store(), 0, 1, timeout)
    import torch.distributed as distributed
    if not distributed.is_initialized():
        _initialize(timeout)
    store = distributed.distributed_c10d._get_default_store()
    return Ranks(store, distributed.get_rank(), distributed.get_world_size(), timeout)


def _initialize(timeout: float) -> None:
    """torch.distributed.init_process_group by torchrun's variables. That would wait half an hour for
    a rank that never comes: all must have met before it is called."""
    import torch.distributed as distributed
    try:
        store, rank, world_size = next(distributed.rendezvous("env://", timeout=timedelta(seconds=timeout)))
        with Ranks(store, rank, world_size, timeout).step("meet"):
            pass
    except (distributed.DistError, LoadError) as error:
        if isinstance(error, LoadError) and error.reason != "RANK_LOST":
            raise
        # Rank 0 gives up by itself; the others wait for them both, or see its store go.
        place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise LoadError(
            "DEADLINE_EXCEEDED", f"meet the other ranks at {place}: within {timeout:g} s not all of "
            f"{os.environ.get('WORLD_SIZE')} came; one was not started, or died: see the output of each",
            "RANK_LOST") from error
    store.set_timeout(distributed.default_pg_timeout)
    distributed.init_process_group("nccl" if _has_cuda() else "gloo", rank=rank, world_size=world_size,
                                   store=distributed.PrefixStore("default_pg", store))


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
