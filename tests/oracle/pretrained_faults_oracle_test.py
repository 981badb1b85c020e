"""What every rank of zerocast.from_pretrained raises when something is wrong, on real ranks and real agents.

Each fault must come as one exception with the same text on all ranks, which says what was tried, on what, and what to
do; in time; and nothing may be left: no server, no agent, no folder of theirs, no shard that an agent still holds.
Wants ZC_SOURCE_DIR, ZC_BUILD_DIR (its python folder has the package) and ZC_TEST_DATA.
"""

import fcntl
import json
import os
import pathlib
import pty
import shutil
import signal
import struct
import sys
import tempfile
import termios
import time
import unittest

import deepspeed_releases as releases

SOURCE, BUILD = pathlib.Path(os.environ["ZC_SOURCE_DIR"]), pathlib.Path(os.environ["ZC_BUILD_DIR"])
os.environ.update(DS_ACCELERATOR="cpu", OMP_NUM_THREADS="1", PYTHONDONTWRITEBYTECODE="1")
DEEPSPEED = str(releases.install(BUILD / "oracle" / "deepspeed", "0.19.8"))
sys.path[1:1] = [DEEPSPEED, str(SOURCE / "tests")]
os.environ["PYTHONPATH"] = os.pathsep.join([str(BUILD / "python"), DEEPSPEED])

import torch.distributed.tensor  # noqa: E402, F401 (here, for all ranks, which are forked)
from deepspeed.comm.torch import build_shm_op  # noqa: E402
from transformers.models.mixtral import modeling_mixtral  # noqa: E402, F401
from zerocast._binaries import find_binary  # noqa: E402

os.environ["ZC_BIN_DIR"] = str(find_binary("zerocast-server").parent)
import cluster  # noqa: E402
import pretrained_faults_rank as rank_program  # noqa: E402
import transformers  # noqa: E402
from fault_ranks import World, marked  # noqa: E402

CHECKPOINTS = SOURCE / "tests/data/checkpoints"
MIXTRAL = CHECKPOINTS / "mixtral"
STAGE3 = {"train_micro_batch_size_per_gpu": 1, "bf16": {"enabled": True}, "zero_optimization": {"stage": 3}}
TIMEOUT = 6.0  # of from_pretrained, where a test waits for it
GRACE = 20.0  # what a loaded machine may add
SLOW = "--read-rate=1M"  # the least; a large checkpoint has 12 MB
NOBODY = 65534


def call(checkpoint=MIXTRAL, what="from_pretrained", config=STAGE3, **more):
    return {"call": what, "checkpoint": str(checkpoint), "config": config, **more}


def edited(target, source=MIXTRAL, **config):
    """A copy of a checkpoint with other values in its config.json."""
    shutil.copytree(source, target)
    path = target / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    return target


def setUpModule():
    # Compiled at the first use, which takes minutes, and then inherited by all ranks.
    build_shm_op()


class Case(unittest.TestCase):
    maxDiff = 4000

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="zc_faults_", dir="/var/tmp"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def all_raise(self, ranks, kind, *texts, reason=None, number=-1, seconds=None, but=()):
        """Asserts that all ranks but some have raised the same, which says each of `texts`."""
        told = {number_: rank.told[number] if rank.told else rank.last
                for number_, rank in enumerate(ranks) if number_ not in but}
        first = next(iter(told.values()))
        for rank, one in told.items():
            self.assertEqual((one["type"], one.get("text")), (kind, first.get("text")), f"rank {rank}: {ranks[rank].log[-4500:]}")
            for text in texts:
                self.assertRegex(one["text"], text)
            if reason is not None:
                self.assertEqual(one["reason"], reason, one)
            if seconds is not None:
                self.assertLess(one["seconds"], seconds + GRACE)
        if number == -1:
            self.assertEqual({ranks[rank].status for rank in told}, {1})
        return first

    def nothing_held(self, running):
        """Asserts that no agent of a cluster holds memory of a load that is over, and no load goes on."""
        deadline = time.monotonic() + GRACE
        while True:
            held = [f"{name} {path.name} {os.readlink(path)}" for name in running.processes if name != "server"
                    for path in pathlib.Path(f"/proc/{running.pid(name)}/fd").iterdir() if "memfd" in os.readlink(path)]
            jobs = cluster.zerocast("--server", running.address, "--output", "json", "job", "list").json()["jobs"]
            active = [job["job"] for job in jobs if job["state"] != "cancelled"]
            if not (held or active) or time.monotonic() > deadline:
                break
            time.sleep(0.1)
        self.assertEqual((held, active), ([], []))
        self.assertTrue(jobs)

    def all_work(self, ranks, number=-1):
        for rank in ranks:
            self.assertTrue(rank.told, rank.log[-2000:])
            self.assertIsNone(rank.told[number]["type"], rank.told[number])
            self.assertEqual(rank.told[number]["value"], ranks[0].told[number]["value"])
        if number == -1:
            self.assertEqual([rank.status for rank in ranks], [0] * len(ranks))
        return ranks[0].told[number]["value"]


