"""zerocast.resolve_config gives what HfTrainerDeepSpeedConfig and deepspeed_init give, asked with the
same transformers.TrainingArguments and PretrainedConfig.

Wants ZC_BUILD_DIR, where the release of DeepSpeed is kept, and ZC_TEST_DATA.
"""

import collections
import copy
import gzip
import json
import os
import sys
import tempfile
import unittest
from pathlib import Path

import deepspeed_releases as releases

os.environ.update(releases.ENVIRONMENT)
VERSION = "0.19.8"
sys.path.insert(0, str(releases.install(Path(os.environ["ZC_BUILD_DIR"]) / "oracle" / "deepspeed", VERSION)))

import make_config_cases  # noqa: E402
from transformers import GPT2Config, PretrainedConfig, TrainingArguments  # noqa: E402

import zerocast  # noqa: E402

DATA = Path(os.environ["ZC_TEST_DATA"]) / "config"
WANTED = 200


class Ranks(TrainingArguments):
    """As in a run of so many ranks, which a test does not have."""

    ranks = 1

    @property
    def world_size(self):
        return self.ranks


def training_arguments(args):
    """Real ones of a case's; ValueError where the class refuses them."""
    args = dict(args)
    ranks = args.pop("world_size")
    made = Ranks(output_dir=tempfile.gettempdir(), use_cpu=True, report_to=[], **args)
    made.ranks = ranks
    return made


def model_config(value):
    """The model's config as an object of the library's; None where the case has none."""
    if value is None:
        return None
    made = PretrainedConfig()
    for name, member in value.items():
        setattr(made, name, model_config(member) if name.endswith("_config") and isinstance(member, dict) else member)
    return made


def read(name):
    with gzip.open(DATA / name, "rt", encoding="utf-8", newline="\n") as file:
        return [json.loads(line) for line in file.read().split("\n") if line]


def ours(case, arguments, config, server):
    try:
        resolved = zerocast.resolve_config(
            case["ds_config"], arguments, config, case["num_training_steps"], server=server,
            inference=case["inference"], auto_find_batch_size=case["auto_find_batch_size"])
    except zerocast.ConfigError as error:
        return {"error": {"stage": error.stage, "type": error.error_type, "message": str(error)}}
    return {"resolved": resolved}


class ResolveConfigTest(unittest.TestCase):

    def test_it_equals_the_integration(self):
        counts, refused = collections.Counter(), collections.Counter()
        with zerocast.EmbeddedServer(start_timeout=60) as server:
            for number, case in enumerate(read("config.jsonl.gz")):
                try:
                    arguments = training_arguments(case["args"])
                except ValueError as error:
                    refused[str(error).split("\n")[0][:80]] += 1
                    continue
                config = model_config(case["model_config"])
                expected = make_config_cases.expect(copy.deepcopy(case), arguments, config)
                # The command is asked every tenth time: each is a process.
                given = ours(case, arguments, config, None if number % 10 == 0 else server.address)
                kind = "error" if "error" in expected else "resolved"
                # As text: 1 is not 1.0, and the order of keys counts.
                self.assertEqual(json.dumps(given.get(kind)), json.dumps(expected[kind]), case["id"])
                counts[kind] += 1
                if kind == "error" and expected["error"]["message"].startswith("Please correct"):
                    counts["mismatch errors"] += 1
        print(f"compared {counts['resolved'] + counts['error']} cases: {counts['resolved']} resolved, "
              f"{counts['error']} errors of equal text ({counts['mismatch errors']} of mismatches); "
              f"TrainingArguments refused {sum(refused.values())}: {dict(refused)}")
        self.assertGreaterEqual(counts["resolved"] + counts["error"], WANTED)
        self.assertGreater(counts["mismatch errors"], 50)
        self.assertGreater(counts["resolved"], 50)

    def test_the_aliases_of_a_class_of_configs_are_known(self):
        arguments = training_arguments({"world_size": 2})
        case = {"ds_config": {"zero_optimization": {"stage": 3, "reduce_bucket_size": "auto"}},
                "num_training_steps": 10, "inference": False, "auto_find_batch_size": False, "model_config": {}}
        expected = make_config_cases.expect(case, arguments, GPT2Config(n_embd=48))
        self.assertEqual(expected["resolved"]["zero_optimization"]["reduce_bucket_size"], 48 * 48)
        self.assertEqual(ours(case, arguments, GPT2Config(n_embd=48), None), {"resolved": expected["resolved"]})


if __name__ == "__main__":
    unittest.main(verbosity=2)
