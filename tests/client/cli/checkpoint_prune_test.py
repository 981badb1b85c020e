"""zerocast checkpoint prune --delete-files: which files go, which stay, and why."""

import os
import pathlib
import shutil
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
import cluster  # noqa: E402
import registry_case  # noqa: E402
from registry_case import told  # noqa: E402

ASIDE = ".zerocast_removed_"


class CheckpointPruneTest(registry_case.RegistryCase):

    def register(self, running, job, *args):
        said = self.zc(running, "checkpoint", "register", self.run_folder, "--job", job, *args).stdout
        return told(said)["ZEROCAST_CHECKPOINT"]

    def tags(self):
        return sorted(path.name for path in self.run_folder.iterdir() if path.is_dir())

    def prune(self, running, job, *args):
        return self.zc(running, "checkpoint", "prune", job, "--keep-last", 1, "--delete-files", *args)

    def json(self, running, job, *args):
        return cluster.zerocast("--server", running.address, "--output", "json", "checkpoint", "prune", job,
                                "--keep-last", 1, "--delete-files", *args).json()

    def registered(self, running):
        answer = cluster.zerocast("--server", running.address, "--output", "json", "checkpoint", "list").json()
        return sorted(each["tag"] for each in answer["checkpoints"])

    def test_old_ones_go_with_their_files(self):
        with cluster.Cluster(num_agents=1) as running:
            job = self.submit(running)
            for index in range(4):
                self.save(f"tag{index}")
                self.register(running, job, *(["--pin"] if index == 0 else []))
            self.save("unregistered")
            (self.run_folder / "latest").write_text("tag3")
            size = sum(path.stat().st_size for path in (self.run_folder / "tag1").iterdir())
            before = sorted(self.run_folder.rglob("*"))
            said = self.prune(running, job, "--dry-run").stdout
            self.assertEqual([line.split()[1] for line in said.splitlines()[2:4]], ["tag1", "tag2"])
            self.assertRegex(said, "\ndry run: 2 of 4 would be forgotten and deleted, 1.28 MB freed\n$")
            dry = self.json(running, job, "--dry-run")
            self.assertEqual((dry["freed_bytes"], dry["files_stay"], dry["dry_run"]), (2 * size, [], True))
            self.assertEqual(sorted(self.run_folder.rglob("*")), before)
            self.assertEqual(self.registered(running), ["tag0", "tag1", "tag2", "tag3"])
            done = self.json(running, job)
            self.assertEqual([each["tag"] for each in done["pruned"]], ["tag1", "tag2"])
            self.assertEqual([each["tag"] for each in done["kept"]], ["tag0", "tag3"])
            self.assertEqual(done["freed_bytes"], 2 * size)
            self.assertEqual(self.tags(), ["tag0", "tag3", "unregistered"])
            self.assertEqual(self.registered(running), ["tag0", "tag3"])
            self.assertEqual((self.run_folder / "latest").read_text(), "tag3")
            # What is left loads.
            self.zc(running, "load", self.run_folder, "--world-size", 2, "--release")
            self.assertEqual(self.prune(running, job).stdout, "0 of 2 forgotten and deleted, 0 B freed\n")

    def test_what_stays_is_named_and_stays_registered(self):
        with cluster.Cluster(num_agents=1) as running:
            job, other = self.submit(running), self.submit(running)
            for tag in ("changed", "foreign", "linked", "named", "shared", "torn", "whole"):
                self.save(tag)
                if tag == "torn":
                    next((self.run_folder / tag).glob("*rank_1*optim_states.pt")).unlink()
                    os.utime(next((self.run_folder / tag).glob("*rank_0*optim_states.pt")))
                self.register(running, job)
            shared = self.register(running, other, "--tag", "shared")
            self.save("changed", "qwen3moe-z2-w2")
            (self.run_folder / "foreign" / "notes.txt").write_text("mine")
            (self.run_folder / "linked").rename(self.folder / "linked")
            (self.run_folder / "linked").symlink_to(self.folder / "linked")
            (self.run_folder / "latest").write_text("named")
            for path in (self.run_folder / "whole").iterdir():
                os.utime(path)  # the newest
            self.register(running, job, "--tag", "whole")
            before = sorted(self.run_folder.rglob("*"))
            said = self.prune(running, job).stdout
            for line in ("changed stays: compare .* with what was registered: its files are others",
                         "foreign stays: remove .*: it holds notes.txt, which DeepSpeed does not write there",
                         "linked stays: remove .*: it is a link", "named stays: remove .*: the file latest names it",
                         f"shared stays: {other} has registered it, too, as {shared}",
                         "torn stays: it is not complete, and written to less than 1h ago"):
                self.assertRegex(said, rf"(?m)^{line}")
            self.assertIn("\n0 of 7 forgotten and deleted, 0 B freed\n", said)
            self.assertEqual(sorted(self.run_folder.rglob("*")), before)
            stay = self.json(running, job, "--dry-run")["files_stay"]
            self.assertEqual(sorted(each["tag"] for each in stay), ["changed", "foreign", "linked", "named", "shared", "torn"])
            self.assertEqual({each["tag"]: each["stays_because"] for each in stay}["shared"],
                             f"{other} has registered it, too, as {shared}")
            # Without the reasons they go.
            (self.run_folder / "foreign" / "notes.txt").unlink()
            (self.run_folder / "latest").write_text("whole")
            for path in (self.run_folder / "torn").iterdir():
                os.utime(path, (1_700_000_000, 1_700_000_000))
            self.zc(running, "checkpoint", "delete", shared)
            said = self.prune(running, job).stdout
            self.assertIn("\n4 of 7 forgotten and deleted, ", said)
            self.assertEqual(self.tags(), ["changed", "linked", "whole"])
            self.assertEqual(self.registered(running), ["changed", "linked", "whole"])
            self.assertTrue(list((self.folder / "linked").iterdir()))

    def test_what_a_killed_command_left_is_removed_by_the_next_one(self):
        with cluster.Cluster(num_agents=1) as running:
            job = self.submit(running)
            for tag in ("old", "missing", "new"):
                self.save(tag)
                self.register(running, job)
            (self.run_folder / "old").rename(self.run_folder / f"{ASIDE}old")
            shutil.rmtree(self.run_folder / "missing")
            # Nobody takes it for a tag.
            found = self.zc(running, "checkpoint", "latest", self.run_folder).stdout
            self.assertEqual(told(found)["ZEROCAST_CHECKPOINT_TAG"], "new")
            said = self.prune(running, job).stdout
            self.assertRegex(said, "\n2 of 3 forgotten and deleted, 6\\d\\d kB freed\n$")
            self.assertEqual(self.tags(), ["new"])
            self.assertEqual(self.registered(running), ["new"])


if __name__ == "__main__":
    unittest.main()
