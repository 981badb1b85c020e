"""Runs the ranks of a job, each a process of this machine, as a launcher would, and keeps what each of them says."""

import os
import socket
import subprocess
import sys
import tempfile
import time


def _free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def run(world_size, arguments, environment, seconds):
    """[(exit status, output)] by rank of `python ARGUMENTS`; a rank that lasts longer than `seconds` is killed, and its
    status is None. world_size 0: one process that no launcher has started."""
    ranks = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": str(world_size),
             "LOCAL_WORLD_SIZE": str(world_size)}
    processes = []
    try:
        for rank in range(max(world_size, 1)):
            own = {**ranks, "RANK": str(rank), "LOCAL_RANK": str(rank)} if world_size else {}
            output = tempfile.TemporaryFile()
            processes.append((subprocess.Popen([sys.executable, *map(str, arguments)], env={**environment, **own},
                                               stdout=output, stderr=subprocess.STDOUT), output))
        deadline = time.monotonic() + seconds
        done = []
        for process, output in processes:
            try:
                status = process.wait(max(deadline - time.monotonic(), 0.01))
            except subprocess.TimeoutExpired:
                status = None
                process.kill()
                process.wait()
            output.seek(0)
            done.append((status, output.read().decode(errors="replace")))
        return done
    finally:
        for process, output in processes:
            if process.poll() is None:
                process.kill()
                process.wait()
            output.close()


def environment(*paths):
    """The environment of a rank: `paths` are Python's, DeepSpeed's accelerator is the CPU."""
    return {**os.environ, "PYTHONPATH": ":".join(map(str, paths)), "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1",
            "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0", "TOKENIZERS_PARALLELISM": "false"}
