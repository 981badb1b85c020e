#!/usr/bin/env python3
"""`zerocast checkpoint reshard` and zerocast.load_checkpoint beside DeepSpeed's way to another world size, in runs that alternate.

    python3 tests/bench/reshard_bench.py [--stage N ...] [--gb N] [--to N] [--runs N] [--json FILE]

The checkpoints are made by a real engine on two ranks, once. The libraries come from the package index, pinned in
requirements-peers.txt, in an environment of their own (build/release/venv/bench, some GB). README.md says how the table is read.
Asserts no time.
"""

import os
import pathlib
import shutil

import bench_tools as tools
from checkpoint_tools import HERE, flush, make, parser, run_command, run_stages, seconds_of, warm

HOW = ("deepspeed", "reshard", "direct")
FORMS = {"deepspeed": "universal", "reshard": "saved", "direct": "zerocast"}  # what reload_rank.py loads
PARTS = ("convert", "load")
COLUMNS = (("stage", -6, ""), ("", -10, ""), ("convert s", 10, ".2f"), ("load s", 7, ".2f"), ("faster", 7, ".2f"),
           ("with load", 9, ".2f"), ("most MB", 8, ".0f"))
# Its own seconds, without imports.
LIBRARY = """
import argparse, json, sys, time
from deepspeed.checkpoint import ds_to_universal
arguments = argparse.Namespace(input_folder=sys.argv[1], output_folder=sys.argv[2], num_extract_workers=4, num_merge_workers=2,
                               keep_temp_folder=False, strict=True, inject_missing_state=True)
start = time.perf_counter()
ds_to_universal.main(arguments)
print(json.dumps({"seconds": time.perf_counter() - start}))
"""


def convert_deepspeed(python, checkpoint, out):
    tag = (checkpoint / "latest").read_text(encoding="utf-8").strip()
    out.mkdir()
    said = tools.run(python, "-B", "-c", LIBRARY, checkpoint / tag, out / f"{tag}_universal",
                     env={**os.environ, "DS_ACCELERATOR": "cpu"})
    return seconds_of(said)


def load(python, folder, stage, world_size, arguments, form):
    paths = [str(tools.BUILD / "python"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": ":".join(paths),
                   "OMP_NUM_THREADS": str(max(1, tools.THREADS // world_size))}
    return seconds_of(tools.run(
        python, "-B", "-m", "torch.distributed.run", "--nnodes", 1, "--nproc-per-node", world_size, "--rdzv-backend", "c10d",
        "--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1", HERE / "reload_rank.py", folder, stage, arguments.gb, form,
        env=environment))


def measure(stage, python, arguments):
    checkpoint = make(python, arguments.folder, stage, arguments.gb)
    warm(checkpoint)
    out = pathlib.Path(arguments.folder, f"resharded-{os.getpid()}")
    seconds, memory = {how: {part: [] for part in PARTS} for how in HOW}, []
    try:
        for _ in range(arguments.runs):
            for how in HOW:
                folder = checkpoint if how == "direct" else out
                if how == "reshard":
                    took, most = run_command("reshard", checkpoint, "--world-size", arguments.to, "--out", out)
                    memory.append(most)
                else:
                    took = convert_deepspeed(python, checkpoint, out) if how == "deepspeed" else 0
                seconds[how]["convert"].append(took)
                # What one leaves unwritten must not meet the next.
                if folder == out:
                    flush(out)
                seconds[how]["load"].append(load(python, folder, stage, arguments.to, arguments, FORMS[how]))
                if folder == out:
                    shutil.rmtree(out)
    finally:
        shutil.rmtree(out, ignore_errors=True)
    return {"stage": stage, "to": arguments.to, "seconds": seconds, "memory": memory,
            "checkpoint_bytes": sum(path.stat().st_size for path in checkpoint.rglob("*.pt"))}


def show(measured):
    seconds = measured["seconds"]
    whole = {how: [a + b for a, b in zip(seconds[how]["convert"], seconds[how]["load"])] for how in HOW}
    faster = {(how, parts): tools.median([a / b for a, b in zip(whole["deepspeed"], mine)])
              for how in HOW[1:] for parts, mine in (("convert", seconds[how]["convert"]), ("both", whole[how])) if all(mine)}
    table = []
    for how in HOW:
        table.append((measured["stage"], how, tools.median(seconds[how]["convert"]), tools.median(seconds[how]["load"]),
                      faster.get((how, "convert")), faster.get((how, "both")),
                      max(measured["memory"]) / 1e6 if how == "reshard" else None))
    tools.rows(COLUMNS, table)


def main():
    arguments = parser(__doc__)
    arguments.add_argument("--to", type=int, default=3, help="world size to reshard to (default: %(default)s)")
    run_stages(arguments.parse_args(), measure, show)


if __name__ == "__main__":
    main()
