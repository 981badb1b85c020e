"""Nodes of a cluster on one machine: a network namespace each, joined by a bridge, all inside one sandbox.

The sandbox is a process with namespaces of its own for network, mounts and processes: nothing of it is seen outside,
and all of it, processes included, goes when its first process ends or is killed, however that happens.
"""

import ctypes
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

MARK = "ZC_BENCH_IN_NAMESPACES"
# Addresses for measurements between machines (RFC 2544); here they are nowhere but on the bridge.
NETWORK = "198.18.0."
SANDBOX = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
START_TIMEOUT_S = 10


def _end_with_parent():
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def allowed():
    """Whether this user may make namespaces and put a bridge into one."""
    if not all(shutil.which(name) for name in ("unshare", "nsenter", "ip")):
        return False
    done = subprocess.run([*SANDBOX, "ip", "link", "add", "zc0", "type", "bridge"], capture_output=True, check=False,
                          timeout=START_TIMEOUT_S)
    return done.returncode == 0


def run_again_inside():
    """Runs this very command in a sandbox; returns its exit status. Its temporary files go with it."""
    folder = tempfile.mkdtemp(prefix="zc_bench_")
    inner = None

    def stop(*_):
        if inner is not None:
            inner.kill()

    handlers = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        inner = subprocess.Popen([*SANDBOX, sys.executable, "-B", *sys.argv], preexec_fn=_end_with_parent,
                                 env={**os.environ, MARK: "1", "TMPDIR": folder})
        return inner.wait()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        shutil.rmtree(folder, ignore_errors=True)


def inside():
    return os.environ.get(MARK) == "1"


def _ip(*args):
    subprocess.run(["ip", *map(str, args)], check=True, timeout=START_TIMEOUT_S)


class Nodes:
    """`number` nodes and the machine beside them, which has address `outside`; a context manager.

    `address(k)` is where node k listens, `prefix(k)` the command that runs another one in it. Without namespaces all
    are addresses of loopback.
    """

    def __init__(self, number):
        self._number = number
        self._holders = []
        self.outside = f"{NETWORK}254" if inside() else "127.0.0.1"

    def __enter__(self):
        if not inside():
            return self
        _ip("link", "set", "lo", "up")
        _ip("link", "add", "zc", "type", "bridge")
        _ip("addr", "add", f"{self.outside}/24", "dev", "zc")
        _ip("link", "set", "zc", "up")
        own = os.readlink("/proc/self/ns/net")
        for node in range(self._number):
            holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"], preexec_fn=_end_with_parent)
            self._holders.append(holder)
            deadline = time.monotonic() + START_TIMEOUT_S
            while os.readlink(f"/proc/{holder.pid}/ns/net") == own:
                if time.monotonic() > deadline:
                    raise RuntimeError("a process did not get a network namespace of its own")
                time.sleep(0.01)
            _ip("link", "add", f"zc{node}", "type", "veth", "peer", "name", "eth0", "netns", holder.pid)
            _ip("link", "set", f"zc{node}", "master", "zc", "up")
            for command in (["link", "set", "lo", "up"], ["addr", "add", f"{self.address(node)}/24", "dev", "eth0"],
                            ["link", "set", "eth0", "up"]):
                subprocess.run([*self.prefix(node), "ip", *command], check=True, timeout=START_TIMEOUT_S)
        return self

    def __exit__(self, *_):
        for holder in self._holders:
            holder.kill()
            holder.wait()

    def address(self, node):
        return f"{NETWORK}{node + 1}" if inside() else f"127.0.0.{node + 2}"

    def prefix(self, node):
        if not inside():
            return []
        return ["nsenter", f"--net=/proc/{self._holders[node].pid}/ns/net", "--"]


def read_characters(pid):
    """Bytes that read and preadv of a process have brought so far: not recv, nor io_uring."""
    text = pathlib.Path(f"/proc/{pid}/io").read_text(encoding="utf-8")
    return int(next(line.split()[1] for line in text.splitlines() if line.startswith("rchar:")))
