#!/usr/bin/env python3
"""How the time of a load, and the memory it takes beside the shards, grow with the model and with the world size.

    python3 tests/bench/growth_bench.py [--sizes GB,...] [--worlds N,...] [--gb N] [--runs N] [--plots DIR] [--json FILE]

One server and one agent, new for each load; files in the page cache. README.md says how the tables are read. Asserts
neither a time nor a size.
"""

import pathlib
import sys
import tempfile
import threading

import bench_tools as tools
import cluster

HERE = pathlib.Path(__file__).resolve().parent
RANKS = 2
MOST_ANONYMOUS_BYTES = 256e6
FUSED_GB = 2
SMALL_BUFFERS = "--max-buffer-memory=64M"
SAMPLE_SECONDS = 0.002
SIZE_COLUMNS = (("checkpoint", -28, ""), ("GB", 6, ".2f"), ("floor s", 8, ".3f"), ("load s", 8, ".3f"),
                ("s/GB", 7, ".3f"), ("ratio", 6, ".2f"), ("beside MB", 10, ".1f"))
WORLD_COLUMNS = (("ranks", -28, "d"), ("load s", 8, ".3f"), ("by first", 9, ".2f"), ("beside MB", 10, ".1f"))


class AnonymousPeak:
    """The most anonymous memory that a process has while the context lasts. Arenas are memfds, which do not count."""

    def __init__(self, pid):
        self._status = pathlib.Path(f"/proc/{pid}/status")
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self.num_bytes = 0

    def _look(self):
        text = self._status.read_text(encoding="utf-8")
        kib = next(int(line.split()[1]) for line in text.splitlines() if line.startswith("RssAnon:"))
        self.num_bytes = max(self.num_bytes, kib * 1024)

    def _sample(self):
        while not self._done.wait(SAMPLE_SECONDS):
            self._look()

    def __enter__(self):
        self._look()
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._done.set()
        self._thread.join()


class Case:
    """A load that is measured some times."""

    def __init__(self, label, ckpt, world_size, agent_args=()):
        self.label, self.ckpt, self.world_size, self.agent_args = label, ckpt, world_size, agent_args
        self.seconds, self.floors, self.anonymous = [], [], []

    def measure(self):
        self.floors.append(tools.floor(self.ckpt, "memfd"))
        with cluster.Cluster(num_agents=1, agent_args=self.agent_args) as running:
            with AnonymousPeak(running.pid("node0")) as peak:
                result = cluster.zerocast(
                    "--server", running.address, "--output", "json", "load", self.ckpt, "--world-size",
                    self.world_size, "--model-spec", self.ckpt / "model_spec.json", timeout=tools.RUN_TIMEOUT_S)
            if result.code != 0:
                raise RuntimeError(f"load {self.ckpt} into {self.world_size} ranks: {result!r}")
        self.seconds.append(result.json()["elapsed_seconds"])
        self.anonymous.append(peak.num_bytes)

    def figures(self):
        return {"label": self.label, "bytes": tools.file_bytes(self.ckpt)[0], "world_size": self.world_size,
                "seconds": self.seconds, "floor_seconds": self.floors, "anonymous_bytes": self.anonymous}


def make_cases(arguments):
    def make(kind, gigabytes):
        return tools.checkpoint(arguments.folder, kind, gigabytes)
    sizes = [Case("llama", make("llama", size), RANKS) for size in arguments.sizes]
    fused = make("fused", min(FUSED_GB, max(arguments.sizes)))
    sizes.append(Case("mixtral, one big target", fused, RANKS))
    sizes.append(Case(SMALL_BUFFERS, fused, RANKS, (SMALL_BUFFERS,)))
    of_worlds = make("llama", arguments.gb)
    return sizes, [Case("", of_worlds, number) for number in arguments.worlds]


def show(sizes, worlds):
    table = []
    for case in sizes:
        gigabytes = tools.file_bytes(case.ckpt)[0] / 1e9
        seconds = tools.median(case.seconds)
        ratio = tools.median([a / b for a, b in zip(case.seconds, case.floors)])
        table.append((case.label, gigabytes, tools.median(case.floors), seconds, seconds / gigabytes, ratio,
                      max(case.anonymous) / 1e6))
    print(f"\n{RANKS} ranks, by size")
    tools.rows(SIZE_COLUMNS, table)
    if not worlds:
        return
    print(f"\n{tools.file_bytes(worlds[0].ckpt)[0] / 1e9:.2f} GB, by world size")
    tools.rows(WORLD_COLUMNS, [
        (case.world_size, tools.median(case.seconds),
         tools.median([a / b for a, b in zip(case.seconds, worlds[0].seconds)]), max(case.anonymous) / 1e6)
        for case in worlds])
    most = max(max(case.anonymous) for case in sizes + worlds)
    print(f"\nanonymous memory beside the arenas: at most {most / 1e6:.1f} MB "
          f"({'within' if most <= MOST_ANONYMOUS_BYTES else 'BEYOND'} {MOST_ANONYMOUS_BYTES / 1e6:.0f} MB)")


def plot(document, folder, venv):
    """Draws with matplotlib, which has an environment of its own."""
    python = tools.environment(venv, HERE / "requirements-plot.txt")
    with tempfile.TemporaryDirectory() as scratch:
        data = pathlib.Path(scratch) / "growth.json"
        tools.write_json(data, document)
        print(tools.run(python, "-B", HERE / "plot_growth.py", data, folder), end="")


def numbers(kind):
    return lambda text: [kind(word) for word in text.split(",") if word]


def main():
    parser = tools.parser(__doc__)
    parser.add_argument("--sizes", type=numbers(float), default=[0.25, 0.5, 1, 2, 4], metavar="GB,...",
                        help="of the models (default: 0.25,0.5,1,2,4)")
    parser.add_argument("--worlds", type=numbers(int), default=[1, 2, 4, 8, 16, 32, 64], metavar="N,...",
                        help="world sizes on the one agent (default: 1,2,4,8,16,32,64)")
    parser.add_argument("--gb", type=float, default=2, help="size of the model for them (default: %(default)s)")
    parser.add_argument("--plots", metavar="DIR", help="PNG pictures of the tables")
    parser.add_argument("--venv", default=str(tools.BUILD / "venv" / "plot"), help="for --plots (default: %(default)s)")
    arguments = parser.parse_args()
    tools.print_command()
    sizes, worlds = make_cases(arguments)
    for run in range(arguments.runs):
        for case in sizes + worlds:
            if run == 0:
                tools.warm(case.ckpt)
            case.measure()
    show(sizes, worlds)
    document = {"sizes": [case.figures() for case in sizes], "worlds": [case.figures() for case in worlds],
                "most_anonymous_bytes": MOST_ANONYMOUS_BYTES}
    tools.write_json(arguments.json, document)
    if arguments.plots:
        plot(document, arguments.plots, arguments.venv)
    return 0


if __name__ == "__main__":
    sys.exit(main())
