"""A server and an agent of this process: started for it, and gone with it."""

from __future__ import annotations

import atexit
import fcntl
import importlib.util
import os
import shutil
import signal
import stat
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Dict, List, Optional, Sequence, Tuple, Type, TypeVar

from zerocast._binaries import find_binary
from zerocast._client import Client
from zerocast._errors import EmbeddedError, ServerError

_PREFIX = "zerocast-python."
_POLL = 0.005  # seconds
_LOG_LINES = 12
_LOG_BYTES = 16 << 10
_MAX_SOCKET_PATH = 107  # bytes, of sockaddr_un

_Self = TypeVar("_Self", bound="_Process")


def _remove_if_left(folder: Path) -> None:
    """Removes a folder of this user's that no living process holds; who cannot, leaves it."""
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if os.fstat(fd).st_uid == os.geteuid():
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
    except OSError:
        pass  # held by a living process
    finally:
        os.close(fd)


def _candidates() -> List[str]:
    # Not /tmp or /dev/shm: both may be private to a job's step.
    return [place for place in (os.environ.get("XDG_RUNTIME_DIR"), "/run", "/var/tmp") if place]


def private_folder() -> Tuple[Path, int]:
    """(a new folder that only this user can enter, where all processes of the node see it; the
    descriptor whose lock marks it as in use). Folders that dead processes left are removed.

    Raises:
        EmbeddedError: no folder could be made; it names all places.
    """
    failures = []
    for place in _candidates():
        try:
            for left in Path(place).glob(_PREFIX + "*"):
                _remove_if_left(left)
            for _ in range(16):
                folder = tempfile.mkdtemp(prefix=_PREFIX, dir=place)  # mode 0700
                fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if os.fstat(fd).st_nlink > 0 and stat.S_ISDIR(os.lstat(folder).st_mode):
                        return Path(folder), fd
                except OSError:
                    pass  # another process took the new folder for a left one
                os.close(fd)
            failures.append(f"{place}: no lock on a folder in it")
        except OSError as error:
            failures.append(f"{place}: {error}")
    raise EmbeddedError("FAILED_PRECONDITION", f"make a folder for an embedded server or agent: {'; '.join(failures)}; "
                        "set XDG_RUNTIME_DIR to a folder that this user can write and every process of the node sees",
                        "IO_ERROR")


def _nccl_folder() -> str:
    """Where the Python environment has NCCL, which comes with torch; "" where it has none. The
    agent opens libnccl.so.2 where the loader finds it."""
    try:
        spec = importlib.util.find_spec("nvidia.nccl")
    except ModuleNotFoundError:
        return ""
    for place in () if spec is None else spec.submodule_search_locations or ():
        folder = os.path.join(place, "lib")
        if os.path.exists(os.path.join(folder, "libnccl.so.2")):
            return folder
    return ""


