"""Jobs that load the same checkpoint: the shards come from the agents' memory, and no trainer's write reaches another job.

The kernel is the witness of what is read: rchar of each agent's /proc/PID/io. The command's --verify compares every
partition with a reading of its own.
"""

import array
import contextlib
import json
import mmap
import os
import pathlib
import shutil
import signal
import socket
import struct
import sys
import tempfile
import threading
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import cluster  # noqa: E402

PATIENCE_S = 90
# Headers are read, and sockets.
FEW_BYTES = 1 << 20


def make_checkpoint(folder, megabytes=24):
    """Plain bf16 tensors of 1 MiB in two files."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    weight_map = {}
    for part in range(2):
        file = f"model-{part + 1:05d}-of-00002.safetensors"
        tensors = {f"model.layers.{k}.mlp.up_proj.weight": ("BF16", [512, 1024], os.urandom(1 << 20))
                   for k in range(part, megabytes, 2)}
        cluster.write_safetensors(folder / file, tensors)
        weight_map.update({name: file for name in tensors})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return megabytes << 20


def rchar(pid):
    for line in pathlib.Path(f"/proc/{pid}/io").read_text().splitlines():
        if line.startswith("rchar:"):
            return int(line.split()[1])
    raise AssertionError("no rchar")


def memfds(pid):
    """Arenas that a process has open."""
    links = []
    for entry in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            links.append(os.readlink(entry))
    return sum("memfd:" in link for link in links)


class Trainer:
    """A training process's side of the hand-over socket."""

    def __init__(self, path, load, rank, token, mode):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(PATIENCE_S)
            connection.connect(str(path))
            self._send(connection, {"op": "attach", "load": load, "rank": rank, "token": token,
                                    "mode": mode})
            self.answer, _ = self._receive(connection)
            if not self.answer["ok"]:
                return
            self._send(connection, {"op": "ack"})
            settled, fds = self._receive(connection)
            assert settled["ok"], settled
            (fd,) = fds
            flags = mmap.MAP_SHARED if self.answer["mode"] == "shared" else mmap.MAP_PRIVATE
            self.memory = mmap.mmap(fd, self.answer["arena_bytes"], flags,
                                    mmap.PROT_READ | mmap.PROT_WRITE)
            os.close(fd)

    def overwrite(self, byte):
        self.memory[:] = bytes([byte]) * len(self.memory)

    @staticmethod
    def _send(connection, message):
        text = json.dumps(message).encode()
        connection.sendall(struct.pack("<I", len(text)) + text)

    @staticmethod
    def _receive(connection):
        data, fds = b"", []
        while len(data) < 4 or len(data) < 4 + struct.unpack_from("<I", data)[0]:
            more, ancillary, _, _ = connection.recvmsg(1 << 16, socket.CMSG_SPACE(4))
            assert more, "the agent broke off"
            data += more
            for _, kind, payload in ancillary:
                if kind == socket.SCM_RIGHTS:
                    fds.extend(array.array("i", payload))
        return json.loads(data[4:]), fds


