"""zerocast.from_pretrained against the installed library, for every model type of tests/data, on 2 and 3 ranks.

Wants ZC_SOURCE_DIR and ZC_BUILD_DIR (its python folder has the package). What is compared with the library's own ZeRO-3
loading is equal bit for bit, missing weights that are initialised at random with it; where the library's raises, its
plain loading stands in, cast as ZeRO-3 would. How many went which way is printed.
"""

import json
import os
import pathlib
import sys
import tarfile
import tempfile
import unittest

import deepspeed_releases as releases
from ranks import compile_operators, environment, launch, told

SOURCE = pathlib.Path(os.environ["ZC_SOURCE_DIR"])
BUILD = pathlib.Path(os.environ["ZC_BUILD_DIR"])
PACKAGE = BUILD / "python"
DEEPSPEED = releases.install(BUILD / "oracle" / "deepspeed", "0.19.8")
RANK = pathlib.Path(__file__).with_name("pretrained_rank.py")
CONFIG = {"train_micro_batch_size_per_gpu": 1, "bf16": {"enabled": True}, "zero_optimization": {"stage": 3}}
SECONDS = 1800


def setUpModule():
    compile_operators(environment(PACKAGE, DEEPSPEED), "ShareMemCommBuilder")


def checkpoints(folder):
    """{name: folder} of every model type; those of the archive are unpacked into `folder`."""
    with tarfile.open(SOURCE / "tests/data/model_types.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    found = {path.parent.name: path.parent for path in pathlib.Path(folder).glob("*/expected.json")}
    found |= {path.parent.name: path.parent for path in (SOURCE / "tests/data/checkpoints").glob("*/expected.json")}
    # Where the library itself is to raise, there is nothing to compare with.
    return {name: path for name, path in sorted(found.items()) if not name.endswith("-broken")}


def run(ranks, how, out, todo):
    """Runs the ranks until all are done; returns what their output ended with."""
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(ranks)] if how != "plain" else []
    with told(f"{how}, {ranks} ranks, {len(todo)} checkpoints"):
        status, output = launch([sys.executable, *launcher, RANK, how, json.dumps(CONFIG), out,
                                 *(f"{name}={path}" for name, path in todo.items())],
                                environment(PACKAGE, DEEPSPEED, RANK.parent), SECONDS)
    return "" if status == 0 else f"{status}: {output[-4000:]}"


def library(ranks, out, todo):
    """What the library's own loading makes; returns the names at which it raises."""
    todo, failed = dict(todo), []
    while todo:
        run(ranks, "library", out, todo)
        for name in list(todo):
            if (out / f"{name}.library.json").exists():
                del todo[name]
        if todo:
            failed.append(next(iter(todo)))
            del todo[failed[-1]]
    return failed


class EveryModelType(unittest.TestCase):
    maxDiff = 4000

    def compare(self, ranks):
        with tempfile.TemporaryDirectory() as folder:
            todo, out = checkpoints(folder), pathlib.Path(folder, "out")
            out.mkdir()
            self.assertGreaterEqual(len({name.partition("-")[0] for name in todo}), 45)
            failed = library(ranks, out, todo)
            run(ranks, "plain", out, {name: todo[name] for name in failed})
            trouble = run(ranks, "zerocast", out, todo)
            self.assertEqual(trouble, "")

            def read(file):
                return json.loads((out / file).read_text(encoding="utf-8"))

            for name in todo:
                with self.subTest(name=name, ranks=ranks):
                    want = read(f"{name}.plain.json" if name in failed else f"{name}.library.json")
                    self.assertEqual(read(f"{name}.zerocast.json")["parameters"], want["parameters"])
                    for rank in range(ranks):
                        got = read(f"{name}.zerocast.json" if rank == 0 else f"{name}.zerocast.{rank}.json")
                        self.assertEqual(got["buffers"], want["buffers"], f"on rank {rank}")
            print(f"{ranks} ranks: {len(todo) - len(failed)} checkpoints equal to the library's ZeRO-3 loading, "
                  f"{len(failed)} to its plain loading ({', '.join(failed) or 'none'})", flush=True)

    def test_two_ranks(self):
        self.compare(2)

    def test_three_ranks(self):
        self.compare(3)


if __name__ == "__main__":
    unittest.main()
