"""Ranks, agents and servers that die, hang or are interrupted while zerocast.from_pretrained runs, and what the others raise.

fault_cases says what must hold, and what this wants.
"""

import fcntl
import os
import pathlib
import pty
import shutil
import signal
import struct
import tempfile
import termios
import time
import unittest

import fault_cases  # before what it makes importable
import torch
import transformers
from fault_cases import CHECKPOINTS, GRACE, MIXTRAL, STAGE3, TIMEOUT, Case, call, cluster
from fault_ranks import World, marked

SLOW = "--read-rate=1M"  # the least; a large checkpoint has 12 MB
setUpModule = fault_cases.prepare


class LostRanks(Case):
    """A rank that raises, is interrupted, or dies: the others end within the timeout."""

    def test_a_model_that_one_rank_cannot_make(self):
        for stage in (STAGE3, None):
            with World({"calls": [call(config=stage)], "at": {"1": {"init": "raise"}}}, 3) as world:
                said = self.all_raise(world.wait(), "LoadError", "rank 1: ValueError: a fault of rank 1", seconds=0)
                self.assertEqual(said["rank"], 1)
                self.assertEqual(world.ranks[1].told[0]["cause"], "ValueError")
                self.assertEqual(world.left(), [])

    def killed(self, at, size=3, **more):
        """The ranks of a case in which some are killed; those must be gone, the others tell."""
        with World({"calls": [call(timeout=TIMEOUT, **more)], "at": at}, size) as world:
            ranks = world.wait()
            dead = tuple(map(int, at))
            for rank in dead:
                self.assertEqual(ranks[rank].status, -signal.SIGKILL)
            said = self.all_raise(ranks, "LoadError", reason="RANK_LOST", seconds=2 * TIMEOUT, but=dead)
            print(f"{said['seconds']:5.1f} s  {said['text']}", flush=True)
            left = world.left()
            self.assertEqual([name for name in left if not name.startswith("zerocast-python.")], [])
            if left:  # a killed process removes nothing; the next one of the user does
                with World({"calls": [call()]}, 1, folder=world.folder) as after:
                    self.all_work(after.wait())
                    self.assertEqual(after.left(), [])
            return said

    def test_killed_before_it_meets_the_others(self):
        self.killed({"1": {"start": "kill"}})

    def test_rank_0_killed_before_it_meets_the_others(self):
        self.killed({"0": {"start": "kill"}})

    def test_killed_while_it_makes_its_model(self):
        self.assertEqual(self.killed({"2": {"init": "kill"}})["rank"], 2)

    def test_killed_between_load_and_attach(self):
        self.assertEqual(self.killed({"1": {"attach": "kill"}})["rank"], 1)

    def test_rank_0_killed_between_load_and_attach(self):
        self.assertEqual(self.killed({"0": {"attach": "kill"}})["rank"], 0)


