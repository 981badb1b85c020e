#!/usr/bin/env python3
"""The server and the agent that a Python process starts for itself, by the real binaries."""

import os
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path

from waiting import WAIT_S, running, wait_until

import zerocast
from zerocast import _embedded
from zerocast._client import load_error
from zerocast._proto import job_pb2, load_pb2, types_pb2

DATA = Path(os.environ["ZC_TEST_DATA"])
CHECKPOINT = DATA / "checkpoints/mixtral"


class EmbeddedTest(unittest.TestCase):

    def setUp(self):
        place = tempfile.TemporaryDirectory(prefix="zc_", dir="/var/tmp")
        self.addCleanup(place.cleanup)
        self.place = Path(place.name)
        before = os.environ.get("XDG_RUNTIME_DIR")
        os.environ["XDG_RUNTIME_DIR"] = place.name
        self.addCleanup(self.restore, before)

    @staticmethod
    def restore(before):
        if before is None:
            del os.environ["XDG_RUNTIME_DIR"]
        else:
            os.environ["XDG_RUNTIME_DIR"] = before

    def server(self, **arguments):
        return zerocast.EmbeddedServer(start_timeout=WAIT_S, **arguments)

    def agent(self, server, **arguments):
        return zerocast.EmbeddedAgent(server.address, roots=[str(DATA)], start_timeout=WAIT_S, **arguments)

    def test_a_load_is_made_and_attached(self):
        with self.server() as server, self.agent(server, node="here") as agent, \
                zerocast.Client(server.address) as client:
            spec = job_pb2.JobSpec(
                checkpoint_path=str(CHECKPOINT), topology=types_pb2.Topology(world_size=2, nodes=["here"]),
                options=types_pb2.LoadOptions(dtype=types_pb2.DTYPE_POLICY_STORED))
            self.assertGreater(client.plan_load(spec).plan.num_targets, 0)
            job, token = client.create_job(spec)
            made = client.create_load(job.name)
            *_, made = client.watch_load(made.name, time.monotonic() + WAIT_S)
            self.assertIsNone(load_error(made))
            self.assertEqual(made.state, load_pb2.LOAD_STATE_READY)
            self.assertEqual([shard.agent_socket for shard in made.shards], [agent.socket] * 2)
            shards = [zerocast.attach(made.name, rank, token=token, socket=agent.socket) for rank in range(2)]
            self.assertEqual(len(shards[0]), made.plan.num_targets)
            self.assertEqual({shard.plan_digest for shard in shards}, {made.plan.digest})
            self.assertEqual([one.name for one in client.list_loads(job.name)], [made.name])
            self.assertEqual(client.cancel_load(made.name).name, made.name)
            self.assertEqual(client.cancel_job(job.name).state, job_pb2.JOB_STATE_CANCELLED)
            client.delete_job(job.name)
            with self.assertRaises(zerocast.ServerError) as caught:
                client.get_job(job.name)
            self.assertEqual((caught.exception.code, caught.exception.reason), ("NOT_FOUND", "NOT_FOUND"))

    def test_the_socket_lies_where_only_this_user_comes(self):
        with self.server() as server, self.agent(server) as agent:
            folder = Path(agent.socket).parent
            self.assertEqual(folder.parent, self.place)
            self.assertEqual(stat.S_IMODE(folder.stat().st_mode), 0o700)
            self.assertEqual(stat.S_IMODE(Path(agent.socket).stat().st_mode), 0o600)
        self.assertEqual(list(self.place.iterdir()), [])

    def test_they_stop_within_seconds_and_leave_nothing(self):
        with self.server() as server, self.agent(server) as agent:
            pids = [server.pid, agent.pid]
            self.assertTrue(server.alive() and agent.alive())
            started = time.monotonic()
        self.assertLess(time.monotonic() - started, 15)
        self.assertEqual([running(pid) for pid in pids], [False, False])
        self.assertFalse(server.alive() or agent.alive())
        server.stop()  # once more is no error

    def test_one_that_does_not_stop_is_killed(self):
        server = self.server(stop_timeout=0.3).start()
        pid = server.pid
        os.kill(pid, signal.SIGSTOP)
        server.stop()
        self.assertFalse(running(pid))

    def test_they_outlive_the_thread_that_started_them(self):
        server = self.server()
        thread = threading.Thread(target=server.start)
        thread.start()
        thread.join()
        time.sleep(0.2)  # the kernel would have sent its signal by then
        self.assertTrue(server.alive())
        with zerocast.Client(server.address) as client:
            self.assertEqual(client.server_info().store, "memory")
        server.stop()

    def test_they_die_with_the_process_and_the_next_one_sweeps(self):
        script = ("import sys, time, zerocast\n"
                  f"server = zerocast.EmbeddedServer(start_timeout={WAIT_S}).start()\n"
                  f"agent = zerocast.EmbeddedAgent(server.address, roots=['/'], start_timeout={WAIT_S}).start()\n"
                  "print(server.pid, agent.pid, flush=True)\n"
                  "time.sleep(600)\n")
        with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
            pids = [int(word) for word in parent.stdout.readline().split()]
            self.assertEqual(len(pids), 2)
            self.assertEqual([running(pid) for pid in pids], [True, True])
            parent.kill()
            parent.wait(WAIT_S)
            for pid in pids:
                wait_until(f"the end of {pid}", lambda: not running(pid))  # noqa: B023 (called at once)
        self.assertEqual(len(list(self.place.iterdir())), 2)
        with self.server():
            self.assertEqual(len(list(self.place.iterdir())), 1)

    def test_neither_runs_for_a_process_that_did_not_start_it(self):
        for name, flags in (("zerocast-server", ["--listen=127.0.0.1:0"]),
                            ("zerocast-agent", ["--server=127.0.0.1:1", "--node=a", "--root=/"])):
            ended = subprocess.run([_embedded.find_binary(name), *flags, f"--end-with-parent={os.getppid()}"],
                                   capture_output=True, text=True, timeout=WAIT_S, check=False)
            self.assertEqual(ended.returncode, 4, ended.stderr)
            self.assertRegex(ended.stderr, f"^{name}: (FAILED_PRECONDITION: )?end with process {os.getppid()}: it did "
                             f"not start this one, or has ended; the parent is {os.getpid()}\n")

    def test_a_forked_child_stops_nothing(self):
        with self.server() as server:
            pid = os.fork()
            if pid == 0:
                server.stop()
                os._exit(0)
            self.assertEqual(os.waitpid(pid, 0)[1], 0)
            self.assertTrue(server.alive())
            self.assertTrue(list(self.place.iterdir()))

    def test_an_agent_finds_the_nccl_of_the_python_environment(self):
        folder = self.place / "site/nvidia/nccl/lib"
        folder.mkdir(parents=True)
        (folder / "libnccl.so.2").touch()
        sys.path.insert(0, str(self.place / "site"))
        self.addCleanup(sys.path.remove, str(self.place / "site"))
        with self.server() as server, self.agent(server) as agent:
            environment = Path(f"/proc/{agent.pid}/environ").read_bytes().split(b"\0")
            before = os.environ.get("LD_LIBRARY_PATH")
            self.assertIn(f"LD_LIBRARY_PATH={before + ':' if before else ''}{folder}".encode(), environment)

    def test_one_that_does_not_start_says_why(self):
        with self.assertRaisesRegex(zerocast.EmbeddedError, r"(?s)start an embedded server: it ended with 2; its last "
                                    r"lines:.*--no-such-flag"):
            self.server(extra_args=["--no-such-flag"]).start()
        self.assertEqual(list(self.place.iterdir()), [])

    def test_an_agent_without_its_server_ends_by_the_deadline(self):
        agent = zerocast.EmbeddedAgent("127.0.0.1:1", roots=["/"], start_timeout=1.5, log_level="info")
        with self.assertRaises(zerocast.EmbeddedError) as caught:
            agent.start()
        self.assertEqual(caught.exception.code, "DEADLINE_EXCEEDED")
        self.assertIn("start an embedded agent: it did not serve within 1.5s; its last lines:\n",
                      caught.exception.message)
        self.assertIn("127.0.0.1:1", caught.exception.message)

    def test_a_binary_that_is_not_there_is_named(self):
        before = os.environ.get("ZEROCAST_BIN_DIR")
        os.environ["ZEROCAST_BIN_DIR"] = str(self.place)
        try:
            with self.assertRaisesRegex(zerocast.EmbeddedError, f"find zerocast-server: no program {self.place}/"):
                self.server().start()
        finally:
            del os.environ["ZEROCAST_BIN_DIR"]
            if before is not None:
                os.environ["ZEROCAST_BIN_DIR"] = before

    def test_no_folder_says_which_were_tried(self):
        places = _embedded._candidates
        _embedded._candidates = lambda: ["/proc", "/nowhere"]
        try:
            with self.assertRaisesRegex(zerocast.EmbeddedError, "/proc: .*; /nowhere: .*set XDG_RUNTIME_DIR"):
                self.server().start()
        finally:
            _embedded._candidates = places


if __name__ == "__main__":
    unittest.main(verbosity=2)
