#!/usr/bin/env python3
"""zerocast.attach against the agent's own hand-over socket (hand_over_fixture)."""

import gc
import os
import socket
import struct
import tempfile
import threading
import unittest
from pathlib import Path

import numpy
from agent_fixture import LOAD, TOKEN, AgentTest, expected_bytes

import zerocast  # on the path since agent_fixture

try:
    import ml_dtypes
except ImportError:
    ml_dtypes = None


def num_mappings():
    return Path("/proc/self/maps").read_text().count("/memfd:zerocast") + \
        Path("/proc/self/maps").read_text().count("/memfd:fixture")


class AttachTest(AgentTest):

    def test_gives_every_partition_with_its_bytes(self):
        shard = self.attach(rank=1)
        self.assertEqual(list(shard), ["bf16", "fp32", "fp8", "positions", "empty", "unfilled"])
        self.assertEqual((shard.rank, shard.world_size, shard.mode, shard.way, shard.num_bytes),
                         (1, 2, "shared", "memfd", 256))
        self.assertEqual(shard["bf16"].array.tobytes(), expected_bytes(1, 0, 16))
        self.assertEqual(shard["fp32"].array.dtype, numpy.float32)
        self.assertEqual(shard["fp32"].array.tobytes(), expected_bytes(1, 64, 8))
        self.assertEqual(shard["fp8"].array.tobytes(), expected_bytes(1, 128, 5))
        self.assertEqual(shard["positions"].array.dtype, numpy.int64)
        self.assertEqual(shard["empty"].array.size, 0)
        self.assertEqual(shard["bf16"].shape, (3, 5))
        self.assertEqual(shard["bf16"].num_elements, 15)
        self.assertTrue(shard["bf16"].partitioned)
        self.assertTrue(shard["positions"].is_buffer)
        self.assertFalse(shard["positions"].partitioned)
        self.assertEqual(shard.secondary_group_size, 2)
        self.assertEqual(shard["fp32"].secondary.tobytes(), expected_bytes(1, 96, 16))
        self.assertIsNone(shard["bf16"].secondary)
        self.assertEqual(shard["positions"].whole.shape, (5,))
        with self.assertRaisesRegex(ValueError, "fp32 is partitioned"):
            shard["fp32"].whole

    def test_finds_aliases_and_not_what_is_not_there(self):
        shard = self.attach()
        self.assertIs(shard["tied"], shard["bf16"])
        self.assertNotIn("tied", list(shard))
        with self.assertRaises(KeyError):
            shard["none"]

    def test_what_the_checkpoint_does_not_fill_is_no_weight(self):
        shard = self.attach(mode="private")
        self.assertEqual(shard.unfilled, ("unfilled",))
        self.assertIn("unfilled", shard)
        self.assertTrue(shard["bf16"].filled)
        for name in ("unfilled", "unfilled.tied"):
            with self.assertRaisesRegex(zerocast.AttachError, "^NOT_FOUND: unfilled is not"):
                shard[name]
            with self.assertRaises(KeyError):
                shard[name]
        with self.assertRaises(zerocast.UnfilledError):
            list(shard.values())
        allowed = self.attach(mode="private", allow_unfilled=True)
        self.assertFalse(allowed["unfilled"].filled)
        self.assertEqual(allowed["unfilled"].array.size, 4)

    def test_bfloat16_is_ml_dtypes_or_the_bits(self):
        array = self.attach()["bf16"].array
        self.assertEqual(array.dtype, ml_dtypes.bfloat16 if ml_dtypes else numpy.uint16)

    def test_shared_is_reported_and_happens_once(self):
        self.attach()
        self.assertEqual(self.agent.stdout.readline(), "shared 0\n")
        for mode in ("shared", "private"):
            with self.assertRaises(zerocast.AttachError) as caught:
                self.attach(mode=mode)
            self.assertEqual(caught.exception.code, "FAILED_PRECONDITION")
            self.assertEqual(caught.exception.reason, "WRONG_STATE")

    def test_auto_is_private_where_others_hold_it(self):
        first = self.attach(mode="private")
        second = self.attach()
        self.assertEqual((first.mode, second.mode), ("private", "private"))
        second["bf16"].array[:] = 0
        self.assertEqual(first["bf16"].array.tobytes(), expected_bytes(0, 0, 16))

    def test_private_writes_stay_here(self):
        first = self.attach(mode="private")
        first["bf16"].array.view(numpy.uint16)[:] = 0
        second = self.attach(mode="private")
        self.assertEqual(second["bf16"].array.tobytes(), expected_bytes(0, 0, 16))
        self.assertEqual(first["bf16"].array.tobytes(), bytes(16))

    def test_arrays_can_be_written_and_share_one_mapping(self):
        shard = self.attach()
        before = num_mappings()
        shard["fp32"].array[:] = 1.5
        self.assertEqual(shard["fp32"].array.tolist(), [1.5, 1.5])
        self.assertEqual(num_mappings(), before)
        self.assertEqual(before, 1)

    def test_the_memory_lives_as_long_as_an_array_and_no_longer(self):
        array = self.attach()["fp8"].array
        gc.collect()
        self.assertEqual(num_mappings(), 1)
        self.assertEqual(array.tobytes(), expected_bytes(0, 128, 5))
        part = array[2:]
        del array
        gc.collect()
        self.assertEqual(num_mappings(), 1)
        del part
        gc.collect()
        self.assertEqual(num_mappings(), 0)

    def test_no_descriptor_is_left(self):
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(50):
            self.attach(mode="private")
        gc.collect()
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)

    def test_errors_carry_the_agents_words(self):
        for arguments, code in (({"token": "wrong"}, "PERMISSION_DENIED"),
                                ({"rank": 5}, "NOT_FOUND")):
            with self.assertRaises(zerocast.AttachError) as caught:
                self.attach(**arguments)
            self.assertEqual(caught.exception.code, code)
        with self.assertRaises(zerocast.AttachError) as caught:
            zerocast.attach("loads/none", 0, token=TOKEN, socket=self.socket)
        self.assertIn("no such load", str(caught.exception))

    def test_a_load_of_another_world_size_is_refused_and_the_shard_stays(self):
        for _ in range(50):  # the agent has it again each time
            with self.assertRaisesRegex(zerocast.AttachError, "^FAILED_PRECONDITION: attach rank 0 .* is for 2 ranks, and here "
                                                              "are 3"):
                self.attach(world_size=3)
        self.assertEqual(self.attach(world_size=2).mode, "shared")

    def test_wrong_words_are_refused_before_anything_happens(self):
        with self.assertRaisesRegex(ValueError, "mode"):
            self.attach(mode="exclusive")
        with self.assertRaisesRegex(ValueError, "framework"):
            self.attach(framework="jax")

    def test_socket_and_token_come_from_the_environment(self):
        os.environ.update(ZEROCAST_SOCKET=self.socket, ZEROCAST_TOKEN=TOKEN)
        self.addCleanup(os.environ.pop, "ZEROCAST_SOCKET")
        self.addCleanup(os.environ.pop, "ZEROCAST_TOKEN")
        self.assertEqual(zerocast.attach(LOAD, 0).rank, 0)


