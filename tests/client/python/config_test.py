#!/usr/bin/env python3
"""zerocast.resolve_config and zerocast.JobConfig, by the carried command and by a server.

The golden cases are the real integration's; tests/oracle drives them through real
TrainingArguments.
"""

import base64
import gzip
import json
import os
import stat
import tempfile
import types
import unittest
from pathlib import Path

import zerocast
from zerocast._proto import config_pb2, job_pb2, types_pb2

DATA = Path(os.environ["ZC_TEST_DATA"])
SLICE = 12  # every so many cases are asked by the command, too: each is a process
ARGUMENTS = {"world_size": 2, "learning_rate": 1e-4, "bf16": True}
CONFIG = {"train_batch_size": "auto", "bf16": {"enabled": "auto"}, "optimizer": {"type": "AdamW", "params": {"lr": "auto"}},
          "zero_optimization": {"stage": 3, "reduce_bucket_size": "auto", "offload_param": {"device": "cpu"}}}
RESOLVED = {"train_batch_size": 16, "bf16": {"enabled": True},
            "optimizer": {"type": "AdamW", "params": {"lr": 1e-4}},
            "zero_optimization": {"stage": 3, "reduce_bucket_size": 4096, "offload_param": {"device": "cpu"}}}
MODEL = {"hidden_size": 64}


def cases(name):
    with gzip.open(DATA / "config" / name, "rt", encoding="utf-8", newline="\n") as file:
        return [json.loads(line) for line in file.read().split("\n") if line]


def answer(case, arguments, server=None):
    """("resolved", JSON text) or ("error", text) of one golden case."""
    try:
        resolved = zerocast.resolve_config(
            case["ds_config"], arguments, case["model_config"], case["num_training_steps"], server=server,
            inference=case["inference"], auto_find_batch_size=case["auto_find_batch_size"])
    except zerocast.ConfigError as error:
        return "error", str(error)
    return "resolved", json.dumps(resolved)


def expected(case):
    expect = case["expect"]
    if "error" in expect:
        return "error", expect["error"]["message"]
    return "resolved", json.dumps(expect["resolved"])


class GoldenTest(unittest.TestCase):

    def check(self, chosen, server):
        errors = 0
        for case in chosen:
            arguments = types.SimpleNamespace(**case["args"])
            self.assertEqual(answer(case, arguments, server), expected(case), case["id"])
            errors += "error" in case["expect"]
        print(f"{len(chosen)} cases, of these {errors} errors")
        self.assertGreater(errors, 0)
        self.assertGreater(len(chosen), errors)

    def test_a_server_answers_as_the_integration_does(self):
        with zerocast.EmbeddedServer(start_timeout=60) as server:
            self.check(cases("config.jsonl.gz"), server.address)

    def test_the_command_answers_as_the_integration_does(self):
        self.check(cases("config.jsonl.gz")[::SLICE], None)