class _Process:
    """A program that this process starts, in a folder of its own."""

    _kind = ""

    def __init__(self, start_timeout: float, stop_timeout: float) -> None:
        if not (start_timeout > 0 and stop_timeout > 0):
            raise ValueError(f"start_timeout and stop_timeout must be positive, not {start_timeout!r} and "
                             f"{stop_timeout!r}")
        self._start_timeout = start_timeout
        self._stop_timeout = stop_timeout
        self._process: Optional["subprocess.Popen[bytes]"] = None
        self._folder: Optional[Path] = None
        self._lock = -1
        self._starter = -1  # the process that started it

    # ---- of the kinds ----

    def _command(self, folder: Path) -> List[str]:
        raise NotImplementedError

    def _ready(self, folder: Path) -> bool:
        raise NotImplementedError

    def _environment(self) -> Dict[str, str]:
        return dict(os.environ)

    # ---- life ----

    def start(self: _Self) -> _Self:
        """Starts the program and waits until it serves.

        Raises:
            EmbeddedError: its binary was not found, it ended at once, or did not serve within
                start_timeout; with its last log lines.
        """
        if self._process is not None:
            raise RuntimeError(f"the {self._kind} was started already")
        deadline = time.monotonic() + self._start_timeout
        self._starter = os.getpid()
        self._folder, self._lock = private_folder()
        try:
            command = self._command(self._folder)
            self._spawn(command)
            self._wait(self._folder, deadline)
        except BaseException:
            self.stop()
            raise
        atexit.register(self.stop)
        return self

    def _spawn(self, command: List[str]) -> None:
        assert self._folder is not None
        log = open(self._folder / "log", "wb")  # noqa: SIM115 (the program's)
        started: List[object] = []
        done = threading.Event()

        def keep() -> None:
            # The kernel kills the program when the thread that started it ends: this one lasts
            # until the program has ended.
            try:
                process = subprocess.Popen(
                    [*command, f"--end-with-parent={os.getpid()}"], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                    start_new_session=True, env=self._environment())
            except OSError as error:
                started.append(error)
                done.set()
                return
            started.append(process)
            done.set()
            process.wait()

        threading.Thread(target=keep, name=f"zerocast-{self._kind}", daemon=True).start()
        done.wait()
        log.close()
        if not isinstance(started[0], subprocess.Popen):
            raise EmbeddedError("UNAVAILABLE", f"start {command[0]}: {started[0]}", "IO_ERROR")
        self._process = started[0]

    def _wait(self, folder: Path, deadline: float) -> None:
        assert self._process is not None
        while not self._ready(folder):
            code = self._process.poll()
            if code is not None:
                raise EmbeddedError("UNAVAILABLE", f"start an embedded {self._kind}: it ended with {code}; its last "
                                    f"lines:\n{self.last_lines()}", "UNAVAILABLE")
            if time.monotonic() > deadline:
                raise EmbeddedError("DEADLINE_EXCEEDED", f"start an embedded {self._kind}: it did not serve within "
                                    f"{self._start_timeout:g}s; its last lines:\n{self.last_lines()}",
                                    "DEADLINE_EXCEEDED")
            time.sleep(_POLL)

    def last_lines(self) -> str:
        """The end of what the program logged; empty once it is stopped."""
        if self._folder is None:
            return ""
        try:
            with open(self._folder / "log", "rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - _LOG_BYTES))
                text = log.read().decode(errors="replace")
        except OSError as error:
            return f"(its log: {error})"
        return "\n".join(text.splitlines()[-_LOG_LINES:]) or "(it logged nothing)"

    @property
    def pid(self) -> int:
        """The program's process number; RuntimeError when it is not running."""
        if self._process is None:
            raise RuntimeError(f"the {self._kind} is not running")
        return self._process.pid

    def alive(self) -> bool:
        """Whether the program runs."""
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """Ends the program, by force after stop_timeout, and removes its folder. May be repeated.
        Does nothing in a process that was forked from the one that started it."""
        if self._starter != os.getpid():
            return
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(self._stop_timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._forget_folder()
        atexit.unregister(self.stop)

    def _forget_folder(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self: _Self) -> _Self:
        return self.start()

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException],
                 trace: Optional[TracebackType]) -> None:
        self.stop()


class EmbeddedServer(_Process):
    """A zerocast-server of this process: on a free port, with its state in memory.

        with EmbeddedServer() as server, EmbeddedAgent(server.address, roots=["/models"]) as agent:
            ...

    It ends with this process, however that ends, and forgets everything then.
    """

    _kind = "server"

    def __init__(self, *, host: str = "127.0.0.1", log_level: str = "warn", start_timeout: float = 20.0,
                 stop_timeout: float = 5.0, extra_args: Sequence[str] = ()) -> None:
        """
        Args:
            host: the address to listen on; other nodes need one that they reach.
            log_level: least level that is logged, for the error when it does not start.
            start_timeout, stop_timeout: in seconds.
            extra_args: further flags of zerocast-server.
        """
        super().__init__(start_timeout, stop_timeout)
        self._host = host
        self._log_level = log_level
        self._extra = list(extra_args)
        self.address = ""

    def _command(self, folder: Path) -> List[str]:
        host = f"[{self._host}]" if ":" in self._host else self._host
        # Nobody is left to wait for, when this process stops it.
        return [str(find_binary("zerocast-server")), f"--listen={host}:0", "--store=memory", "--drain-timeout=1s",
                f"--print-port-file={folder / 'port'}", f"--log-level={self._log_level}", "--log-format=text",
                *self._extra]

    def _ready(self, folder: Path) -> bool:
        try:
            text = (folder / "port").read_text(encoding="utf-8")
        except FileNotFoundError:
            return False
        if not text.endswith("\n"):
            return False
        host = f"[{self._host}]" if ":" in self._host else self._host
        self.address = f"{host}:{int(text)}"
        return True


