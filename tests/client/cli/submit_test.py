"""Whole loads through the command that need more than the usual: large specs, permitted errors."""

import json
import pathlib
import shutil
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
import cluster  # noqa: E402

CHECKPOINT = cluster.DATA / "checkpoints" / "mixtral"


class SubmitTest(unittest.TestCase):

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="zc_submit_"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def zc(self, running, *args):
        result = cluster.zerocast("--server", running.address, "--output", "json", *args)
        self.assertEqual(result.code, 0, result)
        return result.json()

    def test_a_model_spec_of_6_mb_is_submitted_and_read_back(self):
        spec = json.loads((CHECKPOINT / "expected.json").read_text())
        # More than gRPC's clients take by default; fields that nobody knows are ignored.
        spec["notes"] = "n" * 6_000_000
        path = self.folder / "spec.json"
        path.write_text(json.dumps(spec))
        with cluster.Cluster(num_agents=1) as running:
            # The witness takes the spec from the job that came back.
            loaded = self.zc(running, "load", CHECKPOINT, "--world-size", 2, "--model-spec", path,
                             "--verify", "--release")
            self.assertGreater(loaded["verified"]["partitions"], 0)
            made = self.zc(running, "job", "submit", CHECKPOINT, "--world-size", 2, "--model-spec",
                           path, "--request-id", "large")
            again = self.zc(running, "job", "submit", CHECKPOINT, "--world-size", 2, "--model-spec",
                            path, "--request-id", "large")
            self.assertEqual(made["job"], again["job"])
            self.assertEqual(self.zc(running, "job", "get", made["job"])["etag"], made["etag"])
            self.assertEqual(len(self.zc(running, "job", "list")["jobs"]), 2)

    def test_the_list_says_how_each_job_ended(self):
        with cluster.Cluster(num_agents=1) as running:
            self.zc(running, "load", CHECKPOINT, "--world-size", 2, "--release")
            active, done, cancelled = (self.zc(running, "job", "submit", CHECKPOINT, "--world-size", 2)["job"] for _ in range(3))
            self.assertEqual(self.zc(running, "job", "finish", done)["state"], "done")
            self.assertEqual(self.zc(running, "job", "finish", done)["state"], "done")
            self.assertEqual(self.zc(running, "job", "cancel", cancelled)["state"], "cancelled")
            jobs = self.zc(running, "job", "list")["jobs"]
            self.assertEqual([job["state"] for job in jobs], ["done", "active", "done", "cancelled"])
            self.assertEqual({job["lease_seconds"] for job in jobs}, {None})
            table = cluster.zerocast("--server", running.address, "job", "list").stdout
            self.assertRegex(table, f"{active} +active .*\n{done} +done ")
            (loaded,) = self.zc(running, "job", "get", jobs[0]["job"])["loads"]
            self.assertEqual(loaded["state"], "ready")
            for name, code, words in ((cancelled, 4, "the job is CANCELLED"), ("jobs/none", 3, "jobs/none"),
                                      ("loads/1", 2, "give jobs/ID")):
                refused = cluster.zerocast("--server", running.address, "job", "finish", name)
                self.assertEqual(refused.code, code, refused)
                self.assertIn(words, refused.stderr)
            self.zc(running, "job", "delete", done)

    def test_a_variant_is_loaded_planned_and_named(self):
        for files in (1, 3):
            checkpoint = cluster.copy_checkpoint(CHECKPOINT, self.folder / f"ckpt{files}", files)
            plain = "model.safetensors" if files == 1 else "model.safetensors.index.json"
            (checkpoint / plain).rename(checkpoint / (
                "model.fp16.safetensors" if files == 1 else "model.safetensors.index.fp16.json"))
            with cluster.Cluster(num_agents=2) as running:
                loaded = self.zc(running, "load", checkpoint, "--world-size", 2, "--nodes", 2, "--variant", "fp16",
                                 "--model-spec", CHECKPOINT / "expected.json", "--verify", "--release")
                self.assertEqual(loaded["missing"], [])
                self.assertGreater(loaded["verified"]["partitions"], 0)
                planned = self.zc(running, "plan", checkpoint, "--world-size", 2, "--variant", "fp16")
                self.assertGreater(planned["num_targets"], 0)
                made = self.zc(running, "job", "submit", checkpoint, "--world-size", 2, "--variant", "fp16")
                self.assertEqual(self.zc(running, "job", "get", made["job"])["variant"], "fp16")
                refused = cluster.zerocast("--server", running.address, "load", checkpoint, "--world-size", 2)
                self.assertEqual(refused.code, 3, refused)
                refused = cluster.zerocast("load", checkpoint, "--world-size", 2, "--variant", "../fp16")
                self.assertEqual(refused.code, 2, refused)
                self.assertIn("--variant", refused.stderr)

    def test_a_permitted_conversion_error_is_missing_and_verified_as_such(self):
        checkpoint = cluster.copy_checkpoint(CHECKPOINT, self.folder / "ckpt")
        path = checkpoint / "model.safetensors"
        tensors, _ = cluster.read_safetensors(path)
        lost = next(name for name in tensors if ".experts.1." in name)
        del tensors[lost]
        cluster.write_safetensors(path, tensors)
        with cluster.Cluster(num_agents=1) as running:
            loaded = self.zc(running, "load", checkpoint, "--world-size", 2, "--model-spec",
                             CHECKPOINT / "expected.json", "--allow-missing", r"\.experts\.",
                             "--verify", "--release")
        failed = [error["target"] for error in loaded["conversion_errors"]]
        self.assertEqual(len(failed), 1, loaded)
        self.assertEqual(loaded["missing"], failed)
        self.assertGreater(loaded["verified"]["partitions"], 0)


if __name__ == "__main__":
    unittest.main()
