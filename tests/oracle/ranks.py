"""Runs the ranks of a job, each a process of this machine, as a launcher would, and keeps what each of them says."""

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time


def _free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def run(world_size, arguments, environment, seconds, of_rank=lambda rank: {}):
    """[(exit status, output)] by rank of `python ARGUMENTS`; a rank that lasts longer than `seconds` is killed, and its
    status is None. world_size 0: one process that no launcher has started. of_rank: what else a rank's environment has."""
    ranks = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": str(world_size),
             "LOCAL_WORLD_SIZE": str(world_size)}
    processes = []
    try:
        for rank in range(max(world_size, 1)):
            own = {**ranks, "RANK": str(rank), "LOCAL_RANK": str(rank)} if world_size else {}
            output = tempfile.TemporaryFile()
            processes.append((subprocess.Popen([sys.executable, *map(str, arguments)],
                                               env={**environment, **own, **of_rank(rank)},
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


def _tree(root):
    """The numbers of a process and of all that come from it."""
    children = {}
    for entry in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((entry / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(entry.name))
    found, todo = [], [root]
    while todo:
        found.append(todo.pop())
        todo += children.get(found[-1], [])
    return found


def launch(command, environment, seconds, cwd=None):
    """(exit status, output) of a launcher; one that lasts longer than `seconds` is killed with all that it has started, and its
    status is None."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen([*map(str, command)], env=environment, stdin=subprocess.DEVNULL, stdout=output,
                                   stderr=subprocess.STDOUT, cwd=cwd)
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            if process.poll() is None:
                for pid in _tree(process.pid):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                process.wait()
        output.seek(0)
        return status, output.read().decode(errors="replace")


def check(command, environment, seconds):
    """Runs a command that must succeed."""
    status, output = launch(command, environment, seconds)
    if status != 0:
        raise AssertionError(f"{command} ended with {status}\n{output[-6000:]}")


def make_universal(saved, universal, environment, seconds):
    """DeepSpeed's own universal form, in the new folder `universal`, of the newest checkpoint in the folder `saved`."""
    tag = (saved / "latest").read_text(encoding="utf-8").strip()
    universal.mkdir()
    check([sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--inject_missing_state", "--input_folder", saved / tag,
           "--output_folder", universal / f"{tag}_universal"], environment, seconds)


@contextlib.contextmanager
def told(what):
    """Says that something begins that may last, and how long it took."""
    start = time.monotonic()
    print(f"{what} ...", end="", flush=True)
    yield
    print(f" {time.monotonic() - start:.1f} s", flush=True)


def compile_operators(environment, *names, seconds=1500):
    """Has DeepSpeed compile its operators, builders of its deepspeed.ops.op_builder, which takes minutes when it was never done: at
    the first use every rank of a test would wait for it."""
    for name in names:
        with told(f"compile DeepSpeed's {name}, unless that was done"):
            program = f"from deepspeed.accelerator import get_accelerator; get_accelerator().create_op_builder('{name}').load()"
            status, output = launch([sys.executable, "-c", program], environment, seconds)
            if status != 0:
                raise RuntimeError(f"compile DeepSpeed's {name}: {status}\n{output[-4000:]}")
