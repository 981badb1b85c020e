#!/usr/bin/env python3
"""Embedded agents and the memory of GPUs that they hand over by a legacy handle, which must not end before its last user.

On the stand-ins of tests/cuda_emu, which LD_LIBRARY_PATH puts in the driver's place; the real server and agent.
"""

import gc
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from unittest import mock

from waiting import WAIT_S, running, wait_until

import zerocast
from zerocast import _cuda
from zerocast._client import load_error
from zerocast._proto import job_pb2, types_pb2

DATA = pathlib.Path(os.environ["ZC_TEST_DATA"])
NO_DESCRIPTORS = {"EMU_FAIL": "cuMemCreate:1+:801"}
NORM = "model.norm.weight"


class Loaded:
    """A load of one rank by a server and an agent of this process."""

    def __init__(self, environment):
        self.server = zerocast.EmbeddedServer(start_timeout=WAIT_S).start()
        with mock.patch.dict(os.environ, environment):
            self.agent = zerocast.EmbeddedAgent(self.server.address, roots=[str(DATA)], start_timeout=WAIT_S).start()
        self.pid, self.socket = self.agent.pid, self.agent.socket
        spec = job_pb2.JobSpec(
            checkpoint_path=str(DATA / "checkpoints/mixtral"), topology=types_pb2.Topology(world_size=1, nodes=["node0"]),
            options=types_pb2.LoadOptions(dtype=types_pb2.DTYPE_POLICY_STORED, device=types_pb2.DEVICE_CUDA))
        with zerocast.Client(self.server.address) as client:
            job, self.token = client.create_job(spec)
            *_, load = client.watch_load(client.create_load(job.name).name, time.monotonic() + WAIT_S)
        if load_error(load) is not None:
            raise load_error(load)
        self.name = load.name

    def attach(self):
        return zerocast.attach(self.name, 0, token=self.token, socket=self.socket, framework="dlpack", timeout=WAIT_S)

    def leave(self):
        """As a load that starts both does at its end."""
        self.agent.leave()
        self.agent.stop()
        self.server.stop()


def attach_elsewhere(name, token, socket):
    """A process that has the shard, and says what way it came."""
    script = ("import sys, zerocast\n"
              f"shard = zerocast.attach({name!r}, 0, token={token!r}, socket={socket!r}, framework='dlpack', timeout={WAIT_S})\n"
              "print(shard.way, flush=True)\n"
              "sys.stdin.readline()\n")
    return subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                            env={**os.environ, "EMU_LEAKS": "0"})


class EmbeddedDeviceTest(unittest.TestCase):

    def setUp(self):
        place = tempfile.TemporaryDirectory(prefix="zc_", dir="/var/tmp")
        self.addCleanup(place.cleanup)
        self.place = pathlib.Path(place.name)
        patched = mock.patch.dict(os.environ, XDG_RUNTIME_DIR=place.name)
        patched.start()
        self.addCleanup(patched.stop)
        _cuda.Driver.get()  # here no call fails

    def loaded(self, environment=NO_DESCRIPTORS):
        made = Loaded(environment)
        self.addCleanup(made.server.stop)
        self.addCleanup(self.end, made.pid)
        return made

    @staticmethod
    def end(pid):
        if running(pid):
            os.kill(pid, signal.SIGKILL)

    @staticmethod
    def bytes_of(shard):
        """Of the final norm's weight, by the driver."""
        array = shard[NORM].array
        return array._memory.read(array.address - array._memory.address, array.nbytes)

    def ended(self, pid):
        wait_until("the agent's end", lambda: not running(pid))

    def test_the_memory_is_there_as_long_as_a_tensor_and_the_agent_no_longer(self):
        made = self.loaded()
        shard = made.attach()
        self.assertEqual(shard.way, "cuda_ipc")
        before = self.bytes_of(shard)
        self.assertNotEqual(set(before), {0})
        made.leave()
        self.assertEqual(list(self.place.iterdir()), [])
        time.sleep(1)  # an agent that stopped would be gone by now
        self.assertTrue(running(made.pid))
        self.assertEqual(self.bytes_of(shard), before)
        with self.assertRaises(zerocast.AttachError):
            made.attach()
        del shard
        gc.collect()
        self.ended(made.pid)

    def test_without_such_memory_it_ends_at_once(self):
        for environment, way in (({}, "cuda_vmm"), (NO_DESCRIPTORS, None)):
            with self.subTest(way=way):
                made = self.loaded(environment)
                shard = made.attach() if way else None
                made.leave()
                self.ended(made.pid)
                if shard is not None:
                    self.assertEqual(shard.way, way)
                    self.assertNotEqual(set(self.bytes_of(shard)), {0})  # that memory outlives the agent

    def test_it_ends_with_the_process_that_uses_it_however_that_ends(self):
        made = self.loaded()
        with attach_elsewhere(made.name, made.token, made.socket) as user:
            self.assertEqual(user.stdout.readline(), "cuda_ipc\n")
            made.leave()
            time.sleep(0.5)
            self.assertTrue(running(made.pid))
            user.kill()
        self.ended(made.pid)

    def test_it_outlives_who_has_started_it(self):
        script = ("import sys\n"
                  f"sys.path.insert(0, {str(pathlib.Path(__file__).parent)!r})\n"
                  "from embedded_device_test import Loaded, NO_DESCRIPTORS\n"
                  "made = Loaded(NO_DESCRIPTORS)\n"
                  "print(made.pid, made.name, made.token, made.socket, flush=True)\n"
                  "sys.stdin.readline()\n"
                  "made.leave()\n"
                  "print('left', flush=True)\n"
                  "sys.stdin.readline()\n")
        with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as starter:
            pid, name, token, socket = starter.stdout.readline().split()
            self.addCleanup(self.end, int(pid))
            shard = zerocast.attach(name, 0, token=token, socket=socket, framework="dlpack", timeout=WAIT_S)
            self.assertEqual(shard.way, "cuda_ipc")
            before = self.bytes_of(shard)
            starter.stdin.write("\n")
            starter.stdin.flush()
            self.assertEqual(starter.stdout.readline(), "left\n")
            wait_until("its socket to go", lambda: not os.path.exists(socket))
            time.sleep(0.5)
            starter.kill()
        time.sleep(0.5)
        self.assertTrue(running(int(pid)))
        self.assertEqual(self.bytes_of(shard), before)
        del shard
        gc.collect()
        self.ended(int(pid))

    def test_a_process_that_was_forked_from_the_user_does_not_keep_it(self):
        made = self.loaded()
        shard = made.attach()
        made.leave()
        child = os.fork()
        if child == 0:
            del shard
            gc.collect()  # returns nothing: it is the parent's
            signal.pause()
        try:
            time.sleep(0.5)
            self.assertTrue(running(made.pid))
            del shard
            gc.collect()
            self.ended(made.pid)
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)

    def test_a_second_signal_ends_it_at_once(self):
        made = self.loaded()
        with attach_elsewhere(made.name, made.token, made.socket) as user:
            self.assertEqual(user.stdout.readline(), "cuda_ipc\n")
            made.leave()
            wait_until("its socket to go", lambda: not os.path.exists(made.socket))
            os.kill(made.pid, signal.SIGTERM)
            self.ended(made.pid)
            user.kill()


if __name__ == "__main__":
    unittest.main(verbosity=2)