class Loads(Case):
    """What happens while a load runs on a server and agents that others started too."""

    def loading(self, running):
        """Waits until a load is going on."""
        deadline = time.monotonic() + 300  # three interpreters import torch on a busy machine
        while time.monotonic() < deadline:
            jobs = cluster.zerocast("--server", running.address, "--output", "json", "job", "list").json()["jobs"]
            for job in jobs:
                loads = cluster.zerocast("--server", running.address, "--output", "json", "job", "get", job["job"]).json()["loads"]
                if any(load["state"] == "loading" for load in loads):
                    return
            time.sleep(0.05)
        self.fail("no load began")

    @classmethod
    def setUpClass(cls):
        cls.large = pathlib.Path(tempfile.mkdtemp(prefix="zc_faults_", dir="/var/tmp"))
        cls.addClassCleanup(shutil.rmtree, cls.large, ignore_errors=True)
        config = transformers.MixtralConfig.from_pretrained(MIXTRAL, vocab_size=96_000)
        transformers.MixtralForCausalLM._from_config(config, dtype=torch.bfloat16).save_pretrained(cls.large)

    def slow(self, **more):
        return cluster.Cluster(1, agent_args=[SLOW], server_args=["--heartbeat-interval=500ms"], **more)

    def case(self, running, **more):
        return {"calls": [call(self.large, server=running.address, timeout=TIMEOUT)], **more}

    def test_a_rank_killed_during_the_load(self):
        for rank, launcher, seconds in ((1, False, TIMEOUT), (0, False, 0), (0, True, TIMEOUT), (2, True, TIMEOUT)):
            with self.subTest(rank=rank, launcher=launcher), self.slow() as running, \
                    World(self.case(running), 3, nodes=["node0"], launcher=launcher, real=rank == 1) as world:
                self.loading(running)
                world.signal(signal.SIGKILL, rank)
                killed = time.monotonic()
                said = self.all_raise(world.wait(), "LoadError", reason="RANK_LOST", but=(rank,))
                print(f"{time.monotonic() - killed:5.1f} s  {said['text']}", flush=True)
                self.assertEqual(said["rank"], rank)
                self.assertLess(time.monotonic() - killed, 1.5 * seconds + GRACE / 2)
                self.nothing_held(running)

    def test_a_rank_killed_before_the_hand_over_leaves_no_shard_with_the_agent(self):
        for rank in (0, 1):
            with self.subTest(rank=rank), cluster.Cluster(1) as running, \
                    World(self.case(running, at={str(rank): {"attach": "kill"}}), 3, nodes=["node0"]) as world:
                said = self.all_raise(world.wait(), "LoadError", reason="RANK_LOST", but=(rank,), seconds=TIMEOUT)
                self.assertEqual(said["rank"], rank)
                self.nothing_held(running)

    def test_an_interrupt_of_one_rank_during_the_load(self):
        for rank in (0, 1):
            with self.subTest(rank=rank), self.slow() as running, World(self.case(running), 3, nodes=["node0"]) as world:
                self.loading(running)
                world.signal(signal.SIGINT, rank)
                hit = time.monotonic()
                ranks = world.wait()
                self.assertLess(time.monotonic() - hit, GRACE / 2)
                said = self.all_raise(ranks, "LoadError", f"^CANCELLED: rank {rank}: interrupted", reason="CANCELLED", but=(rank,))
                print(f"{time.monotonic() - hit:5.1f} s  {said['text']}", flush=True)
                self.assertEqual((ranks[rank].told[0]["type"], ranks[rank].status), ("KeyboardInterrupt", 130), ranks[rank].log)
                self.nothing_held(running)

    def test_an_interrupt_of_all_ranks_during_the_load(self):
        with self.slow() as running, World(self.case(running), 2, nodes=["node0"], real=True) as world:
            self.loading(running)
            world.signal(signal.SIGINT, 0, 1)
            hit = time.monotonic()
            for rank in world.wait():
                self.assertEqual((rank.told[0]["type"], rank.status), ("KeyboardInterrupt", -signal.SIGINT), rank.log)
            self.assertLess(time.monotonic() - hit, GRACE / 2)
            self.nothing_held(running)

    def test_an_agent_that_dies_or_hangs_during_the_load(self):
        for number in (signal.SIGKILL, signal.SIGSTOP):
            with self.subTest(number=number), self.slow() as running, \
                    World(self.case(running), 2, nodes=["node0"]) as world:
                self.loading(running)
                os.kill(running.pid("node0"), number)
                hit = time.monotonic()
                said = self.all_raise(world.wait(), "LoadError", "node0")
                print(f"{time.monotonic() - hit:5.1f} s  {said['text']}", flush=True)
                self.assertLess(time.monotonic() - hit, TIMEOUT + GRACE)
                if number == signal.SIGSTOP:
                    os.kill(running.pid("node0"), signal.SIGCONT)
                    self.nothing_held(running)

    def test_an_agent_that_dies_or_hangs_before_the_hand_over(self):
        for number in (signal.SIGKILL, signal.SIGSTOP):
            with self.subTest(number=number), cluster.Cluster(1) as running, \
                    World(self.case(running, at={"0": {"attach": "wait"}, "1": {"attach": "wait"}}), 2, nodes=["node0"]) as world:
                world.await_point(0)
                world.await_point(1)
                os.kill(running.pid("node0"), number)
                world.go_on()
                said = self.all_raise(world.wait(), "LoadError", "node0.sock")
                print(f"{said['text']}", flush=True)
                if number == signal.SIGSTOP:
                    os.kill(running.pid("node0"), signal.SIGCONT)
                    self.nothing_held(running)

    def test_a_server_that_dies_during_the_load(self):
        with self.slow() as running, World(self.case(running), 2, nodes=["node0"]) as world:
            self.loading(running)
            os.kill(running.pid("server"), signal.SIGKILL)
            hit = time.monotonic()
            said = self.all_raise(world.wait(), "LoadError", running.address)
            print(f"{time.monotonic() - hit:5.1f} s  {said['text']}", flush=True)
            self.assertLess(time.monotonic() - hit, TIMEOUT + GRACE)

    def test_an_embedded_agent_that_dies(self):
        with World({"calls": [call(timeout=TIMEOUT)], "at": {"0": {"attach": "wait"}, "1": {"attach": "wait"}}}) as world:
            world.await_point(0)
            world.await_point(1)
            agents = [pid for pid, name in marked(world.mark).items() if name.startswith("zerocast-agent")]
            self.assertEqual(len(agents), 1)
            os.kill(agents[0], signal.SIGKILL)
            world.go_on()
            said = self.all_raise(world.wait(), "LoadError", "agent.sock")
            print(f"{said['text']}", flush=True)
            self.assertEqual(world.left(), [])

    def test_two_nodes_two_models_and_a_node_without_an_agent(self):
        other = CHECKPOINTS / "olmoe"
        olmoe = {"class": "OlmoeForCausalLM"}
        with cluster.Cluster(2) as running:
            with World({"calls": [call(gather=True), call(other, gather=True, **olmoe)]}, 2) as alone:
                want = [self.all_work(alone.wait(), number)["parameters"] for number in (0, 1)]
            shared = {"server": running.address, "gather": True}
            with World({"calls": [call(**shared), call(other, **shared, **olmoe)]}, 4, nodes=["node0", "node1"]) as world:
                ranks = world.wait()
                self.assertEqual([self.all_work(ranks, number)["parameters"] for number in (0, 1)], want)
            late = call(server=running.address, timeout=TIMEOUT, keywords={"load_timeout": 4.0})
            with World({"calls": [late]}, 2, nodes=["node0", "nowhere"]) as world:
                said = self.all_raise(world.wait(), "LoadError", "nowhere", reason="DEADLINE_EXCEEDED")
                print(said["text"], flush=True)

    def test_a_variant(self):
        single, sharded = self.folder / "single", self.folder / "sharded"
        shutil.copytree(MIXTRAL, single)
        (single / "model.safetensors").rename(single / "model.fp16.safetensors")
        cluster.copy_checkpoint(MIXTRAL, sharded, 3)
        (sharded / "model.safetensors.index.json").rename(sharded / "model.safetensors.index.fp16.json")
        fp16 = {"keywords": {"variant": "fp16"}, "gather": True}
        calls = [call(gather=True), call(single, **fp16), call(sharded, **fp16), call(sharded, what="load_into", **fp16),
                 call(single), call(single, keywords={"variant": "8bit"})]
        with World({"calls": calls}) as world:
            ranks = world.wait()
            for number in (1, 2, 3):
                self.assertEqual(self.all_work(ranks, number)["parameters"], self.all_work(ranks, 0)["parameters"])
            self.all_raise(ranks, "LoadError", "model.safetensors", "single", number=4)
            self.all_raise(ranks, "LoadError", "model.8bit.safetensors", "single")

    def test_progress_is_a_bar_on_a_terminal_and_lines_elsewhere_on_rank_0(self):
        with cluster.Cluster(1, agent_args=[SLOW]) as running:
            case = {**self.case(running), "log": "INFO"}
            with World(case, nodes=["node0"]) as world:
                ranks = world.wait()
                self.all_work(ranks)
                self.assertRegex(ranks[0].log, r"zerocast INFO .*: read \d+\.\d+ of \d+\.\d+ GB on 1 node")
                self.assertNotIn(": read ", ranks[1].log)
                self.assertNotIn("[c10d]", ranks[1].log)  # torch's own words, of each wait that ended
                self.assertNotIn("Loading weights", ranks[0].log + ranks[1].log)
            terminals = [pty.openpty() for _ in range(2)]
            for _, slave in terminals:
                fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
            with World({**case, "log": None}, nodes=["node0"], terminals=[slave for _, slave in terminals]) as world:
                self.all_work(world.wait())
            shown = []
            for master, slave in terminals:
                os.close(slave)
                shown.append(_all_of(master))
            self.assertRegex(shown[0], r"Loading weights: +\d+%")
            self.assertNotIn("Loading weights", shown[1])


def _all_of(descriptor):
    """What is to be read from a terminal that nobody writes to any more."""
    text = b""
    with os.fdopen(descriptor, "rb", buffering=0) as terminal:
        try:
            while piece := terminal.read(65536):
                text += piece
        except OSError:  # of the other end
            pass
    return text.decode(errors="replace")


if __name__ == "__main__":
    unittest.main()
