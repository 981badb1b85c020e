"""zerocast.install: which calls of the library's from_pretrained go through zerocast, and which do not and why.

One process, in an environment without DeepSpeed. Wants ZC_SOURCE_DIR and ZC_BUILD_DIR; Python finds the package.
"""

import importlib.util
import inspect
import json
import logging
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

import deepspeed_releases as releases
import ranks
import torch
import transformers
import zerocast
from pretrained_rank import digest
from zerocast import _run_load

SOURCE = pathlib.Path(os.environ["ZC_SOURCE_DIR"])
MIXTRAL = SOURCE / "tests/data/checkpoints/mixtral"
OWN = transformers.PreTrainedModel.__dict__["from_pretrained"]
Auto = transformers.AutoModelForCausalLM


def everything(model):
    return {name: digest(tensor.data) for name, tensor in [*model.named_parameters(), *model.named_buffers()]}


class Install(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        if importlib.util.find_spec("deepspeed") is not None:
            raise RuntimeError("DeepSpeed is installed here, without which all this must work")

    def setUp(self):
        holder = tempfile.TemporaryDirectory()
        self.addCleanup(holder.cleanup)
        self.folder = pathlib.Path(holder.name)
        self.loads = []
        run = _run_load.run
        self.addCleanup(setattr, _run_load, "run", run)

        def count(ranks, wanted, timeout):
            self.loads.append(wanted.checkpoint)
            return run(ranks, wanted, timeout)

        _run_load.run = count
        self.addCleanup(zerocast.uninstall)
        transformers.logging.set_verbosity_error()

    def llama(self, name="llama", **options):
        torch.manual_seed(1)
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(
            vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2))
        model.save_pretrained(self.folder / name, **options)
        return self.folder / name

    def test_models_are_as_the_librarys(self):
        library = Auto.from_pretrained(MIXTRAL)
        zerocast.install(strict=True)
        model, info = Auto.from_pretrained(MIXTRAL, output_loading_info=True)
        self.assertEqual(self.loads, [str(MIXTRAL)])
        self.assertEqual(everything(model), everything(library))
        self.assertFalse(model.training)
        self.assertEqual(info["missing_keys"], set())
        again = transformers.MixtralForCausalLM.from_pretrained(MIXTRAL, dtype="float32")
        self.assertEqual(everything(again), everything(library.float()))
        self.assertEqual(len(self.loads), 2)

    def test_the_signature_stays(self):
        zerocast.install()
        self.assertEqual(inspect.signature(transformers.PreTrainedModel.from_pretrained),
                         inspect.signature(OWN.__get__(None, transformers.PreTrainedModel)))
        self.assertEqual(transformers.LlamaModel.from_pretrained.__doc__, OWN.__func__.__doc__)

    def test_uninstall_takes_it_back(self):
        from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig
        zerocast.install()
        zerocast.install(strict=True)
        self.assertIsNot(transformers.PreTrainedModel.__dict__["from_pretrained"], OWN)
        zerocast.uninstall()
        self.assertIs(transformers.PreTrainedModel.__dict__["from_pretrained"], OWN)
        self.assertFalse(hasattr(HfTrainerDeepSpeedConfig.trainer_config_process, "__wrapped__"))
        Auto.from_pretrained(MIXTRAL)
        self.assertEqual(self.loads, [])

    def test_an_explicit_call_is_not_caught_twice(self):
        zerocast.install(strict=True)
        zerocast.from_pretrained(Auto, MIXTRAL)
        self.assertEqual(len(self.loads), 1)

    def left(self, why, call):
        """That the library itself answers the call, and the log says why."""
        zerocast.uninstall()
        library = everything(call())
        zerocast.install()
        with self.assertLogs("zerocast", logging.WARNING) as log:
            model = call()
        self.assertEqual(len(log.output), 1)
        self.assertRegex(log.output[0], f"is loaded by transformers itself, not by zerocast: .*{why}")
        self.assertEqual(everything(model), library)
        self.assertEqual(self.loads, [])
        zerocast.install(strict=True)
        with self.assertRaisesRegex(zerocast.LoadError, why) as raised:
            call()
        self.assertEqual(raised.exception.code, "UNIMPLEMENTED")

    def test_what_the_arguments_ask_of_the_library(self):
        config = transformers.AutoConfig.from_pretrained(MIXTRAL)
        state = Auto.from_pretrained(MIXTRAL).state_dict()
        self.left("device_map is given", lambda: Auto.from_pretrained(MIXTRAL, device_map="cpu"))
        self.left("no checkpoint is named", lambda: transformers.MixtralForCausalLM.from_pretrained(
            None, config=config, state_dict=state))

    def test_weights_that_are_not_safetensors(self):
        folder = self.llama()
        state = Auto.from_pretrained(folder).state_dict()
        torch.save(state, folder / "pytorch_model.bin")
        self.left("use_safetensors=False may have it", lambda: Auto.from_pretrained(folder, use_safetensors=False))
        (folder / "model.safetensors").unlink()
        zerocast.uninstall()
        library = everything(Auto.from_pretrained(folder))
        zerocast.install(strict=True)
        for keywords in ({}, {"use_safetensors": False}):
            self.assertEqual(everything(Auto.from_pretrained(folder, **keywords)), library)
        self.assertEqual(self.loads, [str(folder)] * 2)
        # What the file holds is for an agent to find out.
        torch.save({**state, "step": 5}, folder / "pytorch_model.bin")
        with self.assertRaisesRegex(zerocast.ZerocastError, "pytorch_model.bin: .*step is the number 5"):
            Auto.from_pretrained(folder)
        zerocast.install()
        with self.assertLogs("zerocast", logging.WARNING) as log:
            self.assertEqual(everything(Auto.from_pretrained(folder)), library)
        self.assertRegex(log.output[0], "is loaded by transformers itself, not by zerocast: .*step is the number 5")

    def test_an_adapters_folder(self):
        import peft
        base = self.llama("base")
        adapter = self.folder / "adapter"
        torch.manual_seed(2)
        model = peft.get_peft_model(Auto.from_pretrained(base), peft.LoraConfig(
            r=2, target_modules=["q_proj"], init_lora_weights=False))
        model.save_pretrained(adapter)
        library = everything(Auto.from_pretrained(adapter))
        zerocast.install(strict=True)
        self.assertEqual(everything(Auto.from_pretrained(adapter)), library)
        self.assertEqual(self.loads, [str(base)])

    def test_the_librarys_own_errors_stay(self):
        zerocast.install(strict=True)
        with self.assertRaisesRegex(OSError, "no file named|is not a local folder|does not appear"):
            transformers.LlamaForCausalLM.from_pretrained(self.folder, config=transformers.LlamaConfig())
        with self.assertRaisesRegex(RuntimeError, "ignore_mismatched_sizes"):
            config = transformers.AutoConfig.from_pretrained(MIXTRAL, vocab_size=7)
            Auto.from_pretrained(MIXTRAL, config=config)

    def test_contradictions_are_told_when_a_model_is_asked_for(self):
        empty = self.folder / "empty"  # of weights
        empty.mkdir()
        (empty / "config.json").write_bytes((MIXTRAL / "config.json").read_bytes())
        code = f"""
import zerocast
zerocast.install()
import transformers
config = {{"train_micro_batch_size_per_gpu": 7, "zero_optimization": {{"stage": 1}}}}
arguments = transformers.TrainingArguments({str(self.folder)!r}, deepspeed=config, use_cpu=True, per_device_train_batch_size=2)
try:
    transformers.AutoModelForCausalLM.from_pretrained({str(empty)!r})
except zerocast.ConfigError as error:
    print(error.mismatches)
"""
        # The integration wants DeepSpeed.
        deepspeed = releases.install(pathlib.Path(os.environ["ZC_BUILD_DIR"]) / "oracle" / "deepspeed", "0.19.8")
        (_, output), = ranks.run(1, ["-c", code], ranks.environment(os.environ["PYTHONPATH"], deepspeed), 300)
        self.assertIn("['ds train_micro_batch_size_per_gpu=7 vs hf per_device_train_batch_size=2']", output)


