"""What the tests of `zerocast checkpoint` share: folders that real engines saved, a place to write to, runs of the command."""

import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
import cluster  # noqa: E402

# Generous: what a whole process may hold of its own.
MOST_BYTES = 256 << 20


def checkpoint(*args, **options):
    return cluster.zerocast("checkpoint", *args, **options)


class CheckpointCase(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.folders = pathlib.Path(tempfile.mkdtemp(prefix="zc_checkpoints_"))
        cls.addClassCleanup(shutil.rmtree, cls.folders, ignore_errors=True)
        with tarfile.open(cluster.DATA / "deepspeed" / "folders.tar.xz") as archive:
            archive.extractall(cls.folders, filter="data")

    def setUp(self):
        self.top = pathlib.Path(tempfile.mkdtemp(prefix="zc_checkpoint_out_"))
        self.addCleanup(shutil.rmtree, self.top, ignore_errors=True)
        self.out = self.top / "out"

    def check_nothing_left(self, *kept):
        self.assertEqual(sorted(path.name for path in self.top.iterdir()), sorted(kept))

    def start(self, *args):
        process = subprocess.Popen([str(cluster.BIN / "zerocast"), "checkpoint", *map(str, args)], stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.addCleanup(process.kill)
        return process

    def most_of_its_own(self, process):
        """The most RssAnon and RssShmem that is seen until the process ends, bytes, and how often it was looked at."""
        most = looks = 0
        while process.poll() is None:
            try:
                lines = pathlib.Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8").splitlines()
            except OSError:
                break
            found = sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("RssAnon:", "RssShmem:")))
            most, looks = max(most, found), looks + (found > 0)
            time.sleep(0.001)
        return most, looks

    def check_interrupted(self, how, code, *args):
        """A command that gets the signal while it writes ends with the code and leaves nothing but the folder `made`."""
        process = self.start(*args, "--out", self.out, "--threads", "1")
        deadline = time.monotonic() + cluster.COMMAND_TIMEOUT_S
        staging = self.top / f"out.tmp.{process.pid}"
        while not staging.exists() and process.poll() is None:
            self.assertLess(time.monotonic(), deadline)
        process.send_signal(how)
        out, errors = process.communicate(timeout=cluster.COMMAND_TIMEOUT_S)
        self.assertEqual(process.returncode, code, (out, errors))
        self.assertRegex(errors, f"zerocast: interrupted by {how.name}")
        self.check_nothing_left("made")
