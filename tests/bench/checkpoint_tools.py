"""What the benches of `zerocast checkpoint` share: checkpoints that a real engine made, runs of the command, arguments."""

import os
import pathlib
import shutil
import subprocess
import time

import bench_tools as tools

HERE = pathlib.Path(__file__).resolve().parent
RANKS = 2
BLOCK = 1 << 20


def make(python, folder, stage, gigabytes):
    """A checkpoint of that size, which is made where it is not there."""
    made = pathlib.Path(folder, f"deepspeed-z{stage}-{gigabytes:g}")
    if (made / "latest").exists():
        return made
    shutil.rmtree(made, ignore_errors=True)
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "GLOO_SOCKET_IFNAME": "lo",
                   "OMP_NUM_THREADS": str(max(1, tools.THREADS // RANKS))}
    tools.run(python, "-B", "-m", "torch.distributed.run", "--nnodes", 1, "--nproc-per-node", RANKS, "--rdzv-backend", "c10d",
              "--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1", HERE / "save_rank.py", made, stage, gigabytes,
              env=environment)
    return made


def flush(out):
    """Files and folders on the disk, as ours are when the command ends; not in anybody's seconds but the floor's."""
    for path in [*out.rglob("*"), out]:
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


def warm(checkpoint):
    for path in checkpoint.rglob("*.pt"):
        with open(path, "rb") as file:
            while file.read(16 * BLOCK):
                pass


def seconds_of(said):
    return float(said.rpartition('"seconds": ')[2].strip().rstrip("}"))


def own_bytes(process):
    """RssAnon and RssShmem of a process; 0 once it is gone."""
    try:
        lines = pathlib.Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon:", "RssShmem:")))


def run_command(*args):
    """Seconds of `zerocast checkpoint`, the whole command, and the most that it held."""
    start = time.perf_counter()
    process = subprocess.Popen([str(tools.BIN / "zerocast"), "checkpoint", *map(str, args)], stdin=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL)
    most = 0
    while process.poll() is None:
        most = max(most, own_bytes(process.pid))
        time.sleep(0.002)
    seconds = time.perf_counter() - start
    if process.returncode != 0:
        raise RuntimeError(f"zerocast checkpoint {' '.join(map(str, args))} ended with {process.returncode}")
    return seconds, most


def parser(doc):
    result = tools.parser(doc)
    result.set_defaults(runs=5)
    result.add_argument("--stage", action="append", type=int, choices=(1, 2, 3), help="repeat for several (default: 3)")
    result.add_argument("--gb", type=float, default=1.8, help="size of the checkpoint (default: %(default)s)")
    result.add_argument("--venv", default=str(tools.BUILD / "venv" / "bench"), help="default: %(default)s")
    result.add_argument("--python", help="one that has the libraries, instead of --venv")
    return result


def run_stages(arguments, measure, show):
    """measure(stage, python, arguments) of each stage that was asked for, shown, and written as JSON."""
    tools.print_command()
    python = arguments.python or tools.environment(arguments.venv, HERE / "requirements-peers.txt")
    pathlib.Path(arguments.folder).mkdir(parents=True, exist_ok=True)
    results = []
    for stage in arguments.stage or [3]:
        results.append(measure(stage, python, arguments))
        show(results[-1])
    tools.write_json(arguments.json, results)
