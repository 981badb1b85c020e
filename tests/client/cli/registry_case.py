"""What the tests of the checkpoints that a server keeps share: a folder that a training saves to, and the command."""

import os
import pathlib
import shutil
import tempfile
import unittest

import cluster

FOLDERS = pathlib.Path(os.environ["ZC_DEEPSPEED_FOLDERS"])


def told(text):
    """{KEY: value} of the lines for batch scripts."""
    return dict(line.split("=", 1) for line in text.splitlines() if line.startswith("ZEROCAST_"))


class RegistryCase(unittest.TestCase):

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="zc_checkpoint_"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.run_folder = self.folder / "run"
        self.run_folder.mkdir()

    def save(self, tag, source="olmoe-z3-w2"):
        """What a training of two ranks leaves, in place of what was there."""
        shutil.rmtree(self.run_folder / tag, ignore_errors=True)
        shutil.copytree(FOLDERS / source / "global_step3", self.run_folder / tag)
        (self.run_folder / "latest").write_text(tag)

    def submit(self, running):
        made = self.zc(running, "job", "submit", "/ckpt", "--world-size", 2).stdout
        return told(made)["ZEROCAST_JOB"]

    def zc(self, running, *args, code=0):
        result = cluster.zerocast("--server", running.address, *args)
        self.assertEqual(result.code, code, result)
        return result
