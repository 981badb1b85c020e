"""zerocast checkpoint with a server: what it says and how it exits."""

import pathlib
import shutil
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
import cluster  # noqa: E402
import registry_case  # noqa: E402
from registry_case import told  # noqa: E402

MODEL_FILE = "zero_pp_rank_1_mp_rank_00_model_states.pt"


class CheckpointTest(registry_case.RegistryCase):

    def test_without_an_agent_nothing_is_known(self):
        with cluster.Cluster(num_agents=0) as running:
            job = self.submit(running)
            for command in (["register", "/run", "--job", job], ["latest", "/run"]):
                said = self.zc(running, "checkpoint", *command, code=5).stderr
                self.assertIn("the server itself sees no files", said)
                self.assertIn("NOT_ENOUGH_AGENTS", self.zc(running, "--output", "json", "checkpoint", *command,
                                                           code=5).stdout)
            # A folder is named as it is here.
            said = cluster.zerocast("--server", running.address, "checkpoint", "latest", "run/../run", cwd="/").stderr
            self.assertIn("look at /run: ", said)
            self.assertIn(f"of {job}: there is none", self.zc(running, "checkpoint", "latest", job, code=3).stderr)
            self.assertEqual(self.zc(running, "checkpoint", "list").stdout, "no checkpoints are registered\n")
            self.assertEqual(self.zc(running, "--output", "json", "checkpoint", "list").json(), {"checkpoints": []})
            self.assertEqual(self.zc(running, "checkpoint", "prune", job, "--keep-last", 1).stdout, "0 of 0 forgotten\n")
            for command in ("get", "pin", "unpin", "delete"):
                self.assertIn("no such checkpoint",
                              self.zc(running, "checkpoint", command, "checkpoints/1", code=3).stderr)

    def test_a_training_registers_its_checkpoints_and_finds_the_newest(self):
        with cluster.Cluster(num_agents=1, roots=[self.folder]) as running:
            job, names = self.submit(running), []
            for tag in ("first", "second"):
                self.save(tag)
                said = self.zc(running, "checkpoint", "register", self.run_folder, "--job", job).stdout
                self.assertIn(f"{tag} is complete\n", said)
                names.append(told(said)["ZEROCAST_CHECKPOINT"])
            listed = self.zc(running, "checkpoint", "list", "--job", job).stdout
            self.assertEqual(listed.splitlines()[0], f"{self.run_folder} of {job}")
            self.assertEqual([line.split()[:3] for line in listed.splitlines()[2:]],
                             [[names[1], "second", "complete"], [names[0], "first", "complete"]])
            self.assertEqual([line for line in listed.splitlines()[1:] if len(line) > 80], [])
            self.assertEqual(self.zc(running, "checkpoint", "list", "--dir", self.run_folder).stdout, listed)
            shown = self.zc(running, "--output", "json", "checkpoint", "get", names[0]).json()
            self.assertEqual((shown["checkpoint"], shown["tag"], shown["world_size"], shown["zero_stage"], shown["step"],
                              shown["state"], shown["num_files"], shown["looked_by"]),
                             (names[0], "first", 2, 3, 3, "complete", 4, "node0"))
            self.assertIn("\nranks       2, ZeRO stage 3\n", self.zc(running, "checkpoint", "get", names[0]).stdout)

            # A training that dies while it writes: latest names what is torn.
            self.save("third")
            torn = self.run_folder / "third" / MODEL_FILE
            torn.write_bytes(torn.read_bytes()[:-1000])
            said = self.zc(running, "checkpoint", "register", self.run_folder, "--job", job).stdout
            self.assertIn(f"third is incomplete: read zip {torn}: ", said)
            names.append(told(said)["ZEROCAST_CHECKPOINT"])
            for where in (job, self.run_folder):
                said = self.zc(running, "checkpoint", "latest", where).stdout
                self.assertEqual(told(said), {"ZEROCAST_CHECKPOINT": names[1],
                                              "ZEROCAST_CHECKPOINT_PATH": str(self.run_folder),
                                              "ZEROCAST_CHECKPOINT_TAG": "second"})
                self.assertIn("differs from latest: latest names third, which is not complete: ", said)
                self.assertIn(f"third is incomplete: read zip {torn}: ", said)
            found = self.zc(running, "--output", "json", "checkpoint", "latest", job).json()
            self.assertEqual((found["checkpoint"]["tag"], found["latest_tag"], found["differs"]), ("second", "third", True))
            self.assertEqual([each["tag"] for each in found["passed_over"]], ["third"])
            self.assertIn(str(torn), self.zc(running, "checkpoint", "get", names[2], "--verify", code=6).stderr)

    def test_a_checkpoint_that_changed_is_named(self):
        with cluster.Cluster(num_agents=1) as running:
            job = self.submit(running)
            self.save("best")
            name = told(self.zc(running, "checkpoint", "register", self.run_folder, "--job", job, "--tag",
                                "best").stdout)["ZEROCAST_CHECKPOINT"]
            self.zc(running, "checkpoint", "get", name, "--verify")
            shutil.rmtree(self.run_folder / "best")
            self.save("best", "qwen3moe-z2-w2")
            self.assertIn("\nstate       complete\n", self.zc(running, "checkpoint", "get", name).stdout)
            said = self.zc(running, "checkpoint", "get", name, "--verify", code=4)
            self.assertIn("\nstate       changed\n", said.stdout)
            self.assertIn(f"{name} is changed: compare {self.run_folder}/best with what was registered", said.stderr)
            answer = self.zc(running, "--output", "json", "checkpoint", "get", name, "--verify", code=4).json()
            self.assertEqual((answer["state"], answer["error"]["reason"]), ("changed", "CHECKPOINT_CHANGED"))
            self.assertIn("best is changed: ", self.zc(running, "checkpoint", "list", "--verify").stdout)
            self.assertIn("none of 1 is complete; best: compare",
                          self.zc(running, "checkpoint", "latest", job, code=3).stderr)
            shutil.rmtree(self.run_folder / "best")
            self.zc(running, "checkpoint", "get", name, "--verify", code=3)

    def test_pruning_forgets_and_deletes_no_file(self):
        with cluster.Cluster(num_agents=1) as running:
            job, names = self.submit(running), []
            for index in range(4):
                self.save(f"tag{index}")
                said = self.zc(running, "checkpoint", "register", self.run_folder, "--job", job,
                               *(["--pin"] if index == 0 else [])).stdout
                names.append(told(said)["ZEROCAST_CHECKPOINT"])
            before = sorted(self.run_folder.rglob("*"))
            prune = ["checkpoint", "prune", job, "--keep-last", 1]
            said = self.zc(running, *prune, "--dry-run").stdout
            self.assertEqual([line.split()[1] for line in said.splitlines()[2:4]], ["tag1", "tag2"])
            self.assertRegex(said, "\ndry run: 2 of 4 would be forgotten; their files stay, 1.28 MB in these folders\n$")
            self.assertEqual(self.zc(running, *prune, "--older-than", "1h").stdout, "0 of 4 forgotten\n")
            pruned = self.zc(running, "--output", "json", *prune).json()
            self.assertEqual([each["checkpoint"] for each in pruned["pruned"]], names[1:3])
            self.assertEqual([each["checkpoint"] for each in pruned["kept"]], [names[0], names[3]])
            self.assertIn("it is pinned", self.zc(running, "checkpoint", "delete", names[0], code=4).stderr)
            self.assertEqual(self.zc(running, "checkpoint", "unpin", names[0]).stdout, f"{names[0]} unpinned\n")
            self.assertEqual(self.zc(running, "checkpoint", "delete", names[0]).stdout,
                             f"{names[0]} forgotten; its files stay\n")
            self.assertEqual(self.zc(running, "checkpoint", "pin", names[3]).stdout, f"{names[3]} pinned\n")
            left = self.zc(running, "checkpoint", "list").stdout.splitlines()
            self.assertEqual([line.split()[:4] for line in left[2:]], [[names[3], "tag3", "complete,", "pinned"]])
            self.assertEqual(sorted(self.run_folder.rglob("*")), before)

    def test_what_is_wrong_with_the_line_is_said(self):
        for words, said in ((["get", "jobs/1"], '"jobs/1" is not checkpoints/ID'),
                            (["register", "/run", "--job", "1"], '"1" is not jobs/ID'),
                            (["prune", "jobs/1", "--keep-last", "0"], '"0" is not a whole number of at least 1'),
                            (["prune", "jobs/1"], "--keep-last is required"),
                            (["prune", "jobs/1", "--keep-last", "1", "--older-than", "1w"], '"1w" is no age'),
                            (["list"], "this command needs a server")):
            result = cluster.zerocast("checkpoint", *words)
            self.assertEqual(result.code, 2, result)
            self.assertIn(said, result.stderr)


if __name__ == "__main__":
    unittest.main()
