#!/usr/bin/env python3
"""A checkpoint into a real DeepSpeed engine: zerocast.from_pretrained beside the library's, in runs that alternate.

    python3 tests/bench/engine_bench.py [--kind KIND ...] [--gb N] [--runs N] [--memory-runs N] [--device DEVICE] [--json FILE]

ZeRO-3: two ranks on the CPU with Gloo, or one on a GPU with NCCL (--device cuda). The libraries come from the package index, pinned in requirements-peers.txt, in an
environment of their own (build/release/venv/bench, some GB). README.md says how the table is read. Asserts no time.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading

import bench_tools as tools

HERE = pathlib.Path(__file__).resolve().parent
RANKS = {"cpu": 2, "cuda": 1}  # by device
HOW = ("library", "zerocast")
FLOOR = "unloaded"  # of the memory: a model that never got weights
PHASES = ("load", "initialize", "step")
SAMPLE_SECONDS = 0.1
COLUMNS = (("", -12, ""), ("load s", 8, ".2f"), ("GB/s", 7, ".2f"), ("faster", 8, ".2f"), ("load MB", 9, ".0f"),
           ("init. MB", 9, ".0f"), ("step MB", 9, ".0f"), ("peak MB", 9, ".0f"))


def command(python, device, how, ckpt, phase_file):
    paths = [str(tools.BUILD / "python"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "DS_ACCELERATOR": device, "GLOO_SOCKET_IFNAME": "lo",
                   "OMP_NUM_THREADS": str(max(1, tools.THREADS // RANKS[device])), "PYTHONPATH": ":".join(paths),
                   "TORCH_EXTENSIONS_DIR": str(python.parent.parent / "torch_extensions")}
    return [str(arg) for arg in (
        python, "-B", "-m", "torch.distributed.run", "--nnodes", 1, "--nproc-per-node", RANKS[device], "--rdzv-backend", "c10d",
        "--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1", HERE / "engine_rank.py", how, ckpt,
        *([phase_file] if phase_file else []))], environment


def tree(root):
    """The process numbers of a process and of all that come from it."""
    children = {}
    for entry in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(entry.name))
    found, todo = [], [root]
    while todo:
        found.append(todo.pop())
        todo += children.get(found[-1], [])
    return found


def kibibytes(path, key):
    """The value of the line `key` of a file of /proc; 0 where the process has ended."""
    try:
        lines = pathlib.Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{key}:")), 0)


def shared_bytes():
    """Of the system, whether a process maps it or not: a memfd that is written to is in no set size."""
    return kibibytes("/proc/meminfo", "Shmem") * 1024


def private_bytes(root):
    """The proportional set size of the processes together, without shared memory."""
    return sum(kibibytes(f"/proc/{process}/smaps_rollup", "Pss") - kibibytes(f"/proc/{process}/smaps_rollup", "Pss_Shmem")
               for process in tree(root)) * 1024


class Watch:
    """The most memory that a process and its children hold in each phase."""

    def __init__(self, root, phase_file):
        self.most = {}
        self._root, self._phase_file, self._shared = root, phase_file, shared_bytes()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        while not self._stop.wait(SAMPLE_SECONDS):
            phase = self._phase_file.read_text(encoding="utf-8")
            found = private_bytes(self._root) + shared_bytes() - self._shared
            self.most[phase] = max(self.most.get(phase, 0), found)

    def close(self):
        self._stop.set()
        self._thread.join()


def run(python, device, how, ckpt, watched):
    """(seconds of the load, {phase: bytes} where it is watched)."""
    with tempfile.TemporaryDirectory() as folder:
        phase_file = pathlib.Path(folder, "phase")
        phase_file.write_text("", encoding="utf-8")
        args, environment = command(python, device, how, ckpt, phase_file if watched else None)
        process = subprocess.Popen(args, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True)
        watch = Watch(process.pid, phase_file) if watched else None
        try:
            out, err = process.communicate(timeout=tools.RUN_TIMEOUT_S)
        finally:
            process.kill()
            if watch is not None:
                watch.close()
        if process.returncode != 0:
            raise RuntimeError(f"{' '.join(args)} ended with {process.returncode}:\n{out[-2000:]}{err[-4000:]}")
        seconds = next(json.loads(line)["seconds"] for line in out.splitlines() if line.startswith('{"seconds"'))
        return seconds, watch.most if watch is not None else {}


def measure(kind, python, arguments):
    ckpt = tools.checkpoint(arguments.folder, kind, arguments.gb)
    tools.warm(ckpt)
    run(python, arguments.device, "library", ckpt, False)  # the first one compiles DeepSpeed's extension
    seconds, memory = {how: [] for how in HOW}, {how: [] for how in (*HOW, FLOOR)}
    for _ in range(arguments.runs):
        for how in HOW:
            seconds[how].append(run(python, arguments.device, how, ckpt, False)[0])
    for _ in range(arguments.memory_runs):
        for how, found in memory.items():
            found.append(run(python, arguments.device, how, ckpt, True)[1])
    return {"kind": kind, "bytes": tools.file_bytes(ckpt)[0], "seconds": seconds, "memory": memory}


def show(measured):
    gigabytes = measured["bytes"] / 1e9
    print(f"\n{measured['kind']}, {gigabytes:.2f} GB")
    seconds, most, table = measured["seconds"], {}, []
    for how, runs in measured["memory"].items():
        most[how] = {phase: tools.median([run[phase] for run in runs]) / 1e6 for phase in PHASES} if runs else {}
        cells = [None, None, None]
        if how in seconds:
            middle = tools.median(seconds[how])
            faster = tools.median([a / b for a, b in zip(seconds["library"], seconds[how])])
            cells = [middle, gigabytes / middle, faster]
        table.append((how, *cells, *(most[how].get(phase) for phase in PHASES), max(most[how].values(), default=None)))
    tools.rows(COLUMNS, table)
    if most["library"]:
        copy = measured["bytes"] / 1e6
        measured["copies_saved"] = {phase: (most["library"][phase] - most["zerocast"][phase]) / copy for phase in PHASES}
        measured["copies_above_floor"] = {phase: (most["zerocast"][phase] - most[FLOOR][phase]) / copy for phase in PHASES[1:]}
        for text, found in (("less than the library", measured["copies_saved"]),
                            ("more than a model without weights", measured["copies_above_floor"])):
            print(f"zerocast, copies of the shards {text}: "
                  f"{', '.join(f'{phase} {copies:.2f}' for phase, copies in found.items())}")


def main():
    parser = tools.parser(__doc__)
    parser.set_defaults(runs=5)
    parser.add_argument("--kind", action="append", choices=("llama", "mixtral"),
                        help="repeat for both (default: mixtral)")
    parser.add_argument("--gb", type=float, default=2, help="size of the checkpoint (default: %(default)s)")
    parser.add_argument("--memory-runs", type=int, default=1,
                        help="more runs of each, in which memory is looked at (default: %(default)s)")
    parser.add_argument("--device", choices=tuple(RANKS), default="cpu", help="default: %(default)s")
    parser.add_argument("--venv", default=str(tools.BUILD / "venv" / "bench"), help="default: %(default)s")
    parser.add_argument("--python", type=pathlib.Path, help="one that has the libraries, instead of --venv")
    arguments = parser.parse_args()
    tools.print_command()
    python = arguments.python or tools.environment(arguments.venv, HERE / "requirements-peers.txt")
    results = []
    for kind in arguments.kind or ("mixtral",):
        results.append(measure(kind, python, arguments))
        show(results[-1])
    tools.write_json(arguments.json, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
