"""What a command that runs server and agents itself leaves when it is killed, and who removes it."""

import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import cluster  # noqa: E402

CHECKPOINT = cluster.DATA / "checkpoints" / "mixtral"
COMMAND = ["load", str(CHECKPOINT), "--world-size", "2"]


class EmbeddedTest(unittest.TestCase):

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.environment = {"XDG_RUNTIME_DIR": folder.name}

    def left(self):
        return sorted(path.name for path in self.folder.iterdir())

    def start_and_stop(self):
        """A command that stands still while it runs its cluster."""
        environment = {k: v for k, v in os.environ.items() if k != "ZEROCAST_SERVER"}
        for _ in range(20):
            before = self.left()
            process = subprocess.Popen(
                [str(cluster.BIN / "zerocast"), *COMMAND], env={**environment, **self.environment},
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            deadline = time.monotonic() + cluster.START_TIMEOUT_S
            while process.poll() is None and not any(
                    (self.folder / name / "server.sock").exists()
                    for name in self.left() if name not in before):
                self.assertLess(time.monotonic(), deadline, "no socket appeared")
            process.send_signal(signal.SIGSTOP)
            if process.poll() is None:
                return process
            process.wait()  # it was done before it could be stopped
        raise AssertionError("every command ended before it could be stopped")

    def run_one(self):
        result = cluster.zerocast(*COMMAND, env=self.environment)
        self.assertEqual(result.code, 0, result)

    def test_what_a_killed_command_left_the_next_one_removes(self):
        process = self.start_and_stop()
        process.kill()
        process.wait()
        self.assertEqual(len(self.left()), 1)
        self.run_one()
        self.assertEqual(self.left(), [])

    def test_what_a_living_command_has_stays(self):
        process = self.start_and_stop()
        held = self.left()
        self.run_one()
        self.assertEqual(self.left(), held)
        process.send_signal(signal.SIGCONT)
        self.assertEqual(process.wait(timeout=cluster.COMMAND_TIMEOUT_S), 0)
        self.assertEqual(self.left(), [])


if __name__ == "__main__":
    unittest.main()
