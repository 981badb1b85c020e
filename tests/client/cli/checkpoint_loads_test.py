"""Loads of DeepSpeed checkpoints against a server: what is told of them, and what they are compared with."""

import pathlib
import re
import shutil
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
import cluster  # noqa: E402
import registry_case  # noqa: E402
from registry_case import told  # noqa: E402


class CheckpointLoadsTest(registry_case.RegistryCase):

    def json(self, running, *args, code=0):
        return self.zc(running, "--output", "json", *args, code=code).json()

    def load(self, running, folder, *args, code=0):
        return self.zc(running, "load", folder, "--world-size", 2, "--release", *args, code=code)

    def digest(self, running, name):
        return self.json(running, "checkpoint", "get", name)["digest"]

    def test_a_job_tells_tag_and_format_and_each_load_the_tag_that_it_took(self):
        self.save("first", "qwen3moe-z2-w2")
        with cluster.Cluster(num_agents=1) as running:
            named = ["job", "submit", self.run_folder, "--world-size", 2]
            job = self.json(running, *named, "--tag", "first", "--format", "deepspeed", "--wait")["job"]
            shown = self.json(running, "job", "get", job)
            self.assertEqual((shown["checkpoint_tag"], shown["checkpoint_format"]), ("first", "deepspeed"))
            text = self.zc(running, "job", "get", job).stdout
            self.assertIn(f"checkpoint {self.run_folder}, format deepspeed, tag first\n", text)
            self.assertRegex(text, r"\nloads/\S+ ready of DeepSpeed checkpoint first\n$")
            # Where the job leaves it open it is what `latest` says at the time of the load.
            job = self.json(running, *named, "--wait")["job"]
            shown = self.json(running, "job", "get", job)
            self.assertEqual((shown["checkpoint_tag"], shown["checkpoint_format"]), ("", "auto"))
            self.assertEqual(shown["loads"][0]["engine"]["tag"], "first")
            self.assertIn(f"checkpoint {self.run_folder}\n", self.zc(running, "job", "get", job).stdout)
            self.assertEqual([each["checkpoint_tag"] for each in self.json(running, "job", "list")["jobs"]], ["first", ""])

    def test_the_report_says_which_stage_was_taken_and_why(self):
        self.save("first", "qwen3moe-z2-w2")
        config = self.folder / "ds.json"
        config.write_text('{"train_batch_size": 2, "zero_optimization": {"stage": 1}}')
        note = "had stage 2: --zero-stage 2 lays them out as it did"
        with cluster.Cluster(num_agents=1) as running:
            for flags, stage, why, is_noted in (((), 3, "default", True), (("--zero-stage", 2), 2, "--zero-stage", False),
                                                (("--zero-stage", 3), 3, "--zero-stage", False),
                                                (("--ds-config", config), 1, "DeepSpeed config", False)):
                with self.subTest(flags=flags):
                    for command in ("load", "plan"):
                        line = [command, self.run_folder, "--world-size", 2, *flags]
                        shown = self.json(running, *line)
                        self.assertEqual((shown["zero_stage"], shown["zero_stage_reason"]), (stage, why))
                        self.assertEqual(note in shown["note"], is_noted, shown["note"])
                        text = self.zc(running, *line).stdout
                        self.assertIn(f"\nshards of ZeRO stage {stage} ({why})\n", text)
                    self.assertEqual(self.json(running, "job", "list")["jobs"][-1]["zero_stage_reason"], why)
            # Of stage 3 there is nothing to note.
            self.save("second")
            self.assertEqual(self.json(running, "load", self.run_folder, "--world-size", 2)["note"], "")

    def test_a_load_is_compared_with_what_was_registered(self):
        with cluster.Cluster(num_agents=1) as running:
            job = self.submit(running)
            register = ["checkpoint", "register", self.run_folder, "--job", job, "--tag", "best"]
            self.save("best")
            name = told(self.zc(running, *register).stdout)["ZEROCAST_CHECKPOINT"]
            first = self.digest(running, name)
            registered = self.json(running, "checkpoint", "get", name)["create_time"]
            ways = ([self.run_folder], [f"{self.run_folder}/", "--tag", "best"], [self.run_folder / "best"])
            for way in ways:
                self.load(running, *way)
            # Another training has written there.
            self.save("best", "qwen3moe-z2-w2")
            for way in ways:
                said = self.load(running, *way, code=4).stderr
                self.assertRegex(said, f"compare {re.escape(str(way[0]).rstrip('/'))}, tag best with what was registered as {name} "
                                       f"at {registered[:19]}")
                self.assertRegex(said, rf"its files are others, their digest is [0-9a-f]{{32}}, not {first}; ")
                self.assertIn(f"zerocast checkpoint delete {name}", said)
            refused = self.json(running, "plan", self.run_folder, "--world-size", 2, code=4)
            self.assertEqual(refused["error"]["reason"], "CHECKPOINT_CHANGED")
            # What training wrote on purpose is registered again.
            again = told(self.zc(running, *register).stdout)["ZEROCAST_CHECKPOINT"]
            self.assertNotEqual(again, name)
            self.assertNotEqual(self.digest(running, again), first)
            self.load(running, self.run_folder)
            self.save("best")
            self.load(running, self.run_folder, code=4)
            # Where any job has registered these files, they are known.
            other = self.submit(running)
            self.zc(running, *register[:4], other, *register[5:])
            self.load(running, self.run_folder)
            for each in self.json(running, "checkpoint", "list")["checkpoints"]:
                self.zc(running, "checkpoint", "delete", each["checkpoint"])
            self.save("best", "qwen3moe-z2-w2")
            self.load(running, self.run_folder)

    def test_other_tags_and_incomplete_ones_are_not_compared(self):
        with cluster.Cluster(num_agents=1) as running:
            job = self.submit(running)
            self.save("torn")
            for path in (self.run_folder / "torn").glob("*rank_1*optim_states.pt"):
                path.unlink()
            said = self.zc(running, "checkpoint", "register", self.run_folder, "--job", job).stdout
            self.assertIn("torn is incomplete", said)
            self.save("torn")
            self.load(running, self.run_folder)
            self.save("free")
            self.zc(running, "checkpoint", "register", self.run_folder, "--job", job)
            self.save("torn", "qwen3moe-z2-w2")
            shutil.copytree(self.run_folder / "torn", self.run_folder / "elsewhere")
            self.load(running, self.run_folder, "--tag", "elsewhere")


if __name__ == "__main__":
    unittest.main()
