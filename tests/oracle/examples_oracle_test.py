"""The examples of the Python package run, each by its launcher on two ranks, and all of them train alike.

srun and scontrol are stand-ins; the launchers are those of the package index. Wants ZC_SOURCE_DIR and ZC_BUILD_DIR (its python folder
has the package).
"""

import os
import pathlib
import re
import socket
import stat
import subprocess
import sys
import tempfile
import unittest

import deepspeed_releases as releases
import ranks

SOURCE = pathlib.Path(os.environ["ZC_SOURCE_DIR"])
BUILD = pathlib.Path(os.environ["ZC_BUILD_DIR"])
EXAMPLES = SOURCE / "client/python/examples"
MODEL = SOURCE / "tests/data/checkpoints/mixtral"
DEEPSPEED = releases.install(BUILD / "oracle" / "deepspeed", "0.19.8")
BIN = pathlib.Path(sys.executable).parent
PATH = f"{BIN}:{DEEPSPEED / 'bin'}:{os.environ['PATH']}"
SECONDS = 500
# Runs the command once for each node; each is another one to zerocast.
SRUN = """#!/bin/bash
[ "$1" = --kill-on-bad-exit=1 ] && shift
pids=()
for ((node = 0; node < SLURM_JOB_NUM_NODES; node++)); do
  ZEROCAST_NODE=node$node "$@" & pids+=($!)
done
status=0
for pid in "${pids[@]}"; do wait "$pid" || status=$?; done
exit $status
"""
SCONTROL = """#!/bin/sh
[ "$*" = "show hostnames host[1-2]" ] && printf 'localhost\\nhost2\\n'
"""


def made(folder, name, text):
    file = pathlib.Path(folder, name)
    file.write_text(text, encoding="utf-8")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)


class Examples(unittest.TestCase):

    def run_example(self, *command, **environment):
        """{(rank, step): loss} of what the command prints."""
        own = {**ranks.environment(BUILD / "python", DEEPSPEED), "PATH": PATH, "GPUS": "2",
               "RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0", **environment}
        with tempfile.TemporaryDirectory() as folder, ranks.told(" ".join(pathlib.Path(word).name for word in command)):
            status, output = ranks.launch(command, own, SECONDS, environment.get("SLURM_SUBMIT_DIR", folder))
        self.assertEqual(status, 0, output[-6000:])
        losses = {(int(rank), int(step)): loss
                  for rank, step, loss in re.findall(r"rank (\d+), step (\d+): loss ([0-9.]+)", output)}
        self.assertEqual(sorted(losses), [(rank, step) for rank in range(2) for step in range(10)], output[-6000:])
        self.assertGreater(len(set(losses.values())), 15, "nothing was trained")
        return losses

    def test_all_train_alike(self):
        torchrun = self.run_example("sh", EXAMPLES / "torchrun.sh", MODEL)
        with self.subTest(launcher="deepspeed"):
            self.assertEqual(self.run_example("sh", EXAMPLES / "deepspeed.sh", MODEL), torchrun)
        with self.subTest(launcher="slurm"), tempfile.TemporaryDirectory() as folder:
            made(folder, "srun", SRUN)
            made(folder, "scontrol", SCONTROL)
            with socket.socket() as listener:
                listener.bind(("127.0.0.1", 0))
                port = listener.getsockname()[1]
            losses = self.run_example(
                "bash", EXAMPLES / "slurm.sbatch", MODEL, PATH=f"{folder}:{PATH}", GPUS="1", PORT=str(port),
                SLURM_JOB_NUM_NODES="2", SLURM_JOB_ID="7", SLURM_JOB_NODELIST="host[1-2]", SLURM_SUBMIT_DIR=str(EXAMPLES))
            self.assertEqual(losses, torchrun)
        with self.subTest(launcher="ray"):
            self.assertEqual(self.run_example(BIN / "python", EXAMPLES / "ray_train.py", MODEL, EXAMPLES / "zero3.json",
                                              "--workers", "2"), torchrun)

    def test_shell_scripts_are_clean(self):
        files = sorted([*EXAMPLES.glob("*.sh"), *EXAMPLES.glob("*.sbatch")])
        self.assertEqual(len(files), 3)
        done = subprocess.run([BIN / "shellcheck", *files], capture_output=True, text=True, check=False, timeout=60)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)


if __name__ == "__main__":
    unittest.main()
