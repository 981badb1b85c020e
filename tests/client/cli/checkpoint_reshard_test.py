"""checkpoint reshard and to-universal, as processes, on folders that real engines saved; what they write is compared by
reshard_test."""

import json
import os
import pathlib
import shutil
import signal
import sys
import unittest

from checkpoint_case import MOST_BYTES, CheckpointCase, checkpoint

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
import cluster  # noqa: E402
import deepspeed_files  # noqa: E402


class Reshard(CheckpointCase):

    def test_writes_a_folder_a_world_size(self):
        told = checkpoint("reshard", self.folders / "mixtral-z3-w2", "--world-size", 3, "--out", self.out, "--output",
                          "json").json()
        self.assertEqual((told["tag"], told["out_tag"], told["step"], told["stage"]), ("global_step3", "global_step3", 3, 3))
        self.assertEqual((told["world_size"], told["out_world_size"], told["out_universal"]), (2, 3, False))
        self.assertEqual(told["states"], ["fp32", "exp_avg", "exp_avg_sq"])
        wanted = self.folders / "mixtral-z3-w2-to-w3"
        files = sorted(str(path.relative_to(wanted)) for path in wanted.rglob("*") if path.is_file())
        self.assertEqual(sorted(str(path.relative_to(self.out)) for path in self.out.rglob("*") if path.is_file()), files)
        self.assertEqual(told["files"], len(files))
        self.assertEqual((self.out / "latest").read_bytes(), b"global_step3")

    def test_goes_to_the_universal_form_and_back(self):
        done = checkpoint("to-universal", self.folders / "tiny-z2-w4", "--out", self.out, "--output", "json")
        self.assertEqual(done.code, 0, done)
        told = done.json()
        self.assertEqual((told["out_tag"], told["out_universal"]), ("global_step3_universal", True))
        self.assertEqual((self.out / "latest_universal").read_bytes(), b"global_step3_universal")
        self.assertFalse((self.out / "latest").exists())
        told = checkpoint("reshard", self.out, "--world-size", 1, "--out", self.top / "back", "--output", "json").json()
        self.assertEqual((told["universal"], told["out_tag"]), (True, "global_step3"))
        again = checkpoint("to-universal", self.out, "--out", self.top / "again")
        self.assertEqual(again.code, 2, again)
        self.assertIn("already", again.stderr)

    def test_says_in_80_columns_what_was_done(self):
        for args in (("reshard", "keep_c1", "--world-size", "1"), ("to-universal", "ernie-z1-w3"),
                     ("reshard", "mixtral-z3-w2-uni", "--world-size", "100")):
            done = checkpoint(*args, "--out", self.out, cwd=self.folders)
            self.assertEqual((done.code, done.stderr), (0, ""), done)
            self.assertIn("ZeRO stage", done.stdout)
            self.assertEqual([line for line in done.stdout.splitlines()[1:] if len(line) > 80], [])
            shutil.rmtree(self.out)

    def test_refuses_arguments(self):
        source = self.folders / "keep_c1"
        (self.top / "full").mkdir()
        (self.top / "full" / "mine").write_text("mine")
        for args, code, word in (
                (["reshard", source, "--out", self.out], 2, "--world-size"),
                (["reshard", source, "--out", self.out, "--world-size", "0"], 2, "--world-size"),
                (["reshard", source, "--world-size", "2"], 2, "--out"),
                (["reshard", source, "--world-size", "2", "--out", self.top / "full"], 4, "exists"),
                (["reshard", source, "--world-size", "2", "--out", self.out, "--tag", "no"], 3, "global_step2"),
                (["reshard", self.top / "no", "--world-size", "2", "--out", self.out], 3, "no"),
                (["to-universal", self.top, "--out", self.out], 3, "latest")):
            done = checkpoint(*args)
            self.assertEqual(done.code, code, done)
            self.assertIn(word, done.stderr)
            self.check_nothing_left("full")

    def test_names_a_flipped_bit_and_a_missing_rank(self):
        folder = self.top / "copy"
        shutil.copytree(self.folders / "mixtral-z3-w2", folder)
        path = folder / "global_step3" / "bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt"
        whole = path.read_bytes()
        damaged = bytearray(whole)
        damaged[len(whole) // 2] ^= 1
        path.write_bytes(damaged)
        for args in (("reshard", folder, "--world-size", 3), ("to-universal", folder)):
            done = checkpoint(*args, "--out", self.out, "--output", "json")
            self.assertEqual(done.code, 6, done)
            self.assertIn(path.name, done.stderr)
            self.assertEqual(done.json()["error"]["reason"], "CHECKPOINT_CORRUPT")
            self.check_nothing_left("copy")
        path.unlink()
        done = checkpoint("reshard", folder, "--world-size", 3, "--out", self.out)
        self.assertEqual(done.code, 3, done)
        self.assertIn(path.name, done.stderr)
        self.check_nothing_left("copy")

    def test_memory_does_not_grow_with_the_model(self):
        folder = self.top / "made"
        deepspeed_files.write_stage_3(folder, {"large.weight": (120 * 256, 4096), "odd.weight": (33, 7), "bias": (5,)})
        for args in (("reshard", folder, "--world-size", 5), ("to-universal", folder)):
            process = self.start(*args, "--out", self.out, "--output", "json")
            most, looks = self.most_of_its_own(process)
            out, errors = process.communicate(timeout=cluster.COMMAND_TIMEOUT_S)
            self.assertEqual(process.returncode, 0, (out, errors))
            self.assertGreater(json.loads(out)["bytes"], MOST_BYTES)
            self.assertGreater(looks, 2)
            if not os.environ.get("ZC_SANITIZED"):
                self.assertLess(most, MOST_BYTES // 2)
            shutil.rmtree(self.out)

    def test_an_interrupted_command_leaves_nothing(self):
        folder = self.top / "made"
        deepspeed_files.write_stage_3(folder, {f"w{k}": (8192, 1024) for k in range(12)})
        for args in (("reshard", folder, "--world-size", 3), ("to-universal", folder)):
            for how, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
                self.check_interrupted(how, code, *args)


if __name__ == "__main__":
    unittest.main()
