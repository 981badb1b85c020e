#!/usr/bin/env python3
"""`zerocast checkpoint consolidate` beside DeepSpeed's zero_to_fp32 and a floor, in runs that alternate.

    python3 tests/bench/consolidate_bench.py [--stage N ...] [--gb N] [--runs N] [--json FILE]

The checkpoints are made by a real engine on two ranks, once. The libraries come from the package index, pinned in
requirements-peers.txt, in an environment of their own (build/release/venv/bench, some GB). README.md says how the table is read.
Asserts no time.
"""

import os
import pathlib
import shutil
import threading
import time

import bench_tools as tools
from checkpoint_tools import BLOCK, flush, make, parser, run_command, run_stages, seconds_of, warm

HOW = ("zero_to_fp32", "zerocast", "floor")
COLUMNS = (("stage", -6, ""), ("", -13, ""), ("s", 7, ".2f"), ("GB/s", 7, ".2f"), ("faster", 7, ".2f"), ("by floor", 8, ".2f"),
           ("most MB", 8, ".0f"))
# Its own seconds, without imports: `python -m deepspeed.utils.zero_to_fp32` adds those.
LIBRARY = """
import sys, time, json
from deepspeed.utils.zero_to_fp32 import convert_zero_checkpoint_to_fp32_state_dict as convert
start = time.perf_counter()
convert(sys.argv[1], sys.argv[2], safe_serialization=True)
print(json.dumps({"seconds": time.perf_counter() - start}))
"""


def run_library(python, checkpoint, out):
    out.mkdir()
    said = tools.run(python, "-B", "-c", LIBRARY, checkpoint, out, env={**os.environ, "DS_ACCELERATOR": "cpu"})
    return seconds_of(said), None


def run_floor(checkpoint, out, num_bytes):
    """As many bytes as the output has, read from the optimizer's files and written to a file, which is flushed."""
    files = sorted(checkpoint.glob("*/*optim_states.pt"))
    share = num_bytes // len(files)
    parts = [(file, offset, min(BLOCK, share - offset)) for file in range(len(files)) for offset in range(0, share, BLOCK)]
    out.mkdir()
    start = time.perf_counter()
    sources = [os.open(path, os.O_RDONLY) for path in files]
    target = os.open(out / "copy", os.O_WRONLY | os.O_CREAT, 0o666)
    waiting = iter(parts)
    lock = threading.Lock()

    def work():
        memory = memoryview(bytearray(BLOCK))
        while True:
            with lock:
                part = next(waiting, None)
            if part is None:
                return
            file, offset, size = part
            os.preadv(sources[file], [memory[:size]], offset)
            os.pwrite(target, memory[:size], file * share + offset)

    threads = [threading.Thread(target=work) for _ in range(tools.THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.fsync(target)
    seconds = time.perf_counter() - start
    for handle in [*sources, target]:
        os.close(handle)
    return seconds, None


def measure(stage, python, arguments):
    checkpoint = make(python, arguments.folder, stage, arguments.gb)
    warm(checkpoint)
    out = pathlib.Path(arguments.folder, f"consolidated-{os.getpid()}")
    num_bytes = 0
    seconds, memory = {how: [] for how in HOW}, []
    try:
        for _ in range(arguments.runs):
            for how in HOW:
                if how == "floor":
                    took, _ = run_floor(checkpoint, out, num_bytes)
                elif how == "zerocast":
                    took, most = run_command("consolidate", checkpoint, "--out", out)
                    memory.append(most)
                    num_bytes = tools.file_bytes(out)[1]
                else:
                    took, _ = run_library(python, checkpoint, out)
                seconds[how].append(took)
                # What one leaves unwritten must not meet the next.
                flush(out)
                shutil.rmtree(out)
    finally:
        shutil.rmtree(out, ignore_errors=True)
    return {"stage": stage, "bytes": num_bytes, "checkpoint_bytes": sum(path.stat().st_size for path in checkpoint.rglob("*.pt")),
            "seconds": seconds, "memory": memory}


def show(measured):
    seconds = measured["seconds"]
    table = []
    for how in HOW:
        middle = tools.median(seconds[how])
        faster = tools.median([a / b for a, b in zip(seconds["zero_to_fp32"], seconds[how])])
        by_floor = tools.median([a / b for a, b in zip(seconds[how], seconds["floor"])])
        table.append((measured["stage"], how, middle, measured["bytes"] / middle / 1e9, faster, by_floor,
                      max(measured["memory"]) / 1e6 if how == "zerocast" else None))
    tools.rows(COLUMNS, table)


if __name__ == "__main__":
    run_stages(parser(__doc__).parse_args(), measure, show)
