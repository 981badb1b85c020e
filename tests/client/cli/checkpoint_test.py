"""zerocast checkpoint with a server: what it says and how it exits."""

import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
import cluster  # noqa: E402


class CheckpointTest(unittest.TestCase):

    def zc(self, running, *args, code=0):
        result = cluster.zerocast("--server", running.address, *args)
        self.assertEqual(result.code, code, result)
        return result

    def test_without_an_agent_nothing_is_known(self):
        with cluster.Cluster(num_agents=0) as running:
            made = self.zc(running, "job", "submit", "/ckpt", "--world-size", 2).stdout
            job = dict(line.split("=", 1) for line in made.splitlines())["ZEROCAST_JOB"]
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
