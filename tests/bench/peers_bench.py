#!/usr/bin/env python3
"""One load by zerocast beside what users have now, of the same files, in runs that alternate.

    python3 tests/bench/peers_bench.py [--kind KIND ...] [--gb N] [--runs N] [--slow-runs N] [--json FILE]

The peers come from the package index, pinned in requirements-peers.txt, in an environment of their own
(build/release/venv/bench, some GB, made on first use). README.md says how the table is read. Asserts no time.
"""

import json
import os
import pathlib
import sys
import time

import bench_tools as tools

HERE = pathlib.Path(__file__).resolve().parent
RANKS = 2
COLUMNS = (("", -34, ""), ("runs", 5, "d"), ("seconds", 9, ".3f"), ("GB/s", 7, ".2f"), ("zerocast is faster", 20, ".2f"))
NAMES = {
    "zerocast": "zerocast load, 2 ranks",
    "command": "  with the start of the command",
    "memfd": "floor: read into memfd",
    "anonymous": "floor: read into anonymous memory",
    "safetensors": "safetensors, every tensor cloned",
    "fastsafetensors": "fastsafetensors",
    "runai": "runai-model-streamer",
    "zero3": "from_pretrained, ZeRO-3, 2 ranks",
}
SLOW = ("zero3",)


def load_with_zerocast(ckpt, kind):
    """Seconds of the load as its report says, and of the whole command."""
    start = time.perf_counter()
    report = json.loads(tools.run(tools.BIN / "zerocast", "--output", "json", "load", ckpt, "--world-size", RANKS,
                                  "--model-spec", ckpt / "model_spec.json", *tools.dtype_flags(kind)))
    return report["elapsed_seconds"], time.perf_counter() - start


def load_with_peer(python, method, ckpt):
    # Without this Gloo may listen on an address of the outside.
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "GLOO_SOCKET_IFNAME": "lo",
                   "TORCH_EXTENSIONS_DIR": str(python.parent.parent / "torch_extensions")}
    command = [python, "-B"]
    if method in SLOW:
        environment["OMP_NUM_THREADS"] = str(max(1, tools.THREADS // RANKS))
        command += ["-m", "torch.distributed.run", "--nnodes", 1, "--nproc-per-node", RANKS, "--rdzv-backend", "c10d",
                    "--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1"]
    output = tools.run(*command, HERE / "peer_load.py", method, ckpt, env=environment)
    # DeepSpeed talks on stdout too.
    return next(json.loads(line)["seconds"] for line in output.splitlines() if line.startswith('{"seconds"'))


def measure(kind, python, arguments):
    ckpt = tools.checkpoint(arguments.folder, kind, arguments.gb)
    tools.warm(ckpt)
    seconds = {name: [] for name in NAMES}
    if arguments.slow_runs:
        load_with_peer(python, "zero3", ckpt)  # the first one compiles DeepSpeed's extension
    for run in range(arguments.runs):
        load, command = load_with_zerocast(ckpt, kind)
        seconds["zerocast"].append(load)
        seconds["command"].append(command)
        for memory in ("memfd", "anonymous"):
            seconds[memory].append(tools.floor(ckpt, memory))
        for method in ("safetensors", "fastsafetensors", "runai"):
            seconds[method].append(load_with_peer(python, method, ckpt))
        if run < arguments.slow_runs:
            seconds["zero3"].append(load_with_peer(python, "zero3", ckpt))
    return {"kind": kind, "bytes": tools.file_bytes(ckpt)[0], "seconds": {k: v for k, v in seconds.items() if v}}


def ratio(seconds, above, below):
    """Of medians over the runs that both have: pairs of one round are side by side."""
    return tools.median([a / b for a, b in zip(seconds[above], seconds[below])])


def show(measured):
    seconds, gigabytes = measured["seconds"], measured["bytes"] / 1e9
    print(f"\n{measured['kind']}, {gigabytes:.2f} GB")
    table = []
    for name, values in seconds.items():
        middle = tools.median(values)
        faster = None if name in ("zerocast", "command") else ratio(seconds, name, "zerocast")
        table.append((NAMES[name], len(values), middle, gigabytes / middle, faster))
    tools.rows(COLUMNS, table)
    measured["ratios"] = {name: ratio(seconds, name, "zerocast") for name in seconds if name != "zerocast"}
    measured["zerocast_by_safetensors"] = ratio(seconds, "zerocast", "safetensors")
    measured["memfd_by_anonymous"] = ratio(seconds, "memfd", "anonymous")
    print(f"zerocast / safetensors: {measured['zerocast_by_safetensors']:.2f}; "
          f"floor in memfd / in anonymous memory: {measured['memfd_by_anonymous']:.2f}")


def main():
    parser = tools.parser(__doc__)
    parser.add_argument("--kind", action="append", choices=("llama", "mixtral", "fp32", "transposed"),
                        help="repeat for several (default: llama and mixtral)")
    parser.add_argument("--gb", type=float, default=2, help="size of the checkpoint (default: %(default)s)")
    parser.add_argument("--slow-runs", type=int, default=7,
                        help="of from_pretrained, which takes long; 0 leaves it out (default: %(default)s)")
    parser.add_argument("--venv", default=str(tools.BUILD / "venv" / "bench"), help="default: %(default)s")
    arguments = parser.parse_args()
    arguments.slow_runs = min(arguments.slow_runs, arguments.runs)
    tools.print_command()
    python = tools.environment(arguments.venv, HERE / "requirements-peers.txt")
    results = []
    for kind in arguments.kind or ("llama", "mixtral"):
        results.append(measure(kind, python, arguments))
        show(results[-1])
    tools.write_json(arguments.json, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