class HostileAgentTest(unittest.TestCase):
    """What comes from the other process is checked."""

    INDEX = (b'{"ok":true,"load":"loads/test","rank":0,"world_size":2,"plan_digest":"d",'
             b'"mode":"shared","way":"memfd","arena_bytes":64,"targets":[]}')

    def test_another_mode_than_was_asked_for_is_damage(self):
        for mode, answer in (("private", self.INDEX),
                             ("auto", self.INDEX.replace(b'"shared"', b'"auto"'))):
            with self.subTest(mode=mode):
                path = self.serve(self.frame(answer), keep_open=True)
                self.assert_refused("DATA_LOSS", path, mode=mode, timeout=5)

    def test_a_shard_on_a_device_is_refused_before_it_is_acknowledged(self):
        on_device = self.INDEX.replace(b'"memfd"', b'"cuda_vmm","device":"GPU-0","allocation_bytes":2097152')
        path = self.serve(self.frame(on_device), keep_open=True)
        self.assert_refused("FAILED_PRECONDITION", path, timeout=5)  # numpy's arrays are the host's
        unknown = self.INDEX.replace(b'"memfd"', b'"telepathy"')
        self.assert_refused("UNIMPLEMENTED", self.serve(self.frame(unknown), keep_open=True), timeout=5)

    def serve(self, answer, keep_open=False):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.addCleanup(listener.close)
        path = folder.name + "/agent.sock"
        listener.bind(path)
        listener.listen()

        def run():
            # Reads all that the client says, until it hangs up: a socket that is closed before
            # could break the client's next message instead of showing it the answer.
            connection, _ = listener.accept()
            with connection:
                try:
                    connection.sendall(answer)
                    if not keep_open:
                        connection.shutdown(socket.SHUT_WR)
                    while connection.recv(65536):
                        pass
                except ConnectionError:
                    pass  # the client has hung up first

        thread = threading.Thread(target=run)
        thread.start()
        self.addCleanup(thread.join, 20)
        return path

    def assert_refused(self, code, path, **arguments):
        with self.assertRaises(zerocast.AttachError) as caught:
            zerocast.attach(LOAD, 0, token=TOKEN, socket=path, **arguments)
        self.assertEqual(caught.exception.code, code)

    def frame(self, text):
        return struct.pack("<I", len(text)) + text

    def test_nobody_listens(self):
        self.assert_refused("UNAVAILABLE", "/nonexistent/agent.sock")

    def test_it_hangs_up(self):
        self.assert_refused("UNAVAILABLE", self.serve(b""))

    def test_it_is_silent(self):
        self.assert_refused("DEADLINE_EXCEEDED", self.serve(b"\x05", keep_open=True), timeout=0.2)

    def test_an_endless_answer(self):
        self.assert_refused("DATA_LOSS", self.serve(b"\xff\xff\xff\xff"))

    def test_no_json(self):
        self.assert_refused("DATA_LOSS", self.serve(self.frame(b"{")))
        self.assert_refused("DATA_LOSS", self.serve(self.frame(b"[]")))

    def test_missing_fields(self):
        self.assert_refused("DATA_LOSS", self.serve(self.frame(b'{"ok":true}')))

    def test_a_target_outside_of_its_arena(self):
        answer = (b'{"ok":true,"arena_bytes":0,"mode":"shared","targets":[{"name":"a",'
                  b'"dtype":"int8","elements":1,"offset":0,"shape":[1],"num_elements":1,'
                  b'"partitioned":false,"filled":true}]}')
        self.assert_refused("DATA_LOSS", self.serve(self.frame(answer)))

    def test_a_secondary_partition_outside_of_its_arena(self):
        answer = (b'{"ok":true,"arena_bytes":2,"mode":"shared","targets":[{"name":"a",'
                  b'"dtype":"int8","elements":1,"offset":0,"shape":[1],"num_elements":1,'
                  b'"partitioned":true,"filled":true,"secondary_offset":1,'
                  b'"secondary_elements":2}]}')
        self.assert_refused("DATA_LOSS", self.serve(self.frame(answer)))

    def test_no_descriptor(self):
        self.assert_refused("DATA_LOSS", self.serve(self.frame(self.INDEX) +
                                                    self.frame(b'{"ok":true}')))

    def test_it_hangs_up_after_the_acknowledgement(self):
        self.assert_refused("UNAVAILABLE", self.serve(self.frame(self.INDEX)))

    def test_it_is_silent_after_the_acknowledgement(self):
        self.assert_refused("DEADLINE_EXCEEDED",
                            self.serve(self.frame(self.INDEX), keep_open=True), timeout=0.2)

    def test_it_accepts_nobody(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
            listener.bind(folder.name + "/agent.sock")
            listener.listen(0)
            first.connect(folder.name + "/agent.sock")  # fills the queue
            self.assert_refused("DEADLINE_EXCEEDED", folder.name + "/agent.sock", timeout=0.2)


if __name__ == "__main__":
    unittest.main()