class SharedLoadsTest(unittest.TestCase):

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="zc_shared_"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.checkpoint = self.folder / "ckpt"
        self.num_bytes = make_checkpoint(self.checkpoint)

    def load(self, running, nodes, *flags, read=None):
        """Loads 4 ranks on the named nodes; the report. `read`: bytes that the agents may have read, as a range."""
        pids = [running.pid(node) for node in nodes]
        before = [rchar(pid) for pid in pids]
        result = cluster.zerocast("--server", running.address, "--output", "json", "load",
                                  self.checkpoint, "--world-size", 4, "--verify", *flags,
                                  *[part for node in nodes for part in ("--node", node)])
        self.assertEqual(result.code, 0, result)
        report = result.json()
        self.assertEqual(report["verified"]["bytes"], self.num_bytes)
        if read is not None:
            seen = sum(rchar(pid) for pid in pids) - sum(before)
            self.assertGreaterEqual(seen, read[0])
            self.assertLessEqual(seen, read[1])
        return report

    def take(self, running, report, rank, mode):
        (shard,) = [each for each in report["shards"] if each["rank"] == rank]
        return Trainer(shard["agent_socket"], report["load"], rank, report["attach_token"], mode)

    def assert_source(self, report, source):
        self.assertEqual(report["source"], source)
        self.assertEqual([node["source"] for node in report["nodes"]], [source] * 2)

    def test_from_the_cache_and_from_peers_while_trainers_write(self):
        with cluster.Cluster(2) as running:
            all_bytes = (self.num_bytes, self.num_bytes + FEW_BYTES)
            no_bytes = (0, FEW_BYTES)
            first = self.load(running, ["node0", "node1"], read=all_bytes)
            self.assert_source(first, "files")
            trainers = [self.take(running, first, rank, "private") for rank in (0, 3)]
            stop = threading.Event()

            def train():
                byte = 0
                while not stop.is_set():
                    byte = (byte + 1) % 256
                    for trainer in list(trainers):
                        trainer.overwrite(byte)

            writer = threading.Thread(target=train)
            writer.start()
            try:
                second = self.load(running, ["node0", "node1"], read=no_bytes)
                self.assert_source(second, "cache")
                self.assertEqual([node["bytes_read"] for node in second["nodes"]], [0, 0])
                trainers.append(self.take(running, second, 0, "auto"))
                self.assertEqual(trainers[-1].answer["mode"], "private")
                refused = self.take(running, second, 1, "shared").answer["error"]
                self.assertEqual((refused["code"], refused["reason"]),
                                 ("FAILED_PRECONDITION", "WRONG_STATE"))
                self.assertIn("private", refused["message"])

                for index in (2, 3):
                    running.start_agent(index)
                running.wait_for_agents(4)
                third = self.load(running, ["node2", "node3"], read=no_bytes)
            finally:
                stop.set()
                writer.join()
            self.assert_source(third, "peers")
            self.assertEqual(third["transport"], "gloo")
            for node in third["nodes"]:
                self.assertEqual(node["bytes_received"], node["arena_bytes"])
            # What came from peers alone goes over as any shard does.
            self.assertEqual(self.take(running, third, 2, "auto").answer["mode"], "shared")
            # And is then nobody else's.
            inside = self.load(running, ["node2", "node3"])
            self.assertEqual([node["source"] for node in inside["nodes"]], ["cache", "peers"])
            self.assertEqual(inside["source"], "peers")
            text = cluster.zerocast("--server", running.address, "job", "get", inside["job"])
            self.assertIn("ready", text.stdout)

    def test_a_replaced_file_is_read_again(self):
        with cluster.Cluster(2) as running:
            self.load(running, ["node0", "node1"])
            file = self.checkpoint / "model-00001-of-00002.safetensors"
            status = file.stat()
            copy = self.folder / "copy"
            data = bytearray(file.read_bytes())
            data[-1] ^= 1
            copy.write_bytes(data)
            os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))
            os.replace(copy, file)
            self.assert_source(self.load(running, ["node0", "node1"]), "files")

    def test_ended_jobs_are_kept_up_to_the_size(self):
        with cluster.Cluster(2, agent_args=["--cache-bytes=64M"]) as running:
            self.assert_source(self.load(running, ["node0", "node1"], "--release"), "files")
            self.await_cached(running, self.num_bytes)
            self.assert_source(self.load(running, ["node0", "node1"], "--release"), "cache")
            # Other nodes' agents give what no load of theirs uses any more.
            self.await_cached(running, self.num_bytes)
            for index in (2, 3):
                running.start_agent(index)
            running.wait_for_agents(4)
            self.assert_source(self.load(running, ["node2", "node3"]), "peers")

    def await_cached(self, running, num_bytes):
        self.until(f"{num_bytes} bytes to be kept",
                   lambda: sum(agent["cache_bytes"] for agent in running.agents()) >= num_bytes)

    def test_a_donor_that_does_not_answer_means_the_files(self):
        with cluster.Cluster(2) as running:
            self.load(running, ["node0", "node1"])
            for index in (2, 3):
                running.start_agent(index)
            running.wait_for_agents(4)
            os.kill(running.pid("node1"), signal.SIGSTOP)
            try:
                report = self.load(running, ["node2", "node3"], "--stage-timeout", 3)
            finally:
                os.kill(running.pid("node1"), signal.SIGCONT)
            self.assert_source(report, "files")

    def test_a_donor_that_is_killed_while_it_gives_ends_the_load_with_its_name(self):
        stage_timeout_s = 20
        # So slow that even on a busy machine, where each look at the load takes seconds, it is seen to give.
        slow = ["--send-rate=1M"]
        with cluster.Cluster(0) as running:
            for index in (0, 1):
                running.start_agent(index, extra=slow)
            running.wait_for_agents(2)
            self.load(running, ["node0", "node1"])
            for index in (2, 3):
                running.start_agent(index)
            running.wait_for_agents(4)
            takers = [running.pid(node) for node in ("node2", "node3")]
            before = [memfds(pid) for pid in takers]
            submitted = cluster.zerocast(
                "--server", running.address, "--output", "json", "job", "submit", self.checkpoint, "--world-size", 4,
                "--node", "node2", "--node", "node3", "--stage-timeout", stage_timeout_s, "--start")
            self.assertEqual(submitted.code, 0, submitted)
            job = submitted.json()["job"]

            def takes():
                shown = cluster.zerocast("--server", running.address, "--output", "json", "job", "get", job)
                (load,) = shown.json()["loads"]
                self.assertIn(load["state"], ("pending", "inspecting", "preparing", "loading"),
                              "the load ended before the donor could be killed")
                return any(node["bytes_received"] > 0 for node in load["nodes"])

            self.until("shards on their way", takes)
            os.kill(running.pid("node1"), signal.SIGKILL)
            running.processes.pop("node1").wait()
            killed = time.monotonic()
            ended = cluster.zerocast("--server", running.address, "--output", "json", "job", "watch", job,
                                     "--deadline", PATIENCE_S)
            self.assertLess(time.monotonic() - killed, stage_timeout_s)
            self.assertEqual(ended.code, 5, ended)
            self.assertIn("node1", ended.json()["error"]["message"])
            # What had come is gone, and the donor that lives has what it had.
            self.until("the takers' memory to go", lambda: [memfds(pid) for pid in takers] == before)
            again = self.load(running, ["node2", "node3"])
            self.assertIn(again["source"], ("files", "peers"))
            inside = self.load(running, ["node2", "node3"])
            self.assert_source(inside, "cache")

    def until(self, what, ready):
        end = time.monotonic() + PATIENCE_S
        while not ready():
            if time.monotonic() > end:
                self.fail(f"waited in vain for {what}")
            time.sleep(0.05)


if __name__ == "__main__":
    unittest.main()
