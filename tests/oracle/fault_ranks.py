"""Ranks of pretrained_faults_oracle_test as processes: forked from one that has imported what they need, started without a
launcher, which would end the others when one fails, and looked at when all have ended.
"""

import atexit
import json
import os
import pathlib
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
import uuid

import pretrained_faults_rank as rank_program

MARK = "ZC_FAULTS_RUN"
END_SECONDS = 120


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def marked(mark):
    """{pid: name} of the processes that have MARK=mark in their environment."""
    found = {}
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (process / "environ").read_bytes().split(b"\0"):
                found[int(process.name)] = (process / "comm").read_text().strip()
        except OSError:
            continue
    return found


class Rank:
    """One process; `told` is what the program wrote of each of its calls."""

    def __init__(self, pid):
        self.pid = pid
        self.status = None  # as of subprocess: negative for a signal
        self.told = []
        self.log = ""

    @property
    def last(self):
        return self.told[-1] if self.told else {"type": "nothing", "text": self.log[-2000:]}


class World:
    """The ranks of one run of a case, and a runtime folder of their own; a context manager that leaves nothing.

    Args:
        case: as pretrained_faults_rank takes it.
        size: how many ranks.
        nodes: names of nodes of as many ranks each; None: all are on one, the host's name.
        user: the number of the user that they are of.
        terminals: descriptors that take the place of stderr, one a rank.
        launcher: whether another process holds torch.distributed's store, as torchrun's does.
        real: whether each is a process of its own from the start of the interpreter on.
        folder: one of another World, whose runtime folder is used again.
    """

    def __init__(self, case, size=2, *, nodes=None, user=None, terminals=None, launcher=False, real=False, folder=None):
        self.case, self.size, self.nodes, self.user = case, size, nodes, user
        self.terminals, self.launcher, self.real = terminals, launcher, real
        self.store = None
        self.mark = uuid.uuid4().hex
        self.own_folder = folder is None
        self.folder = pathlib.Path(folder or tempfile.mkdtemp(prefix="zc_faults_", dir="/var/tmp"))
        self.run = self.folder / "run"
        self.run.mkdir(exist_ok=True, mode=0o755)
        self.out = pathlib.Path(tempfile.mkdtemp(dir=self.folder))
        if user is not None:
            for path in (self.folder, self.run, self.out):
                os.chmod(path, 0o777)
        self.ranks = []

    def __enter__(self):
        (self.out / "case.json").write_text(json.dumps(self.case), encoding="utf-8")
        port = free_port()
        each = self.size // len(self.nodes) if self.nodes else self.size
        if self.launcher:
            self.store = self._hold_store(port)
        for rank in range(self.size):
            environment = {"RANK": rank, "WORLD_SIZE": self.size, "LOCAL_RANK": rank % each, "LOCAL_WORLD_SIZE": each,
                           "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, MARK: self.mark,
                           "XDG_RUNTIME_DIR": self.run}
            if self.launcher:
                environment["TORCHELASTIC_USE_AGENT_STORE"] = True
            if self.nodes:
                environment["ZEROCAST_NODE"] = self.nodes[rank // each]
            self.ranks.append(Rank(self._fork(rank, {name: str(value) for name, value in environment.items()})))
        return self

    def __exit__(self, *_):
        for rank in self.ranks:
            if rank.status is None:
                os.kill(rank.pid, signal.SIGKILL)
                os.waitpid(rank.pid, 0)
        if self.store is not None:
            os.kill(self.store, signal.SIGKILL)
            os.waitpid(self.store, 0)
        if self.own_folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _hold_store(self, port):
        pid = os.fork()
        if pid == 0:
            import torch.distributed
            held = torch.distributed.TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)
            while held:
                signal.pause()
        return pid

    def _fork(self, rank, environment):
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid:
            return pid
        status = 1
        try:
            os.setsid()
            os.environ.update(environment)
            log = os.open(self.out / f"{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            os.dup2(log, 1)
            os.dup2(self.terminals[rank] if self.terminals else log, 2)
            if self.user is not None:
                os.setgroups([])
                os.setresgid(self.user, self.user, self.user)
                os.setresuid(self.user, self.user, self.user)
            if self.real:
                os.execv(sys.executable, [sys.executable, "-B", rank_program.__file__, self.out / "case.json", self.out])
            rank_program.RANK = rank
            rank_program.main(self.out / "case.json", self.out)
            status = 0
        except KeyboardInterrupt:
            traceback.print_exc()
            status = 130
        except BaseException:  # noqa: B902 (as the interpreter would)
            traceback.print_exc()
        finally:
            # As the interpreter ends.
            threading._shutdown()
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def signal(self, number, *ranks):
        for rank in ranks:
            os.kill(self.ranks[rank].pid, number)

    def await_point(self, rank):
        """Waits until the rank is at the point where its action is "wait"."""
        deadline = time.monotonic() + END_SECONDS
        while not (self.out / f"{rank}.waits").exists():
            if time.monotonic() > deadline:
                raise AssertionError(f"rank {rank} never came to the point: {self._log(rank)[-3000:]}")
            time.sleep(0.02)

    def go_on(self):
        """Ends all waits."""
        (self.out / "go").touch()

    def wait(self, seconds=END_SECONDS):
        """Waits until all ranks have ended, and gives them."""
        deadline = time.monotonic() + seconds
        while any(rank.status is None for rank in self.ranks):
            for number, rank in enumerate(self.ranks):
                if rank.status is None:
                    pid, status = os.waitpid(rank.pid, os.WNOHANG)
                    rank.status = os.waitstatus_to_exitcode(status) if pid else None
                if rank.status is None and time.monotonic() > deadline:
                    raise AssertionError(f"rank {number} has not ended within {seconds} s: {self._log(number)[-3000:]}")
            time.sleep(0.02)
        for number, rank in enumerate(self.ranks):
            files = sorted(self.out.glob(f"{number}.*.json"), key=lambda file: int(file.name.split(".")[1]))
            rank.told = [json.loads(file.read_text(encoding="utf-8")) for file in files]
            rank.log = self._log(number)
        return self.ranks

    def _log(self, rank):
        file = self.out / f"{rank}.log"
        return file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""

    def left(self):
        """What is left of the run: processes of its environment, and folders of embedded programs."""
        deadline = time.monotonic() + 10  # the kernel is about to end those of killed ranks
        while marked(self.mark) and time.monotonic() < deadline:
            time.sleep(0.05)
        return [*marked(self.mark).values(), *(path.name for path in self.run.glob("zerocast*"))]
