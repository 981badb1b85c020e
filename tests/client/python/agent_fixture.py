"""What the tests of zerocast.attach share: an agent's hand-over socket with known shards."""

import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(os.environ["ZC_SOURCE_DIR"]) / "client/python/src"))

import zerocast  # noqa: E402

FIXTURE = os.environ["ZC_HAND_OVER_FIXTURE"]
LOAD, TOKEN = "loads/test", "secret"


def expected_bytes(rank, offset, count):
    """The bytes that the fixture's arenas hold."""
    return bytes((k + 100 * rank) % 251 for k in range(offset, offset + count))


class AgentTest(unittest.TestCase):
    """Runs hand_over_fixture for each test."""

    attach_arguments = {}  # of every attach, beside token and socket

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.socket = self.folder.name + "/agent.sock"
        self.agent = subprocess.Popen([FIXTURE, self.socket], stdin=subprocess.PIPE,
                                      stdout=subprocess.PIPE, text=True)
        self.addCleanup(self.stop)
        self.assertEqual(self.agent.stdout.readline(), "ready\n")

    def stop(self):
        self.agent.stdin.close()
        self.agent.wait(timeout=20)
        self.agent.stdout.close()

    def attach(self, rank=0, **arguments):
        arguments = {"token": TOKEN, "socket": self.socket, **self.attach_arguments, **arguments}
        return zerocast.attach(LOAD, rank, **arguments)
