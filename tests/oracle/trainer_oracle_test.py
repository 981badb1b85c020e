"""A training script that knows nothing of zerocast trains under `python -m zerocast.run` as by itself, bit for bit.

Wants ZC_SOURCE_DIR and ZC_BUILD_DIR (its python folder has the package).
"""

import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest

import deepspeed_releases as releases
import ranks

SOURCE = pathlib.Path(os.environ["ZC_SOURCE_DIR"])
BUILD = pathlib.Path(os.environ["ZC_BUILD_DIR"])
HERE = pathlib.Path(__file__).parent
SCRIPT = HERE / "trainer_script.py"
ENVIRONMENT = ranks.environment(BUILD / "python", releases.install(BUILD / "oracle" / "deepspeed", "0.19.8"), HERE)
MIXTRAL = SOURCE / "tests/data/checkpoints/mixtral"
RANKS = 2
SECONDS = 400
BY_ZEROCAST = ["-m", "zerocast.run", "--strict"]
CONFIG = {"train_micro_batch_size_per_gpu": "auto", "gradient_accumulation_steps": "auto", "train_batch_size": "auto",
          "gradient_clipping": "auto", "bf16": {"enabled": "auto"}, "fp16": {"enabled": "auto"},
          "zero_force_ds_cpu_optimizer": False,
          "zero_optimization": {"stage": 3, "reduce_bucket_size": "auto", "stage3_prefetch_bucket_size": "auto",
                                "stage3_param_persistence_threshold": "auto",
                                "stage3_gather_16bit_weights_on_model_save": True}}
ARGUMENTS = ["--bf16", "--logging_steps", "1", "--per_device_train_batch_size", "2", "--report_to", "none", "--use_cpu",
             "--dataloader_pin_memory", "False", "--disable_tqdm", "True"]


