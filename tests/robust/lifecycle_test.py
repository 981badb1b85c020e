"""The service as its users meet it: restarts, kills, signals, a second server on the port."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import cluster  # noqa: E402

CHECKPOINT = cluster.DATA / "checkpoints" / "mixtral"


def zc(running, *args, **kwargs):
    return cluster.zerocast("--server", running.address, "--output", "json", *args, **kwargs)


def submit(running, *args):
    result = zc(running, "job", "submit", CHECKPOINT, "--world-size", 4, "--nodes", 2, *args)
    assert result.code == 0, result
    return result.json()


class LifecycleTest(unittest.TestCase):

    def test_everything_stops_in_order(self):
        running = cluster.Cluster(num_agents=2)
        with running:
            self.assertEqual(zc(running, "agents").code, 0)
            codes = running.stop()
        self.assertEqual(codes, {"server": 0, "node0": 0, "node1": 0})

    def test_a_second_server_on_the_port_names_it(self):
        with cluster.Cluster(num_agents=0) as running:
            second = subprocess.run(
                [str(cluster.BIN / "zerocast-server"), f"--listen={running.address}",
                 "--store=memory"], capture_output=True, text=True, timeout=60, check=False)
            self.assertNotEqual(second.returncode, 0)
            self.assertIn(running.address, second.stdout + second.stderr)

    def test_the_same_request_is_one_job_and_one_load(self):
        with cluster.Cluster(num_agents=2) as running:
            first = submit(running, "--request-id", "batch-7", "--wait")
            second = submit(running, "--request-id", "batch-7", "--wait")
            self.assertEqual(first["job"], second["job"])
            self.assertEqual(first["attach_token"], second["attach_token"])
            self.assertEqual(first["loads"][0]["load"], second["loads"][0]["load"])
            other = zc(running, "job", "submit", CHECKPOINT, "--world-size", 2, "--request-id", "batch-7")
            self.assertEqual(other.code, 2, other)

    def test_validate_only_creates_nothing(self):
        with cluster.Cluster(num_agents=0) as running:
            result = zc(running, "job", "submit", CHECKPOINT, "--world-size", 4, "--validate-only")
            self.assertEqual(result.code, 0, result)
            self.assertEqual(zc(running, "job", "list").json()["jobs"], [])

    def test_too_few_agents_end_at_the_deadline(self):
        with cluster.Cluster(num_agents=1) as running:
            result = zc(running, "load", CHECKPOINT, "--world-size", 4, "--nodes", 2,
                        "--stage-timeout", 1)
            self.assertEqual(result.code, 5, result)
            self.assertEqual(result.json()["error"]["reason"], "NOT_ENOUGH_AGENTS")

    def test_a_killed_agent_fails_the_load_by_name(self):
        with cluster.Cluster(num_agents=2) as running:
            # A stopped process keeps the load in progress until it is killed.
            os.kill(running.pid("node1"), signal.SIGSTOP)
            job = submit(running, "--start")
            time.sleep(0.5)  # lets the load reach the stopped agent; nothing depends on it
            os.kill(running.pid("node1"), signal.SIGKILL)
            result = zc(running, "job", "watch", job["job"], "--deadline", 30)
            self.assertEqual(result.code, 5, result)
            self.assertIn("node1", result.stderr)
            self.assertEqual(result.json()["error"]["reason"], "AGENT_LOST")

    def test_interrupting_a_load_cancels_its_job(self):
        with cluster.Cluster(num_agents=2) as running:
            os.kill(running.pid("node1"), signal.SIGSTOP)
            process = subprocess.Popen(
                [str(cluster.BIN / "zerocast"), "--server", running.address, "load", str(CHECKPOINT),
                 "--world-size", "4", "--nodes", "2"],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            deadline = time.monotonic() + 30
            while not zc(running, "job", "list").json()["jobs"]:
                self.assertLess(time.monotonic(), deadline, "the job never appeared")
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=30)
            os.kill(running.pid("node1"), signal.SIGCONT)
            self.assertEqual(process.returncode, 130, errors)
            self.assertIn("was cancelled", errors)
            self.assertEqual(zc(running, "job", "list").json()["jobs"][0]["state"], "cancelled")

    def test_a_socket_below_tmp_is_taken_with_a_warning(self):
        with cluster.Cluster(num_agents=1) as running:
            if not str(running.folder).startswith("/tmp/"):
                self.skipTest("TMPDIR is elsewhere")
            self.assertIn(f"socket {running.folder}/node0.sock lies below /tmp/", running.log("node0"))

    def test_jobs_survive_a_restart_of_the_server(self):
        with cluster.Cluster(num_agents=0) as running:
            database = running.folder / "state.db"
            address = f"unix:{running.folder}/server.sock"
            arguments = [str(cluster.BIN / "zerocast-server"), f"--listen={address}",
                         f"--store=sqlite:{database}"]

            def start():
                process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL,
                                           stderr=subprocess.DEVNULL)
                deadline = time.monotonic() + 30
                while cluster.zerocast("--server", address, "agents").code != 0:
                    self.assertLess(time.monotonic(), deadline, "the server did not come up")
                return process

            def stop(process, how):
                process.send_signal(how)
                process.wait(timeout=30)

            server = start()
            created = cluster.zerocast("--server", address, "--output", "json", "job", "submit",
                                       CHECKPOINT, "--world-size", 4, "--request-id", "x").json()
            stop(server, signal.SIGKILL)
            server = start()
            repeated = cluster.zerocast("--server", address, "--output", "json", "job", "submit",
                                        CHECKPOINT, "--world-size", 4, "--request-id", "x").json()
            self.assertEqual((created["job"], created["attach_token"]),
                             (repeated["job"], repeated["attach_token"]))
            stop(server, signal.SIGTERM)

    def test_json_output_is_nothing_but_json(self):
        for args in (["load", CHECKPOINT, "--world-size", 2], ["plan", CHECKPOINT, "--world-size", 2],
                     ["load", "/nonexistent", "--world-size", 2]):
            result = cluster.zerocast("--output", "json", *args)
            json.loads(result.stdout)


if __name__ == "__main__":
    unittest.main()
