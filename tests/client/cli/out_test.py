"""--out: an output is whole or not there, and an older one stays until a newer one is whole.

The test takes the place of an agent's socket, so that a load waits where its last ranks are written.
"""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
import cluster  # noqa: E402

CHECKPOINT = cluster.DATA / "checkpoints" / "mixtral"
LOAD = ["load", str(CHECKPOINT), "--world-size", "4"]
ON_TWO_NODES = [*LOAD, "--node", "node0", "--node", "node1"]


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


class Impostor:
    """Listens where an agent did: who wants a shard of its node waits until this closes."""

    def __init__(self, path):
        os.rename(path, f"{path}.agent")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(str(path))
        self._socket.listen()
        self._socket.settimeout(cluster.COMMAND_TIMEOUT_S)

    def accept(self):
        return self._socket.accept()[0]

    def close(self):
        self._socket.close()


class OutTest(unittest.TestCase):

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="zc_out_"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.out = self.folder / "out"

    def cluster(self):
        running = cluster.Cluster(num_agents=2)
        running.__enter__()
        self.addCleanup(running.stop)
        return running

    def start(self, *args, env=None):
        environment = {k: v for k, v in os.environ.items() if k != "ZEROCAST_SERVER"}
        return subprocess.Popen([str(cluster.BIN / "zerocast"), *map(str, args)], text=True,
                                env={**environment, **(env or {})}, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE)

    def older_output(self):
        result = cluster.zerocast(*LOAD, "--out", self.out)
        self.assertEqual(result.code, 0, result)
        return contents(self.out)

    def assert_untouched(self, older):
        self.assertEqual(contents(self.out), older)
        self.assertEqual(sorted(path.name for path in self.out.iterdir()), sorted(older))

    def interrupt(self, process, impostor):
        """Interrupts the command while it waits for a shard, which never comes."""
        waiting = impostor.accept()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=cluster.COMMAND_TIMEOUT_S)
        self.assertEqual(process.returncode, 130, errors)
        self.assertIn("zerocast: interrupted by SIGINT", errors)
        self.assertNotIn("rank", errors)
        waiting.close()

    def test_a_newer_output_takes_the_place_of_an_older_one(self):
        older = self.older_output()
        result = cluster.zerocast("--output", "json", *LOAD, "--dtype", "fp16", "--out", self.out)
        self.assertEqual(result.code, 0, result)
        digest = result.json()["plan_digest"]
        self.assertEqual(sorted(contents(self.out)), sorted(older))
        self.assertEqual(sorted(path.name for path in self.out.iterdir()), sorted(older))
        self.assertEqual(json.loads((self.out / "report.json").read_text())["plan_digest"], digest)
        for path in self.out.glob("*.safetensors"):
            self.assertEqual(cluster.read_safetensors(path)[1]["plan_digest"], digest, path)

    def test_a_failure_leaves_an_older_output_alone(self):
        older = self.older_output()
        running = self.cluster()
        impostor = Impostor(running.folder / "node1.sock")
        self.addCleanup(impostor.close)
        process = self.start("--server", running.address, *ON_TWO_NODES, "--dtype", "fp16", "--out",
                             self.out)
        waiting = impostor.accept()  # the ranks of node0 are written
        self.assertEqual(contents(self.out), older)
        waiting.close()
        _, errors = process.communicate(timeout=cluster.COMMAND_TIMEOUT_S)
        self.assertEqual(process.returncode, 5, errors)
        self.assertIn("take rank 2 from node node1", errors)
        self.assert_untouched(older)

    def test_an_interruption_leaves_an_older_output_alone(self):
        older = self.older_output()
        running = self.cluster()
        impostor = Impostor(running.folder / "node1.sock")
        self.addCleanup(impostor.close)
        server = ["--server", running.address]
        process = self.start(*server, *ON_TWO_NODES, "--dtype", "fp16", "--out", self.out)
        self.interrupt(process, impostor)
        (job,) = cluster.zerocast(*server, "--output", "json", "job", "list").json()["jobs"]
        self.assertEqual(job["state"], "cancelled")
        self.assert_untouched(older)

    def test_an_interruption_without_a_server_says_so(self):
        runtime = self.folder / "run"
        runtime.mkdir()
        for _ in range(20):
            process = self.start(*LOAD, "--nodes", "2", "--out", self.out,
                                 env={"XDG_RUNTIME_DIR": str(runtime)})
            while process.poll() is None and not list(runtime.glob("*/node1.sock")):
                time.sleep(0.001)
            process.send_signal(signal.SIGSTOP)
            sockets = list(runtime.glob("*/node1.sock"))
            if process.poll() is None and sockets and not list(self.out.glob(".zerocast_??????")):
                break
            process.kill()  # it was too far
            process.communicate()
            shutil.rmtree(self.out, ignore_errors=True)
        else:
            self.fail("every command wrote its output before it could be stopped")
        impostor = Impostor(sockets[0])
        self.addCleanup(impostor.close)
        process.send_signal(signal.SIGCONT)
        self.interrupt(process, impostor)
        self.assertFalse(self.out.exists())
        self.assertEqual(list(runtime.iterdir()), [])

    def test_a_folder_in_the_place_of_a_file_is_refused_before_anything_changes(self):
        older = self.older_output()
        (self.out / "rank_00003.safetensors").unlink()
        (self.out / "rank_00003.safetensors").mkdir()
        del older["rank_00003.safetensors"]
        result = cluster.zerocast(*LOAD, "--dtype", "fp16", "--out", self.out)
        self.assertEqual(result.code, 4, result)
        self.assertIn("rank_00003.safetensors: a folder has that name", result.stderr)
        self.assertEqual(contents(self.out), older)


if __name__ == "__main__":
    unittest.main()