class EmbeddedAgent(_Process):
    """A zerocast-agent of this process, which serves this node's ranks of this user."""

    _kind = "agent"

    def __init__(self, server: str, *, roots: Sequence[str], node: str = "node0", log_level: str = "warn",
                 start_timeout: float = 20.0, stop_timeout: float = 5.0, extra_args: Sequence[str] = ()) -> None:
        """
        Args:
            server: the server's address.
            roots: folders that checkpoints may lie in.
            node: this node's name, unique among the server's agents.
            log_level: least level that is logged, for the error when it does not start.
            start_timeout, stop_timeout: in seconds.
            extra_args: further flags of zerocast-agent, such as "--bulk-host=eth0".
        """
        super().__init__(start_timeout, stop_timeout)
        if not roots:
            raise ValueError("roots: none is given; name the folders that checkpoints may lie in")
        self._server = server
        self._roots = [os.fspath(root) for root in roots]
        self.node = node
        self._log_level = log_level
        self._extra = list(extra_args)
        self._client: Optional[Client] = None
        self.socket = ""

    def _command(self, folder: Path) -> List[str]:
        self.socket = str(folder / "agent.sock")
        if len(os.fsencode(self.socket)) > _MAX_SOCKET_PATH:
            raise EmbeddedError("FAILED_PRECONDITION", "start an embedded agent: the path of its socket, "
                                f"{self.socket}, is longer than {_MAX_SOCKET_PATH} bytes; set XDG_RUNTIME_DIR to a "
                                "shorter folder", "INVALID_FIELDS")
        return [str(find_binary("zerocast-agent")), f"--server={self._server}", f"--node={self.node}",
                f"--socket={self.socket}", "--socket-mode=0600", f"--log-level={self._log_level}",
                *[f"--root={root}" for root in self._roots], *self._extra]

    def _environment(self) -> Dict[str, str]:
        environment = super()._environment()
        found = [environment.get("LD_LIBRARY_PATH", ""), _nccl_folder()]
        if found[1]:
            environment["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, found))
        return environment

    def _ready(self, folder: Path) -> bool:
        if not os.path.exists(self.socket):
            return False
        if self._client is None:
            self._client = Client(self._server, timeout=1.0)
        try:
            return any(agent.node_name == self.node and agent.socket_path == self.socket
                       for agent in self._client.list_agents())
        except ServerError:
            return False  # what hinders the agent, too, it logs

    def start(self) -> "EmbeddedAgent":
        """As _Process.start: it serves when its server knows it."""
        try:
            return super().start()
        finally:
            if self._client is not None:
                self._client.close()
                self._client = None

    def leave(self) -> None:
        """Ends the agent for all but the processes that use memory of it: shards that came by the way
        "cuda_ipc". It serves nothing more, and ends with the last of their arrays, or processes, also
        when this process ends before; without such shards it ends at once. Does not wait for it; stop()
        after it changes nothing."""
        if self._starter != os.getpid() or self._process is None:
            return
        # Whoever has started it waits for its end (_spawn).
        self._process.send_signal(signal.SIGUSR1)
        self._process = None
        self._forget_folder()  # of which it needs nothing any more
        atexit.unregister(self.stop)
