"""What zerocast.rules and zerocast.spec write of the installed transformers, against what was recorded.

    transformers_oracle_test.py

ZC_TEST_DATA: the test data; ZC_SOURCE_DIR: the repository. ZC_GOLDEN_CHECKPOINTS may name a folder
with the whole recording.
"""

import json
import os
import pathlib
import sys
import tempfile
import unittest

SOURCE = pathlib.Path(os.environ["ZC_SOURCE_DIR"])
DATA = pathlib.Path(os.environ["ZC_TEST_DATA"])
CHECKPOINTS = pathlib.Path(os.environ.get("ZC_GOLDEN_CHECKPOINTS", DATA / "checkpoints"))
sys.path.insert(0, str(SOURCE / "client/python/src"))

from zerocast import rules, spec  # noqa: E402


def patterns(rule):
    return {key: [value] if key in ("from", "to") and isinstance(value, str) else value
            for key, value in rule.items()}


def by_name(table):
    return {name: [patterns(rule) for rule in table["rule_sets"][rule_set]]
            for names in ("by_class", "by_model_type")
            for name, rule_set in table["bindings"][names].items()}


class RulesTest(unittest.TestCase):

    def test_the_export_is_the_built_in_table(self):
        import transformers
        path = SOURCE / f"server/conversion/hf-rules-{transformers.__version__}.json"
        built_in = json.loads(path.read_text(encoding="utf-8"))
        table, _ = rules.export(with_sub_models=False)
        self.assertEqual(table["semantics"], built_in["semantics"])
        self.assertEqual(by_name(table), by_name(built_in))
        for name in ("by_class", "by_model_type", "always_last"):
            self.assertEqual(sorted(table["bindings"][name]), sorted(built_in["bindings"][name]))
        self.assertEqual([patterns(rule) for rule in table["rule_sets"]["legacy"]],
                         [patterns(rule) for rule in built_in["rule_sets"]["legacy"]])
        self.assertEqual(json.loads(rules.dump(table)), table)


    def test_what_lies_within_a_class(self):
        import transformers
        path = SOURCE / "server/conversion/hf-rules-5.23.0.json"
        built_in = json.loads(path.read_text(encoding="utf-8"))["sub_models"]
        for name in ("RfDetrForInstanceSegmentation", "PaddleOCRVLModel",
                     "LlavaForConditionalGeneration"):
            base, modules, own = rules._within(getattr(transformers, name))
            self.assertEqual({"base": base, "modules": modules, "own": own}, built_in[name])


class SpecTest(unittest.TestCase):

    def check(self, folder):
        want = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
        dtypes = [tensor["dtype"] for tensor in want["params"]]
        half = 2 * dtypes.count("bfloat16") > len(dtypes)
        made = spec.export(str(folder), want["architecture"], "bf16" if half else None)
        for key in ("architecture", "base_model_prefix", "tied"):
            self.assertEqual(made[key], want[key], key)
        # What was damaged was not loaded, and has the dtype of its initialisation.
        whole = not folder.name.endswith(("-damaged", "-broken"))
        for key in ("params", "buffers"):
            def listed(tensors):
                return [(t["name"], t["shape"], t["dtype"] if whole else "") for t in tensors]
            self.assertEqual(listed(made[key]), listed(want[key]), key)
        self.assertEqual(len(made["transforms"]), len(want["transforms"]))
        for ours, theirs in zip(made["transforms"], want["transforms"]):
            for key in ("class", "source_patterns", "target_patterns", "scope_prefix", "original",
                        "original_target", "prefix_to_remove", "prefix_to_add"):
                if key in theirs:
                    self.assertEqual(ours.get(key), theirs[key], key)
        for key in ("keys_to_ignore_on_load_missing", "keys_to_ignore_on_load_unexpected"):
            if key in want:
                self.assertEqual(made[key], sorted(want[key]), key)

    def test_a_model_type_that_only_its_class_knows(self):
        config = {"architectures": ["BarkFineModel"], "model_type": "fine_acoustics", "num_layers": 1,
                  "hidden_size": 8, "num_heads": 2, "block_size": 4, "input_vocab_size": 6,
                  "output_vocab_size": 6}
        with tempfile.TemporaryDirectory() as folder:
            pathlib.Path(folder, "config.json").write_text(json.dumps(config), encoding="utf-8")
            made = spec.export(folder)
            self.assertEqual(made["architecture"], "BarkFineModel")
            self.assertIn([6, 8], [tensor["shape"] for tensor in made["params"]])
            pathlib.Path(folder, "config.json").write_text('{"model_type": "no_such_type"}')
            with self.assertRaisesRegex(ValueError, "no_such_type"):
                spec.export(folder)

    def test_a_class_that_transformers_does_not_export(self):
        folder = str(CHECKPOINTS / "mixtral")
        exported = spec.export(folder, "MixtralForCausalLM")
        path = "transformers.models.mixtral.modeling_mixtral"
        for name in (f"{path}:MixtralForCausalLM", f"{path}.MixtralForCausalLM"):
            self.assertEqual(spec.export(folder, name), exported)
        with tempfile.TemporaryDirectory() as modules:
            pathlib.Path(modules, "zc_own_model.py").write_text(
                "from transformers import MixtralForCausalLM\n"
                "class Own(MixtralForCausalLM):\n    pass\n", encoding="utf-8")
            sys.path.insert(0, modules)
            self.addCleanup(sys.path.remove, modules)
            made = spec.export(folder, "zc_own_model:Own")
            self.assertEqual(made["architecture"], "Own")
            self.assertEqual(made["params"], exported["params"])
            for name, error, says in (
                    ("zc_own_model:Other", spec.SpecError, "has no class zc_own_model:Other"),
                    (":Own", spec.SpecError, "has no class :Own"),
                    ("..Own", spec.SpecError, "has no class ..Own"),
                    ("json:JSONDecoder", spec.SpecError, "not a class of models"),
                    ("json.loads", spec.SpecError, "not a class of models"),
                    ("zc_no_such_module:Own", ImportError, "zc_no_such_module")):
                with self.assertRaisesRegex(error, says):
                    spec.export(folder, name)

    def test_every_recorded_checkpoint(self):
        folders = sorted(path.parent for path in CHECKPOINTS.glob("*/expected.json"))
        self.assertGreaterEqual(len(folders), 20)
        for folder in folders:
            if json.loads((folder / "config.json").read_text()).get("quantization_config"):
                continue  # the library builds a quantised model; ours loads into a plain one
            with self.subTest(folder.name):
                self.check(folder)


if __name__ == "__main__":
    unittest.main(verbosity=2)