class Scripts(unittest.TestCase):

    def setUp(self):
        holder = tempfile.TemporaryDirectory()
        self.addCleanup(holder.cleanup)
        self.folder = pathlib.Path(holder.name)

    def train(self, out, how, config, *rest, checkpoint=MIXTRAL, world_size=RANKS):
        """The outputs of the ranks, and their exit statuses."""
        file = self.folder / "config.json"
        file.write_text(json.dumps(config), encoding="utf-8")
        return ranks.run(world_size, [*how, SCRIPT, "--model_name_or_path", checkpoint, "--deepspeed", file, *ARGUMENTS,
                                 "--output_dir", self.folder / out, *rest], ENVIRONMENT, SECONDS)

    def trained(self, out, *rest, **options):
        """(the losses, {file: digest} of the saved model) of a run that ends well."""
        for status, output in self.train(out, *rest, **options):
            self.assertEqual(status, 0, output[-6000:])
        saved = {path.name: hashlib.sha256(path.read_bytes()).hexdigest()
                 for path in sorted((self.folder / out / "saved").iterdir()) if path.name != "training_args.bin"}
        return json.loads((self.folder / out / "losses.json").read_text(encoding="utf-8")), saved

    def test_zero3_with_auto(self):
        never = ["--max_steps", "3", "--save_strategy", "no"]
        library = self.trained("library", [], CONFIG, *never)
        ours = self.trained("zerocast", BY_ZEROCAST, CONFIG, *never)
        self.assertEqual(len(set(ours[0])), 3, "nothing was trained")
        self.assertEqual(ours, library)
        self.assertTrue(any(name.endswith(".safetensors") for name in ours[1]), ours[1])

    def test_lora_is_saved_and_resumed(self):
        saving = ["--lora", "--save_strategy", "steps", "--save_steps", "2", "--learning_rate", "0.01", "--max_steps", "4"]
        made = {}
        for name, how in (("library", []), ("zerocast", BY_ZEROCAST)):
            made[name] = self.trained(name, how, CONFIG, *saving)
            self.assertEqual(len(set(made[name][0])), 4, "nothing was trained")
            again = self.trained(f"{name}-resumed", how, CONFIG, *saving, "--resume_from_checkpoint",
                                 self.folder / name / "checkpoint-2")
            self.assertEqual(again, made[name], "resumed as if it had not been interrupted")
        self.assertEqual(made["zerocast"], made["library"])
        self.assertIn("adapter_model.safetensors", made["zerocast"][1])

    def test_resumes_at_another_world_size(self):
        """As the library does from the same checkpoint, resharded; which resumes from no other, and says so."""
        saving = ["--save_strategy", "steps", "--save_steps", "2", "--learning_rate", "0.01"]
        before, _ = self.trained("run", [], CONFIG, *saving, "--max_steps", "2")
        saved, other = self.folder / "run" / "checkpoint-2", self.folder / "resharded"
        done = subprocess.run([BUILD / "bin" / "zerocast", "checkpoint", "reshard", saved, "--world-size", "1", "--out", other],
                              capture_output=True, text=True, timeout=SECONDS, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        for path in saved.iterdir():  # the Trainer's own
            if path.is_file() and not (other / path.name).exists():
                shutil.copy(path, other)
        rest = [*saving, "--max_steps", "4", "--resume_from_checkpoint"]
        ours = self.trained("ours", BY_ZEROCAST, CONFIG, *rest, saved, world_size=1)
        library = self.trained("library", [], CONFIG, *rest, other, world_size=1)
        self.assertEqual((ours[0][:2], len(set(ours[0]))), (before, 4))
        self.assertEqual(ours, library)
        for status, output in self.train("no", [], CONFIG, *rest, saved, world_size=1):
            self.assertEqual(status, 1)
            self.assertIn("world size", output)

    def test_what_is_no_checkpoint(self):
        """Is refused by the Trainer's own words on every rank."""
        nothing = self.folder / "nothing"
        nothing.mkdir()
        (nothing / "trainer_state.json").write_text('{"train_batch_size": 2}', encoding="utf-8")
        for status, output in self.train("bad", BY_ZEROCAST, CONFIG, "--max_steps", "2", "--resume_from_checkpoint", nothing):
            self.assertEqual(status, 1)
            self.assertIn(f"ValueError: Can't find a valid checkpoint at {nothing}", output)

    def test_every_contradiction_is_told_to_all_before_anything_is_loaded(self):
        params = {"lr": 9, "betas": "auto", "eps": "auto", "weight_decay": 0.5}
        bad = {**CONFIG, "train_micro_batch_size_per_gpu": 7, "gradient_clipping": 3.5,
               "optimizer": {"type": "AdamW", "params": params},
               "scheduler": {"type": "WarmupDecayLR", "params": {"warmup_num_steps": 11, "warmup_min_lr": "auto",
                                                                 "warmup_max_lr": "auto", "total_num_steps": 99}}}
        lines = ["ds train_micro_batch_size_per_gpu=7 vs hf per_device_train_batch_size=2",
                 "ds gradient_clipping=3.5 vs hf max_grad_norm=1.0", "ds optimizer.params.lr=9 vs hf learning_rate=5e-05",
                 "ds optimizer.params.weight_decay=0.5 vs hf weight_decay=0.0",
                 "ds scheduler.params.total_num_steps=99 vs hf num_training_steps (calculated)=3",
                 "ds scheduler.params.warmup_num_steps=11 vs hf warmup_steps=1"]
        # The weights are no such thing: nobody has looked at them.
        broken = self.folder / "broken"
        broken.mkdir()
        (broken / "config.json").write_bytes((MIXTRAL / "config.json").read_bytes())
        (broken / "model.safetensors").write_bytes(b"")
        for status, output in self.train("bad", BY_ZEROCAST, bad, "--max_steps", "3", checkpoint=broken):
            self.assertEqual(status, 1, output[-4000:])
            for line in lines:
                self.assertIn(f"- {line}\n", output)
        # How many steps there are, the data tell: what depends on them is the Trainer's to find.
        for status, output in self.train("bad", BY_ZEROCAST, bad, "--num_train_epochs", "1", checkpoint=broken):
            self.assertEqual(status, 1, output[-4000:])
            for line in lines:
                self.assertEqual(f"- {line}\n" in output, "total_num_steps" not in line, line)


if __name__ == "__main__":
    unittest.main()
