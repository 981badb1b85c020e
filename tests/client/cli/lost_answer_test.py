"""A creation whose answer does not come in time leaves no job that nobody knows about.

The server is real, the proxy before it holds the answer of CreateJob back.
"""

import pathlib
import signal
import subprocess
import sys
import threading
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
import cluster  # noqa: E402
import fault_proxy  # noqa: E402

CHECKPOINT = cluster.DATA / "checkpoints" / "mixtral"
DEADLINE_S = 3
GRACE_S = 5  # client/cli/command.h, kCancelGrace
# What a loaded machine may add.
SLACK_S = 60


def zc(address, *args):
    return cluster.zerocast("--server", address, "--output", "json", *args)


def states(running):
    return {job["job"]: job["state"] for job in zc(running.address, "job", "list").json()["jobs"]}


class LostAnswerTest(unittest.TestCase):

    def setUp(self):
        self.running = self.enterContext(cluster.Cluster(0, server_args=["--drain-timeout=1s"]))
        self.proxy = self.enterContext(
            fault_proxy.FaultProxy(self.running.address, b"JobService/CreateJob"))

    def enterContext(self, manager):  # unittest has it from Python 3.11 on
        entered = manager.__enter__()
        self.addCleanup(manager.__exit__, None, None, None)
        return entered

    def create(self, *args, deadline=DEADLINE_S):
        return ["--server", self.proxy.address, "--timeout", "600", "--output", "json", *args,
                CHECKPOINT, "--world-size", "2", "--deadline", str(deadline)]

    def run_it(self, *args):
        result = cluster.zerocast(*self.create(*args), timeout=DEADLINE_S + GRACE_S + SLACK_S)
        self.assertEqual(result.code, 5, result)
        return result.json()["error"]

    def release_after_the_deadline(self):
        timer = threading.Timer(DEADLINE_S + 1.5, self.proxy.release)
        timer.start()
        self.addCleanup(timer.join)

    def test_a_job_whose_answer_is_late_is_cancelled_and_named(self):
        for command in (["load"], ["job", "submit"]):
            with self.subTest(command=command):
                self.setUp()
                self.release_after_the_deadline()
                error = self.run_it(*command)
                self.assertEqual(error["reason"], "DEADLINE_EXCEEDED", error)
                ((job, state),) = states(self.running).items()
                self.assertEqual(state, "cancelled")
                self.assertIn("call CreateJob", error["message"])
                self.assertIn(f"may have been created, so {job} was cancelled", error["message"])

    def test_where_the_answer_never_comes_the_error_says_how_to_find_the_job(self):
        error = self.run_it("job", "submit")
        self.assertIn("cancelling it failed, too", error["message"])
        request_id = error["message"].split("--request-id ")[1].split()[0]
        ((job, state),) = states(self.running).items()
        self.assertEqual(state, "active")
        found = zc(self.running.address, "job", "submit", CHECKPOINT, "--world-size", "2",
                   "--request-id", request_id)
        self.assertEqual(found.json()["job"], job, found)

    def test_a_request_id_of_the_users_keeps_the_job(self):
        error = self.run_it("job", "submit", "--request-id", "batch-7")
        self.assertIn("the same command with --request-id batch-7 gives it", error["message"])
        ((job, state),) = states(self.running).items()
        self.assertEqual(state, "active")
        found = zc(self.running.address, "job", "submit", CHECKPOINT, "--world-size", "2",
                   "--request-id", "batch-7")
        self.assertEqual(found.json()["job"], job, found)

    def interrupt(self, *args):
        command = subprocess.Popen(
            [str(cluster.BIN / "zerocast"), *map(str, self.create(*args, deadline=600))],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            self.assertTrue(self.proxy.holding.wait(SLACK_S), "it never called")
            command.send_signal(signal.SIGINT)
            # The answer of the repeated creation comes; that of the first was given up.
            timer = threading.Timer(0.2, self.proxy.release)
            timer.start()
            out, _ = command.communicate(timeout=GRACE_S + SLACK_S)
            timer.join()
        except BaseException:
            command.kill()
            command.communicate()
            raise
        self.assertEqual(command.returncode, 130, out)
        return out

    def test_an_interrupted_creation_is_cancelled_whoever_named_it(self):
        for args in (["load"], ["job", "submit", "--request-id", "batch-7"]):
            with self.subTest(args=args):
                self.setUp()
                out = self.interrupt(*args)
                ((job, state),) = states(self.running).items()
                self.assertEqual(state, "cancelled")
                self.assertIn("interrupted", out)
                self.assertIn(f"{job} was cancelled", out)

    def test_a_second_signal_ends_it_at_once(self):
        command = subprocess.Popen(
            [str(cluster.BIN / "zerocast"), *map(str, self.create("load", deadline=600))],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            self.assertTrue(self.proxy.holding.wait(SLACK_S), "it never called")
            # Which of them is the second is not to be seen from outside; the default ends it.
            while command.poll() is None:
                command.send_signal(signal.SIGINT)
                try:
                    command.wait(timeout=0.2)
                except subprocess.TimeoutExpired:
                    pass
        finally:
            command.kill()
            command.wait()
        self.assertEqual(command.returncode, -signal.SIGINT)

    def test_a_refusal_is_told_as_it_is(self):
        self.proxy.release()
        result = zc(self.proxy.address, "job", "submit", CHECKPOINT, "--world-size", "2", "--node",
                    "a", "--node", "a")
        self.assertNotIn("may have been created", result.stdout)
        self.assertEqual(states(self.running), {})


if __name__ == "__main__":
    unittest.main()