class Alike(unittest.TestCase):

    def test_ranks_that_want_different_models_are_told(self):
        def wanted(checkpoint="/models/a", shape=(2, 3), architecture="LlamaForCausalLM"):
            return _run_load.Wanted(checkpoint, {"architecture": architecture, "buffers": [], "params": [
                {"name": "w", "shape": list(shape), "dtype": "bfloat16"}]}, {})

        class Ranks:
            """Rank 0 of two, whose other wants `other`."""
            rank = 0

            def __init__(self, other):
                self.other = other

            def exchange(self, step, value):
                if step == "models":
                    return [value, _run_load._summary(self.other)]
                return [value, value if self.other == wanted() else ["another digest", ""]]

        self.assertTrue(_run_load._agree_on_model(Ranks(wanted()), wanted()))
        for other, text in ((wanted("/models/b"), "its checkpoint is /models/b, on rank 0 /models/a;"),
                            (wanted(architecture="X"), 'its architecture is "X", on rank 0 "LlamaForCausalLM";'),
                            (wanted(shape=(2, 4)), r"w is bfloat16 \[2, 4\], on rank 0 bfloat16 \[2, 3\];")):
            with self.assertRaisesRegex(zerocast.LoadError, text) as raised:
                _run_load._agree_on_model(Ranks(other), wanted())
            self.assertEqual(raised.exception.rank, 1)