class BadInput(Case):
    """Faults after which the ranks go on: all of them in the same processes, and then a load that works."""

    def test_each_bad_checkpoint_is_named_and_the_next_load_works(self):
        empty = self.folder / "bin_only"
        shutil.copytree(MIXTRAL, empty)
        (empty / "model.safetensors").rename(empty / "pytorch_model.bin")
        torn = self.folder / "torn"
        shutil.copytree(MIXTRAL, torn)
        data = (torn / "model.safetensors").read_bytes()
        (torn / "model.safetensors").write_bytes(data[:len(data) // 2])
        corrupt = self.folder / "corrupt"
        shutil.copytree(MIXTRAL, corrupt)
        (corrupt / "model.safetensors").write_bytes(data[:8] + b"x" * 50 + data[58:])
        explicit = edited(self.folder / "explicit", transformers_weights="other.safetensors")
        shutil.copy(explicit / "model.safetensors", explicit / "other.safetensors")
        other = edited(self.folder / "other_shape", num_local_experts=3)
        wider = edited(self.folder / "wider", intermediate_size=64)
        ernie = "Ernie4_5_MoeForCausalLM"
        faults = [
            (call(self.folder / "none"), "LoadError", ["open checkpoint .*/none: there is no such"], "CHECKPOINT_NOT_FOUND"),
            (call(empty), "LoadError", ["pytorch_model.bin", "safetensors", "save_pretrained"], "UNSUPPORTED"),
            (call(torn), "LoadError", ["torn/model.safetensors", r"bytes"], "CHECKPOINT_CORRUPT"),
            (call(corrupt), "LoadError", ["corrupt/model.safetensors"], "CHECKPOINT_CORRUPT"),
            (call(explicit), "LoadError", ["other.safetensors", "transformers_weights"], "UNSUPPORTED"),
            (call(wider), "LoadError", ["load .*/wider into MixtralForCausalLM: ", "ignore_mismatched_sizes"], "WEIGHTS_INCOMPLETE"),
            (call(other), "LoadError", ["load .*/other_shape into MixtralForCausalLM: ", "above report"], "WEIGHTS_INCOMPLETE"),
            (call(CHECKPOINTS / "ernie4_5_moe-broken", **{"class": ernie}), "LoadError", ["convert", "-broken"], None),
            (call(CHECKPOINTS / "qwen3_moe-broken", **{"class": "Qwen3MoeForCausalLM"}), "LoadError", ["-broken"], None),
            (call(keywords={"revision": "x", "quantization_config": 1}), "TypeError",
             ["quantization_config, revision", "dtype, key_mapping"], None),
            (call(config={**STAGE3, "zero_optimization": {"stage": 3, "mics_shard_size": 2}}), "LoadError",
             ["mics_shard_size", "DeepSpeed 0.19.7", "zero_hpz_partition_size"], "UNSUPPORTED"),
            (call(config={**STAGE3, "zero_optimization": {"stage": 3, "zero_quantized_nontrainable_weights": True}}),
             "LoadError", ["zero_quantized_nontrainable_weights", "false"], "UNSUPPORTED"),
            (call(config={**STAGE3, "tensor_parallel": {"autotp_size": 2}}), "LoadError",
             ["tensor_parallel.autotp_size", "1"], "UNSUPPORTED"),
            (call(config={**STAGE3, "train_batch_size": 7}), "LoadError", ["train_batch_size"], None),
            (call(server="127.0.0.1:1", timeout=TIMEOUT), "LoadError", ["127.0.0.1:1", "zerocast-server"], "UNAVAILABLE"),
            (call(what="load_into", config=STAGE3, config_given={"train_micro_batch_size_per_gpu": 1}), "LoadError",
             ["partitioned", "stage is 0"], None),
            (call(what="load_into", config=None, config_given=STAGE3), "LoadError", ["whole", "stage is 3"], None),
        ]
        with World({"calls": [*(fault for fault, *_ in faults), call(gather=True), call(what="load_into")]}) as world:
            ranks = world.wait(600)
            for number, (fault, kind, texts, reason) in enumerate(faults):
                with self.subTest(number=number, checkpoint=fault["checkpoint"]):
                    said = self.all_raise(ranks, kind, *texts, reason=reason, number=number, seconds=TIMEOUT)
                    print(f"{said['seconds']:5.1f} s  {said['type']}: {said['text']}", flush=True)
            made = self.all_work(ranks, len(faults))
            self.assertEqual(self.all_work(ranks)["parameters"], made["parameters"])
            self.assertEqual(world.left(), [])
            # The library's table, on its logger, once for each load that it refuses.
            self.assertIn("MISMATCH", ranks[0].log)

    def test_a_rank_that_asks_for_something_else_is_named(self):
        # What differs is found before anything is made or waited for.
        wider = {"config_of": {"1": {"intermediate_size": 64}}}
        with World({"calls": [call(**wider), call(config=None, **wider), call()]}) as world:
            ranks = world.wait()
            for number in (0, 1):
                said = self.all_raise(ranks, "LoadError", "rank 1: the model is another one than on rank 0: "
                                      r"model.layers.0.mlp.experts.gate_up_proj is \S+ \[4, 128, 32\], on rank 0 \S+ \[4, 96, 32\]",
                                      r"and \d+ more", reason="INVALID_FIELDS", number=number, seconds=0)
                self.assertEqual(said["rank"], 1)
            self.all_work(ranks)
            self.assertEqual(world.left(), [])

    def test_mismatched_weights_that_are_ignored_are_initialised(self):
        wider = edited(self.folder / "wider", vocab_size=100)
        ignoring = {"ignore_mismatched_sizes": True, "output_loading_info": True}
        with World({"calls": [call(wider, keywords=ignoring, gather=True)]}) as world:
            made = self.all_work(world.wait())
            self.assertEqual(len(made["info"]["mismatched_keys"]), 2)
            self.assertEqual(made["parameters"]["lm_head.weight"][0], [100, 32])
            self.assertNotEqual(made["parameters"]["lm_head.weight"][1], 0.0)

    def test_the_loading_info_is_the_librarys(self):
        cases = {path: json.loads((path / "expected.json").read_text())["architecture"]
                 for path in sorted(CHECKPOINTS.iterdir()) if path.name.endswith(("-damaged", "-base", "-deep"))}
        self.assertGreaterEqual(len(cases), 6)
        keywords = {"ignore_mismatched_sizes": True, "output_loading_info": True}
        with World({"calls": [call(path, keywords=keywords, **{"class": name}) for path, name in cases.items()]}) as world:
            ranks = world.wait(300)
            for number, (path, name) in enumerate(cases.items()):
                _, info = getattr(transformers, name).from_pretrained(path, **keywords)
                self.assertEqual(self.all_work(ranks, number)["info"], rank_program.known(info), path.name)
            # Its table, too.
            self.assertIn("| MISSING", ranks[0].log)

    def test_a_shard_that_is_taken_a_load_of_another_size_and_no_socket(self):
        with cluster.Cluster(1) as running:
            made = cluster.zerocast("--server", running.address, "--output", "json", "load", MIXTRAL, "--world-size", 2).json()
            one = {"call": "attach", "load": made["load"], "token": made["attach_token"], "socket": f"{running.folder}/node0.sock"}
            calls = [{**one, "keywords": {"world_size": 3}}, {**one, "rank": 7}, {**one, "socket": f"{self.folder}/none.sock"},
                     {**one, "token": "x"}, one, one]
            with World({"calls": calls}) as world:
                ranks = world.wait()
                for number, texts in ((0, ["is for 2 ranks, and here are 3"]), (1, ["rank 7"]), (2, ["none.sock"]), (3, ["token"]),
                                      (5, ["handed over"])):
                    with self.subTest(number=number):
                        for rank in range(2):
                            self.all_raise(ranks, "AttachError", *texts, number=number, but=(1 - rank,), seconds=0)
                        print(ranks[0].told[number]["text"], flush=True)
                self.all_work(ranks, 4)

    def test_a_shard_that_another_process_has_taken_fails_all_ranks(self):
        with cluster.Cluster(1) as running:
            case = {"calls": [call(server=running.address)], "at": {"1": {"attach": "take"}}}
            with World(case, nodes=["node0"]) as world:
                self.all_raise(world.wait(), "LoadError", "rank 1: ", "handed over", seconds=0)
            self.nothing_held(running)

    @unittest.skipIf(os.geteuid() != 0, "1 test skipped: only root can start ranks of another user")
    def test_an_agent_of_another_user_refuses(self):
        with cluster.Cluster(1, agent_args=["--socket-mode=0666"]) as running:
            os.chmod(running.folder, 0o755)
            with World({"calls": [call(config=None, server=running.address)]}, nodes=["node0"], user=NOBODY) as world:
                said = self.all_raise(world.wait(), "LoadError", "user|uid", seconds=0)
                print(said["text"], flush=True)
            self.nothing_held(running)


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
