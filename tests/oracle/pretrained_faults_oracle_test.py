"""What every rank of zerocast.from_pretrained raises when it is asked for what cannot be, on real ranks and real agents.

fault_cases says what must hold, and what this wants.
"""

import io
import json
import logging
import os
import shutil
import unittest

import fault_cases  # before what it makes importable
import pretrained_faults_rank as rank_program
import torch
import transformers
from fault_cases import CHECKPOINTS, MIXTRAL, STAGE3, TIMEOUT, Case, call, cluster, edited
from fault_ranks import World

NOBODY = 65534
setUpModule = fault_cases.prepare


class Touches:
    """Whoever has it unpickled makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


class BadInput(Case):
    """Faults after which the ranks go on: all of them in the same processes, and then a load that works."""

    def test_each_bad_checkpoint_is_named_and_the_next_load_works(self):
        empty = self.folder / "misnamed"  # safetensors by another name
        shutil.copytree(MIXTRAL, empty)
        (empty / "model.safetensors").rename(empty / "pytorch_model.bin")
        evil = self.folder / "evil"
        shutil.copytree(MIXTRAL, evil)
        (evil / "model.safetensors").unlink()
        torch.save({"w": torch.zeros(2), "x": Touches(self.folder / "touched")}, evil / "pytorch_model.bin")
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
            (call(MIXTRAL / "config.json"), "LoadError", ["open checkpoint .*/config.json: it is a file; give the folder"],
             "CHECKPOINT_NOT_FOUND"),
            (call(**{"class": None}), "TypeError", ["cls_or_auto is None", "Auto class"], None),
            (call(timeout=0), "ValueError", ["timeout is 0", "seconds"], None),
            (call(keywords={"mode": "own"}), "ValueError", ["mode is 'own'", "auto, shared, private"], None),
            (call(config=f"{self.folder}/none.json"), "LoadError", ["DeepSpeed config .*/none.json: there is no such file"],
             "INVALID_FIELDS"),
            (call(config=str(MIXTRAL / "model.safetensors")), "LoadError", ["DeepSpeed config .*/model.safetensors: UnicodeDecode"],
             "INVALID_FIELDS"),
            (call(config=7), "LoadError", ["it is of type int", "path"], "INVALID_FIELDS"),
            (call(config={**STAGE3, "zero_optimization": True}), "LoadError", ["zero_optimization is True", '{"stage": 3}'],
             "INVALID_FIELDS"),
            (call(config={**STAGE3, "zero_optimization": {"stage": "auto"}}), "LoadError", ["stage is 'auto'", "0, 1, 2 or 3"],
             "INVALID_FIELDS"),
            (call(empty), "LoadError", ["misnamed/pytorch_model.bin: neither a zip file nor"], "CHECKPOINT_CORRUPT"),
            (call(evil), "LoadError", ["evil/pytorch_model.bin: it would import posix.system"], "UNSUPPORTED"),
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
            self.assertFalse((self.folder / "touched").exists())
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

    def test_a_rank_whose_arguments_are_others_is_named(self):
        # Each would have the others wait for what never comes, were it not told: groups of ranks, for one.
        grouped = {**STAGE3, "zero_optimization": {"stage": 3, "zero_hpz_partition_size": 2}}
        faults = [
            ({"config": f"{self.folder}/none.json"}, "read the DeepSpeed config .*/none.json: there is no such file"),
            ({"config": {**STAGE3, "zero_optimization": {"stage": "auto"}}}, "stage is 'auto'"),
            ({"config": grouped}, "zero_optimization.zero_hpz_partition_size is 2, on rank 0 None"),
            ({"config": {**STAGE3, "bf16": {"enabled": False}}}, "bf16.enabled is False, on rank 0 True"),
            ({"checkpoint": f"{self.folder}/none"}, "open checkpoint .*/none"),
            ({"call": "load_into", "config": None}, "the call is load_into, on rank 0 from_pretrained"),
            ({"timeout": -1}, "ValueError: timeout is -1"),
            ({"keywords": {"device_map": "auto"}}, "TypeError: from_pretrained does not take device_map"),
            ({"class": None}, "TypeError: cls_or_auto is None"),
        ]
        with World({"calls": [*(call(only={"1": other}) for other, _ in faults), call()]}, 3) as world:
            ranks = world.wait(200)
            for number, (other, text) in enumerate(faults):
                with self.subTest(other=other):
                    # What is no argument at all is Python's own error where it was given.
                    own = 1 if text.startswith(("TypeError", "ValueError")) else None
                    said = self.all_raise(ranks, "LoadError", f"rank 1: .*{text}", number=number, seconds=0,
                                          but=() if own is None else (own,))
                    self.assertEqual(said["rank"], 1)
                    print(f"{said['seconds']:5.1f} s  {said['text']}", flush=True)
                    if own is not None:
                        self.assertEqual(ranks[own].told[number]["type"], text.partition(":")[0])
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
            reports = []
            for number, (path, name) in enumerate(cases.items()):
                log = io.StringIO()
                handler = logging.StreamHandler(log)
                transformers.utils.logging.get_logger().addHandler(handler)
                try:
                    _, info = getattr(transformers, name).from_pretrained(path, **keywords)
                finally:
                    transformers.utils.logging.get_logger().removeHandler(handler)
                self.assertEqual(self.all_work(ranks, number)["info"], rank_program.known(info), path.name)
                reports.append(sorted(line.rstrip() for line in log.getvalue().splitlines() if " | " in line))
            # The tables, too: of each load one, of both ranks.
            for rank in ranks:
                shown = [line.rstrip() for line in rank.log.splitlines()]
                for report in reports:
                    self.assertEqual([line for line in report if line not in shown], [], "\n".join(shown))
            self.assertTrue(any("| MISSING" in line for line in sum(reports, [])), reports)

    def test_a_shard_that_is_taken_a_load_of_another_size_and_no_socket(self):
        with cluster.Cluster(1) as running:
            made = cluster.zerocast("--server", running.address, "--output", "json", "load", MIXTRAL, "--world-size", 2).json()
            one = {"call": "attach", "load": made["load"], "token": made["attach_token"], "socket": f"{running.folder}/node0.sock"}
            calls = [{**one, "keywords": {"world_size": 3}}, {**one, "rank": 7}, {**one, "socket": f"{self.folder}/none.sock"},
                     {**one, "token": "x"}, one, one]
            with World({"calls": calls}) as world:
                ranks = world.wait()
                for number, texts in ((0, ["is for 2 ranks, and here are 3"]), (1, ["rank 7"]), (3, ["token"]), (5, ["handed over"]),
                                      (2, ["none.sock", "zerocast-agent running on this node"])):
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


if __name__ == "__main__":
    unittest.main()
