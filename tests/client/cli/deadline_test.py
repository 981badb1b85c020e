"""--deadline bounds the whole command: the calls before the wait, the wait, and the cancel after it.

A process that is stopped (SIGSTOP) is how a hung node or server looks from outside: its connections
stay, and nothing comes. Every time limit here is an upper one that a command which ignores its
deadline would exceed by far, since --timeout and the job's own limits are minutes.
"""

import os
import pathlib
import signal
import subprocess
import sys
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
import cluster  # noqa: E402

CHECKPOINT = cluster.DATA / "checkpoints" / "mixtral"
DEADLINE_S = 4
GRACE_S = 5  # client/cli/command.h, kCancelGrace
# What a loaded machine may add.
SLACK_S = 30
# Of every other wait of the command and the job.
LONG_S = 600


def load(running, *args):
    return ["--server", running.address, "--timeout", LONG_S, "--output", "json", "load", CHECKPOINT,
            "--world-size", 2, "--stage-timeout", LONG_S, "--deadline", DEADLINE_S, *args]


def start(num_agents, *server_args):
    # A load that a test leaves behind must not hold up the server's end.
    return cluster.Cluster(num_agents, server_args=["--drain-timeout=1s", *server_args])


class Stopped:
    """A process that hears nothing while the context is entered."""

    def __init__(self, pid):
        self._pid = pid

    def __enter__(self):
        os.kill(self._pid, signal.SIGSTOP)

    def __exit__(self, *_):
        os.kill(self._pid, signal.SIGCONT)


class DeadlineTest(unittest.TestCase):

    def run_out_of_time(self, running, *args, says):
        result = cluster.zerocast(*load(running, *args), timeout=DEADLINE_S + GRACE_S + SLACK_S)
        self.assertEqual(result.code, 5, result)
        error = result.json()["error"]
        self.assertEqual(error["reason"], "DEADLINE_EXCEEDED", result)
        for text in says:
            self.assertIn(text, error["message"])
        return result

    def assert_cancelled(self, running):
        jobs = cluster.zerocast("--server", running.address, "--output", "json", "job", "list")
        self.assertEqual([job["state"] for job in jobs.json()["jobs"]], ["cancelled"], jobs)

    def test_an_agent_that_never_gets_ready_is_named(self):
        # Silent agents are given up after three heartbeats: that must not be what ends the wait.
        with start(2, "--heartbeat-interval=10m") as running:
            with Stopped(running.pid("node1")):
                self.run_out_of_time(
                    running, "--node", "node0", "--node", "node1",
                    says=["the load is PREPARING and waits for node node1", "agent's log"])
            self.assert_cancelled(running)

    def test_an_agent_that_is_not_there_is_named(self):
        with start(1) as running:
            self.run_out_of_time(
                running, "--node", "node0", "--node", "elsewhere",
                says=["the load is PENDING and waits for the agent of elsewhere", "zerocast agents"])
            self.assert_cancelled(running)

    def test_a_server_that_does_not_answer_is_named(self):
        with start(0) as running:
            with Stopped(running.pid("server")):
                self.run_out_of_time(running, says=["CreateJob", running.address, "allow more time"])

    def test_a_server_that_hangs_during_the_wait_gets_the_grace_and_no_more(self):
        with start(0) as running:
            command = subprocess.Popen(
                [str(cluster.BIN / "zerocast"), *map(str, load(running))], stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            with self.subTest("the job is there"):
                self.await_load(running)
            with Stopped(running.pid("server")):
                try:
                    out, _ = command.communicate(timeout=DEADLINE_S + GRACE_S + SLACK_S)
                except subprocess.TimeoutExpired:
                    command.kill()
                    command.communicate()
                    self.fail("the command went on beyond its deadline and the grace")
            self.assertEqual(command.returncode, 5)
            self.assertIn("DEADLINE_EXCEEDED", out)

    def await_load(self, running):
        end = time.monotonic() + SLACK_S
        while time.monotonic() < end:
            jobs = cluster.zerocast("--server", running.address, "--output", "json", "job", "list")
            if jobs.json()["jobs"]:
                return
        self.fail("the job never appeared")

    def test_a_watch_ends_too(self):
        with start(0) as running:
            made = cluster.zerocast("--server", running.address, "--output", "json", "job", "submit",
                                    CHECKPOINT, "--world-size", 2, "--start")
            self.assertEqual(made.code, 0, made)
            result = cluster.zerocast(
                "--server", running.address, "--timeout", LONG_S, "job", "watch", made.json()["job"],
                "--deadline", 1, timeout=1 + SLACK_S)
            self.assertEqual(result.code, 5, result)
            self.assertIn("the load is PENDING and waits for enough agents", result.stderr)

    def watch(self, running, name, *args):
        return subprocess.Popen(
            [str(cluster.BIN / "zerocast"), "--server", running.address, "--timeout", "2", "job", "watch",
             name, *args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def assert_given_up(self, watch):
        began = time.monotonic()
        try:
            _, errors = watch.communicate(timeout=LONG_S)
        finally:
            watch.kill()
        self.assertLess(time.monotonic() - began, 2 + SLACK_S)
        self.assertEqual(watch.returncode, 5, errors)
        return errors

    def test_a_watch_gives_a_server_that_is_away_its_timeout_and_no_more(self):
        with start(0) as running:
            made = cluster.zerocast("--server", running.address, "--output", "json", "job", "submit",
                                    CHECKPOINT, "--world-size", 2, "--start").json()
            job, load = made["job"], made["loads"][0]["load"]
            with Stopped(running.pid("server")):
                errors = self.assert_given_up(self.watch(running, load))
                self.assertIn(f"watch {load} on server {running.address}: it gave no answer for 2s", errors)
                self.assert_given_up(self.watch(running, job))
            watches = [self.watch(running, name) for name in (job, load)]
            time.sleep(1)  # they may still be starting; then they end as well
            os.kill(running.pid("server"), signal.SIGKILL)
            for watch in watches:
                self.assert_given_up(watch)
            errors = self.assert_given_up(self.watch(running, load))
            self.assertIn("allow a longer --timeout", errors)


if __name__ == "__main__":
    unittest.main()