class Run(unittest.TestCase):

    def run_it(self, *arguments):
        done = subprocess.run([sys.executable, "-m", "zerocast.run", *map(str, arguments)], capture_output=True, text=True,
                              check=False, timeout=300)
        return done.returncode, done.stdout, done.stderr

    def script(self, folder, text):
        file = pathlib.Path(folder, "script.py")
        file.write_text(text, encoding="utf-8")
        return file

    def test_a_script_is_run_as_by_python(self):
        with tempfile.TemporaryDirectory() as folder:
            pathlib.Path(folder, "beside.py").write_text("name = 'beside'\n", encoding="utf-8")
            file = self.script(folder, "import json, sys, beside\nprint(json.dumps([sys.argv[1:], __name__, __file__, beside.name,"
                               " 'torch' in sys.modules, sys.modules['__main__'].json is json]))\nsys.exit(5)\n")
            status, out, err = self.run_it("--strict", "--timeout", "9", file, "--strict", "-m", "x")
            self.assertEqual(status, 5, err)
            self.assertEqual(json.loads(out), [["--strict", "-m", "x"], "__main__", str(file), "beside", False, True])
            # As DeepSpeed's launcher calls it.
            status, out, err = self.run_it("--local_rank=3", file, "a")
            self.assertEqual(json.loads(out)[0], ["--local_rank=3", "a"], err)

    def test_a_module_is_run(self):
        status, out, err = self.run_it("-m", "json.tool", "--help")
        self.assertEqual(status, 0, err)
        self.assertIn("json", out)

    def test_mistakes(self):
        for arguments in ([], ["-m"], ["--nonsense", "x.py"], ["--timeout", "soon", "x.py"]):
            self.assertEqual(self.run_it(*arguments)[0], 2, arguments)

    def test_models_of_a_script_come_by_zerocast(self):
        with tempfile.TemporaryDirectory() as folder:
            file = self.script(folder, f"""
import transformers
model = transformers.AutoModelForCausalLM.from_pretrained({str(MIXTRAL)!r})
print(open("/proc/self/maps").read().count("memfd:zerocast") > 0)
transformers.AutoModelForCausalLM.from_pretrained({str(MIXTRAL)!r}, device_map="cpu")
""")
            status, out, err = self.run_it(file)
            self.assertEqual((status, out.strip()), (0, "True"), err)
            self.assertIn("is loaded by transformers itself, not by zerocast: device_map is given", err)
            self.assertEqual(self.run_it("--strict", file)[0], 1)


if __name__ == "__main__":
    unittest.main()