class ResolveTest(unittest.TestCase):

    def test_a_dict_is_resolved_and_not_changed(self):
        config = json.loads(json.dumps(CONFIG))
        self.assertEqual(zerocast.resolve_config(config, ARGUMENTS, MODEL, 10), RESOLVED)
        self.assertEqual(config, CONFIG)

    def test_it_takes_what_the_integration_takes_for_a_config(self):
        text = json.dumps(CONFIG)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "ds.json")
            path.write_text(text, encoding="utf-8")
            for given in (path, str(path), text, base64.urlsafe_b64encode(text.encode()).decode()):
                self.assertEqual(zerocast.resolve_config(given, ARGUMENTS, MODEL, 10), RESOLVED)
            path.write_text("{", encoding="utf-8")
            with self.assertRaisesRegex(zerocast.ConfigError, f"read DeepSpeed config {path}: Expecting property"):
                zerocast.resolve_config(path, ARGUMENTS)
        with self.assertRaises(zerocast.ConfigError) as caught:
            zerocast.resolve_config("/nowhere/ds.json", ARGUMENTS)
        self.assertEqual(str(caught.exception), "Expected a string path to an existing deepspeed config, or a dictionary, "
                         "or a base64 encoded string. Received: /nowhere/ds.json")
        self.assertEqual((caught.exception.stage, caught.exception.error_type), ("parse", "ValueError"))
        with self.assertRaisesRegex(zerocast.ConfigError, "ds_config: must be a dict, a path or a string, not list"):
            zerocast.resolve_config([], ARGUMENTS)

    def test_all_mismatches_come_at_once(self):
        config = {"train_batch_size": 3, "optimizer": {"params": {"lr": 1}}, "zero_optimization": {"stage": 3}}
        lines = ["ds train_batch_size=3 vs hf train_batch_size (calculated)=16",
                 "ds optimizer.params.lr=1 vs hf learning_rate=0.0001"]
        for steps in (None, 10):
            with self.assertRaises(zerocast.ConfigError) as caught:
                zerocast.resolve_config(config, ARGUMENTS, num_training_steps=steps)
            error = caught.exception
            self.assertIsInstance(error, ValueError)
            self.assertIsInstance(error, zerocast.ZerocastError)
            self.assertEqual(error.mismatches, lines)
            self.assertEqual((error.code, error.reason), ("FAILED_PRECONDITION", "CONFIG_MISMATCH"))
            self.assertEqual(str(error), "Please correct the following DeepSpeed config values that mismatch "
                             f"TrainingArguments values:\n- {lines[0]}\n- {lines[1]}\nThe easiest method is to set "
                             "these DeepSpeed config values to 'auto'.")
        with zerocast.EmbeddedServer(start_timeout=60) as server, self.assertRaises(zerocast.ConfigError) as caught:
            zerocast.resolve_config(config, ARGUMENTS, num_training_steps=10, server=server.address)
        self.assertEqual(caught.exception.mismatches, lines)
        self.assertEqual([path for path, _ in caught.exception.violations],
                         ["train_batch_size", "optimizer.params.lr"])

    def test_a_config_object_is_read_through_the_aliases_of_its_class(self):
        class Aliased:
            d_model = 64

            @property
            def hidden_size(self):
                return self.d_model

        class Composite:
            text_config = Aliased()

        for model in (Aliased(), Composite()):
            self.assertEqual(zerocast.resolve_config(CONFIG, ARGUMENTS, model, 10), RESOLVED)
        with self.assertRaisesRegex(zerocast.ConfigError, "has neither `hidden_size` nor `hidden_sizes` entry"):
            zerocast.resolve_config(CONFIG, ARGUMENTS, object(), 10)

    def test_what_cannot_be_asked_is_refused_by_name(self):
        with self.assertRaisesRegex(zerocast.ConfigError, "training_args: .*; object has no world_size, per_device"):
            zerocast.resolve_config(CONFIG, object())
        with self.assertRaisesRegex(zerocast.ConfigError, "args: cannot be written as JSON"):
            zerocast.resolve_config(CONFIG, {"world_size": object()})
        with self.assertRaises(zerocast.ConfigError) as caught:
            zerocast.resolve_config(CONFIG, {"world_size": 0})
        self.assertEqual((caught.exception.code, caught.exception.stage), ("INVALID_ARGUMENT", "request"))
        self.assertIn("world_size: must be an integer of at least 1, was 0", str(caught.exception))
        with self.assertRaisesRegex(zerocast.ServerError, "within 1s: the server was not reached"):
            zerocast.resolve_config(CONFIG, ARGUMENTS, server="127.0.0.1:1", timeout=1)

    def test_a_command_that_fails_is_no_answer(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "zerocast")
            before = os.environ.get("ZEROCAST_BIN_DIR")
            os.environ["ZEROCAST_BIN_DIR"] = folder
            try:
                for script, message in (("echo torn >&2; exit 1", "exit 1: torn"), ("sleep 60", "no answer within 0.5s")):
                    path.write_text(f"#!/bin/sh\n{script.replace('sleep', 'exec sleep')}\n", encoding="utf-8")
                    path.chmod(path.stat().st_mode | stat.S_IXUSR)
                    with self.assertRaisesRegex(zerocast.EmbeddedError, message):
                        zerocast.resolve_config(CONFIG, ARGUMENTS, timeout=0.5)
            finally:
                del os.environ["ZEROCAST_BIN_DIR"]
                if before is not None:
                    os.environ["ZEROCAST_BIN_DIR"] = before


class JobConfigTest(unittest.TestCase):

    def test_it_answers_as_the_server_does(self):
        paths = ["zero_optimization.stage", "zero_optimization.offload_param.device", "bf16.enabled", "nope.nope",
                 "optimizer.params.lr", "train_batch_size", "gradient_clipping", "steps_per_print", "empty"]
        config = {**CONFIG, "gradient_clipping": None, "steps_per_print": float("inf"), "empty": {}}
        with zerocast.EmbeddedServer(start_timeout=60) as server, \
                zerocast.EmbeddedAgent(server.address, roots=[str(DATA)], start_timeout=60), \
                zerocast.Client(server.address) as client:
            spec = job_pb2.JobSpec(
                checkpoint_path=str(DATA / "checkpoints/mixtral"), topology=types_pb2.Topology(world_size=2),
                deepspeed_config_json=json.dumps(config), training_arguments_json=json.dumps(ARGUMENTS),
                model_config_json=json.dumps(MODEL), num_training_steps=10)
            job, _ = client.create_job(spec)
            asked = zerocast.JobConfig(job.name, server.address)
            for path in paths:
                told = client.query_config(job.name, path)
                value = json.loads(told.value_json) if told.HasField("value_json") else None
                self.assertEqual((asked.get_value(path), asked.is_true(path), asked.is_false(path), asked.is_auto(path)),
                                 (value, told.is_true, told.is_false, told.is_auto), path)
            whole = client.query_config(job.name)
            self.assertIsInstance(whole, config_pb2.QueryConfigResponse)
            self.assertEqual((asked.is_zero3(), asked.is_offload(), asked.content_hash),
                             (whole.is_zero3, whole.offload, whole.content_hash))
            with self.assertRaises(zerocast.ServerError) as caught:
                zerocast.JobConfig("jobs/none", server.address)
            self.assertEqual(caught.exception.code, "NOT_FOUND")
            client.cancel_job(job.name)
            client.delete_job(job.name)
        self.assertFalse(asked.is_zero2())
        self.assertEqual(asked.dtype_name(), "bfloat16")
        self.assertEqual(asked.get_value("nope", 5), 5)
        self.assertIsNone(asked.get_value("gradient_clipping", 5))
        self.assertEqual(asked.find_config_node("bf16.enabled"), ({"enabled": True}, "enabled"))
        self.assertEqual(asked.find_config_node("gradient_clipping.a"), (None, "a"))
        with self.assertRaisesRegex(AttributeError, "'int' object has no attribute 'get'"):
            asked.get_value("train_batch_size.a")


if __name__ == "__main__":
    unittest.main(verbosity=2)
