"""Files of a DeepSpeed checkpoint that change while agents read them: each is named, and the load fails.

What agents see of files of other kinds: tests/client/agent/load_reads_test.cc.
"""

import os
import pathlib
import shutil
import sys
import tempfile
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import cluster  # noqa: E402
import deepspeed_files  # noqa: E402

SHAPES = {"weight": (4096, 2048)}  # 32 MB of masters, two ranks' files
FILE = "global_step1/bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt"
READ_S = 60


def zc(running, *args):
    return cluster.zerocast("--server", running.address, "--output", "json", *args)


class ChangedFilesTest(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory(prefix="zc_changed_")))
        self.checkpoint = self.folder / "run"
        deepspeed_files.write_stage_3(self.checkpoint, SHAPES)
        self.file = self.checkpoint / FILE
        # What a later save leaves: the same names and sizes, other values.
        self.later = self.folder / "later"
        deepspeed_files.write_stage_3(self.later, SHAPES, seed=1)
        self.assertEqual((self.later / FILE).stat().st_size, self.file.stat().st_size)
        # Slow enough to be met, and one thread: another could open a file that is cut already, and say that.
        self.running = self.enterContext(cluster.Cluster(
            num_agents=2, agent_args=["--read-rate", "4M", "--threads", "1"]))

    def load_while(self, change):
        """Changes the files once both nodes read; how the load ends."""
        with self.file.open("rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        job = zc(self.running, "job", "submit", self.checkpoint, "--world-size", 2, "--node", "node0", "--node", "node1",
                 "--round-bytes", "1M", "--start").json()["job"]
        deadline = time.monotonic() + READ_S
        while True:
            (load,) = zc(self.running, "job", "get", job).json()["loads"]
            self.assertIn(load["state"], ("pending", "inspecting", "preparing", "loading"), load)
            if all(node["bytes_read"] > 0 for node in load["nodes"]) and len(load["nodes"]) == 2:
                break
            self.assertLess(time.monotonic(), deadline, load)
            time.sleep(0.05)
        change()
        return zc(self.running, "job", "watch", job, "--deadline", READ_S)

    def refused(self, change, code, reason, words):
        result = self.load_while(change)
        error = result.json()["error"]
        self.assertEqual((result.code, error["reason"]), (code, reason), error)
        self.assertRegex(error["message"], rf"node node[01]: .*{self.file}{words}")

    def test_a_file_that_is_cut(self):
        self.refused(lambda: os.truncate(self.file, 5000), 6, "CHECKPOINT_CORRUPT", r" at offset \d+: the file ends there")

    def test_a_file_that_is_written_to(self):
        def write():
            with self.file.open("r+b") as file:
                file.seek(-9_000_000, os.SEEK_END)
                file.write(b"other")

        self.refused(write, 4, "CHECKPOINT_CHANGED", ".*: it was modified")

    def test_a_file_that_grows(self):
        def grow():
            with self.file.open("ab") as file:
                file.write(b"more")

        self.refused(grow, 4, "CHECKPOINT_CHANGED", r".*: it had \d+ bytes and has \d+, it was modified")

    def test_a_file_in_whose_place_another_comes(self):
        def replace():
            shutil.copy2(self.file, self.folder / "same")
            os.replace(self.folder / "same", self.file)

        self.refused(replace, 4, "CHECKPOINT_CHANGED", ".*: it is another file now")

    def test_other_bytes_of_the_same_size_and_time(self):
        def overwrite():
            was = self.file.stat()
            with self.file.open("r+b") as file:
                file.write((self.later / FILE).read_bytes())
            os.utime(self.file, ns=(was.st_atime_ns, was.st_mtime_ns))
            now = self.file.stat()
            self.assertEqual((now.st_ino, now.st_size, now.st_mtime_ns), (was.st_ino, was.st_size, was.st_mtime_ns))

        self.refused(overwrite, 4, "CHECKPOINT_CHANGED", ": its header is not the one the plan was made from")

    def test_what_changes_no_byte_is_no_change(self):
        def touch():
            os.link(self.file, self.folder / "backup")
            self.file.chmod(0o600)

        result = self.load_while(touch)
        self.assertEqual(result.code, 0, result)


if __name__ == "__main__":
    unittest.main()
